# SPDX-License-Identifier: Apache-2.0
"""What ``orlop-sdk check`` checks: a plugin in a kernel of its own, or a proxy plugin that runs somewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orlop import context
from orlop.errors import FailedPrecondition, InvalidArgument, OrlopError
from orlop.interfaces.content import CONTENT, ContentStore
from orlop.interfaces.metadata import METADATA
from orlop.interfaces.snapshotter import Snapshotter
from orlop_sdk.client.connection import open_channel
from orlop_sdk.client.content import RemoteContentStore
from orlop_sdk.client.snapshots import RemoteDiffer, RemoteSnapshotter
from orlop_sdk.serving.target import Target, hosted

Open = Callable[[], Awaitable[Any]]


class Subject(Protocol):
    """Whatever is checked."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    async def try_out(self, place: Path) -> None:
        """Raise what keeps it from being checked at all."""
        ...

    def opening(self, place: Path) -> AbstractAsyncContextManager[Open]:
        """A context that gives a function which opens it, in the same *place* each time."""
        ...

    def with_content(self, place: Path) -> AbstractAsyncContextManager[tuple[Any, ContentStore]]:
        """A context that gives it with the content store that it works with."""
        ...


@dataclass(frozen=True, slots=True)
class PluginSubject:
    """A plugin, brought up anew for each check."""

    target: Target
    config: Path | None = None

    @property
    def name(self) -> str:
        return self.target.uri

    async def try_out(self, place: Path) -> None:
        async with hosted(self.target, place, config=self.config):
            return

    @asynccontextmanager
    async def opening(self, place: Path) -> AsyncIterator[Open]:
        async with AsyncExitStack() as whole:
            current = await whole.enter_async_context(AsyncExitStack())

            async def open() -> Any:
                # What was opened before is closed by now, and its kernel must let go of the place.
                await current.aclose()
                _, instance = await current.enter_async_context(hosted(self.target, place, config=self.config))
                return instance

            yield open

    @asynccontextmanager
    async def with_content(self, place: Path) -> AsyncIterator[tuple[Any, ContentStore]]:
        async with hosted(self.target, place, config=self.config) as (kernel, instance):
            for store in kernel.all(METADATA).values():
                yield instance, store.content
                return
            yield instance, kernel.get(CONTENT)


@dataclass(frozen=True, slots=True)
class SocketSubject:
    """A proxy plugin that listens on a socket. It has to be empty, and is emptied after each check."""

    kind: str
    address: str
    stores: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind} proxy plugin at {self.address}"

    async def try_out(self, place: Path) -> None:
        with context.scope(namespace="check"):
            if self.kind == "diff":
                async with self.with_content(place) as (_, content):
                    await _blobs(content)
            else:
                async with self.opening(place):
                    return

    @asynccontextmanager
    async def opening(self, place: Path) -> AsyncIterator[Open]:
        async with open_channel(self.address) as channel:
            if self.kind == "snapshot":
                snapshotter = RemoteSnapshotter(channel, "checked")
                async with _emptied(snapshotter, _snapshots, _remove_snapshots, self.name):
                    yield _giving(snapshotter)
            else:
                store = RemoteContentStore(channel)
                async with _emptied(store, _blobs, _remove_blobs, self.name):
                    yield _giving(store)

    @asynccontextmanager
    async def with_content(self, place: Path) -> AsyncIterator[tuple[Any, ContentStore]]:
        if not self.stores:
            raise InvalidArgument(f"{self.name}: say with --stores which daemon's content it works with")
        async with open_channel(self.address) as channel, open_channel(self.stores) as daemon:
            yield RemoteDiffer(channel), RemoteContentStore(daemon)


def _giving(instance: Any) -> Open:
    async def open() -> Any:
        return instance

    return open


@asynccontextmanager
async def _emptied(
    instance: Any,
    count: Callable[[Any], Awaitable[int]],
    empty: Callable[[Any], Awaitable[None]],
    name: str,
) -> AsyncIterator[None]:
    if there := await count(instance):
        raise FailedPrecondition(f"{name}: it holds {there} things already; check one that is empty")
    try:
        yield
    finally:
        await empty(instance)


async def _snapshots(snapshotter: Snapshotter) -> int:
    return len([info async for info in snapshotter.walk()])


async def _remove_snapshots(snapshotter: Snapshotter) -> None:
    """Remove what has no children until nothing is left."""
    while left := [info async for info in snapshotter.walk()]:
        parents = {info.parent for info in left}
        for info in left:
            if info.name not in parents:
                await snapshotter.remove(info.name)


async def _blobs(store: ContentStore) -> int:
    return len([info async for info in store.walk()]) + len(await store.statuses())


async def _remove_blobs(store: ContentStore) -> None:
    for status in await store.statuses():
        await store.abort(status.ref)
    for digest in [info.digest async for info in store.walk()]:
        try:
            await store.delete(digest)
        except OrlopError:  # a store that lists a blob twice has deleted it by now
            continue


_plugin: type[Subject] = PluginSubject
_socket: type[Subject] = SocketSubject
