# SPDX-License-Identifier: Apache-2.0
"""Connections to shims: one for each shim, however many containers it holds."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.empty_pb2 import Empty

from orlop import context
from orlop.errors import OrlopError, Unavailable, Unimplemented
from orlop.interfaces.runtime import ShimAddress
from orlop_sdk.api.runtime.task.v2.shim_pb2 import ShutdownRequest
from orlop_sdk.rpc.channel import trace
from orlop_sdk.ttrpc.client import Client

log = logging.getLogger("orlop.shim")

R = TypeVar("R")
#: What tells the containers of a shim apart: namespace and id.
Key = tuple[str, str]
#: The hook ``orlop_shim_call``: takes path and metadata, and gives what wants to hear of the call's end.
Announce = Callable[..., Sequence[Callable[[BaseException | None], None]]]

_CONNECT_TIMEOUT: Final = 100.0
#: Seconds for the calls of a connection that broke to fail by themselves.
_GRACE: Final = 5.0


class Message(Protocol):
    """Any request."""

    def SerializeToString(self) -> bytes: ...


def unannounced(*, path: str, metadata: dict[str, str]) -> Sequence[Callable[[BaseException | None], None]]:
    """Nobody watches calls to shims."""
    return ()


class ShimClosed(Unavailable):
    """The connection to the shim is gone, and so is the shim."""


class Shim:
    """One shim that we are connected to. Calls go to version 3 of the task API or, where that is missing, to 2.

    The messages of both versions are the same on the wire, so those of version 2 serve both.
    """

    def __init__(
        self,
        namespace: str,
        address: ShimAddress,
        ended: Callable[[Shim], None],
        announce: Announce = unannounced,
    ) -> None:
        self.address: Final = address
        self.namespace: Final = namespace
        self.users: set[Key] = set()
        #: Whether somebody else ends it: the controller of its sandbox.
        self.kept = False
        self.closing = False
        self.gone = asyncio.Event()
        self._version = address.version
        self._version_works = False
        self._ended = ended
        self._announce = announce
        self._channel: Any = None
        self._watcher: asyncio.Task[None] | None = None
        self._bound: dict[str, Callable[..., Any]] = {}

    @property
    def is_open(self) -> bool:
        """Whether the shim is there and not told to go."""
        return not self.gone.is_set() and not self.closing

    async def connect(self) -> None:
        """Connect. Raises `Unavailable` when nobody listens at the address."""
        if self.address.protocol == "grpc":
            await self._connect_grpc()
            return
        address = self.address.address
        # An address without a scheme is a name in the abstract space.
        name = address if "://" in address else f"@{address.removeprefix('@')}"
        self._channel = await Client.connect(name, on_close=self._lost)

    async def call(self, method: str, request: Message, response: type[R], *, timeout: float | None = None) -> R:
        """Call a method of the shim's task service.

        Raises what the shim answered, `DeadlineExceeded` after *timeout* seconds, `ShimClosed` when the shim went.
        """
        answer: R
        try:
            answer = await self.invoke(f"/containerd.task.v{self._version}.Task/{method}", request, response, timeout)
        except Unimplemented:
            if self._version_works or self._version < 3:
                raise
            self._version = 2
            answer = await self.invoke(f"/containerd.task.v2.Task/{method}", request, response, timeout)
        self._version_works = True
        return answer

    async def close(self) -> None:
        """Let go of the connection; the shim lives on. May be called twice."""
        self.closing = True
        if self._watcher is not None:
            self._watcher.cancel()
        if self._channel is not None:
            await self._channel.close()
        self.gone.set()

    async def invoke(self, path: str, request: Message, response: type[Any], timeout: float | None = None) -> Any:
        """Call a method of any of the shim's services by its full path. Raises as `call`.

        The trace of the call that this is part of goes along.
        """
        metadata = dict(trace())
        watching = self._announce(path=path, metadata=metadata)
        failed: BaseException | None = None
        try:
            return await self._invoke(path, request, response, timeout, metadata)
        except BaseException as error:
            failed = error
            raise
        finally:
            for ended in watching:
                ended(failed)

    async def _invoke(
        self, path: str, request: Message, response: type[Any], timeout: float | None, metadata: dict[str, str]
    ) -> Any:
        bound = self._bound.get(path)
        if bound is None:
            bound = self._bound[path] = self._channel.unary_unary(
                path, lambda message: message.SerializeToString(), response.FromString
            )
        try:
            answer = await bound(
                request, timeout=timeout, metadata=((context.NAMESPACE_HEADER, self.namespace), *metadata.items())
            )
        except OrlopError as error:
            if isinstance(error, Unavailable) and self._is_gone():
                raise ShimClosed(f'shim at "{self.address.address}": {error}') from error
            raise
        except Exception as error:
            # The grpc channel has errors of its own; importing grpc for every ttrpc shim would be a waste.
            if self.address.protocol != "grpc":
                raise
            raise await self._from_grpc(error) from error
        return answer

    def _is_gone(self) -> bool:
        # A connection that broke takes no calls from that moment on, and tells us a moment later.
        return self.gone.is_set() or (isinstance(self._channel, Client) and not self._channel.is_open)

    def _lost(self) -> None:
        if self.gone.is_set():
            return
        self.gone.set()
        if not self.closing:
            self._ended(self)

    async def _connect_grpc(self) -> None:
        import grpc.aio

        channel = grpc.aio.insecure_channel(self.address.address)
        try:
            await asyncio.wait_for(channel.channel_ready(), _CONNECT_TIMEOUT)
        except TimeoutError as error:
            await channel.close()
            raise Unavailable(f'shim at "{self.address.address}": does not answer') from error
        self._channel = channel
        self._watcher = asyncio.create_task(self._watch_grpc(channel))

    async def _watch_grpc(self, channel: Any) -> None:
        import grpc

        state = grpc.ChannelConnectivity.READY
        while state in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE):
            await channel.wait_for_state_change(state)
            state = channel.get_state(try_to_connect=True)
        self._lost()
        # Calls under way hear that their peer went; closing at once would cancel them, as if their caller had.
        await channel.close(_GRACE)

    async def _from_grpc(self, error: Exception) -> Exception:
        import grpc.aio

        from orlop_sdk.rpc.stub import from_grpc

        if not isinstance(error, grpc.aio.AioRpcError):
            return error
        told = from_grpc(error)
        if isinstance(told, Unavailable):
            # The channel notices a moment after the call that its peer went.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await self.gone.wait()
        return ShimClosed(str(told)) if isinstance(told, Unavailable) and self.gone.is_set() else told


class Shims:
    """The shims we are connected to, by address; containers of one group share one."""

    def __init__(self, lost: Callable[[Shim], None], shutdown_timeout: float, announce: Announce = unannounced) -> None:
        self._lost = lost
        self._announce = announce
        self._shutdown_timeout = shutdown_timeout
        self._shims: dict[str, Shim] = {}

    def closing(self, address: ShimAddress) -> Shim | None:
        """The shim at this address if it has been told to go, and is not gone yet."""
        shim = self._shims.get(address.address)
        return shim if shim is not None and shim.closing else None

    async def acquire(self, address: ShimAddress, user: Key, *, kept: bool = False) -> Shim:
        """The shim at an address, for one more container; *kept* says that it lives on without any.

        Raises `Unavailable` when nobody listens there.
        """
        shim = self._open(address)
        if shim is None:
            made = Shim(user[0], address, self._ended, self._announce)
            await made.connect()
            # Another container of the group may have been faster.
            shim = self._open(address)
            if shim is None:
                shim = self._shims[address.address] = made
            else:
                await made.close()
        shim.users.add(user)
        shim.kept = shim.kept or kept
        return shim

    async def release(self, shim: Shim, user: Key) -> None:
        """One container less; the last one sends the shim away, unless it is kept, and waits until it is gone."""
        shim.users.discard(user)
        if shim.users or not shim.is_open:
            return
        if shim.kept:
            await self._forget(shim)
            return
        shim.closing = True
        try:
            async with asyncio.timeout(self._shutdown_timeout or None):
                # The shim may go before it answers.
                with suppress(OrlopError):
                    await shim.call("Shutdown", ShutdownRequest(id=user[1]), Empty)
                await shim.gone.wait()
        except TimeoutError:
            log.warning(
                'shim at "%s": still there %g seconds after it was told to go',
                shim.address.address,
                self._shutdown_timeout,
            )
        await self._forget(shim)

    async def close(self) -> None:
        """Let go of all connections; shims live on."""
        for shim in list(self._shims.values()):
            await self._forget(shim)

    def _open(self, address: ShimAddress) -> Shim | None:
        shim = self._shims.get(address.address)
        return shim if shim is not None and shim.is_open else None

    async def _forget(self, shim: Shim) -> None:
        await shim.close()
        if self._shims.get(shim.address.address) is shim:
            del self._shims[shim.address.address]

    def _ended(self, shim: Shim) -> None:
        if self._shims.get(shim.address.address) is shim:
            del self._shims[shim.address.address]
        self._lost(shim)


def remove_dead_socket(address: ShimAddress) -> None:
    """Remove the socket file of a shim that ended without doing so. Blocks.

    One that somebody listens on stays: another shim of the same group may have taken the place.
    """
    path = Path(address.address.removeprefix("unix://"))
    if not address.address.startswith("unix://") or not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.debug("%s: not removed: %s", path, error)
