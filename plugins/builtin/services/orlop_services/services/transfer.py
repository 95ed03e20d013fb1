# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.transfer.v1.Transfer`` over the transferrers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from google.protobuf.empty_pb2 import Empty

from orlop.errors import InvalidArgument, OrlopError, Unimplemented
from orlop.interfaces.streaming import Stream, StreamManager
from orlop.interfaces.transfer import ProgressTold, TransferProgress, Transferrer, untold
from orlop.values import AnyMessage
from orlop_sdk.api.services.transfer.v1 import transfer_pb2 as pb
from orlop_sdk.api.types.transfer.progress_pb2 import Progress
from orlop_sdk.convert.common import descriptor_to_wire, pack, payload_from_wire
from orlop_sdk.rpc.service import Service

log = logging.getLogger(__name__)

#: Seconds that a client gets at the end to take the news that are left.
_PATIENCE: Final = 10.0
#: News that may wait for a client who does not read; what comes then is not told.
_MOST_NEWS: Final = 10_000


class TransferService(Service):
    """Moves images, by the first transferrer that knows the pair."""

    service = "containerd.services.transfer.v1.Transfer"

    def __init__(self, transferrers: Mapping[str, Transferrer], streams: StreamManager) -> None:
        self._transferrers = transferrers
        self._streams = streams

    async def Transfer(self, request: pb.TransferRequest) -> Empty:
        source, destination = payload_from_wire(request.source), payload_from_wire(request.destination)
        for what, payload in (("source", source), ("destination", destination)):
            if not payload.type_url:
                raise InvalidArgument(f"transfer: a {what} is required")
        async with self._progress(request.options.progress_stream) as told:
            await self._transfer(source, destination, told)
        return Empty()

    async def _transfer(self, source: AnyMessage, destination: AnyMessage, told: ProgressTold) -> None:
        for transferrer in list(self._transferrers.values()):
            try:
                await transferrer.transfer(source, destination, streams=self._streams, progress=told)
            except Unimplemented as error:
                log.debug("transfer from %s to %s: %s", source.type_url, destination.type_url, error)
            else:
                return
        raise Unimplemented(f'transfer from "{source.type_url}" to "{destination.type_url}": not implemented')

    @asynccontextmanager
    async def _progress(self, id: str) -> AsyncIterator[ProgressTold]:
        """Whom to tell of progress; the stream gets all of it and ends with the block."""
        if not id:
            yield untold
            return
        stream = await self._streams.get(id)
        news: asyncio.Queue[TransferProgress | None] = asyncio.Queue()

        def tell(progress: TransferProgress) -> None:
            if news.qsize() < _MOST_NEWS:
                news.put_nowait(progress)

        teller = asyncio.create_task(_tell(stream, news))
        try:
            yield tell
        finally:
            news.put_nowait(None)
            await asyncio.wait((teller,), timeout=_PATIENCE)
            teller.cancel()
            await asyncio.gather(teller, return_exceptions=True)
            await stream.close()


async def _tell(stream: Stream, news: asyncio.Queue[TransferProgress | None]) -> None:
    while (progress := await news.get()) is not None:
        message = Progress(
            event=progress.event,
            name=progress.name,
            parents=progress.parents,
            progress=progress.progress,
            total=progress.total,
            desc=None if progress.descriptor is None else descriptor_to_wire(progress.descriptor),
        )
        try:
            await stream.send(pack(message))
        except OrlopError:
            return  # nobody listens any more; the transfer goes on
