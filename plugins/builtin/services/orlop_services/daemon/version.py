# SPDX-License-Identifier: Apache-2.0
"""Which program this is."""

from __future__ import annotations

from typing import Final

#: Commit that this was built from, where a build wrote it down.
REVISION: Final = ""


def version() -> str:
    """Version of the installed distribution."""
    from importlib import metadata

    return metadata.version("orlop-services")
