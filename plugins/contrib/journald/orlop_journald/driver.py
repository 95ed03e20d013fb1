# SPDX-License-Identifier: Apache-2.0
"""The driver: two pipes in, entries of the journal out."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from orlop.errors import InvalidArgument
from orlop.interfaces.log import LogDriver, LogStreams
from orlop_journald import JournaldConfig
from orlop_journald.native import Journal, field
from orlop_sdk.logs.lines import Pieces, copy
from orlop_sdk.logs.options import expand, given, short, timestamp
from orlop_sdk.logs.relay import Relay

# As syslog(3) has them.
_WARNING: Final = 4
_PRIORITIES: Final = {"stdout": 6, "stderr": 3}
_PARTIAL: Final = field("CONTAINER_PARTIAL_MESSAGE", b"true")


class JournaldDriver:
    """See `orlop.interfaces.log.LogDriver`. The *defaults* hold for what URIs do not say."""

    def __init__(self, defaults: JournaldConfig | None = None, log: logging.Logger | None = None) -> None:
        self._defaults = defaults or JournaldConfig()
        self._log = log or logging.getLogger(__name__)

    @property
    def schemes(self) -> tuple[str, ...]:
        return ("journald",)

    def shim_uri(self, uri: str) -> str | None:
        self._options(uri, dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True)))
        return None

    def run(self, uri: str, options: Mapping[str, str], streams: LogStreams) -> None:
        chosen = self._options(uri, options)
        entries = Entries(chosen.tag, streams)
        relay = Relay(
            f"journal {chosen.socket}",
            partial(Journal, chosen.socket),
            chosen.buffer,
            chosen.mode == "blocking",
            entries.notice,
            self._log,
        )
        try:
            streams.ready()
            copy(streams, chosen.longest, lambda stream, pieces: relay.put(entries.make(stream, pieces)))
        finally:
            relay.end()

    def _options(self, uri: str, options: Mapping[str, str]) -> JournaldConfig:
        parts = urlsplit(uri)
        if parts.netloc or parts.path not in ("", "/") or parts.fragment:
            raise InvalidArgument(f'log URI "{uri}": write journald:// or journald://?tag=...')
        return given(self._defaults, uri, options)


class Entries:
    """Makes entries out of lines, with the fields that Docker gives them."""

    def __init__(self, tag: str, streams: LogStreams) -> None:
        name = expand(tag, streams)
        values = {
            "CONTAINER_ID": short(streams.container),
            "CONTAINER_ID_FULL": streams.container,
            "CONTAINER_NAME": streams.container,
            "CONTAINER_NAMESPACE": streams.namespace,
            "CONTAINER_TAG": name,
            "IMAGE_NAME": streams.image,
            "SYSLOG_IDENTIFIER": name,
        }
        self._fields = b"".join(field(key, value.encode()) for key, value in values.items() if value)

    def make(self, stream: str, pieces: Pieces) -> list[bytes]:
        """The entries of some lines of one stream."""
        head = self._head(_PRIORITIES[stream]) + b"MESSAGE="
        entries = [head + text + b"\n" for text in pieces.texts]
        for index in pieces.unended:
            entries[index] = _PARTIAL + entries[index]
        return entries

    def notice(self, words: str) -> bytes:
        """An entry of our own."""
        return self._head(_WARNING) + field("MESSAGE", words.encode())

    def _head(self, priority: int) -> bytes:
        return self._fields + f"PRIORITY={priority}\nSYSLOG_TIMESTAMP={timestamp(time.time_ns())}\n".encode()


_: type[LogDriver] = JournaldDriver
