# SPDX-License-Identifier: Apache-2.0
"""One stream of a connection: its state and windows. What its content means is a subclass's business."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from orlop_sdk.http2 import frames
from orlop_sdk.http2.flow import STREAM_WINDOW

if TYPE_CHECKING:
    from orlop_sdk.http2.connection import Connection


class Stream(ABC):
    """A stream that a peer opened. *length* is the content-length it announced, -1 for none."""

    # There may be thousands of them, of calls that wait.
    __slots__ = (
        "_length",
        "_owed",
        "_received",
        "_window",
        "connection",
        "id",
        "local_ended",
        "offset",
        "remote_ended",
        "starved",
    )

    def __init__(self, connection: Connection, id: int, length: int = -1) -> None:
        self.connection = connection
        self.id = id
        self.remote_ended = False
        self.local_ended = False
        # Of the sending side; see `flow.Sender`.
        self.offset = 0
        self.starved: asyncio.Future[None] | None = None
        # Of the receiving side.
        self._length = length
        self._received = 0
        self._window = STREAM_WINDOW
        self._owed = 0

    # What a subclass implements.

    @abstractmethod
    def opened(self) -> None:
        """The stream begins; ``remote_ended`` says whether it has no content."""

    @abstractmethod
    def data(self, data: bytes) -> None:
        """Some content has come; call `consumed` once it is read."""

    @abstractmethod
    def ended(self) -> None:
        """No more content follows; not called for a stream without any."""

    @abstractmethod
    def lost(self) -> None:
        """The peer gave the stream up, or is gone: nothing is sent any more. Called once, or not at all."""

    @abstractmethod
    def shut(self) -> None:
        """The server closes: end the stream now."""

    # What a subclass uses.

    def consumed(self, size: int) -> None:
        """So many bytes of content were read, and the peer may send that many more."""
        self._owed += size
        if self._owed >= STREAM_WINDOW // 2 and not self.remote_ended and not self.local_ended:
            self.connection.outlet.control(frames.encode_window_update(self.id, self._owed))
            self._window += self._owed
            self._owed = 0

    # What the connection uses.

    def take(self, size: int, content: int) -> bool:
        """Note a DATA frame of *size* bytes, *content* of them no padding; False when the peer had no room for it."""
        self._window -= size
        self._received += content
        if size != content:
            self.consumed(size - content)
        return self._window >= 0

    def is_length_kept(self, *, at_end: bool) -> bool:
        """Whether the content is no longer, and at the end no shorter, than announced."""
        return self._length < 0 or (self._received == self._length if at_end else self._received <= self._length)
