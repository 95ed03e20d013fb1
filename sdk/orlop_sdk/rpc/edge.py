# SPDX-License-Identifier: Apache-2.0
"""What servers of every gRPC transport do alike: limits, the argument of a handler, the words of a failure."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from typing import Any, Final

from orlop.errors import OrlopError, Unimplemented
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.rpc.messages import decode, decoded

#: Largest message either way, in bytes; containerd's limit.
MAX_MESSAGE: Final = 16 << 20
#: Status texts travel in a header, for which clients set limits of as little as 8 KiB.
MAX_STATUS_TEXT: Final = 2048


def argument(method: RpcMethod, received: bytes | AsyncIterable[bytes]) -> Any:
    """What a handler takes: the decoded request, or an iterator that decodes. Raises `InvalidArgument`."""
    return decode(method, received) if isinstance(received, bytes) else decoded(method, received)


def status_text(error: OrlopError) -> str:
    """The text of an error, cut to what fits into a header."""
    text = str(error)
    return text if len(text) <= MAX_STATUS_TEXT else f"{text[:MAX_STATUS_TEXT]}... ({len(text)} characters)"


def unserved(path: str, methods: Mapping[str, RpcMethod]) -> Unimplemented:
    """The answer to a method that is not in the table, in the words that Go's servers use and some clients look for."""
    service, _, method = path.removeprefix("/").rpartition("/")
    known = any(each.startswith(f"/{service}/") for each in methods)
    return Unimplemented(f"unknown method {method} for service {service}" if known else f"unknown service {service}")
