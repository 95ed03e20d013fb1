# SPDX-License-Identifier: Apache-2.0
"""The stream processor suite, run against the built-in ones and against programs of the config."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from tests.support.unpacking import processors, zstd_compress

from orlop.interfaces.stream import TAR, StreamProcessor
from orlop.plugin import ProxyTarget
from orlop_images import media
from orlop_images.binary import ProgramKind
from orlop_images.process import Workers
from orlop_sdk.testing.stream import Sample, StreamProcessorSuite

TEXT = b"all work and no play " * 40
ZIPPED = gzip.compress(TEXT, mtime=0)
PACKED = zstd_compress(TEXT)
SKIPPABLE = b"\x5a\x2a\x4d\x18" + b"\x03\0\0\0" + b"abc"


@pytest.fixture
async def built_in() -> AsyncIterator[dict[str, StreamProcessor]]:
    workers = Workers("test-streams")
    yield processors(workers)
    workers.close()


class TestGzip(StreamProcessorSuite):
    samples = (
        Sample(media.OCI_GZIP, TAR, ZIPPED, TEXT),
        Sample(media.DOCKER_GZIP, TAR, ZIPPED + ZIPPED, TEXT + TEXT),
        Sample(media.OCI_GZIP, TAR, ZIPPED + bytes(2000), TEXT),
    )
    damaged = (
        (media.OCI_GZIP, b""),
        (media.OCI_GZIP, ZIPPED[:-1]),
        (media.OCI_GZIP, ZIPPED[:2]),
        (media.OCI_GZIP, ZIPPED + b"x"),
        (media.OCI_GZIP, ZIPPED[:-8] + bytes(8)),
        (media.OCI_GZIP, TEXT),
    )

    @pytest.fixture
    def processor(self, built_in: dict[str, StreamProcessor]) -> StreamProcessor:
        return built_in["gzip"]


class TestZstd(StreamProcessorSuite):
    samples = (
        Sample(media.OCI_ZSTD, TAR, PACKED, TEXT),
        Sample(media.OCI_ZSTD, TAR, SKIPPABLE + PACKED + SKIPPABLE + PACKED, TEXT + TEXT),
    )
    damaged = (
        (media.OCI_ZSTD, b""),
        (media.OCI_ZSTD, PACKED[:-1]),
        (media.OCI_ZSTD, PACKED + b"x"),
        (media.OCI_ZSTD, TEXT),
    )

    @pytest.fixture
    def processor(self, built_in: dict[str, StreamProcessor]) -> StreamProcessor:
        return built_in["zstd"]


class TestSniffing(StreamProcessorSuite):
    samples = (
        Sample(media.DOCKER, TAR, ZIPPED, TEXT),
        Sample(media.DOCKER, TAR, PACKED, TEXT),
        Sample(media.DOCKER, TAR, SKIPPABLE + PACKED, TEXT),
        Sample(media.DOCKER, TAR, TEXT, TEXT),
        Sample(media.DOCKER, TAR, b"", b""),
        Sample(media.DOCKER, TAR, b"\x1f\x8b", b"\x1f\x8b"),
    )
    damaged = ((media.DOCKER, ZIPPED[:-1]),)

    @pytest.fixture
    def processor(self, built_in: dict[str, StreamProcessor]) -> StreamProcessor:
        return built_in["tar"]


class TestProgram(StreamProcessorSuite):
    samples = (Sample("application/x-lower", "application/x-upper", TEXT, TEXT.upper()),)
    options: ClassVar[dict[str, Any]] = {"path": "tr", "args": ["a-z", "A-Z"]}

    @pytest.fixture
    async def processor(self) -> AsyncIterator[StreamProcessor]:
        table = {"accepts": ["application/x-lower"], "returns": "application/x-upper", **self.options}
        made: Any = await ProgramKind().connect("upper", ProxyTarget("", table))
        yield made
        await made.close()


class TestProgramThatRefuses(TestProgram):
    samples = (Sample("application/x-lower", "application/x-upper", ZIPPED, TEXT),)
    damaged = (("application/x-lower", b"not gzip"),)
    options: ClassVar[dict[str, Any]] = {"path": "gzip", "args": ["-dc"]}
