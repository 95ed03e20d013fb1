# SPDX-License-Identifier: Apache-2.0
r"""The client: one object for a daemon, and everything to do with it.

::

    async with Client() as client:                              # CONTAINERD_ADDRESS, CONTAINERD_NAMESPACE
        await client.pull("docker.io/library/busybox:latest")
        result = await client.run("docker.io/library/busybox:latest", "echo", "hello")
        assert result.stdout == b"hello\n"
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict, Unpack

import grpc.aio

from orlop import context, values
from orlop.errors import FailedPrecondition, InvalidArgument, NotFound
from orlop.interfaces.content import ContentStore
from orlop.interfaces.differ import Differ
from orlop.interfaces.event import EventExchange
from orlop.interfaces.metadata import ContainerStore, ImageStore, LeaseStore, NamespaceStore, SandboxStore
from orlop.interfaces.snapshotter import Snapshotter
from orlop.interfaces.task import Tasks
from orlop.values import EMPTY, Event, Labels, Lease
from orlop_sdk import oci
from orlop_sdk.client.connection import (
    Connection,
    EmbeddedConnection,
    GrpcConnection,
    NamespacedChannel,
    default_address,
    default_namespace,
)
from orlop_sdk.client.container import (
    DEFAULT_RUNTIME,
    Container,
    ContainerSettings,
    RunResult,
)
from orlop_sdk.client.images import ImageOperations
from orlop_sdk.client.introspection import Introspection, Version
from orlop_sdk.client.lease import DAY, held
from orlop_sdk.client.services import Services, remote_services
from orlop_sdk.client.stdio import CapturedStreams, Streams, capture
from orlop_sdk.rpc.channel import Channel

if TYPE_CHECKING:
    from orlop.config import Config

_RUNTIME_LABEL: Final = "containerd.io/defaults/runtime"
_STOP_SIGNAL: Final = "io.containerd.image.config.stop-signal"


class ServiceChanges(TypedDict, total=False):
    """Parts of a client that can be replaced; see `orlop_sdk.client.services.Services`."""

    content: ContentStore
    images: ImageStore
    leases: LeaseStore
    snapshotters: Mapping[str, Snapshotter]
    diff: Differ
    namespaces: NamespaceStore
    containers: ContainerStore
    sandboxes: SandboxStore
    events: EventExchange
    tasks: Tasks
    introspection: Introspection


class Client(ImageOperations):
    """A client of orlopd, containerd, or a kernel in this process. Use it in ``async with``, on one event loop.

    *address* is a socket's path or any target of grpc's, *namespace* where all calls are made; both come from the
    environment when they are not given. The first call connects; `orlop.errors.Unavailable` says when it cannot.
    """

    def __init__(
        self, address: str | None = None, namespace: str | None = None, *, connection: Connection | None = None
    ) -> None:
        self.namespace: Final = namespace or default_namespace()
        self._connection = connection or GrpcConnection(address or default_address())
        self._changes: ServiceChanges = {}
        self._services: Services | None = None
        self._channel: Channel | grpc.aio.Channel | None = None
        self._defaults: dict[str, str] = {}

    @classmethod
    def embedded(cls, config: Config | Mapping[str, Any] | Path, namespace: str | None = None) -> Self:
        """A client that is its own daemon: it starts a kernel with this configuration, and stops it when it closes.

        *config* is that of orlopd: a file, the data of one, or loaded already. Nothing listens anywhere.
        """
        from orlop.config import Config, from_data, load

        if isinstance(config, Path):
            config = load(config)
        elif not isinstance(config, Config):
            config = from_data(config)
        return cls(namespace=namespace, connection=EmbeddedConnection(config))

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Get ready for calls; ``async with`` does it."""
        if self._services is None:
            self._attach(await self._connection.open())

    def _attach(self, channel: Channel | grpc.aio.Channel) -> None:
        self._channel = channel
        services = remote_services(NamespacedChannel(channel, self.namespace), self.namespace)
        self._services = replace(services, **self._changes)

    async def close(self) -> None:
        """Hang up. May be called twice."""
        self._services = self._channel = None
        await self._connection.close()

    def in_namespace(self, namespace: str) -> Client:
        """The same connection with another namespace; belongs to this client, which closes it."""
        return self._view(namespace, self._changes)

    def replace(self, **changes: Unpack[ServiceChanges]) -> Client:
        """The same client with other parts; belongs to this client, which closes it."""
        return self._view(self.namespace, {**self._changes, **changes})

    def _view(self, namespace: str, changes: ServiceChanges) -> Client:
        view = Client(namespace=namespace, connection=_Borrowed(self._connection))
        view._changes = changes
        if self._channel is not None:
            view._attach(self._channel)
        return view

    def scope(self) -> AbstractContextManager[None]:
        """For the body, make calls of `orlop.context` in this client's namespace, under the lease there is."""
        return context.scope(namespace=self.namespace, lease=context.lease())

    # ---- parts ------------------------------------------------------------------------------------------------------

    @property
    def services(self) -> Services:
        """All parts. Raises `FailedPrecondition` before `connect`."""
        if self._services is None:
            raise FailedPrecondition("client: not connected; use it in `async with`")
        return self._services

    @property
    def namespaces(self) -> NamespaceStore:
        """Namespaces."""
        return self.services.namespaces

    @property
    def leases(self) -> LeaseStore:
        """Leases; `lease` holds one for a block."""
        return self.services.leases

    @property
    def content(self) -> ContentStore:
        """Blobs."""
        return self.services.content

    @property
    def images(self) -> ImageStore:
        """Image records."""
        return self.services.images

    @property
    def containers(self) -> ContainerStore:
        """Container records."""
        return self.services.containers

    @property
    def sandboxes(self) -> SandboxStore:
        """Sandbox records."""
        return self.services.sandboxes

    @property
    def diff(self) -> Differ:
        """Applies layers and makes them."""
        return self.services.diff

    @property
    def events(self) -> EventExchange:
        """Events; `watch` is the short way."""
        return self.services.events

    @property
    def tasks(self) -> Tasks:
        """Tasks, without care for their streams."""
        return self.services.tasks

    @property
    def introspection(self) -> Introspection:
        """What the daemon says of itself."""
        return self.services.introspection

    def snapshots(self, name: str = "overlayfs") -> Snapshotter:
        """A snapshotter by its name."""
        return self.services.snapshotters[name]

    # ---- the daemon -------------------------------------------------------------------------------------------------

    async def version(self) -> Version:
        """The daemon's version."""
        return await self.introspection.version()

    async def healthy(self) -> bool:
        """Whether the daemon calls itself well. Raises `Unavailable` when it does not answer."""
        return await self.introspection.healthy()

    def lease(
        self, *, expire: float = DAY, labels: Labels = EMPTY, id: str = "", sync: bool = False
    ) -> AbstractAsyncContextManager[Lease]:
        """A lease for a block: what is made in it stays until its end, whatever garbage collection does.

        Should this process die, it expires *expire* seconds from now. *sync* waits for garbage collection at the end.
        """
        return held(self.leases, expire=expire, labels=labels, id=id, sync=sync)

    @asynccontextmanager
    async def _watch(self, filters: Sequence[str]) -> AsyncIterator[AsyncIterator[Event]]:
        mine = [f"namespace=={self.namespace},{each}" for each in filters] or [f"namespace=={self.namespace}"]
        async with self.events.subscribe(mine) as stream:
            yield stream

    def watch(self, *filters: str) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Events of this namespace that match any of the filters, from the start of the block on.

        For instance ``async with client.watch('topic=="/tasks/exit"') as events: ...``.
        """
        return self._watch(filters)

    async def default(self, what: str) -> str:
        """A default that is set as a label of the namespace; empty where none is."""
        if what not in self._defaults:
            try:
                labels = (await self.namespaces.get(self.namespace)).labels
            except NotFound:
                labels = EMPTY
            self._defaults[what] = labels.get(what, "")
        return self._defaults[what]

    # ---- containers -------------------------------------------------------------------------------------------------

    async def create_container(
        self,
        id: str,
        image: str = "",
        *options: oci.Option,
        args: Sequence[str] = (),
        settings: ContainerSettings | None = None,
    ) -> Container:
        """Create a container of an image that is there: snapshot, specification, record.

        *options* change the specification (`orlop_sdk.oci`); *args* replace the image's command. Without an image the
        options have to say everything, the root file system included. On failure nothing is left behind.
        """
        settings = settings or ContainerSettings()
        if bool(settings.uids) != bool(settings.gids):
            raise InvalidArgument(f'container "{id}": maps only users or only groups; give both mappings')
        where = await self.snapshotter(settings.snapshotter or None)
        async with self._leased():
            labels, config, parent = dict(settings.labels), {}, ""
            if settings.uids:
                options = (oci.with_id_mappings(settings.uids, settings.gids), *options)
            if image:
                config = dict(await self.image_config(image, settings.platform or None))
                parent = await self.unpack(image, settings.platform or None, snapshotter=where)
                labels = _image_labels(config) | labels
                if settings.uids:
                    parent, settings = await self._mapped(where, parent, settings)
            record = values.Container(
                id=id,
                runtime=values.RuntimeInfo(
                    settings.runtime or await self.default(_RUNTIME_LABEL) or DEFAULT_RUNTIME, settings.runtime_options
                ),
                image=image,
                snapshotter=where if image else "",
                snapshot_key=id if image else "",
                sandbox=settings.sandbox,
                labels=labels,
                extensions=settings.extensions,
            )
            return await self._create(record, parent, config, _all_options(image, args, options), settings)

    async def _mapped(self, where: str, parent: str, settings: ContainerSettings) -> tuple[str, ContainerSettings]:
        """What the snapshot of a container in a user namespace is made of, and with which labels."""
        from orlop_sdk.client import remap

        plugins = await self.introspection.plugins([f"type==io.containerd.snapshotter.v1,id=={where}"])
        if not settings.remap_labels and not any(remap.CAPABILITY in plugin.capabilities for plugin in plugins):
            return await remap.remapped(self.snapshots(where), parent, settings.uids, settings.gids), settings
        labels = remap.mapping_labels(settings.uids, settings.gids)
        return parent, replace(settings, snapshot_labels={**settings.snapshot_labels, **labels})

    async def _create(
        self,
        record: values.Container,
        parent: str,
        config: Mapping[str, Any],
        options: Iterable[oci.Option],
        settings: ContainerSettings,
    ) -> Container:
        mounts: Sequence[values.Mount] = ()
        snapshotter = self.snapshots(record.snapshotter) if record.snapshot_key else None
        if snapshotter:
            make = snapshotter.view if settings.read_only_snapshot else snapshotter.prepare
            mounts = await make(record.snapshot_key, parent, labels=settings.snapshot_labels)
        try:
            about = oci.SpecContext(record.id, self.namespace, config, mounts)
            spec = await oci.build(about, *options)
            return Container(self, await self.containers.create(replace(record, spec=oci.encode(spec))))
        except BaseException:
            if snapshotter:
                await snapshotter.remove(record.snapshot_key)
            raise

    async def container(self, id: str) -> Container:
        """A container that exists. Raises `NotFound`."""
        with self.scope():
            return Container(self, await self.containers.get(id))

    async def run(
        self,
        image: str,
        *args: str,
        options: Sequence[oci.Option] = (),
        streams: Streams | None = None,
        settings: ContainerSettings | None = None,
        id: str = "",
    ) -> RunResult:
        """Run a container of an image that is there until it ends, and delete it.

        Output is captured unless *streams* say where it goes. A status other than 0 is no error here; see
        `RunResult.check`.
        """
        streams = streams or capture()
        if streams.terminal:
            options = (oci.with_tty(*streams.size), *options)
        name = id or f"run-{uuid.uuid4().hex[:12]}"
        async with await self.create_container(name, image, *options, args=args, settings=settings) as container:
            async with await container.create_task(streams) as task:
                await task.start()
                await task.wait()
                ended = await task.delete()
        if isinstance(streams, CapturedStreams):
            return RunResult(ended.status, streams.stdout, streams.stderr)
        return RunResult(ended.status)


class _Borrowed:
    """A connection that somebody else closes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.open = connection.open

    async def close(self) -> None:
        """It is not ours to close."""


def _all_options(image: str, args: Sequence[str], options: Iterable[oci.Option]) -> list[oci.Option]:
    first: list[oci.Option] = [oci.with_default_devices()]
    if image:
        first.append(oci.with_image_config(args))
    elif args:
        first.append(oci.with_args(*args))
    return [*first, *options]


def _image_labels(config: Mapping[str, Any]) -> dict[str, str]:
    """An image's own labels, and how it wants to be stopped."""
    inner = config.get("config") or {}
    labels = {str(key): str(value) for key, value in (inner.get("Labels") or {}).items()}
    return labels | {_STOP_SIGNAL: str(inner.get("StopSignal") or "SIGTERM")}
