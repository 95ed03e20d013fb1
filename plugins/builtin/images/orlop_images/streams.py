# SPDX-License-Identifier: Apache-2.0
"""The built-in stream processors, and the chain that leads from a layer's media type to a plain tar.

**Host needs**: nothing. gzip uses isal where that is installed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orlop.errors import InvalidArgument, Unimplemented
from orlop.interfaces.stream import TAR, CodecProcessor, RunningStream, StreamProcessor, stream_processor
from orlop.plugin import InitContext, NoConfig
from orlop.values import AnyMessage
from orlop_images import media
from orlop_images.process import Job, Workers

_MOST_STEPS: Final = 16

Chooser = Callable[[str, list[str]], str | None]


class Decompressor:
    """A processor that is a plain decompression, done by workers.

    *codec* is the ``module:function`` (`orlop.interfaces.stream.CodecProcessor`) that all media types of *accepts* go
    through to become a tar.
    """

    def __init__(self, accepts: Collection[str], codec: str, workers: Workers) -> None:
        self._accepts = accepts
        self._codec = codec
        self._workers = workers

    def claim(self, media_type: str) -> str | None:
        return TAR if media_type in self._accepts and media_type != TAR else None

    def codec(self, media_type: str) -> str | None:
        return self._codec if media_type in self._accepts else None

    async def open(self, source: int, media_type: str, payload: AnyMessage | None = None) -> RunningStream:
        codec = self.codec(media_type)
        if codec is None:
            raise InvalidArgument(f'media type "{media_type}": not one of this processor')
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            job = await self._workers.start({"job": "decode", "codecs": [codec]}, source=source, output=write)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        return JobStream(job, read)

    async def close(self) -> None:
        """End what is running. May be called twice."""
        self._workers.close()


class JobStream:
    """The output of a worker's job."""

    def __init__(self, job: Job, read: int) -> None:
        self._job = job
        self._read = read

    def fileno(self) -> int:
        return self._read

    async def wait(self) -> None:
        await self._job.result()

    async def close(self) -> None:
        read, self._read = self._read, -1
        if read >= 0:
            os.close(read)
        await self._job.close()


@dataclass(frozen=True, slots=True)
class Step:
    """One processor of a chain, and the media type it gets."""

    id: str
    processor: StreamProcessor
    media_type: str


def chain(media_type: str, processors: Mapping[str, StreamProcessor], choose: Chooser) -> list[Step]:
    """The processors that turn *media_type* into a tar, first to last.

    Among several that claim a type, *choose* (the hook ``orlop_stream_processor``) may name one; else it is the last of
    the mapping, because what was declared later comes later, and configured ones after the built-in.
    Raises `Unimplemented` where no way leads to a tar.
    """
    steps: list[Step] = []
    current = media_type
    while current not in media.PLAIN:
        claims = {
            id: out for id, item in reversed(list(processors.items())) if (out := item.claim(current)) is not None
        }
        if not claims or len(steps) == _MOST_STEPS:
            raise Unimplemented(f'no processor for media-type "{media_type}"')
        chosen = choose(current, list(claims)) or next(iter(claims))
        if chosen not in claims:
            raise InvalidArgument(f'stream processor "{chosen}": chosen for "{current}", which it does not claim')
        steps.append(Step(chosen, processors[chosen], current))
        current = claims[chosen]
    return steps


def split_codecs(steps: Sequence[Step]) -> tuple[list[Step], list[str]]:
    """The steps that need a process of their own, and the codecs at the end that the worker takes on itself."""
    codecs: list[str] = []
    kept = list(steps)
    while kept:
        last = kept[-1]
        codec = last.processor.codec(last.media_type) if isinstance(last.processor, CodecProcessor) else None
        if codec is None:
            break
        codecs.insert(0, codec)
        kept.pop()
    return kept, codecs


class Chain:
    """Running processors, each reading what the one before writes. An asynchronous context manager."""

    def __init__(self, steps: Iterable[Step], payloads: Mapping[str, AnyMessage]) -> None:
        self._steps = list(steps)
        self._payloads = payloads
        self._stack = contextlib.AsyncExitStack()
        self._streams: list[RunningStream] = []

    async def __aenter__(self) -> Chain:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def open(self, source: int) -> int:
        """Start all of them on *source*. Returns the descriptor of the last one's output, which stays the chain's."""
        for step in self._steps:
            stream = await step.processor.open(source, step.media_type, self._payloads.get(step.id))
            self._stack.push_async_callback(stream.close)
            self._streams.append(stream)
            source = stream.fileno()
        return source

    async def wait(self) -> None:
        """Raise the error of the first processor that failed, if one did."""
        for stream in self._streams:
            await stream.wait()

    async def failure(self) -> Exception | None:
        """The error of the first processor that failed, where that is why its reader failed."""
        for stream in self._streams:
            try:
                await stream.wait()
            except Exception as error:  # noqa: BLE001  # whatever a third party's processor raises is the root cause
                return error
        return None


@stream_processor("tar")
async def tar(ctx: InitContext[NoConfig]) -> StreamProcessor:
    """Docker's plain layer type, compressed or not: its first bytes say what it is."""
    return Decompressor(media.SNIFFED, "orlop_images.codecs:sniff", Workers(f"stream-{ctx.id}"))


@stream_processor("gzip")
async def gzip(ctx: InitContext[NoConfig]) -> StreamProcessor:
    """Layers that say they are gzip-ed."""
    return Decompressor(media.GZIP, "orlop_images.codecs:gunzip", Workers(f"stream-{ctx.id}"))


@stream_processor("zstd")
async def zstd(ctx: InitContext[NoConfig]) -> StreamProcessor:
    """Layers that say they are compressed with zstd."""
    return Decompressor(media.ZSTD, "orlop_images.codecs:unzstd", Workers(f"stream-{ctx.id}"))


_: type[StreamProcessor] = Decompressor
