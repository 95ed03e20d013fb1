# SPDX-License-Identifier: Apache-2.0
"""The isolators: a plugin in a process or container of its own, which is supervised and reached as a proxy plugin is.

**Host needs**: none for ``process``, an OCI runtime for ``container``. **On disk**: in the plugin's state directory a
socket ``s``, ``d`` where the plugin works with the daemon's content, and the container's bundle ``c``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from orlop.blocking import run_blocking
from orlop.errors import FailedPrecondition, OrlopError
from orlop.interfaces.content import CONTENT
from orlop.interfaces.differ import DIFFER
from orlop.interfaces.isolation import Isolator
from orlop.interfaces.metadata import METADATA
from orlop.interfaces.observer import Figure
from orlop.interfaces.proxy import PROXY
from orlop.interfaces.snapshotter import SNAPSHOTTER
from orlop.interfaces.stream import STREAM_PROCESSOR, RunningStream
from orlop.plugin import InitContext, Registration
from orlop.values import AnyMessage
from orlop_proxy.container import FILES, TREES, InContainer, find_runtime, python_box, share, unshare
from orlop_proxy.launch import Launch, Plain
from orlop_proxy.plugins import ContainerConfig
from orlop_proxy.remote import WINDOW
from orlop_proxy.request import Request
from orlop_proxy.supervisor import Patience, Supervisor
from orlop_sdk.client.connection import open_channel
from orlop_sdk.client.content import RemoteContentStore
from orlop_sdk.client.snapshots import RemoteDiffer, RemoteSnapshotter
from orlop_sdk.rpc.channel import Channel
from orlop_sdk.serving.proxy import Parts, serve
from orlop_sdk.serving.stream_socket import RemoteStreamProcessor

#: Of these each process has its own, for they keep nothing.
_OWN: Final = (STREAM_PROCESSOR.name, PROXY.name)
#: Seconds in which a process whose connection broke turns out to have ended.
_MOMENT: Final = 1.0


class ProcessIsolator:
    """Plugins in processes. See `orlop.interfaces.isolation.Isolator`."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._running: dict[str, Supervisor] = {}

    def figures(self) -> list[Figure]:
        """How often processes had to be started again, for `orlop.interfaces.observer.Figures`."""
        restarts = [({"plugin": uri}, each.restarts) for uri, each in self._running.items()]
        return [Figure("orlop_plugin_restarts_total", "Starts of a process that had ended", "counter", restarts)]

    async def _launch(
        self, plugin: Registration[Any, Any], ctx: InitContext[Any], request: Request, stack: AsyncExitStack
    ) -> Launch:
        """How to run it; the stack takes what is to be undone when the plugin is closed."""
        return Plain()

    async def isolate(self, plugin: Registration[Any, Any], ctx: InitContext[Any], settings: Mapping[str, Any]) -> Any:
        async with AsyncExitStack() as stack:
            stores = await self._stores(plugin, ctx, stack)
            request = Request(
                uri=plugin.uri,
                type=plugin.type.name,
                address=str(ctx.state / "s"),
                settings=_settings(settings, ctx.properties.get("config.path", "")),
                properties=ctx.properties,
                stores=stores,
                followed=tuple(need.type for need in plugin.requires if need.type in _OWN and not need.id),
                log_level=ctx.log.getEffectiveLevel(),
            )
            switch = Switch(request.address)
            launch = await self._launch(plugin, ctx, request, stack)
            supervisor = Supervisor(request, ctx.log, switch.changed, self._patience, launch)
            switch.supervisor = supervisor
            ctx.exports.update(await supervisor.start())
            stack.push_async_callback(switch.close)
            stack.push_async_callback(supervisor.close)
            self._running[plugin.uri] = supervisor
            stack.callback(self._running.pop, plugin.uri, None)
            return _MAKERS[plugin.type.name](switch, plugin.id, supervisor, stack.pop_all())

    async def _stores(self, plugin: Registration[Any, Any], ctx: InitContext[Any], stack: AsyncExitStack) -> str:
        """Serve what the plugin requires of the daemon; the address, empty where that is nothing."""
        address = ""
        for need in plugin.requires:
            if need.type == METADATA.name:
                address = str(ctx.state / "d")
                content = ctx.get(METADATA, need.id).content
                await stack.enter_async_context(serve(address, Parts(content=content)))
            elif need.type not in _OWN and not need.optional:
                raise FailedPrecondition(
                    f"cannot be isolated: it needs {need}, which is out of reach from another process; drop the key"
                )
        return address


class ContainerIsolator(ProcessIsolator):
    """Plugins in containers, which see nothing of the host but programs and what the plugin keeps."""

    def __init__(self, config: ContainerConfig, patience: Patience | None = None) -> None:
        super().__init__(patience)
        self._config = config

    async def _launch(
        self, plugin: Registration[Any, Any], ctx: InitContext[Any], request: Request, stack: AsyncExitStack
    ) -> Launch:
        config, kind = self._config, plugin.type.name
        # A differ works on trees that any snapshotter keeps.
        kept = ctx.root.parent if kind == DIFFER.name else ctx.root
        lock = request.settings.get("plugin_lock")
        box = python_box(
            find_runtime(config.runtime),
            ctx.state / "c",
            TREES if kind in (SNAPSHOTTER.name, DIFFER.name) else FILES,
            writable=(kept, ctx.state, *config.writable),
            readonly=(*config.readonly, *((Path(lock),) if lock else ())),
            devices=config.devices,
            network=config.network,
            memory=config.memory,
        )
        for path in (ctx.root, *config.writable) if config.mounts and kind == SNAPSHOTTER.name else ():
            await run_blocking(share, path)
            stack.push_async_callback(run_blocking, unshare, path)
        return InContainer(box)


