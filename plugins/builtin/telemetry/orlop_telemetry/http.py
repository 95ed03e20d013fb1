# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 server for pages that are read: GET and HEAD, a page a path. h11 keeps the protocol.

What a stranger costs is bounded: `MOST` connections, a request head of `MAX_HEAD` bytes, `PATIENCE` seconds for it to
come and for the answer to be taken, and one answer a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urlsplit

import h11

from orlop.errors import Unavailable

_log = logging.getLogger(__name__)

#: Connections at a time; further ones are closed at once.
MOST: Final = 64
#: Bytes of a request's head.
MAX_HEAD: Final = 16 << 10
#: Seconds for a request to come, and for an answer to be taken.
PATIENCE: Final = 30.0

Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    content: bytes
    kind: str = "text/plain; charset=utf-8"
    status: int = 200


Handler = Callable[[Query], Awaitable[Page]]


class PageServer:
    """Serves *pages* by path, on sockets that `serve` and `listen` give it."""

    def __init__(self, pages: Mapping[str, Handler], *, patience: float = PATIENCE) -> None:
        self._pages = pages
        self._patience = patience
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Accept from a unix socket that is bound already."""
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=MAX_HEAD)

    async def listen(self, address: str) -> str:
        """Listen on ``host:port`` and return the address with the port. Raises `Unavailable`."""
        host, separator, port = address.rpartition(":")
        if not separator or not port.isdecimal():
            raise Unavailable(f'address "{address}": not host:port')
        try:
            self._server = await asyncio.start_server(self._accept, host.strip("[]") or None, int(port), limit=MAX_HEAD)
        except (OSError, OverflowError) as error:
            raise Unavailable(f'address "{address}": cannot listen there: {error}') from error
        return f"tcp://{host}:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening, and drop the connections there are. May be called twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= MOST:
            writer.close()
            return
        # A task of ours: asyncio makes errors of those it starts by itself when they are cancelled.
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        except (TimeoutError, ConnectionError, h11.ProtocolError) as error:
            _log.debug("http: a connection ended early: %s", error or type(error).__name__)
        finally:
            # What was not taken in time is dropped.
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        request = None
        try:
            async with asyncio.timeout(self._patience):
                request = await _request(connection, reader)
            page = Page(b"", status=400) if request is None else await self._answer(request)
        except h11.RemoteProtocolError as error:
            page = Page(b"bad request\n", status=error.error_status_hint)
        if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        headers = [
            ("content-type", page.kind),
            ("content-length", str(len(page.content))),
            ("x-content-type-options", "nosniff"),
            ("connection", "close"),
        ]
        writer.write(connection.send(h11.Response(status_code=page.status, headers=headers)) or b"")
        if request is None or request.method != b"HEAD":
            writer.write(connection.send(h11.Data(data=page.content)) or b"")
        async with asyncio.timeout(self._patience):
            await writer.drain()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, request: h11.Request) -> Page:
        if request.method not in (b"GET", b"HEAD"):
            return Page(b"only GET and HEAD\n", status=405)
        target = urlsplit(request.target.decode("ascii", "replace"))
        handler = self._pages.get(target.path)
        if handler is None:
            return Page(
                ("no such page; there are:\n" + "".join(f"{path}\n" for path in self._pages)).encode(), status=404
            )
        try:
            return await handler({name: values[0] for name, values in parse_qs(target.query).items()})
        # The edge: whatever goes wrong, the reader gets a status, and the log says what it was.
        except Exception:  # noqa: BLE001
            _log.exception('page "%s": failed', target.path)
            return Page(b"this page failed; the daemon's log says why\n", status=500)


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The next request; None when the peer says nothing."""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(4096))
        elif isinstance(event, h11.Request):
            return event
        else:
            return None
