# SPDX-License-Identifier: Apache-2.0
"""The driver: two pipes in, messages out."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from orlop.errors import InvalidArgument
from orlop.interfaces.log import LogDriver, LogStreams
from orlop_sdk.logs.lines import Pieces, copy
from orlop_sdk.logs.options import expand, given
from orlop_sdk.logs.relay import Relay
from orlop_syslog import SyslogConfig
from orlop_syslog.address import Address
from orlop_syslog.message import ERROR, INFO, WARNING, Heads, facility_code
from orlop_syslog.outlets import dial

_SEVERITIES: Final = {"stdout": INFO, "stderr": ERROR}
_FILES: Final = ("syslog_tls_ca_cert", "syslog_tls_cert", "syslog_tls_key")


class SyslogDriver:
    """See `orlop.interfaces.log.LogDriver`. The *defaults* hold for what URIs do not say."""

    def __init__(self, defaults: SyslogConfig | None = None, log: logging.Logger | None = None) -> None:
        self._defaults = defaults or SyslogConfig()
        self._log = log or logging.getLogger(__name__)

    @property
    def schemes(self) -> tuple[str, ...]:
        return ("syslog",)

    def shim_uri(self, uri: str) -> str | None:
        options = self._options(uri, dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True)))
        for name in _FILES:
            path = getattr(options, name)
            if path is not None and not path.is_file():
                raise InvalidArgument(f'log URI "{uri}": {name.replace("_", "-")}: there is no file {path}')
        return None

    def run(self, uri: str, options: Mapping[str, str], streams: LogStreams) -> None:
        chosen = self._options(uri, options)
        address = Address.parse(chosen.syslog_address)
        heads = Heads(
            chosen.syslog_format,
            facility_code(chosen.syslog_facility),
            expand(chosen.tag, streams),
            socket.gethostname(),
            os.getpid(),
            local=address.transport == "unixgram",
        )
        relay = Relay(
            f"syslog server {address}",
            partial(dial, address, chosen),
            chosen.buffer,
            chosen.mode == "blocking",
            lambda words: heads.make(WARNING, time.time_ns()) + words.encode(),
            self._log,
        )
        try:
            streams.ready()
            copy(streams, chosen.longest, partial(_put, relay, heads))
        finally:
            relay.end()

    def _options(self, uri: str, options: Mapping[str, str]) -> SyslogConfig:
        parts = urlsplit(uri)
        if parts.netloc or parts.path not in ("", "/") or parts.fragment:
            raise InvalidArgument(f'log URI "{uri}": write syslog://?syslog-address=tcp://host:port')
        return given(self._defaults, uri, options)


def _put(relay: Relay, heads: Heads, stream: str, pieces: Pieces) -> None:
    head = heads.make(_SEVERITIES[stream], time.time_ns())
    relay.put([head + text for text in pieces.texts])


_: type[LogDriver] = SyslogDriver
