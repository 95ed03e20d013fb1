# SPDX-License-Identifier: Apache-2.0
"""A daemon's content store over a channel.

::

    content = RemoteContentStore(channel)
    writer = await content.writer("greeting", total=5)
    await writer.write(b"hello")
    digest = await writer.commit(size=5)
    reader = await content.reader(Descriptor("text/plain", digest, 5))
    assert await reader.read_at(0, 5) == b"hello"
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Self

from orlop.errors import FailedPrecondition, InvalidArgument, OrlopError, OutOfRange, Unimplemented
from orlop.interfaces.content import ContentReader, ContentStore, ContentWriter
from orlop.values import EMPTY, ContentInfo, Descriptor, IngestStatus, Labels
from orlop_sdk.api.services.content.v1 import content_pb2
from orlop_sdk.client.records import field_mask
from orlop_sdk.convert.common import time_from_wire
from orlop_sdk.convert.content import info_from_wire, info_to_wire, status_from_wire
from orlop_sdk.rpc.channel import Channel
from orlop_sdk.rpc.stub import Responses, Stub

#: Bytes in one message of a write.
CHUNK: Final = 1 << 20
#: Messages under way before a writer waits for an answer: enough to keep both sides busy.
WINDOW: Final = 4
#: Seconds that a writer which is let go of waits for the daemon to free its ref.
RELEASE: Final = 5.0


class RemoteReader:
    """A blob of a daemon. Holds nothing open: each read is a call of its own."""

    def __init__(self, stub: Stub, digest: str, size: int) -> None:
        self._stub = stub
        self._digest = digest
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    async def read_at(self, offset: int, size: int) -> bytes:
        if offset > self._size:
            raise OutOfRange(f'content "{self._digest}": offset {offset} is past its end at {self._size}')
        size = min(size, self._size - offset)
        if size <= 0:
            return b""
        return b"".join([data async for data in self.chunks(offset, size)])

    async def chunks(self, offset: int = 0, size: int = 0) -> AsyncIterator[bytes]:
        """The bytes from *offset* in one call, as they come; *size* 0 is all of them."""
        if offset >= self._size:
            return
        request = content_pb2.ReadContentRequest(digest=self._digest, offset=offset, size=size)
        async with self._stub.Read(request) as messages:
            async for message in messages:
                yield message.data

    async def close(self) -> None:
        """Nothing to free."""


class _Requests:
    """The requests of one write, sent as they are put in. An iterator and no generator: it may be left at any time."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[content_pb2.WriteContentRequest | None] = asyncio.Queue()

    def put(self, request: content_pb2.WriteContentRequest) -> None:
        self._queue.put_nowait(request)

    def end(self) -> None:
        self._queue.put_nowait(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> content_pb2.WriteContentRequest:
        request = await self._queue.get()
        if request is None:
            raise StopAsyncIteration
        return request


class RemoteWriter:
    """An ingest of a daemon. Writes are sent ahead of their answers, *window* messages at most."""

    def __init__(self, stub: Stub, ref: str, window: int = WINDOW) -> None:
        self._ref = ref
        self._window = window
        self._requests = _Requests()
        self._responses: Responses = stub.Write(self._requests)
        self._pending: deque[int] = deque()
        self._answer: asyncio.Future[Any] | None = None
        self._offset = 0
        self._status = IngestStatus(ref)
        self._digest = ""
        self._expected = ""
        self._ended = False

    async def open(self, total: int, expected: str) -> None:
        """Take the ref. Raises as `ContentStore.writer`."""
        self._expected = expected
        request = content_pb2.WriteContentRequest(
            action=content_pb2.WriteAction.STAT, ref=self._ref, total=total, expected=expected
        )
        await self._exchange(request)
        self._offset = self._status.offset

    async def write(self, data: bytes | memoryview) -> None:
        self._check_open()
        view = memoryview(data)
        for start in range(0, len(view), CHUNK):
            part = bytes(view[start : start + CHUNK])
            self._send(
                content_pb2.WriteContentRequest(
                    action=content_pb2.WriteAction.WRITE, ref=self._ref, offset=self._offset, data=part
                )
            )
            self._offset += len(part)
            while len(self._pending) >= self._window:
                await self._receive()

    async def truncate(self, size: int) -> None:
        if size:
            raise Unimplemented(f'ingest "{self._ref}": can be truncated to 0 only, not to {size}')
        self._check_open()
        self._offset = 0
        # A write at offset 0 starts over on the other side, also one without data.
        await self._exchange(content_pb2.WriteContentRequest(action=content_pb2.WriteAction.WRITE, ref=self._ref))

    async def commit(self, *, size: int = 0, expected: str = "", labels: Labels = EMPTY) -> str:
        self._check_open()
        # A total of 0 is "do not check" on the wire, so that a stray byte in an empty blob shows only in its digest.
        request = content_pb2.WriteContentRequest(
            action=content_pb2.WriteAction.COMMIT,
            ref=self._ref,
            total=size,
            expected=expected,
            offset=self._offset,
            labels=dict(labels),
        )
        try:
            await self._exchange(request)
        finally:
            await self.close()
        return self._digest

    async def status(self) -> IngestStatus:
        self._check_open()
        await self._exchange(content_pb2.WriteContentRequest(action=content_pb2.WriteAction.STAT, ref=self._ref))
        return self._status

    def digest(self) -> str:
        """As of the last answer of the daemon: call `status` first, or have a window of 1, for all that was written."""
        return self._digest

    async def close(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._requests.end()
        try:
            # The ref is free once the daemon has ended the call, and not before.
            async with asyncio.timeout(RELEASE):
                if self._answer is not None:
                    await self._answer
                async for _ in self._responses:
                    self._pending.clear()
        except (OrlopError, TimeoutError):
            # What failed was raised where it happened, or the data is not wanted any more.
            self._pending.clear()
        finally:
            await self._responses.aclose()

    def _check_open(self) -> None:
        if self._ended:
            raise FailedPrecondition(f'ingest "{self._ref}": writer is closed; open the ref again')

    def _give_up(self) -> None:
        self._ended = True
        self._requests.end()

    def _send(self, request: content_pb2.WriteContentRequest) -> None:
        self._requests.put(request)
        self._pending.append(request.action)

    async def _exchange(self, request: content_pb2.WriteContentRequest) -> None:
        self._send(request)
        while self._pending:
            await self._receive()

    async def _receive(self) -> None:
        # A caller who is cancelled stops waiting; the call, which cancelling the wait would end, goes on.
        self._answer = self._answer or asyncio.ensure_future(anext(self._responses, None))
        try:
            answer = await asyncio.shield(self._answer)
        except OrlopError:
            self._answer = None
            self._give_up()
            raise
        self._answer = None
        if answer is None:
            self._give_up()
            raise FailedPrecondition(f'ingest "{self._ref}": the daemon ended the write early')
        self._pending.popleft()
        self._digest = answer.digest or self._digest
        self._status = IngestStatus(
            ref=self._ref,
            offset=answer.offset,
            total=answer.total,
            expected=self._expected,
            started_at=time_from_wire(answer.started_at),
            updated_at=time_from_wire(answer.updated_at),
        )


class RemoteContentStore:
    """The content store of a daemon, in the namespace of the call. *window* is for its writers."""

    def __init__(self, channel: Channel, window: int = WINDOW) -> None:
        self._window = window
        self._stub = Stub(channel, "containerd.services.content.v1.Content")

    async def info(self, digest: str) -> ContentInfo:
        return info_from_wire((await self._stub.Info(content_pb2.InfoRequest(digest=digest))).info)

    async def update(self, info: ContentInfo, fieldpaths: Sequence[str] = ()) -> ContentInfo:
        request = content_pb2.UpdateRequest(info=info_to_wire(info), update_mask=field_mask(fieldpaths))
        return info_from_wire((await self._stub.Update(request)).info)

    async def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[ContentInfo]:
        async with self._stub.List(content_pb2.ListContentRequest(filters=filters)) as messages:
            async for message in messages:
                for info in message.info:
                    yield info_from_wire(info)

    async def delete(self, digest: str) -> None:
        await self._stub.Delete(content_pb2.DeleteContentRequest(digest=digest))

    async def reader(self, descriptor: Descriptor) -> RemoteReader:
        info = await self.info(descriptor.digest)
        return RemoteReader(self._stub, info.digest, info.size)

    async def writer(self, ref: str, *, total: int = 0, expected: str = "") -> RemoteWriter:
        if not ref:
            raise InvalidArgument("ingest: the ref must not be empty")
        writer = RemoteWriter(self._stub, ref, self._window)
        try:
            await writer.open(total, expected)
        except BaseException:
            await writer.close()
            raise
        return writer

    async def status(self, ref: str) -> IngestStatus:
        return status_from_wire((await self._stub.Status(content_pb2.StatusRequest(ref=ref))).status)

    async def statuses(self, filters: Sequence[str] = ()) -> list[IngestStatus]:
        answer = await self._stub.ListStatuses(content_pb2.ListStatusesRequest(filters=filters))
        return [status_from_wire(each) for each in answer.statuses]

    async def abort(self, ref: str) -> None:
        await self._stub.Abort(content_pb2.AbortRequest(ref=ref))

    async def close(self) -> None:
        """The channel is its owner's to close."""


_reader: type[ContentReader] = RemoteReader
_writer: type[ContentWriter] = RemoteWriter
_store: type[ContentStore] = RemoteContentStore
