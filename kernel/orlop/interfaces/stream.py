# SPDX-License-Identifier: Apache-2.0
"""Stream processors: decompress, decrypt or convert a layer on its way to a differ.

Processors form a chain: the one that claims a layer's media type returns the type that comes out, until that is
``application/vnd.oci.image.layer.v1.tar``. They work on file descriptors, so that data flows from process to
process without passing through the daemon.
"""

from __future__ import annotations

from typing import Final, Protocol, runtime_checkable

from orlop.plugin import PluginType
from orlop.values import AnyMessage

#: The media type at the end of every chain of layer processors.
TAR: Final = "application/vnd.oci.image.layer.v1.tar"


@runtime_checkable
class RunningStream(Protocol):
    """One processor at work on one stream."""

    def fileno(self) -> int:
        """The read end of its output. The caller reads it to the end, or calls `close`."""

    async def wait(self) -> None:
        """Return when the processor ended well; raise, with what it said on stderr, when it did not."""

    async def close(self) -> None:
        """Stop and free everything. May be called twice, and at any time."""


@runtime_checkable
class StreamProcessor(Protocol):
    """Turns a stream of one media type into a stream of another."""

    def claim(self, media_type: str) -> str | None:
        """The media type that comes out for *media_type*, or None: not mine.

        Configured processors are asked before built-in ones, and a later declared one before an earlier one.
        """

    async def open(self, source: int, media_type: str, payload: AnyMessage | None = None) -> RunningStream:
        """Start on *source*, a readable descriptor (file, pipe or socket), which stays the caller's to close.

        *payload* is what the client sent for this processor's id.
        """


@runtime_checkable
class CodecProcessor(Protocol):
    """Optional power: the processor is a plain decompression that a worker can do itself, saving a process."""

    def codec(self, media_type: str) -> str | None:
        """``module:function`` of a callable that takes a readable binary file object and returns another, or None.

        ``"sniff"``-like processors decide by the first bytes. The worker imports it in an interpreter with the site
        packages of this environment, and nothing of the daemon.
        """


STREAM_PROCESSOR: Final = PluginType(
    "io.orlop.stream-processor.v1", StreamProcessor, group="orlop.stream_processor.v1", many=True
)
stream_processor = STREAM_PROCESSOR.plugin
"""Decorator that declares a stream processor plugin."""
