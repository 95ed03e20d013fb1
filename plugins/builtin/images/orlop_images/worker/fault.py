# SPDX-License-Identifier: Apache-2.0
"""What a worker reports when it fails: one of a few kinds, which become the errors of the same name in the daemon."""

from __future__ import annotations

import errno
from typing import Final

INVALID: Final = "InvalidArgument"
DAMAGED: Final = "DataLoss"
FULL: Final = "ResourceExhausted"
STATE: Final = "FailedPrecondition"
DENIED: Final = "PermissionDenied"
UNKNOWN: Final = "Unknown"

_KINDS: Final = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EMFILE: FULL,
    errno.ENFILE: FULL,
    errno.EMLINK: FULL,
    errno.ENOMEM: FULL,
    errno.EFBIG: FULL,
    errno.ENAMETOOLONG: INVALID,
    errno.ELOOP: INVALID,
    errno.ENOTDIR: INVALID,
    errno.EISDIR: INVALID,
    errno.EROFS: STATE,
    errno.EBUSY: STATE,
    errno.ENODEV: STATE,
    errno.EPERM: DENIED,
    errno.EACCES: DENIED,
}


class Fault(Exception):
    """A failure of one of the kinds above, told in a sentence."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def damaged(text: str) -> Fault:
    """The layer is not what it should be, as after a broken transfer."""
    return Fault(DAMAGED, text)


def invalid(text: str) -> Fault:
    """The layer is intact but asks for what is not allowed."""
    return Fault(INVALID, text)


def printable(name: bytes, most: int = 200) -> str:
    """A name out of a layer, fit to be shown: hostile bytes escaped, and not too long."""
    text = name[:most].decode(errors="backslashreplace")
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def describe(error: BaseException) -> tuple[str, str]:
    """Kind and text of any exception."""
    if isinstance(error, Fault):
        return error.kind, str(error)
    if isinstance(error, OSError):
        name = error.filename
        shown = (
            f'"{printable(name if isinstance(name, bytes) else str(name).encode(errors="replace"))}": ' if name else ""
        )
        return _KINDS.get(error.errno or 0, UNKNOWN), f"{shown}{error.strerror or error}"
    if isinstance(error, MemoryError):
        return FULL, "out of memory"
    trace, where = error.__traceback__, ""
    while trace is not None:
        where = f" ({trace.tb_frame.f_code.co_name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return UNKNOWN, f"{type(error).__name__}: {error}{where}"
