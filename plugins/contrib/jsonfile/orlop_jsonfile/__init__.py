# SPDX-License-Identifier: Apache-2.0
"""Container logs as files of JSON lines: ``json-file:///path?max-size=10m&max-file=3``."""

from __future__ import annotations

from orlop import InitContext, PluginConfig
from orlop.interfaces.log import LogDriver, log_driver


class JsonFileConfig(PluginConfig):
    """What holds for URIs that say nothing themselves."""

    max_size: str = "-1"
    """Begin a new file at this size; k, m and g are powers of 1024, -1 means never."""
    max_file: int = 1
    """How many files to keep, the current one included."""


@log_driver("json-file", config=JsonFileConfig, exports={"schemes": "json-file"})
async def json_file(ctx: InitContext[JsonFileConfig]) -> LogDriver:
    """Writes Docker's json-file format."""
    from orlop_jsonfile.driver import JsonFileDriver

    return JsonFileDriver(ctx.config.max_size, ctx.config.max_file, ctx.log)
