# SPDX-License-Identifier: Apache-2.0
"""The form of messages: RFC 5424, and RFC 3164 for servers that know no other."""

from __future__ import annotations

import re
import time
from typing import Final

ERROR: Final = 3
WARNING: Final = 4
INFO: Final = 6

_FACILITIES: Final = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("", "", "", ""),
    *(f"local{number}" for number in range(8)),
)
# RFC 5424, section 6: PRINTUSASCII, and how long fields may be.
_NOT_PRINTABLE: Final = re.compile(r"[^!-~]")
_HOST: Final = 255
_APPLICATION: Final = 48
_KIND: Final = 32
# RFC 3164, section 4.1.3: what ends a tag, and how long it may be.
_NOT_TAG: Final = re.compile(r"[^!-~]|[\[\]:]")
_TAG: Final = 32


def facility_code(name: str) -> int:
    """The code of a facility, given by name or as a number. Raises ValueError, for use in models."""
    if name and name in _FACILITIES:
        return _FACILITIES.index(name)
    if name.isdecimal() and int(name) < len(_FACILITIES):
        return int(name)
    raise ValueError(f'there is no facility "{name}"; there are {", ".join(filter(None, _FACILITIES))}')


class Heads:
    """Makes what messages begin with. *local* is for a server on the same host, which knows the host's name."""

    def __init__(self, form: str, facility: int, tag: str, host: str, pid: int, *, local: bool) -> None:
        self._form = form
        self._facility = facility
        if form == "rfc3164":
            name = _NOT_TAG.sub("_", tag)[:_TAG] or "container"
            self._rest = f"{'' if local else _field(host, _HOST) + ' '}{name}[{pid}]: "
        else:
            # As Docker has it: the tag names both the application and the kind of message.
            self._rest = f" {_field(host, _HOST)} {_field(tag, _APPLICATION)} {pid} {_field(tag, _KIND)} - "

    def make(self, severity: int, nanoseconds: int) -> bytes:
        """The head of messages of a severity, at a time since the epoch."""
        return f"<{self._facility * 8 + severity}>{self._time(nanoseconds)}{self._rest}".encode()

    def _time(self, nanoseconds: int) -> str:
        seconds, rest = divmod(nanoseconds, 1_000_000_000)
        if self._form == "rfc3164":
            # In the host's own time; the helper never sets a locale, so months are English.
            return time.strftime("%b %e %H:%M:%S ", time.localtime(seconds))
        micro = f".{rest // 1000:06d}" if self._form == "rfc5424micro" else ""
        return f"1 {time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}{micro}Z"


def _field(text: str, longest: int) -> str:
    return _NOT_PRINTABLE.sub("_", text)[:longest] or "-"
