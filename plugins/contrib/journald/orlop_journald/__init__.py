# SPDX-License-Identifier: Apache-2.0
"""Container logs to systemd's journal: ``journald://?tag=web``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator

from orlop import InitContext
from orlop.interfaces.log import LogDriver, log_driver
from orlop_sdk.logs.options import RelayConfig

_LONGEST_PATH: Final = 107


def _socket(path: Path) -> Path:
    if not path.is_absolute() or len(bytes(path)) > _LONGEST_PATH:
        raise ValueError(f'"{path}" must be the absolute path of a socket, such as /run/systemd/journal/socket')
    return path


class JournaldConfig(RelayConfig):
    """Which journal, beside what all such drivers have. The tag is in CONTAINER_TAG and SYSLOG_IDENTIFIER."""

    socket: Annotated[Path, AfterValidator(_socket)] = Path("/run/systemd/journal/socket")
    """The journal's socket; that of the journal namespace N is /run/systemd/journal.N/socket."""


@log_driver("journald", config=JournaldConfig, exports={"schemes": "journald"})
async def journald(ctx: InitContext[JournaldConfig]) -> LogDriver:
    """Sends lines to systemd's journal."""
    from orlop_journald.driver import JournaldDriver

    return JournaldDriver(ctx.config, ctx.log)
