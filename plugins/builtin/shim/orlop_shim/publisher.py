# SPDX-License-Identifier: Apache-2.0
"""Sends events to the daemon, in order, one at a time. While the daemon is away they wait, up to `QUEUE` of them."""

from __future__ import annotations

import time
from collections import deque

from orlop_sdk.hints import Any, Final
from orlop_sdk.ttrpc import frames
from orlop_shim import plain_socket as socket
from orlop_shim.loop import Loop, Promise, Timer
from orlop_shim.messages import EVENTS, FORWARD, REQUEST, RESPONSE, any_of, timestamp_ns
from orlop_shim.rpc import Socket
from orlop_shim.text_log import Log
from orlop_shim.wire import WireError

#: Most events that wait. Beyond, the oldest is dropped: the newest say what has become of a container.
QUEUE: Final = 2048
_SERVICE: Final = "containerd.services.events.ttrpc.v1.Events"
_CALL_TIMEOUT: Final = 5.0
# Seconds between tries to reach a daemon that is away.
_DELAYS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
# How often an event is sent that the daemon refuses.
_TRIES: Final = 5


def socket_name(address: str) -> str:
    """What to connect to for ``unix:///path``, ``/path``, ``@name`` or an abstract name with its zero byte."""
    name = address.removeprefix("unix://")
    return "\0" + name[1:] if name.startswith("@") else name


class Publisher:
    """The events of one shim. Without an address they go nowhere."""

    def __init__(self, loop: Loop, log: Log) -> None:
        self._loop = loop
        self._address = ""
        self._namespace = ""
        self._log = log
        self._queue: deque[bytes] = deque()
        self._socket: Socket | None = None
        self._stream = 0
        self._in_flight = False
        self._failures = 0
        self._tries = 0
        self._timer: Timer | None = None
        self._patience: Timer | None = None
        self._waiting_empty: list[Promise] = []

    def open(self, address: str, namespace: str) -> None:
        """Say where the daemon listens for events, and whose these are."""
        self._address = address
        self._namespace = namespace

    def publish(self, topic: str, **fields: Any) -> None:
        """Send an event, now or later; returns at once."""
        if not self._address:
            return
        name, schema = EVENTS[topic]
        envelope = {
            "timestamp": timestamp_ns(time.time_ns()),
            "namespace": self._namespace,
            "topic": topic,
            "event": any_of(f"containerd.events.{name}", schema.encode(**fields)),
        }
        if len(self._queue) >= QUEUE:
            self._log.warning(f"{QUEUE} events wait for the daemon; the oldest is dropped")
            del self._queue[1 if self._in_flight else 0]
        self._queue.append(FORWARD.encode(envelope=envelope))
        if self._timer is None:
            # Answers that are ready leave before it: somebody waits for those.
            self._loop.soon(self._send)

    def prepare(self) -> None:
        """Connect in advance, at a time when there is nothing better to do."""
        if self._address and self._socket is None and self._timer is None:
            self._connect()

    def empty(self) -> Promise:
        """A promise that is kept when everything is sent."""
        promise = Promise()
        if self._queue:
            self._waiting_empty.append(promise)
        else:
            promise.set()
        return promise

    def disconnect(self) -> None:
        """Let go of the daemon's socket, until there is something to send. Nothing may be under way."""
        if self._socket is not None:
            self._socket.close()

    def close(self) -> None:
        """Send no more. Nothing may be published afterwards."""
        self._address = ""
        self._queue.clear()
        self._in_flight = False
        if self._socket is not None:
            self._socket.close()

    def _send(self) -> None:
        self._timer = None
        if self._in_flight or not self._queue:
            return
        if self._socket is None and not self._connect():
            self._retry()
            return
        assert self._socket is not None
        self._stream += 2
        request = REQUEST.encode(
            service=_SERVICE,
            method="Forward",
            payload=self._queue[0],
            timeout_nano=int(_CALL_TIMEOUT * 1e9),
            metadata=[{"key": "containerd-namespace-ttrpc", "value": self._namespace}],
        )
        self._in_flight = True
        stream = self._stream
        self._patience = self._loop.later(_CALL_TIMEOUT, lambda: self._timed_out(stream))
        self._socket.send(frames.encode(stream, frames.REQUEST, 0, request))

    def _connect(self) -> bool:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # A unix socket connects at once or not at all; a daemon that accepts nobody is one that is away.
            sock.connect(socket_name(self._address))
        except OSError:
            sock.close()
            return False
        self._stream = -1
        self._socket = made = Socket(self._loop, sock, self._received)
        made.closed.then(lambda: self._lost(made))
        return True

    def _received(self, frame: frames.Frame) -> None:
        if frame.kind != frames.RESPONSE or frame.stream != self._stream or not self._in_flight:
            return
        self._in_flight = False
        if self._patience is not None:
            self._patience.stop()
        self._failures = 0
        try:
            status = RESPONSE.decode(frame.data)["status"]
        except WireError as error:
            status = {"code": 2, "message": str(error)}
        if status is not None and status["code"]:
            self._tries += 1
            if self._tries < _TRIES:
                self._retry()
                return
            self._log.error(f"the daemon refuses an event: {status['message']}")
        self._sent()

    def _sent(self) -> None:
        self._tries = 0
        self._queue.popleft()
        if self._queue:
            self._send()
            return
        waiting, self._waiting_empty = self._waiting_empty, []
        for promise in waiting:
            promise.set()

    def _lost(self, which: Socket) -> None:
        if self._socket is not which:
            return
        self._socket = None
        if self._in_flight:
            self._in_flight = False
            self._retry()

    def _timed_out(self, stream: int) -> None:
        if self._in_flight and stream == self._stream and self._socket is not None:
            self._socket.close()

    def _retry(self) -> None:
        delay = _DELAYS[min(self._failures, len(_DELAYS) - 1)]
        self._failures += 1
        self._timer = self._loop.later(delay, self._send)
