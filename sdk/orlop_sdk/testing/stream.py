# SPDX-License-Identifier: Apache-2.0
"""The conformance suite for stream processors.

Subclass it in a test file, say what yours makes of what, and give it a fixture that makes one::

    class TestRot13(StreamProcessorSuite):
        samples = (Sample("application/vnd.oci.image.layer.v1.tar+rot13", TAR, b"Uryyb", b"Hello"),)

        @pytest.fixture
        def processor(self) -> StreamProcessor:
            return Rot13()

It needs no root. Samples are repeated to fill pipes, if `repeats` says that this is allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import ClassVar

import pytest

from orlop.errors import OrlopError
from orlop.interfaces.stream import CodecProcessor, RunningStream, StreamProcessor

#: Seconds within which a processor has to be done with a sample, or to stop when it is closed.
PATIENCE = 30.0
_MANY = 50_000


@dataclass(frozen=True)
class Sample:
    """What comes out of what goes in. An empty ``returns`` is not looked at."""

    media_type: str
    returns: str
    source: bytes
    result: bytes


class StreamProcessorSuite:
    """What every stream processor does."""

    samples: ClassVar[Sequence[Sample]] = ()
    """At least one."""
    damaged: ClassVar[Sequence[tuple[str, bytes]]] = ()
    """Media types with input that must be refused."""
    repeats: ClassVar[bool] = True
    """Several inputs in a row are one input, with the results in a row, as with gzip members."""

    @pytest.fixture
    def processor(self) -> StreamProcessor:
        """The processor under test."""
        raise pytest.UsageError("a subclass of StreamProcessorSuite needs a fixture named processor")

    def test_is_what_the_interface_says(self, processor: StreamProcessor) -> None:
        assert isinstance(processor, StreamProcessor)
        assert self.samples, "the suite needs samples"

    def test_claims_its_media_types_only(self, processor: StreamProcessor) -> None:
        for sample in self.samples:
            returned = processor.claim(sample.media_type)
            assert returned is not None
            assert returned != sample.media_type, "a chain of processors would never end"
            assert sample.returns in ("", returned)
        assert processor.claim("application/x-nobody-knows") is None
        assert processor.claim("") is None

    async def test_converts(self, processor: StreamProcessor) -> None:
        for sample in self.samples:
            assert await convert(processor, sample.media_type, sample.source) == sample.result

    async def test_converts_more_than_pipes_hold(self, processor: StreamProcessor) -> None:
        if not self.repeats:
            pytest.skip("its inputs cannot be repeated")
        sample = self.samples[0]
        times = max(1, _MANY * 20 // max(1, len(sample.source)))
        assert await convert(processor, sample.media_type, sample.source * times) == sample.result * times

    async def test_takes_its_source_in_any_pieces(self, processor: StreamProcessor) -> None:
        sample = self.samples[0]
        for piece in (1, 7, 4096):
            reading, writing = os.pipe()
            feeding = asyncio.create_task(asyncio.to_thread(_feed, writing, sample.source, piece))
            try:
                async with running(processor, reading, sample.media_type) as stream:
                    assert await read(stream) == sample.result
                    await asyncio.wait_for(stream.wait(), PATIENCE)
                    await asyncio.wait_for(stream.wait(), PATIENCE)
            finally:
                os.close(reading)
                await feeding

    async def test_what_is_cut_off_gives_no_more_than_its_beginning(self, processor: StreamProcessor) -> None:
        for sample in self.samples:
            for cut in sorted({0, 1, len(sample.source) // 2, max(0, len(sample.source) - 1)}):
                with contextlib.suppress(OrlopError):
                    found = await convert(processor, sample.media_type, sample.source[:cut])
                    # One that goes by the first bytes may not know it any more, and leave it as it is.
                    whole = sample.result.startswith(found) or found == sample.source[:cut]
                    assert whole, f"{sample.media_type}: {cut} bytes of it"

    async def test_garbage_does_no_harm(self, processor: StreamProcessor) -> None:
        chance = random.Random(1)  # noqa: S311  # no secrets here
        for size in (1, 100, 70_000):
            with contextlib.suppress(OrlopError):
                await convert(processor, self.samples[0].media_type, chance.randbytes(size))
        assert await convert(processor, self.samples[0].media_type, self.samples[0].source) == self.samples[0].result

    async def test_a_cancelled_wait_can_be_repeated(self, processor: StreamProcessor) -> None:
        end, other = os.pipe()
        try:
            async with running(processor, end, self.samples[0].media_type) as stream:
                waiting = asyncio.create_task(stream.wait())
                await asyncio.sleep(0.05)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                os.write(other, self.samples[0].source)
                os.close(other)
                other = -1
                assert await read(stream) == self.samples[0].result
                await asyncio.wait_for(stream.wait(), PATIENCE)
        finally:
            os.close(end)
            if other >= 0:
                os.close(other)

    async def test_leaves_no_descriptors(self, processor: StreamProcessor) -> None:
        sample = self.samples[0]
        await convert(processor, sample.media_type, sample.source)  # what is kept for the next ones is kept now
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            await convert(processor, sample.media_type, sample.source)
            end, other = os.pipe()
            stream = await processor.open(end, sample.media_type)
            await asyncio.wait_for(stream.close(), PATIENCE)
            os.close(end)
            os.close(other)
        assert len(os.listdir("/proc/self/fd")) <= before

    async def test_leaves_the_source_open(self, processor: StreamProcessor) -> None:
        sample = self.samples[0]
        with TemporaryFile() as source:
            source.write(sample.source)
            source.seek(0)
            async with running(processor, source.fileno(), sample.media_type) as stream:
                await read(stream)
                await asyncio.wait_for(stream.wait(), PATIENCE)
            os.fstat(source.fileno())

    async def test_tells_damage(self, processor: StreamProcessor) -> None:
        for media_type, data in self.damaged:
            with pytest.raises(OrlopError):
                await convert(processor, media_type, data)

    async def test_can_be_closed_at_any_time(self, processor: StreamProcessor) -> None:
        end, other = os.pipe()
        try:
            # Nothing ever comes from this source, so the stream would last for ever.
            stream = await processor.open(end, self.samples[0].media_type)
            await asyncio.wait_for(stream.close(), PATIENCE)
            await asyncio.wait_for(stream.close(), PATIENCE)
        finally:
            os.close(end)
            os.close(other)

    async def test_many_run_at_once(self, processor: StreamProcessor) -> None:
        sample = self.samples[0]
        results = await asyncio.gather(*(convert(processor, sample.media_type, sample.source) for _ in range(12)))
        assert set(results) == {sample.result}

    async def test_its_codec_does_the_same(self, processor: StreamProcessor) -> None:
        if not isinstance(processor, CodecProcessor):
            pytest.skip("has no codec")
        for sample in self.samples:
            name = processor.codec(sample.media_type)
            if name is not None:
                module, _, attribute = name.partition(":")
                decoded = getattr(importlib.import_module(module), attribute)(io.BytesIO(sample.source))
                assert b"".join(iter(lambda: decoded.read(1 << 16), b"")) == sample.result  # noqa: B023


def _feed(fd: int, data: bytes, piece: int) -> None:
    """Write all of it, *piece* bytes at a time, and close."""
    with open(fd, "wb", buffering=0) as sink, contextlib.suppress(BrokenPipeError):
        for start in range(0, len(data), piece):
            sink.write(data[start : start + piece])


@asynccontextmanager
async def running(processor: StreamProcessor, source: int, media_type: str) -> AsyncIterator[RunningStream]:
    """A stream that is closed afterwards."""
    stream = await processor.open(source, media_type)
    try:
        yield stream
    finally:
        await asyncio.wait_for(stream.close(), PATIENCE)


async def convert(processor: StreamProcessor, media_type: str, data: bytes) -> bytes:
    """Send bytes through a processor. Raises what `RunningStream.wait` raises."""
    with TemporaryFile() as source:
        source.write(data)
        source.seek(0)
        async with running(processor, source.fileno(), media_type) as stream:
            result = await read(stream)
            await asyncio.wait_for(stream.wait(), PATIENCE)
            return result


async def read(stream: RunningStream) -> bytes:
    """All that comes out."""

    def whole() -> bytes:
        with open(os.dup(stream.fileno()), "rb") as file:
            return file.read()

    return await asyncio.wait_for(asyncio.to_thread(whole), PATIENCE)
