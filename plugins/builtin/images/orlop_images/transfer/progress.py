# SPDX-License-Identifier: Apache-2.0
"""Turns the client library's news into what containerd's clients are told: blobs by their refs, below what names them.

How far a blob is, is told in steps of a third of a second, whatever its speed; everything else at once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

from orlop.interfaces.transfer import ProgressTold, TransferProgress
from orlop.values import Descriptor
from orlop_sdk.client.progress import Progress, ProgressKind
from orlop_sdk.client.transfer import ingest_ref

#: Seconds between two pieces of news about how far the same blob is.
TICK: Final = 0.3
_ENDS: Final = {
    ProgressKind.DOWNLOADED: "complete",
    ProgressKind.UPLOADED: "complete",
    ProgressKind.MOUNTED: "complete",
    ProgressKind.EXISTS: "already exists",
    ProgressKind.EXTRACTED: "extracted",
}
_MOVES: Final = {
    ProgressKind.DOWNLOADING: "downloading",
    ProgressKind.UPLOADING: "uploading",
    ProgressKind.EXTRACTING: "extracting",
}


@dataclass(slots=True)
class _Job:
    descriptor: Descriptor
    name: str
    parents: tuple[str, ...]
    word: str = ""
    offset: int = 0
    told: int = 0
    total: int = 0


class Tracker:
    """Tells of one transfer. Use it in ``async with``; *root* is the name at the top of everything."""

    def __init__(self, root: str, tell: ProgressTold) -> None:
        self._root = root
        self._tell = tell
        self._jobs: dict[str, _Job] = {}
        self._parents: dict[str, list[str]] = {}
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._ticker is not None  # entered
        self._ticker.cancel()
        with suppress(asyncio.CancelledError):
            await self._ticker
        self._tell_moves()

    def news(self, news: Progress) -> None:
        """Take a piece of the client library's news."""
        descriptor = news.descriptor
        if descriptor is None:
            return
        if news.kind is ProgressKind.EXPANDED:
            ref = ingest_ref(descriptor)
            for child in news.children:
                known = self._parents.setdefault(child.digest, [])
                if ref not in known:
                    known.append(ref)
        if news.kind is ProgressKind.WAITING:
            self._job(descriptor)
        elif news.kind in _MOVES:
            job = self._job(descriptor)
            if job.word != _MOVES[news.kind]:
                job.word, job.told = _MOVES[news.kind], 0
            job.offset, job.total = news.offset, news.total
            if news.kind is ProgressKind.EXTRACTING:
                self._say(job, job.word, news.offset)
        elif word := _ENDS.get(news.kind):
            self._end(descriptor, word)

    def arrived(self, news: Progress) -> None:
        """As `news`, for a pull, which fetches what it expands."""
        self.news(news)
        if news.kind is ProgressKind.EXPANDED and news.descriptor is not None:
            self._end(news.descriptor, "complete" if news.offset else "already exists")

    def _job(self, descriptor: Descriptor) -> _Job:
        job = self._jobs.get(descriptor.digest)
        if job is None:
            parents = tuple(self._parents.get(descriptor.digest, ())) or (self._root,)
            job = _Job(descriptor, ingest_ref(descriptor), parents, total=descriptor.size)
            self._jobs[descriptor.digest] = job
            self._say(job, "waiting", 0)
        return job

    def _end(self, descriptor: Descriptor, word: str) -> None:
        job = self._job(descriptor)
        job.word, job.offset, job.told = "", job.total, job.total
        self._say(job, word, descriptor.size)

    def _say(self, job: _Job, event: str, offset: int) -> None:
        self._tell(TransferProgress(event, job.name, job.parents, offset, job.descriptor.size, job.descriptor))

    def _tell_moves(self) -> None:
        for job in self._jobs.values():
            if job.word and job.offset > job.told:
                job.told = job.offset
                self._say(job, job.word, job.offset)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._tell_moves()
