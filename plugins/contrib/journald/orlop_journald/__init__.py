# SPDX-License-Identifier: Apache-2.0
"""Container logs to systemd's journal: ``journald://?tag=web``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator

from orlop import InitContext, PluginConfig
from orlop.interfaces.log import LogDriver, log_driver
from orlop_sdk.logs.options import checked_tag, size

#: The largest buffer, in bytes.
BUFFER: Final = 1 << 30
#: The longest line, in bytes.
LONGEST: Final = 64 << 20
_LONGEST_PATH: Final = 107


def _buffer(text: str) -> str:
    size(text, 64 << 10, BUFFER)
    return text


def _line(text: str) -> str:
    size(text, 1 << 10, LONGEST)
    return text


def _socket(path: Path) -> Path:
    if not path.is_absolute() or len(bytes(path)) > _LONGEST_PATH:
        raise ValueError(f'"{path}" must be the absolute path of a socket, such as /run/systemd/journal/socket')
    return path


class JournaldConfig(PluginConfig):
    """What holds for URIs that say nothing themselves. Their options have the same names, with ``-`` for ``_``."""

    socket: Annotated[Path, AfterValidator(_socket)] = Path("/run/systemd/journal/socket")
    """The journal's socket; that of the journal namespace N is /run/systemd/journal.N/socket."""
    tag: Annotated[str, AfterValidator(checked_tag)] = "{{.ID}}"
    """What becomes the fields CONTAINER_TAG and SYSLOG_IDENTIFIER."""
    mode: Literal["non-blocking", "blocking"] = "non-blocking"
    """What happens when the buffer is full: drop, or wait for a journal that takes something."""
    max_buffer_size: Annotated[str, AfterValidator(_buffer)] = "4m"
    """How much may wait for the journal; k, m and g are powers of 1024."""
    max_line_size: Annotated[str, AfterValidator(_line)] = "16k"
    """Longer lines become several entries."""


@log_driver("journald", config=JournaldConfig, exports={"schemes": "journald"})
async def journald(ctx: InitContext[JournaldConfig]) -> LogDriver:
    """Sends lines to systemd's journal."""
    from orlop_journald.driver import JournaldDriver

    return JournaldDriver(ctx.config, ctx.log)
