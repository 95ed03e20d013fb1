# SPDX-License-Identifier: Apache-2.0
"""Calls of the daemons' API as data: what a scenario is made of, and answers in a form that can be compared."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from tests.support.api import PACKAGES

from orlop_sdk.rpc import descriptors
from orlop_services.services.health import HEALTH

Fields = Mapping[str, Any]
GO_ZERO = -62135596800
"""Seconds of the year 1, which is how containerd says that there is no time."""
RECENT = 2 * 24 * 3600
"""Times that are less than this many seconds away from now were taken by the daemon's clock."""
LARGEST = 64
"""Bytes values longer than this are compared by their digest."""
MARK = "/comparison/mark"
"""Topic of the events that tell how far a subscription has come."""
ORDER: dict[str, Callable[[Any], str]] = {
    "options": str,
    "statuses": lambda status: str(status.ref),
    "tasks": lambda process: str(process.id),
}
"""Lists whose order means nothing, and what they are put in order by."""
NS = "<ns>"
"""Stands for the scenario's namespace in whatever is sent."""
DIR = "<dir>"
"""Stands for a directory of this side's own in whatever is sent."""

TREE = "<tree>"
"""Stands for a root file system with busybox in whatever is sent."""


@dataclass(frozen=True)
class Call:
    """One call: a method such as ``Images.Get``, and its request, or several where it takes a stream.

    *namespace* is sent instead of the scenario's own; none at all when it is empty. *raw* is sent instead of a request.
    """

    method: str
    requests: tuple[Fields, ...] = ({},)
    namespace: str = NS
    lease: str = ""
    raw: bytes | None = None

    @property
    def described(self) -> str:
        """The call in a few words."""
        sent = "; ".join(" ".join(f"{key}={str(value)[:80]}" for key, value in item.items()) for item in self.requests)
        rest = "" if self.namespace == NS else f" namespace={self.namespace!r}"
        rest += f" lease={self.lease!r}" if self.lease else ""
        return f"{self.method} {self.raw!r}{rest}" if self.raw is not None else f"{self.method} {sent[:600]}{rest}"


@dataclass(frozen=True)
class Follow:
    """Subscribe to events with these filters, until the scenario ends: what arrives is compared then."""

    filters: tuple[str, ...]


@dataclass(frozen=True)
class Make:
    """Write a file below this side's own directory."""

    path: str
    text: str


Step = Call | Follow | Make


@dataclass(frozen=True)
class Scenario:
    """Steps that are played on both sides, each in a namespace that nothing was in before."""

    name: str
    steps: tuple[Step, ...]


@dataclass
class Answer:
    """How a call ended: its code, the error's text, and the fields of what was answered until then."""

    code: str = "OK"
    text: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    messages: list[Any] = field(default_factory=list)


def call(method: str, *requests: Fields, namespace: str = NS, lease: str = "", **fields: Any) -> Call:
    """A call with the request's fields as keywords, or with requests that are given as mappings."""
    return Call(method, requests or (fields,), namespace, lease)


@cache
def method(name: str) -> MethodDescriptor:
    """The descriptor of a method such as ``Images.Get``."""
    service, _, short = name.partition(".")
    if service == "Health":
        return HEALTH.methods_by_name[short]
    full = f"containerd.services.{PACKAGES[service]}.v1.{service}"
    return descriptors.service(full).methods_by_name[short]


@cache
def all_methods() -> frozenset[str]:
    """Every method of the services that are compared."""
    found = {f"Health.{item.name}" for item in HEALTH.methods}
    for service, package in PACKAGES.items():
        methods = descriptors.service(f"containerd.services.{package}.v1.{service}").methods
        found |= {f"{service}.{item.name}" for item in methods}
    return frozenset(found)


