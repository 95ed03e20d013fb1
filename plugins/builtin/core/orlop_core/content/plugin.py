# SPDX-License-Identifier: Apache-2.0
"""Declares the local content store."""

from __future__ import annotations

from orlop.interfaces.content import ContentStore, content_store
from orlop.plugin import InitContext, NoConfig


@content_store("content")
async def content(ctx: InitContext[NoConfig]) -> ContentStore:
    """Open the store below the plugin's own root."""
    from orlop_core.content.local import LocalContentStore

    ctx.export("root", str(ctx.root))
    return await LocalContentStore.open(ctx.root)
