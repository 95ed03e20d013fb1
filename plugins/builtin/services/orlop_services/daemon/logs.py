# SPDX-License-Identifier: Apache-2.0
"""The daemon's log on standard error: a line a message, as logfmt (``text``) or JSON.

A logger named ``orlop.<plugin URI>`` (`orlop.plugin.InitContext.log`) gives the line its field ``plugin``; any other
logger's name is the field ``logger``.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Final

from orlop_sdk.rpc.channel import trace_ids

TRACE: Final = 5
_NUMBERS: Final = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
_NAMES: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}
_PREFIX: Final = "orlop."
_PLUGIN: Final = re.compile(r"orlop\.((?:io|[a-z0-9-]+(?:\.[a-z0-9-]+)+)\..*)")
_BARE: Final = re.compile(r"[A-Za-z0-9._/@:+-]+")
#: Libraries whose own debugging is of no use to operators.
_QUIET: Final = ("asyncio", "grpc", "httpx", "httpcore", "hpack", "stevedore")


def configure(level: str, form: str, *, traced: bool = False) -> None:
    """Send all loggers to standard error. *level* is one of containerd's words, "" for info; *form* text or json.

    If *traced*, lines about a call that belongs to a trace have the fields ``trace_id`` and ``span_id``.
    """
    number = _NUMBERS[level or "info"]
    handler = logging.StreamHandler()
    handler.setFormatter((JsonFormatter if form == "json" else TextFormatter)(traced=traced))
    logging.basicConfig(handlers=[handler], level=number, force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


class _Formatter(logging.Formatter):
    def __init__(self, *, traced: bool = False) -> None:
        super().__init__()
        self._traced = traced

    def fields(self, record: logging.LogRecord) -> dict[str, str]:
        """What a line says, in order."""
        seconds = time.gmtime(record.created)
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', seconds)}.{int(record.created % 1 * 1e9):09d}Z"
        level = _NAMES.get(record.levelno, "trace" if record.levelno < logging.DEBUG else record.levelname.lower())
        found = {"time": stamp, "level": level, "msg": record.getMessage()}
        plugin = _PLUGIN.fullmatch(record.name)
        # Who speaks about a plugin, as the registry does, may give the record that attribute.
        if (uri := getattr(record, "plugin", plugin[1] if plugin is not None else None)) is not None:
            found["plugin"] = str(uri)
        else:
            found["logger"] = record.name
        # Whoever logs writes the line itself, in the context of its call, also in the threads of `orlop.blocking`.
        if self._traced and (ids := trace_ids()) is not None:
            found["trace_id"], found["span_id"] = ids
        if record.exc_info:
            found["error"] = self.formatException(record.exc_info)
        return found


class TextFormatter(_Formatter):
    """Lines such as ``time="..." level=info msg="..." plugin=...``."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_quoted(key, value)}" for key, value in self.fields(record).items())


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record), ensure_ascii=False)


def _quoted(key: str, value: str) -> str:
    if key not in ("time", "msg") and _BARE.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
