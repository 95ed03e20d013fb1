# SPDX-License-Identifier: Apache-2.0
"""A stream processor on a unix socket. Descriptors travel with the messages, so that data passes no third process.

One connection serves one question, or one stream for as long as it lasts. Messages are JSON, a packet each:

=====================================  ================================================================================
``{"claim": TYPE}``                    ``{"returns": TYPE or null}``
``{"open": TYPE, "payload": [URL,      ``{"opened": true}`` with the output's descriptor; later ``{"ended": true}``
BASE64] or null}`` with the source     Closing the connection ends the stream
any                                    ``{"error": CODE, "text": TEXT}`` at any time
=====================================  ================================================================================
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from orlop.blocking import run_blocking
from orlop.errors import InvalidArgument, OrlopError, Unavailable, code_of, from_code
from orlop.interfaces.stream import RunningStream, StreamProcessor
from orlop.values import AnyMessage
from orlop_sdk.linux.descriptors import receive
from orlop_sdk.serving.socketfile import SocketFile

_MOST: Final = 1 << 20
#: Seconds that a call waits at most where it cannot be awaited.
_PATIENCE: Final = 2.0


@asynccontextmanager
async def serve_streams(address: str, processor: StreamProcessor) -> AsyncIterator[None]:
    """Serve on the unix socket *address* for as long as the body runs. Raises as `SocketFile.prepare`."""
    file = SocketFile(address, os.geteuid(), os.getegid())
    path = await run_blocking(file.prepare)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.setblocking(False)
    accepting: asyncio.Task[None] | None = None
    try:
        listener.bind(path)
        listener.listen(128)
        await run_blocking(file.publish)
        accepting = asyncio.create_task(_accept(listener, processor), name="accept streams")
        yield
    finally:
        await run_blocking(file.remove)
        if accepting is not None:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
        listener.close()


async def _accept(listener: socket.socket, processor: StreamProcessor) -> None:
    async with asyncio.TaskGroup() as group:
        while True:
            await _readable(listener)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                connection, _ = listener.accept()
                connection.setblocking(False)
                group.create_task(_answer(connection, processor))


async def _answer(connection: socket.socket, processor: StreamProcessor) -> None:
    with connection:
        try:
            message, descriptors = await _receive(connection)
            try:
                await _serve(connection, processor, message, descriptors)
            finally:
                for fd in descriptors:
                    os.close(fd)
        except (ConnectionError, BlockingIOError):
            return  # the other side is gone, and nobody is left to be told
        # Whatever a processor raises is the caller's to know; `code_of` finds the class for it.
        except Exception as error:  # noqa: BLE001  # see above
            with contextlib.suppress(OSError):
                _send(connection, {"error": code_of(error), "text": str(error) or type(error).__name__})


async def _serve(
    connection: socket.socket, processor: StreamProcessor, message: dict[str, Any], descriptors: Sequence[int]
) -> None:
    if "claim" in message:
        _send(connection, {"returns": processor.claim(message["claim"])})
        return
    if not descriptors:
        raise InvalidArgument("stream: came without a source")
    sent = message.get("payload")
    payload = AnyMessage(sent[0], base64.b64decode(sent[1])) if sent else None
    stream = await processor.open(descriptors[0], message["open"], payload)
    try:
        _send(connection, {"opened": True}, stream.fileno())
        if await _first(stream.wait(), _readable(connection)):
            _send(connection, {"ended": True})
    finally:
        await stream.close()


async def _first(wanted: Any, other: Any) -> bool:
    """Whether *wanted* was done first; raises its error. The other one is cancelled."""
    tasks = [asyncio.ensure_future(each) for each in (wanted, other)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
            return True
        return False
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class RemoteStreamProcessor:
    """The stream processor at an address. Raises `Unavailable` while nobody is there."""

    def __init__(self, address: str) -> None:
        self._address = address
        # A processor claims the same for as long as its config is the same.
        self._claims: dict[str, str | None] = {}

    def claim(self, media_type: str) -> str | None:
        """Asks once for each type. That blocks for the moment a local answer takes, as the interface has no await."""
        if media_type not in self._claims:
            with self._connect() as connection:
                try:
                    _send(connection, {"claim": media_type})
                    answer = _decode(connection.recv(_MOST))
                except OSError as error:
                    raise self.lost(error) from error
            self._claims[media_type] = answer["returns"]
        return self._claims[media_type]

    async def open(self, source: int, media_type: str, payload: AnyMessage | None = None) -> RunningStream:
        sent = [payload.type_url, base64.b64encode(payload.value).decode()] if payload is not None else None
        connection = self._connect()
        connection.setblocking(False)
        try:
            _send(connection, {"open": media_type, "payload": sent}, source)
            _, descriptors = await _receive(connection)
        except OSError as error:
            connection.close()
            raise self.lost(error) from error
        except BaseException:
            connection.close()
            raise
        return RemoteStream(connection, descriptors[0], self)

    def lost(self, error: OSError) -> OrlopError:
        """What to raise when the other side is gone."""
        return Unavailable(f'stream processor at "{self._address}": {error.strerror or error}')

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(self._address)
        except OSError as error:
            connection.close()
            raise self.lost(error) from error
        return connection


class RemoteStream:
    """A stream of it."""

    def __init__(self, connection: socket.socket, read: int, owner: RemoteStreamProcessor) -> None:
        self._connection = connection
        self._read = read
        self._owner = owner
        self._end: asyncio.Future[OrlopError | None] | None = None

    def fileno(self) -> int:
        return self._read

    async def wait(self) -> None:
        if self._end is None:
            self._end = asyncio.ensure_future(self._ended())
        error = await asyncio.shield(self._end)
        if error is not None:
            raise error

    async def close(self) -> None:
        read, self._read = self._read, -1
        if read >= 0:
            os.close(read)
        if self._end is not None and not self._end.done():
            self._end.cancel()
            await asyncio.gather(self._end, return_exceptions=True)
        self._connection.close()

    async def _ended(self) -> OrlopError | None:
        try:
            await _receive(self._connection)
        except OrlopError as error:
            return error
        except OSError as error:
            return self._owner.lost(error)
        return None


async def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    await _readable(connection)
    data, descriptors = receive(connection, _MOST, 1)
    try:
        return _decode(data), descriptors
    except BaseException:
        for fd in descriptors:
            os.close(fd)
        raise


def _decode(data: bytes) -> dict[str, Any]:
    if not data:
        raise ConnectionResetError("it ended")
    message: dict[str, Any] = json.loads(data)
    if "error" in message:
        raise from_code(message["error"], message["text"])
    return message


def _send(connection: socket.socket, message: dict[str, Any], *descriptors: int) -> None:
    socket.send_fds(connection, [json.dumps(message).encode()], descriptors)


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    # A copy: another wait on the same descriptor must not replace this one.
    own = os.dup(connection.fileno())
    loop.add_reader(own, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(own)
        os.close(own)


_: type[StreamProcessor] = RemoteStreamProcessor
_running: type[RunningStream] = RemoteStream