class Normal:
    """Replaces what cannot be the same on two sides by its kind, for one side and one scenario."""

    def __init__(self, replacements: Mapping[str, str]) -> None:
        self._replacements = replacements
        self._numbers: dict[str, int] = {}

    def text(self, text: str) -> str:
        """A text without names of this side's own."""
        for own, kind in self._replacements.items():
            text = text.replace(own, kind)
        # Directories of snapshots are numbered in the order they were made, by all scenarios together.
        return re.sub(r"\bsnapshots/(\d+)\b", self._numbered, text)

    def fields(self, message: Message, prefix: str = "") -> dict[str, str]:
        """The fields of a message that are set, by path, as text."""
        return dict(self._walk(message, prefix))

    def _numbered(self, match: re.Match[str]) -> str:
        return f"snapshots/<{self._numbers.setdefault(match[1], len(self._numbers) + 1)}>"

    def _walk(self, message: Message, prefix: str) -> Iterator[tuple[str, str]]:
        if isinstance(message, AnyMessage):
            yield from self._any(message, prefix)
            return
        fields = message.ListFields()
        created = next((value for item, value in fields if item.name == "created_at"), None)
        for item, value in fields:
            path = f"{prefix}{item.name}"
            if is_map(item):
                for key in sorted(value):
                    yield from self._value(item, value[key], f"{path}[{self.text(str(key))}]")
            elif item.is_repeated:
                entries = sorted(value, key=ORDER[item.name]) if item.name in ORDER else list(value)
                for number, entry in enumerate(entries):
                    yield from self._value(item, entry, f"{path}[{number}]")
            elif item.name == "updated_at" and created is not None:
                if kind := time_kind(value, created):
                    yield path, kind
            else:
                yield from self._value(item, value, path)

    def _value(self, item: FieldDescriptor, value: Any, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, Timestamp):
            if kind := time_kind(value):
                yield path, kind
        elif isinstance(value, Message):
            yield path, "{}"
            yield from self._walk(value, f"{path}.")
        elif isinstance(value, bytes):
            yield (
                path,
                repr(value) if len(value) <= LARGEST else f"{len(value)} bytes {hashlib.sha256(value).hexdigest()}",
            )
        elif item.name in ("pid", "uuid"):
            yield path, f"<{item.name}>"
        else:
            yield path, self.text(str(value))

    def _any(self, message: AnyMessage, prefix: str) -> Iterator[tuple[str, str]]:
        yield f"{prefix}type_url", message.type_url
        name = message.type_url.rpartition("/")[2]
        if name.startswith("containerd."):
            try:
                yield from self._walk(descriptors.message(name).FromString(message.value), f"{prefix}value.")
                return
            except (KeyError, DecodeError):
                pass  # what nobody can decode is compared as it is
        yield f"{prefix}value", repr(message.value) if len(message.value) <= LARGEST else f"{len(message.value)} bytes"


def is_map(item: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    return item.message_type is not None and bool(item.message_type.GetOptions().map_entry)


def time_kind(value: Timestamp, created: Timestamp | None = None) -> str:
    """A time of a daemon's clock by its relation to another one; other times as they are."""
    if value.seconds == GO_ZERO:
        return ""
    if abs(value.seconds - time.time()) > RECENT:
        return f"{value.seconds}.{value.nanos:09}"
    if created is None:
        return "<time>"
    own, other = (value.seconds, value.nanos), (created.seconds, created.nanos)
    return "<later>" if own > other else "<same>" if own == other else "<earlier>"


def leaves(value: Any) -> Iterator[str]:
    """All texts in a request."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, Mapping | list | tuple | str):
                yield from leaves(item)
            if not isinstance(key, str):
                yield str(key)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)


def filled(value: Any, names: Mapping[str, str]) -> Any:
    """A request with the placeholders replaced."""
    if isinstance(value, str):
        for placeholder, own in names.items():
            value = value.replace(placeholder, own)
        return value
    if isinstance(value, Mapping):
        return {filled(key, names): filled(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [filled(item, names) for item in value]
    if isinstance(value, bytes) and b"<" in value:
        return filled(value.decode(errors="surrogateescape"), names).encode(errors="surrogateescape")
    return value
