# SPDX-License-Identifier: Apache-2.0
"""What messages of all services are made of: timestamps, ``Any``, descriptors, mounts, platforms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from orlop.errors import InvalidArgument
from orlop.values import EPOCH, AnyMessage, Descriptor, Mount, Platform
from orlop_sdk.api.types import descriptor_pb2, mount_pb2, platform_pb2

M = TypeVar("M", bound=Message)

_DAY: Final = 86400
#: Seconds of the first instant of year 1, which Go programs send for "no time".
_GO_ZERO: Final = -62135596800


def time_to_wire(time: datetime) -> Timestamp | None:
    """The timestamp of a time; None, which leaves a field unset, for `EPOCH`.

    A time without zone is taken as UTC.
    """
    timestamp = Timestamp()
    write_time(time, timestamp)
    return timestamp if timestamp.seconds or timestamp.nanos else None


def write_time(time: datetime, timestamp: Timestamp) -> None:
    """Fill an empty timestamp that is a field of a message; `EPOCH` leaves it unset."""
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    since = time - EPOCH
    if since:
        timestamp.seconds, timestamp.nanos = since.days * _DAY + since.seconds, since.microseconds * 1000


def time_from_wire(timestamp: Timestamp) -> datetime:
    """The time of a timestamp, cut to microseconds; `EPOCH` for an unset one, and for Go's zero time.

    Raises `InvalidArgument` for what is no date of the years 1 to 9999.
    """
    if timestamp.seconds == _GO_ZERO:
        return EPOCH
    try:
        return EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)
    except OverflowError as error:
        raise InvalidArgument(f"timestamp of {timestamp.seconds} seconds: not between the years 1 and 9999") from error


def any_to_wire(message: AnyMessage | None) -> Any | None:
    """The ``Any`` of a payload; None leaves a field unset."""
    return None if message is None else Any(type_url=message.type_url, value=message.value)


def write_any(payload: AnyMessage, message: Any) -> None:
    """Fill an empty ``Any`` that is a field of a message."""
    message.type_url, message.value = payload.type_url, payload.value


def any_from_wire(message: Any) -> AnyMessage | None:
    """The payload of an ``Any``, or None for one without type and bytes, as an unset field reads."""
    if not message.type_url and not message.value:
        return None
    return AnyMessage(message.type_url, message.value)


def payload_from_wire(message: Any) -> AnyMessage:
    """The payload of an ``Any`` where there must be one; an unset one is an `AnyMessage` of empty type."""
    return AnyMessage(message.type_url, message.value)


def pack(message: Message) -> AnyMessage:
    """The payload of a message, under its bare full name, as containerd spells the type of an ``Any``."""
    return AnyMessage(message.DESCRIPTOR.full_name, message.SerializeToString())


def message_name(type_url: str) -> str:
    """The full name of the message that a type URL, with or without a host in front, stands for."""
    return type_url.rpartition("/")[2]


def unpack(payload: AnyMessage, kind: type[M]) -> M:
    """The message in a payload. Raises `InvalidArgument` for another type, and for bytes that are none."""
    name = kind.DESCRIPTOR.full_name
    if message_name(payload.type_url) != name:
        raise InvalidArgument(f'message of type "{payload.type_url}": must be a {name}')
    try:
        return kind.FromString(payload.value)
    except DecodeError as error:
        raise InvalidArgument(f"message of {len(payload.value)} bytes: not a {name}") from error


def payloads_to_wire(payloads: Mapping[str, AnyMessage]) -> dict[str, Any]:
    """A map of named payloads, for the constructor of a message."""
    return {key: Any(type_url=payload.type_url, value=payload.value) for key, payload in payloads.items()}


def payloads_from_wire(payloads: Mapping[str, Any]) -> dict[str, AnyMessage]:
    """A map of named payloads."""
    return {key: payload_from_wire(payload) for key, payload in payloads.items()}


def descriptor_to_wire(descriptor: Descriptor) -> descriptor_pb2.Descriptor:
    """``containerd.types.Descriptor``."""
    message = descriptor_pb2.Descriptor()
    write_descriptor(descriptor, message)
    return message


def write_descriptor(descriptor: Descriptor, message: descriptor_pb2.Descriptor) -> None:
    """Fill an empty descriptor that is a field of a message."""
    message.media_type, message.digest, message.size = descriptor.media_type, descriptor.digest, descriptor.size
    if descriptor.annotations:
        message.annotations.update(descriptor.annotations)


def descriptor_from_wire(message: descriptor_pb2.Descriptor) -> Descriptor:
    """A descriptor; an unset message gives one without digest."""
    return Descriptor(message.media_type, message.digest, message.size, dict(message.annotations))


def mount_to_wire(mount: Mount) -> mount_pb2.Mount:
    """``containerd.types.Mount``."""
    return mount_pb2.Mount(type=mount.type, source=mount.source, target=mount.target, options=mount.options)


def mount_from_wire(message: mount_pb2.Mount) -> Mount:
    """One mount."""
    return Mount(message.type, message.source, message.target, tuple(message.options))


def mounts_to_wire(mounts: Iterable[Mount]) -> list[mount_pb2.Mount]:
    """Mounts in their order."""
    return [mount_to_wire(mount) for mount in mounts]


def mounts_from_wire(messages: Iterable[mount_pb2.Mount]) -> list[Mount]:
    """Mounts in their order."""
    return [mount_from_wire(message) for message in messages]


def platform_to_wire(platform: Platform) -> platform_pb2.Platform:
    """``containerd.types.Platform``."""
    return platform_pb2.Platform(
        os=platform.os,
        architecture=platform.architecture,
        variant=platform.variant,
        os_version=platform.os_version,
        os_features=platform.os_features,
    )


def platform_from_wire(message: platform_pb2.Platform) -> Platform:
    """A platform, as it was sent."""
    return Platform(message.os, message.architecture, message.variant, message.os_version, tuple(message.os_features))
