# SPDX-License-Identifier: Apache-2.0
"""Messages that no sane client sends, made from descriptors; and a client that sends bytes to any method."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from orlop_sdk.api.ttrpc.ttrpc_pb2 import KeyValue, Request, Response
from orlop_sdk.rpc import descriptors
from orlop_sdk.ttrpc import frames

#: Text that may reach a client only by mistake: Python's tracebacks, and what objects look like to debuggers.
TRACES: Final = re.compile(r'Traceback|File "[^"]*", line|<[\w.]+ object at 0x|\b\w+\.py\b|During handling of')
_EDGES: Final = (0, 1, -1, 2, 7, 9, 100, 2**31 - 1, -(2**31), 2**32 - 1, 2**53, 2**63 - 1, -(2**63), 2**64 - 1)
_REALS: Final = (0.0, -0.0, 1.5, -1e308, 1e308, float("inf"), float("-inf"), float("nan"))
#: Hostile text. No path in it is one that exists or can be made, for some fields name files that are then opened.
HOSTILE: Final = (
    "",
    ".",
    "..",
    "../../../../none/x",
    "/proc/none/x",
    "a/b",
    "a\\b",
    "\x00",
    "a\x00b",
    "a\nb\tc\x1b[31m",
    "\u202egnp",
    "é" * 40,
    "\U0001f433",
    "x" * 77,
    "x" * 300,
    "x" * 5000,
    "%s%n%d",
    "-rf",
    "--help",
    "' OR 1=1; --",
    "sha256:",
    "sha256:" + "0" * 64,
    "sha256:" + "G" * 64,
    "sha256:../../../none",
    "sha512:" + "0" * 64,
    "md5:" + "0" * 32,
    "name==",
    'labels."a',
    'labels."a.b"~=(((',
    "id~=" + "(a+)+" * 20 + "$",
    "name==a,",
    "x==" + '"' * 100,
    "labels",
    "labels.",
    "spec",
    "extensions.x",
    "target.size",
    "file:///proc/none/x",
    "binary:///proc/none/x?a=%zz",
    "fifo:///proc/none/x",
    "unix:///proc/none/x",
    "what://x?\x7f",
    "http://[::1",
    "type = [",
    "io.containerd.runc.v2",
    "io.none.v1",
    "/proc/none/containerd-shim",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar",
)
#: What is looked into where it comes in an Any.
_MESSAGES: Final = (
    "containerd.runc.v1.Options",
    "containerd.runc.v1.CheckpointOptions",
    "runtimeoptions.v1.Options",
    "containerd.events.TaskExit",
    "containerd.types.transfer.ImageExportStream",
    "containerd.types.transfer.ImageImportStream",
    "containerd.types.transfer.ImageStore",
    "containerd.types.transfer.OCIRegistry",
)
_TYPES: Final = (
    "containerd.runc.v1.Options",
    "containerd.events.TaskExit",
    "types.containerd.io/opencontainers/runtime-spec/1/Spec",
    "types.containerd.io/opencontainers/runtime-spec/1/Process",
    "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
    "type.googleapis.com/google.protobuf.Any",
    "google.protobuf.Timestamp",
    "none",
)
#: The server tells what is wrong with these mounts. Those that name what exists would let an image be unpacked there.
_SOURCES: Final = ("", "none", "/proc/none/x", "../../none", "overlay", "\x00", "x" * 5000)


class Fuzzer:
    """Strategies for the messages of services.

    ``names`` are those of things that exist, and ``hints`` what fields of a name should have for a call to get far.
    ``forced`` maps a field's full name to the only strings it may have.
    """

    def __init__(
        self, names: Sequence[str], hints: Mapping[str, Sequence[str]], forced: Mapping[str, Sequence[str]]
    ) -> None:
        self._known = st.sampled_from(list(names))
        self._text = st.one_of(self._known, st.sampled_from(HOSTILE), st.text(max_size=20))
        self._hints = {name: st.sampled_from(list(some)) for name, some in hints.items()}
        self._forced = {"containerd.types.Mount.source": _SOURCES, **forced}

    @st.composite
    @staticmethod
    def _message(draw: st.DrawFn, self: Fuzzer, type: Descriptor, depth: int, tame: bool) -> Message:
        made = descriptors.message_class(type)()
        if type.full_name == "google.protobuf.Any":
            return draw(self._any(depth, tame))
        for field in type.fields:
            if depth < 8 and draw(st.integers(0, 9)) < 7:
                self._fill(draw, made, field, depth, tame)
        return made

    def _fill(self, draw: st.DrawFn, made: Message, field: FieldDescriptor, depth: int, tame: bool) -> None:
        if field.is_repeated:
            self._fill_many(draw, made, field, depth, tame)
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(draw(self.message(field.message_type, depth + 1, tame)))
        else:
            setattr(made, field.name, draw(self._scalar(field, tame)))

    def _fill_many(self, draw: st.DrawFn, made: Message, field: FieldDescriptor, depth: int, tame: bool) -> None:
        target: Any = getattr(made, field.name)
        type = field.message_type
        for _ in range(draw(st.integers(0, 3))):
            if type is None:
                target.append(draw(self._scalar(field, tame)))
            elif not type.GetOptions().map_entry:
                target.add().CopyFrom(draw(self.message(type, depth + 1, tame)))
            elif (value := type.fields_by_name["value"]).message_type is None:
                target[draw(self._scalar(type.fields_by_name["key"], tame))] = draw(self._scalar(value, tame))
            else:
                key = draw(self._scalar(type.fields_by_name["key"], tame))
                target[key].CopyFrom(draw(self.message(value.message_type, depth + 1, tame)))

    def _scalar(self, field: FieldDescriptor, tame: bool) -> st.SearchStrategy[Any]:
        if field.full_name in self._forced:
            return st.sampled_from(self._forced[field.full_name])
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_STRING:
                hint = self._hints.get(field.name, self._known)
                return hint if tame else st.one_of(hint, self._text)
            case FieldDescriptor.CPPTYPE_STRING:
                return st.one_of(st.binary(max_size=40), st.just(b"{}"), st.just(b"[" * 3000), st.just(bytes(70000)))
            case FieldDescriptor.CPPTYPE_BOOL:
                return st.booleans()
            case FieldDescriptor.CPPTYPE_ENUM:
                return st.sampled_from((0, 1, 2, 3, 99, -1))
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return st.sampled_from(_REALS)
            case kind:
                low, high = (0, 100) if tame else _RANGES[kind]
                return st.sampled_from([edge for edge in _EDGES if low <= edge <= high])

    @st.composite
    @staticmethod
    def _any_message(draw: st.DrawFn, self: Fuzzer, depth: int, tame: bool) -> any_pb2.Any:
        made = any_pb2.Any(type_url=draw(st.one_of(st.sampled_from(_TYPES), self._text)))
        match draw(st.integers(0, 4)):
            case 0:
                made.value = draw(st.binary(max_size=40))
            case 1:
                made.value = draw(st.sampled_from((b"{}", b'{"process":7}', b"[" * 3000, b'{"a":' * 500, b"null")))
            case 2:
                for _ in range(draw(st.sampled_from((1, 3, 120)))):
                    made = any_pb2.Any(type_url=_TYPES[5], value=made.SerializeToString())
            case _:
                made.type_url = draw(st.sampled_from(_MESSAGES))
                kind: Any = descriptors.message(made.type_url).DESCRIPTOR
                made.value = draw(self.message(kind, depth + 1, tame)).SerializeToString()
        return made

    def _any(self, depth: int, tame: bool) -> st.SearchStrategy[any_pb2.Any]:
        return self._any_message(self, depth, tame)

    def message(self, type: Descriptor, depth: int = 0, tame: bool = False) -> st.SearchStrategy[Message]:
        """Well-formed messages of a type, with values that make little sense; *tame* ones do now and then."""
        return self._message(self, type, depth, tame)

    def payloads(self, type: Descriptor) -> st.SearchStrategy[bytes]:
        """Bytes for a message of a type: four in six well-formed; others cut short, changed, or of no message."""
        tame, wild = (
            self.message(type, tame=tame).map(lambda message: message.SerializeToString()) for tame in (True, False)
        )
        return st.one_of(tame, tame, wild, wild, _damaged(wild), st.binary(max_size=60))


_RANGES: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


@st.composite
def _damaged(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    data = bytearray(draw(good))
    at = draw(st.integers(0, len(data)))
    match draw(st.integers(0, 2)):
        case 0:
            del data[at:]
        case 1:
            data[at:at] = draw(st.binary(min_size=1, max_size=4))
        case _:
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
    return bytes(data)


@dataclass(frozen=True)
class Outcome:
    """How a call ended: its status code and text, and how many messages came."""

    code: int
    text: str
    messages: int


class GrpcSender:
    """Sends bytes as requests to a daemon, whatever they are."""

    def __init__(self, address: str) -> None:
        options = [("grpc.max_receive_message_length", 16 << 20)]
        self._channel = grpc.insecure_channel(f"unix:{address}", options=options)

    def call(
        self, path: str, payloads: Iterable[bytes], timeout: float, metadata: Sequence[tuple[str, str]] = ()
    ) -> Outcome:
        """Call a method of any kind, and read all it answers or until *timeout* seconds are over."""
        # On the wire all kinds of methods are alike.
        method: Any = self._channel.stream_stream(path, None, None)
        call = method(iter(list(payloads)), timeout=timeout, metadata=list(metadata))
        count = 0
        try:
            for _ in call:
                count += 1
        except grpc.RpcError:
            pass
        finally:
            call.cancel()
        return Outcome(int(call.code().value[0]), str(call.details() or ""), count)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


class TtrpcSender:
    """The same over ttrpc, for methods of one request and one response."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        self._decoder = frames.Decoder()
        self._stream = -1

    def call(
        self, path: str, payloads: Iterable[bytes], timeout: float, metadata: Sequence[tuple[str, str]] = ()
    ) -> Outcome:
        """Call a method with the first of the payloads."""
        _, service, method = path.split("/")
        pairs = [KeyValue(key=key, value=value) for key, value in metadata]
        asked = Request(service=service, method=method, payload=next(iter(payloads)), metadata=pairs)
        self._stream += 2
        self._socket.settimeout(timeout)
        self._socket.sendall(
            frames.encode(self._stream, frames.REQUEST, frames.REMOTE_CLOSED, asked.SerializeToString())
        )
        while True:
            data = self._socket.recv(1 << 20)
            assert data, f"{path}: the daemon hung up"
            for frame in self._decoder.feed(data):
                if frame.stream == self._stream:
                    status = Response.FromString(frame.data).status
                    return Outcome(status.code, status.message, int(status.code == 0))

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