def _settings(settings: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The config for the other process: nothing there is isolated again, nor required."""
    made = {key: value for key, value in settings.items() if key != "required_plugins"}
    made["plugins"] = {
        uri: {key: value for key, value in table.items() if key != "isolated"}
        for uri, table in settings.get("plugins", {}).items()
    }
    if lock := settings.get("plugin_lock"):
        made["plugin_lock"] = os.path.join(Path(file).absolute().parent, lock)
    return made


class Switch:
    """A channel to whichever process serves the plugin now: each gets a connection of its own."""

    supervisor: Supervisor

    def __init__(self, address: str) -> None:
        self.address: Final = address
        self._channel: grpc.aio.Channel | None = None
        self._old: list[grpc.aio.Channel] = []

    def changed(self, ready: bool) -> None:
        """Connect anew when a process is ready, which a broken connection would do much later."""
        if self._channel is not None:
            self._old.append(self._channel)
        self._channel = open_channel(self.address) if ready else None

    async def close(self) -> None:
        """Hang up. May be called twice."""
        self.changed(False)
        while self._old:
            await self._old.pop().close()

    def unary_unary(self, method: str, *codecs: Any) -> Callable[..., Any]:
        return self._one("unary_unary", method, *codecs)

    def stream_unary(self, method: str, *codecs: Any) -> Callable[..., Any]:
        return self._one("stream_unary", method, *codecs)

    def unary_stream(self, method: str, *codecs: Any) -> Callable[..., Any]:
        return self._many("unary_stream", method, *codecs)

    def stream_stream(self, method: str, *codecs: Any) -> Callable[..., Any]:
        return self._many("stream_stream", method, *codecs)

    def _one(self, kind: str, method: str, *codecs: Any) -> Callable[..., Any]:
        async def call(request: Any, **options: Any) -> Any:
            start = getattr(await self._current(), kind)(method, *codecs)
            try:
                return await start(request, **options)
            except grpc.aio.AioRpcError as error:
                raise await self._blamed(error) from error

        return call

    def _many(self, kind: str, method: str, *codecs: Any) -> Callable[..., Any]:
        def call(request: Any, **options: Any) -> _Answers:
            self.supervisor.check()
            assert self._channel is not None
            return _Answers(getattr(self._channel, kind)(method, *codecs)(request, **options), self._blamed)

        return call

    async def _current(self) -> grpc.aio.Channel:
        while self._old:
            await self._old.pop().close()
        self.supervisor.check()
        assert self._channel is not None
        return self._channel

    async def _blamed(self, error: grpc.aio.AioRpcError) -> Exception:
        """The clear error where the process is gone; what the plugin itself says is unavailable stays as it is."""
        told_by_plugin = "received from peer" in (error.debug_error_string() or "")
        if error.code() is grpc.StatusCode.UNAVAILABLE and not told_by_plugin and await self.supervisor.gone(_MOMENT):
            return self.supervisor.down()
        return error


class _Answers:
    """The answers of one call, with its errors put right."""

    def __init__(self, call: Any, blamed: Callable[[grpc.aio.AioRpcError], Awaitable[Exception]]) -> None:
        self._call = call
        self._blamed = blamed

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for answer in self._call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise await self._blamed(error) from error

    def cancel(self) -> bool:
        return bool(self._call.cancel())


class IsolatedSnapshotter(RemoteSnapshotter):
    """A snapshotter in its process."""

    def __init__(self, channel: Channel, name: str, supervisor: Supervisor, stack: AsyncExitStack) -> None:
        super().__init__(channel, name)
        self.supervisor: Final = supervisor
        self._stack = stack

    async def close(self) -> None:
        await self._stack.aclose()


class IsolatedContentStore(RemoteContentStore):
    """A content store in its process."""

    def __init__(self, channel: Channel, _name: str, _supervisor: Supervisor, stack: AsyncExitStack) -> None:
        super().__init__(channel, WINDOW)
        self._stack = stack

    async def close(self) -> None:
        await self._stack.aclose()


class IsolatedDiffer(RemoteDiffer):
    """A differ in its process."""

    def __init__(self, channel: Channel, _name: str, _supervisor: Supervisor, stack: AsyncExitStack) -> None:
        super().__init__(channel)
        self._stack = stack

    async def close(self) -> None:
        """End the process. May be called twice."""
        await self._stack.aclose()


class IsolatedStreamProcessor(RemoteStreamProcessor):
    """A stream processor in its process."""

    def __init__(self, switch: Switch, _name: str, supervisor: Supervisor, stack: AsyncExitStack) -> None:
        super().__init__(switch.address)
        self._supervisor = supervisor
        self._stack = stack

    async def open(self, source: int, media_type: str, payload: AnyMessage | None = None) -> RunningStream:
        self._supervisor.check()
        return await super().open(source, media_type, payload)

    def lost(self, error: OSError) -> OrlopError:
        return self._supervisor.down()

    async def close(self) -> None:
        """End the process. May be called twice."""
        await self._stack.aclose()


_MAKERS: Final[Mapping[str, Callable[..., Any]]] = {
    SNAPSHOTTER.name: IsolatedSnapshotter,
    CONTENT.name: IsolatedContentStore,
    DIFFER.name: IsolatedDiffer,
    STREAM_PROCESSOR.name: IsolatedStreamProcessor,
}
_: type[Isolator] = ProcessIsolator
_channel: type[Channel] = Switch
