# SPDX-License-Identifier: Apache-2.0
"""Calls of the daemons' API, field by field, for what no client would send."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from tests.support.transcript import Hide, Recorder

from orlop_sdk.rpc import descriptors

PACKAGES = {
    "Containers": "containers",
    "Content": "content",
    "Diff": "diff",
    "Events": "events",
    "Images": "images",
    "Introspection": "introspection",
    "Leases": "leases",
    "Namespaces": "namespaces",
    "Snapshots": "snapshots",
    "Tasks": "tasks",
    "Version": "version",
}
"""The services that both daemons have, and the packages they are in; health has a package of its own."""
TIMEOUT = 20.0
GO_ZERO = -62135596800
"""Seconds of the year 1."""
TIMES: Hide = ((r"\b(seconds|nanos): -?\d+", "<time>"),)
Fields = Mapping[str, Any]


class Api:
    """Makes calls for one side of a comparison, and writes down the code or the answer of each."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._channel = grpc.insecure_channel(f"unix:{recorder.daemon.address}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def __call__(
        self,
        name: str,
        *requests: Fields,
        namespace: str | None = None,
        lease: str = "",
        show: bool = True,
        only: Sequence[str] = (),
        loosely: str = "",
        hide: Hide = (),
    ) -> list[Any]:
        """Call a method, such as ``Images.Get``, and record how it ended.

        Several *requests* go to a method that takes a stream. An empty *namespace* sends none. *show* says whether
        the answer matters; with *only* it is these fields of the last one. Where the
        daemons differ in the code on purpose, *loosely* says why. Gives the answers, none on failure.
        """
        service, _, method_name = name.partition(".")
        method = descriptors.service(f"containerd.services.{PACKAGES[service]}.v1.{service}").methods_by_name[
            method_name
        ]
        sent = requests or ({},)
        self._recorder.note(f"$ {name} {'; '.join(brief(fields) for fields in sent)}"[:300], hide)
        headers = [("containerd-namespace", self._recorder.namespace if namespace is None else namespace)]
        if lease:
            headers.append(("containerd-lease", lease))
        try:
            answers = self._call(method, sent, [header for header in headers if header[1]])
        except grpc.RpcError as error:
            code, text = error.code().name, error.details()
            self._recorder.note(f"= {'refused' if loosely else code}")
            self._recorder.remark(f"{name}: {code}: {text}")
            return []
        self._recorder.note("= OK")
        if only:
            self._recorder.note(
                "  " + " ".join(f"{field}={getattr(item, field)}" for field in only for item in answers[-1:])
            )
            return answers
        for answer in answers if show else ():
            clear_zero_times(answer)
            for line in text_format.MessageToString(answer).splitlines():
                # Zero is left out, so a time may have no fraction.
                if not re.match(r" *nanos:", line):
                    self._recorder.note(f"  {line}", [*TIMES, *hide])
        return answers

    def _call(self, method: MethodDescriptor, sent: Sequence[Fields], headers: list[tuple[str, str]]) -> list[Any]:
        kind = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
        make: Callable[..., Any] = getattr(self._channel, "_".join(kind))
        bound = make(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=None,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        messages = [GetMessageClass(method.input_type)(**fields).SerializeToString() for fields in sent]
        answer = bound(iter(messages) if method.client_streaming else messages[0], metadata=headers, timeout=TIMEOUT)
        return list(answer) if method.server_streaming else [answer]


def clear_zero_times(message: Message) -> None:
    """Remove times that are Go's zero, which is how containerd says that there is none."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for item in value if field.is_repeated else [value]:
            if isinstance(item, Timestamp) and item.seconds == GO_ZERO:
                message.ClearField(field.name)
            else:
                clear_zero_times(item)


def brief(fields: Fields) -> str:
    """Fields of a request, short enough for a line."""
    return " ".join(f"{key}={str(value)[:60]}" for key, value in fields.items())
