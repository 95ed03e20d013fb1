# SPDX-License-Identifier: Apache-2.0
"""Streams: named channels of typed messages between a client and whatever in the daemon is told the name.

A client opens a stream under an id of its choice, then names that id in another call (an archive to import, the
progress of a pull, questions about credentials). So one call gets any number of channels beside its request.
"""

from __future__ import annotations

from typing import Final, Protocol, runtime_checkable

from orlop.plugin import PluginType
from orlop.values import AnyMessage


@runtime_checkable
class Stream(Protocol):
    """One end of a stream. Messages arrive in the order in which they were sent.

    **Back pressure**: `send` returns when the message was taken over for sending, so nothing piles up.
    **Concurrency**: one task may send while another receives; no two tasks may do the same.
    """

    async def send(self, message: AnyMessage) -> None:
        """Send to the other end. Raises `Unavailable` when that is gone or the stream is closed."""

    async def receive(self) -> AnyMessage | None:
        """The next message; None when the other end said that none follows, or after `close`.

        Raises `Cancelled` when the other end went away without a word.
        """

    async def close(self) -> None:
        """End the stream: the other end gets what was sent, and then the end. May be called twice."""


@runtime_checkable
class StreamManager(Protocol):
    """Knows all open streams by the namespace of `orlop.context` and their ids.

    A stream that was registered under a lease lives no longer than that: garbage collection closes it.
    """

    async def register(self, id: str, stream: Stream) -> None:
        """Make a stream known until it is closed or released. Raises `AlreadyExists`, `InvalidArgument`."""

    async def release(self, id: str, stream: Stream) -> None:
        """Forget a stream that has ended by itself. Nothing happens when *id* is unknown, or another stream's."""

    async def get(self, id: str) -> Stream:
        """The stream of that id; closing what this gives also makes it unknown. Raises `NotFound`."""


STREAMING: Final = PluginType("io.containerd.streaming.v1", StreamManager, group="orlop.streaming.v1")
stream_manager = STREAMING.plugin
"""Decorator that declares the stream manager. Its id is ``manager``."""
