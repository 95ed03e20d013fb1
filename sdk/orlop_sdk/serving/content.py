# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.content.v1.Content`` over a content store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from google.protobuf.empty_pb2 import Empty

from orlop.errors import AlreadyExists, InvalidArgument, NotFound, OutOfRange
from orlop.interfaces.content import ContentStore, ContentWriter
from orlop.values import Descriptor, IngestStatus, now
from orlop_sdk import digest
from orlop_sdk.api.services.content.v1 import content_pb2 as pb
from orlop_sdk.convert.common import time_to_wire
from orlop_sdk.convert.content import info_from_wire, info_to_wire, status_to_wire, write_info
from orlop_sdk.rpc.service import Service
from orlop_sdk.serving.batches import batches

#: Bytes a message when a blob is read.
CHUNK: Final = 1 << 20


class ContentService(Service):
    """Blobs and ingests."""

    service = "containerd.services.content.v1.Content"

    def __init__(self, store: ContentStore) -> None:
        self._store = store

    async def Info(self, request: pb.InfoRequest) -> pb.InfoResponse:
        digest.parse(request.digest)
        return pb.InfoResponse(info=info_to_wire(await self._store.info(request.digest)))

    async def Update(self, request: pb.UpdateRequest) -> pb.UpdateResponse:
        digest.parse(request.info.digest)
        updated = await self._store.update(info_from_wire(request.info), list(request.update_mask.paths))
        return pb.UpdateResponse(info=info_to_wire(updated))

    async def List(self, request: pb.ListContentRequest) -> AsyncIterator[pb.ListContentResponse]:
        async for batch in batches(self._store.walk(list(request.filters))):
            response = pb.ListContentResponse()
            for info in batch:
                write_info(info, response.info.add())
            yield response

    async def Delete(self, request: pb.DeleteContentRequest) -> Empty:
        digest.parse(request.digest)
        await self._store.delete(request.digest)
        return Empty()

    async def Read(self, request: pb.ReadContentRequest) -> AsyncIterator[pb.ReadContentResponse]:
        digest.parse(request.digest)
        reader = await self._store.reader(Descriptor("", request.digest, 0))
        try:
            start = offset = max(request.offset, 0)
            if offset > reader.size:
                raise OutOfRange(f'content "{request.digest}": offset {offset} is past its {reader.size} bytes')
            end = min(offset + request.size, reader.size) if request.size > 0 else reader.size
            while offset < end:
                data = await reader.read_at(offset, min(CHUNK, end - offset))
                if not data:
                    break
                # The offset in what this call reads, as containerd counts it.
                yield pb.ReadContentResponse(offset=offset - start, data=data)
                offset += len(data)
        finally:
            await reader.close()

    async def Status(self, request: pb.StatusRequest) -> pb.StatusResponse:
        return pb.StatusResponse(status=status_to_wire(await self._store.status(request.ref)))

    async def ListStatuses(self, request: pb.ListStatusesRequest) -> pb.ListStatusesResponse:
        found = await self._store.statuses(list(request.filters))
        return pb.ListStatusesResponse(statuses=[status_to_wire(status) for status in found])

    async def Write(self, requests: AsyncIterator[pb.WriteContentRequest]) -> AsyncIterator[pb.WriteContentResponse]:
        first = await anext(requests, None)
        if first is None or not first.ref:
            raise InvalidArgument("ingest: the first message of a write must name its ref")
        writer = await self._store.writer(first.ref, total=first.total, expected=first.expected)
        try:
            session = _Session(self._store, writer, await writer.status())
            yield await session.answer(first)
            if first.action == pb.WriteAction.COMMIT:
                return
            async for request in requests:
                yield await session.answer(request)
                if request.action == pb.WriteAction.COMMIT:
                    return
        finally:
            await writer.close()

    async def Abort(self, request: pb.AbortRequest) -> Empty:
        await self._store.abort(request.ref)
        return Empty()


class _Session:
    """One Write call: the state between its messages.

    The offset is counted here instead of being asked for, which would cost a trip to the store for each message.
    """

    def __init__(self, store: ContentStore, writer: ContentWriter, status: IngestStatus) -> None:
        self._store, self._writer = store, writer
        self._ref = status.ref
        self._offset, self._announced = status.offset, status.total
        # What a commit is held against: what was said in this call, not what an earlier one may have been wrong about.
        self._total, self._expected = 0, ""
        self._answered = self._asked = False
        self._started_at, self._updated_at = status.started_at, status.updated_at

    async def answer(self, request: pb.WriteContentRequest) -> pb.WriteContentResponse:
        """Do what a message asks and report how far the ingest is."""
        self._total = request.total or self._total
        if request.expected and request.expected != self._expected:
            self._expected = request.expected
            # The store has looked at what the first message expects.
            if self._answered:
                await self._refuse_existing()
        self._answered = True
        if request.action in (pb.WriteAction.WRITE, pb.WriteAction.COMMIT):
            await self._write(request)
        elif request.action != pb.WriteAction.STAT:
            raise InvalidArgument(f'ingest "{self._ref}": there is no write action {request.action}')
        committing = request.action == pb.WriteAction.COMMIT
        digest = await self._commit(request) if committing else self._writer.digest()
        self._asked = self._asked or request.action == pb.WriteAction.STAT
        if not self._asked:
            return pb.WriteContentResponse(action=request.action, offset=self._offset, digest=digest)
        # Who asked how far the ingest is gets the rest as well, as from containerd.
        return pb.WriteContentResponse(
            action=request.action,
            started_at=time_to_wire(self._started_at),
            updated_at=time_to_wire(self._updated_at),
            offset=self._offset,
            total=self._total or self._announced,
            digest=digest,
        )

    async def _write(self, request: pb.WriteContentRequest) -> None:
        if request.offset > 0 and request.offset != self._offset:
            raise OutOfRange(
                f'ingest "{self._ref}": write at offset {request.offset}, but {self._offset} bytes are stored; '
                f"continue there, or at 0 to start over"
            )
        # A commit may leave its offset out; a write at 0 starts over, even when it brings nothing.
        starts_over = bool(request.data) or request.action == pb.WriteAction.WRITE
        if starts_over and request.offset == 0 and self._offset:
            await self._writer.truncate(0)
            self._offset = 0
        if request.data:
            await self._writer.write(request.data)
            self._offset += len(request.data)
            self._updated_at = now()

    async def _commit(self, request: pb.WriteContentRequest) -> str:
        return await self._writer.commit(size=self._total, expected=self._expected, labels=dict(request.labels))

    async def _refuse_existing(self) -> None:
        """The client learnt the digest while it wrote: what is here already need not be written to its end."""
        try:
            await self._store.info(self._expected)
        except NotFound:
            return
        await self._writer.close()
        await self._store.abort(self._ref)
        raise AlreadyExists(f'content "{self._expected}": already exists')
