# SPDX-License-Identifier: Apache-2.0
"""Isolation: a plugin's instance made somewhere else, in a process or container of its own, behind the same interface.

``isolated = "ID"`` in a plugin's table has the isolator with that id make its instance; ``isolated = true`` means the
one with the id ``process``. The plugin's own config never holds that key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, runtime_checkable

from orlop.plugin import InitContext, PluginType, Registration


@runtime_checkable
class Isolator(Protocol):
    """Runs plugins elsewhere.

    The registration's export ``types`` names the plugin types it can do that for, comma separated.

    **Lifecycle**: what `isolate` returns is the instance. Its ``close()`` ends what runs elsewhere, and so does
    the end of this process, however sudden. While the other side is down, calls raise `Unavailable`; it comes back by
    itself.
    """

    async def isolate(self, plugin: Registration[Any, Any], ctx: InitContext[Any], settings: Mapping[str, Any]) -> Any:
        """An instance of *plugin* that runs elsewhere, once it is ready there.

        *ctx* is what its factory would have got; facts that it exports there belong into ``ctx.exports``. *settings* is
        the whole config as plain data, in the newest version. Raises what the factory would: `SkipPlugin` as well.
        """


ISOLATION: Final = PluginType("io.orlop.isolation.v1", Isolator, group="orlop.isolation.v1", many=True)
isolator = ISOLATION.plugin
"""Decorator that declares an isolator."""
