# SPDX-License-Identifier: Apache-2.0
"""What a shim is told on its standard input when it is started, and what it answers.

Three answers are in use: a serialised ``BootstrapResult``, the same as JSON, and a bare address from shims that know
version 2 of the task API only. The same JSON is kept in the bundle, so that a later daemon finds the shim.
"""

from __future__ import annotations

import json
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessagePb
from google.protobuf.message import DecodeError

from orlop.errors import InvalidArgument, Unavailable
from orlop.interfaces.runtime import ShimAddress
from orlop.values import AnyMessage
from orlop_sdk.api.runtime.bootstrap.v1.bootstrap_pb2 import BootstrapResult

#: The newest version of the task API that we speak.
NEWEST_VERSION: Final = 3
_OLDEST_VERSION: Final = 2

# Field 4 as a string that is not UTF-8. To shims that expect the runtime options alone it is an unknown field of their
# ``Any``; to those that expect ``BootstrapParams`` it is damage, which makes them read the input as the options too.
# Without it, the options' type and bytes could pass for the first two fields of ``BootstrapParams``.
_NOT_PARAMS: Final = b"\x22\x01\xff"


def options_input(options: AnyMessage | None) -> bytes:
    """Runtime options as every shim understands them; empty without options."""
    if options is None:
        return b""
    return AnyMessagePb(type_url=options.type_url, value=options.value).SerializeToString() + _NOT_PARAMS


def parse_answer(output: bytes) -> ShimAddress:
    """The address in what a shim printed.

    Raises `Unavailable` with the output when it is none of the three forms, or a version we do not know.
    """
    text = output.strip()
    if text.startswith(b"{"):
        return from_json(text)
    return _from_message(output) or _from_message(text) or _bare(text)


def from_json(text: bytes) -> ShimAddress:
    """The address in the JSON form. Raises `Unavailable` with the text when it is none."""
    try:
        fields = json.loads(text)
        found = ShimAddress(
            str(fields["address"]), int(fields.get("version", _OLDEST_VERSION)), str(fields.get("protocol") or "ttrpc")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"shim: answered JSON without a usable address: {_shown(text)}") from error
    return _checked(found)


def to_json(address: ShimAddress, runtime: str) -> bytes:
    """The JSON form. *runtime* is kept beside it: it says which launcher can clean up after the shim."""
    fields: dict[str, Any] = {
        "version": address.version,
        "address": address.address,
        "protocol": address.protocol,
        "runtime": runtime,
    }
    return json.dumps(fields).encode()


def to_endpoint(address: ShimAddress) -> str:
    """An address as sandboxes tell it: ``ttrpc+unix:///run/...``."""
    return f"{address.protocol}+{address.address}"


def from_endpoint(endpoint: str, version: int) -> ShimAddress:
    """The address of an endpoint; version 0 counts as the newest. Raises `InvalidArgument`."""
    protocol, plus, address = endpoint.partition("+")
    if not plus or protocol not in ("ttrpc", "grpc") or not address:
        raise InvalidArgument(f'task API address "{endpoint}": write PROTOCOL+ADDRESS, such as "ttrpc+unix:///run/x"')
    version = version or NEWEST_VERSION
    if not _OLDEST_VERSION <= version <= NEWEST_VERSION:
        raise InvalidArgument(f"task API version {version}: not among {_OLDEST_VERSION} to {NEWEST_VERSION}")
    return ShimAddress(address, version, protocol)


def _from_message(output: bytes) -> ShimAddress | None:
    try:
        result = BootstrapResult.FromString(output)
    except DecodeError:
        return None
    if not result.address or not result.version:
        return None
    return _checked(ShimAddress(result.address, result.version, result.protocol or "ttrpc"))


def _bare(text: bytes) -> ShimAddress:
    try:
        address = text.decode("ascii")
    except UnicodeDecodeError:
        address = ""
    if not address or not address.isprintable() or " " in address:
        raise Unavailable(f"shim: answered no address: {_shown(text)}")
    return ShimAddress(address)


def _checked(address: ShimAddress) -> ShimAddress:
    if not _OLDEST_VERSION <= address.version <= NEWEST_VERSION:
        raise Unavailable(
            f"shim: speaks version {address.version} of the task API, which is not among "
            f"{_OLDEST_VERSION} to {NEWEST_VERSION}; install a shim that does"
        )
    if address.protocol not in ("ttrpc", "grpc"):
        raise InvalidArgument(f'shim: speaks protocol "{address.protocol}", which is neither ttrpc nor grpc')
    if not address.address:
        raise Unavailable("shim: answered an empty address")
    return address


def _shown(text: bytes) -> str:
    return repr(text[:200].decode(errors="replace"))
