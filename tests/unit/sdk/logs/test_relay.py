# SPDX-License-Identifier: Apache-2.0
"""The relay between a container that writes and a receiver that is slow, away, or gone: real pipes for both."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import deque
from typing import Self

import pytest
from tests.support.ctr import eventually

from orlop_sdk.logs import relay
from orlop_sdk.logs.relay import Relay

PATIENCE = 30.0
LOG = logging.getLogger("test.relay")


class Receiver:
    """A stream socket; what it is sent stays in the kernel's buffers until `take`."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(PATIENCE)
        theirs.settimeout(0.05)
        for end in (self._ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self._theirs = theirs

    def send(self, messages: deque[bytes]) -> None:
        while messages:
            self._theirs.sendall(messages[0])
            messages.popleft()

    def close(self) -> None:
        self._theirs.close()

    def take(self) -> bytes:
        """All, to the end."""
        data = b""
        with self._ours:
            while got := self._ours.recv(1 << 16):
                data += got
        return data


class Reader(threading.Thread):
    """Takes what a receiver is sent."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__()
        self._receiver = receiver
        self.taken = b""

    def run(self) -> None:
        self.taken = self._receiver.take()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.join()


def make(receiver: Receiver, *, room: int = 64, waits: bool = False) -> Relay:
    return Relay("receiver", lambda: receiver, room, waits, lambda words: words.encode() + b"\n", LOG)


def test_messages_keep_their_order() -> None:
    receiver = Receiver()
    sender = make(receiver, room=1 << 20)
    messages = [b"%d\n" % number for number in range(500)]
    with Reader(receiver) as reader:
        for message in messages:
            sender.put([message])
        sender.end()
    assert reader.taken == b"".join(messages)


def test_who_waits_is_let_go_when_nothing_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relay, "STUCK", 0.2)
    monkeypatch.setattr(relay, "LAST", 0.2)
    receiver = Receiver()
    sender = make(receiver, waits=True)
    for _ in range(50):
        sender.put([b"x" * 999 + b"\n"])  # more than the socket holds, and nobody reads
    sender.end()
    assert "output is being dropped" in caplog.text
    assert "of this container's output were dropped" in caplog.text
    assert 0 < receiver.take().count(b"\n") < 50


def test_one_message_may_be_larger_than_the_room() -> None:
    receiver = Receiver()
    sender = make(receiver, room=10)
    sender.put([b"x" * 100])
    sender.end()
    assert receiver.take() == b"x" * 100


def test_who_waits_may_bring_more_at_once_than_there_is_room_for() -> None:
    receiver = Receiver()
    sender = make(receiver, room=10, waits=True)
    with Reader(receiver) as reader:
        sender.put([b"%04d" % number for number in range(200)])
        sender.end()
    assert reader.taken == b"".join(b"%04d" % number for number in range(200))


def test_of_a_batch_what_fits_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    away = threading.Event()
    receiver = Receiver()

    def dial() -> Receiver:
        if not away.is_set():
            raise ConnectionRefusedError(111, os.strerror(111))
        return receiver

    sender = Relay("receiver", dial, 10, False, lambda words: b"!", LOG)
    sender.put([b"aaaa", b"bbbb", b"cccc", b"dd"])  # all that comes after the first that does not fit goes
    eventually(lambda: "Connection refused; trying again" in caplog.text, caplog.text, PATIENCE)
    away.set()
    sender.end()
    assert receiver.take() == b"aaaabbbb!"
    assert "2 messages (6 bytes)" in caplog.text
