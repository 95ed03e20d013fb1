# SPDX-License-Identifier: Apache-2.0
"""The conformance suites as ``orlop-sdk check`` runs them, against the subject that its pytest plugin gives.

Authors do not use this module; they subclass the suites themselves. It runs in pytest-asyncio's mode ``auto``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from orlop import context
from orlop.interfaces.content import ContentStore
from orlop.interfaces.differ import Differ
from orlop.interfaces.log import LogDriver
from orlop.interfaces.stream import StreamProcessor
from orlop_sdk.serving.target import import_attribute
from orlop_sdk.testing.content import ContentStoreSuite, OpenStore
from orlop_sdk.testing.differ import DifferSuite
from orlop_sdk.testing.log import LogDriverSuite
from orlop_sdk.testing.snapshotter import OpenSnapshotter, SnapshotterSuite
from orlop_sdk.testing.stream import StreamProcessorSuite
from orlop_sdk.testing.subject import Subject


class _InNamespace:
    @pytest.fixture(autouse=True)
    def namespace(self) -> Iterator[None]:
        """What is behind a metadata store wants a namespace with every call."""
        with context.scope(namespace="check"):
            yield


class TestSnapshotter(_InNamespace, SnapshotterSuite):
    """A snapshotter."""

    @pytest.fixture
    async def open_snapshotter(self, subject: Subject, place: Path) -> AsyncIterator[OpenSnapshotter]:
        async with subject.opening(place) as open:
            yield open


class TestContent(_InNamespace, ContentStoreSuite):
    """A content store."""

    @pytest.fixture
    async def open_store(self, subject: Subject, place: Path) -> AsyncIterator[OpenStore]:
        async with subject.opening(place) as open:
            yield open


class TestDiffer(_InNamespace, DifferSuite):
    """A differ."""

    @pytest.fixture
    async def both(self, subject: Subject, place: Path) -> AsyncIterator[tuple[Differ, ContentStore]]:
        """The differ with its store."""
        async with subject.with_content(place) as found:
            yield found

    @pytest.fixture
    def content(self, both: tuple[Differ, ContentStore]) -> ContentStore:
        return both[1]

    @pytest.fixture
    def differ(self, both: tuple[Differ, ContentStore]) -> Differ:
        return both[0]


class TestStream(StreamProcessorSuite):
    """A stream processor."""

    @pytest.fixture
    async def processor(self, subject: Subject, place: Path) -> AsyncIterator[StreamProcessor]:
        async with subject.opening(place) as open:
            yield await open()


class TestLog(LogDriverSuite):
    """A log driver."""

    pattern = ""
    """Where to log to; ``{place}`` stands for a new directory."""
    reader = ""
    """``module:function`` that gives what was logged to a URI."""

    @pytest.fixture
    async def driver(self, subject: Subject, place: Path) -> AsyncIterator[LogDriver]:
        async with subject.opening(place / "plugin") as open:
            yield await open()

    @pytest.fixture
    def uri(self, place: Path) -> str:
        return self.pattern.replace("{place}", str(place))

    def logged(self, uri: str) -> Mapping[str, bytes]:
        found = import_attribute(self.reader)(uri)
        return {str(stream): bytes(data) for stream, data in found.items()}
