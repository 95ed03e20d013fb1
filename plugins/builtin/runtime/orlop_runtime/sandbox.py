# SPDX-License-Identifier: Apache-2.0
"""Sandboxes of shims that serve the sandbox API (``containerd.runtime.sandbox.v1.Sandbox``), one in each shim.

**When to choose it**: for runtimes whose shim makes the environment itself, such as virtual machines, and with Orlop's
own shim. **Host needs**: such a shim. **On disk**: a bundle for each (`orlop_runtime.bundle`), with the sandbox's spec;
a sandbox outlives the daemon with its shim, and is found again by its bundle.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty

from orlop import context
from orlop.blocking import Pool
from orlop.errors import AlreadyExists, DeadlineExceeded, NotFound, OrlopError, Unimplemented
from orlop.interfaces.runtime import ShimAddress, ShimKeeper, ShimLauncher, ShimRequest
from orlop.interfaces.sandbox import SandboxController, SandboxInstance, SandboxRequest, SandboxStatus
from orlop.values import Exit, Metric, Platform, Sandbox, now
from orlop_runtime.bootstrap import to_endpoint
from orlop_runtime.bundle import Bundle, leftovers, remove_leftover
from orlop_runtime.runtime import find_launcher
from orlop_runtime.shim import Announce, Key, Message, Shim, ShimClosed, remove_dead_socket, unannounced
from orlop_sdk.api.runtime.sandbox.v1 import sandbox_pb2 as pb
from orlop_sdk.api.runtime.task.v2.shim_pb2 import ShutdownRequest
from orlop_sdk.convert.common import any_from_wire, any_to_wire, mounts_to_wire, platform_from_wire, time_from_wire
from orlop_sdk.convert.tasks import metric_from_wire

log = logging.getLogger("orlop.sandbox")

_PATH: Final = "/containerd.runtime.sandbox.v1.Sandbox/"
_THREADS: Final = 4
_UNKNOWN_EXIT: Final = 255
_NOT_READY: Final = "SANDBOX_NOTREADY"


@dataclass(frozen=True, slots=True)
class SandboxPlaces:
    """Where bundles and their work directories are, and how long to wait for shims, in seconds (0: for ever)."""

    state: Path
    root: Path
    load: float = 5.0
    cleanup: float = 5.0
    shutdown: float = 3.0


@dataclass(slots=True)
class _Running:
    """One sandbox. Without a shim it has ended, or is just being created."""

    bundle: Bundle
    launcher: ShimLauncher
    request: ShimRequest
    shim: Shim | None = None
    ended: Exit | None = None
    waiting: asyncio.Task[Exit] | None = None
    leaving: asyncio.Task[None] | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once `ended` is known after the shim's end."""

    @property
    def key(self) -> Key:
        return self.bundle.namespace, self.bundle.id


class ShimSandboxes:
    """See `orlop.interfaces.sandbox.SandboxController`. *launchers* is a live view; *general* is asked last."""

    def __init__(
        self,
        places: SandboxPlaces,
        launchers: Mapping[str, ShimLauncher],
        general: str,
        announce: Announce = unannounced,
    ) -> None:
        self._announce = announce
        self._places = places
        self._launchers = launchers
        self._general = general
        self._sandboxes: dict[Key, _Running] = {}
        self._creating: set[Key] = set()
        self._pool = Pool("orlop-sandboxes", _THREADS)
        self._work: set[asyncio.Task[Any]] = set()

    async def create(self, sandbox: Sandbox, request: SandboxRequest) -> None:
        context.check_identifier(sandbox.id, "sandbox")
        key = (context.namespace(), sandbox.id)
        if key in self._sandboxes or key in self._creating:
            raise AlreadyExists(f'sandbox "{sandbox.id}": already exists')
        launcher = find_launcher(self._launchers, sandbox.runtime.name, self._general)
        self._creating.add(key)
        making = self._spawn(self._create(key, sandbox, request, launcher))
        making.add_done_callback(lambda _: self._creating.discard(key))
        try:
            await asyncio.shield(making)
        except asyncio.CancelledError:
            _ = self._spawn(self._abandon(making, key))
            raise

    async def start(self, id: str) -> SandboxInstance:
        sandbox = self._find(id)
        try:
            answer: pb.StartSandboxResponse = await self._call(
                sandbox, "StartSandbox", pb.StartSandboxRequest(sandbox_id=id), pb.StartSandboxResponse
            )
        except OrlopError:
            with suppress(OrlopError):
                await self.shutdown(id)
            raise
        address = self._shim(sandbox).address
        return SandboxInstance(
            id=id,
            pid=answer.pid,
            created_at=time_from_wire(answer.created_at),
            address=to_endpoint(address),
            version=address.version,
            spec=any_from_wire(answer.spec),
        )

    async def platform(self, id: str) -> Platform:
        answer = await self._call(self._find(id), "Platform", pb.PlatformRequest(sandbox_id=id), pb.PlatformResponse)
        return platform_from_wire(answer.platform)

    async def stop(self, id: str, *, timeout: float = 0) -> None:
        sandbox = self._find(id)
        request = pb.StopSandboxRequest(sandbox_id=id, timeout_secs=max(0, round(timeout)))
        if sandbox.shim is not None:
            # One that is gone has stopped.
            with suppress(NotFound, ShimClosed):
                await self._call(sandbox, "StopSandbox", request, pb.StopSandboxResponse)

    async def wait(self, id: str) -> Exit:
        sandbox = self._find(id)
        if sandbox.ended is not None:
            return sandbox.ended
        # One call for all who wait; a waiter that goes away leaves it to the others.
        if sandbox.waiting is None:
            sandbox.waiting = self._spawn(self._wait(sandbox))
        return await asyncio.shield(sandbox.waiting)

    async def status(self, id: str, *, verbose: bool = False) -> SandboxStatus:
        sandbox = self._find(id)
        if sandbox.shim is None:
            return SandboxStatus(id, state=_NOT_READY, exited_at=(sandbox.ended or Exit(0, now())).exited_at)
        request = pb.SandboxStatusRequest(sandbox_id=id, verbose=verbose)
        answer: pb.SandboxStatusResponse = await self._call(sandbox, "SandboxStatus", request, pb.SandboxStatusResponse)
        address = self._shim(sandbox).address
        return SandboxStatus(
            id=id,
            pid=answer.pid,
            state=answer.state,
            info=dict(answer.info),
            created_at=time_from_wire(answer.created_at),
            exited_at=time_from_wire(answer.exited_at),
            extra=any_from_wire(answer.extra),
            address=to_endpoint(address),
            version=address.version,
        )

    async def shutdown(self, id: str) -> None:
        sandbox = self._sandboxes.get((context.namespace(), id))
        if sandbox is None:
            return
        # One at a time; after a failure it can be tried again.
        if sandbox.leaving is None or sandbox.leaving.done():
            sandbox.leaving = self._spawn(self._shutdown(sandbox))
        await asyncio.shield(sandbox.leaving)

    def running(self) -> list[tuple[str, ShimLauncher]]:
        """The sandboxes of all namespaces whose shim is there, as ``namespace/id``, and who launched it."""
        return [
            ("/".join(key), sandbox.launcher)
            for key, sandbox in sorted(self._sandboxes.items())
            if sandbox.shim is not None
        ]

    async def metrics(self, id: str) -> Metric:
        request = pb.SandboxMetricsRequest(sandbox_id=id)
        answer = await self._call(self._find(id), "SandboxMetrics", request, pb.SandboxMetricsResponse)
        return metric_from_wire(answer.metrics)

    async def update(self, id: str, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> None:
        self._find(id)
        raise Unimplemented(f'sandbox "{id}": shims cannot change a sandbox that runs; its record can be updated')

    async def close(self) -> None:
        """Finish what is in progress and let go of the shims, which live on. May be called twice."""
        for sandbox in self._sandboxes.values():
            if sandbox.waiting is not None:
                sandbox.waiting.cancel()
        while self._work:
            await asyncio.gather(*self._work, return_exceptions=True)
        for sandbox in self._sandboxes.values():
            if sandbox.shim is not None:
                await sandbox.shim.close()
        self._sandboxes.clear()
        self._pool.close()

    async def restore(self) -> None:
        """Find the sandboxes again that an earlier daemon left."""
        for bundle in await self._pool.run(_bundles_blocking, self._places):
            with context.scope(namespace=bundle.namespace):
                try:
                    await self._restore(bundle)
                except (OrlopError, OSError) as error:
                    log.error('sandbox "%s" in namespace "%s": not restored: %s', bundle.id, bundle.namespace, error)

    # How they come.

    async def _create(self, key: Key, sandbox: Sandbox, request: SandboxRequest, launcher: ShimLauncher) -> None:
        bundle = Bundle.at(self._places.state, self._places.root, *key)
        runtime = sandbox.runtime
        await self._pool.run(bundle.create, b"{}" if sandbox.spec is None else sandbox.spec.value)
        made = _Running(bundle, launcher, ShimRequest(key[1], key[0], runtime.name, bundle.path, runtime.options))
        try:
            address = await launcher.launch(made.request)
            # Before anything else can go wrong, so that a later daemon finds it.
            await self._pool.run(bundle.save, address, runtime.name)
            await self._connect(made, address)
            await self._call(
                made,
                "CreateSandbox",
                pb.CreateSandboxRequest(
                    sandbox_id=key[1],
                    bundle_path=str(bundle.path),
                    rootfs=mounts_to_wire(request.rootfs),
                    options=any_to_wire(request.options or runtime.options),
                    netns_path=request.netns_path,
                    annotations=dict(request.annotations),
                ),
                pb.CreateSandboxResponse,
            )
        except BaseException as error:
            await self._discard(made, clean=True)
            if isinstance(error, Unimplemented):
                raise Unimplemented(
                    f'sandbox "{key[1]}": the shim of runtime {runtime.name} has no sandbox API: {error}'
                ) from error
            raise
        self._sandboxes[key] = made

    async def _connect(self, sandbox: _Running, address: ShimAddress) -> None:
        shim = Shim(sandbox.bundle.namespace, address, lambda _: self._lost(sandbox), self._announce)
        await shim.connect()
        sandbox.shim = shim

    async def _abandon(self, making: asyncio.Task[None], key: Key) -> None:
        """Take a sandbox away again whose creator left."""
        with suppress(OrlopError, OSError):
            await making
            with context.scope(namespace=key[0]):
                await self.shutdown(key[1])

    async def _restore(self, bundle: Bundle) -> None:
        saved = await self._pool.run(bundle.load)
        if not saved.runtime:
            await self._pool.run(bundle.remove)
            return
        launcher = find_launcher(self._launchers, saved.runtime, self._general)
        request = ShimRequest(bundle.id, bundle.namespace, saved.runtime, bundle.path)
        sandbox = _Running(bundle, launcher, request)
        if saved.address is None:
            log.warning('sandbox "%s": the daemon ended while it was being created; removed', bundle.id)
            await self._discard(sandbox, clean=True)
            return
        self._sandboxes[sandbox.key] = sandbox
        try:
            async with asyncio.timeout(self._places.load or None):
                await self._connect(sandbox, saved.address)
        except TimeoutError:
            # Whatever lives is never touched, however slow it is.
            del self._sandboxes[sandbox.key]
            log.error(
                'sandbox "%s": its shim at "%s" takes no connection; left alone. '
                "Restart the daemon once the shim is well, or end the shim",
                bundle.id,
                saved.address.address,
            )
            return
        except OrlopError as error:
            log.warning('sandbox "%s": its shim is gone: %s', bundle.id, error)
            await self._bury(sandbox)
            await self._pool.run(remove_dead_socket, saved.address)
            return
        if isinstance(launcher, ShimKeeper):
            await launcher.attach(request)
        try:
            await self._call(
                sandbox,
                "SandboxStatus",
                pb.SandboxStatusRequest(sandbox_id=bundle.id),
                pb.SandboxStatusResponse,
                timeout=self._places.load or None,
            )
        except NotFound:
            log.warning('sandbox "%s": its shim does not have it; removed', bundle.id)
            await self._shutdown(sandbox)
        except DeadlineExceeded as error:
            log.warning('sandbox "%s": its shim is slow to answer, and kept: %s', bundle.id, error)
        else:
            log.info('sandbox "%s" in namespace "%s": found again', bundle.id, bundle.namespace)

    # How they go.

    async def _wait(self, sandbox: _Running) -> Exit:
        request = pb.WaitSandboxRequest(sandbox_id=sandbox.bundle.id)
        try:
            answer = await self._call(sandbox, "WaitSandbox", request, pb.WaitSandboxResponse)
        except (NotFound, ShimClosed):
            # It was shut down, or died.
            await sandbox.gone.wait()
            return sandbox.ended or Exit(_UNKNOWN_EXIT, now())
        sandbox.ended = sandbox.ended or Exit(answer.exit_status, time_from_wire(answer.exited_at))
        return sandbox.ended

    def _lost(self, sandbox: _Running) -> None:
        log.warning('sandbox "%s" in namespace "%s": its shim is gone', sandbox.bundle.id, sandbox.bundle.namespace)
        _ = self._spawn(self._bury(sandbox))

    async def _bury(self, sandbox: _Running) -> None:
        """Clean up after a dead shim. The sandbox stays, as ended, until somebody shuts it down."""
        shim, sandbox.shim = sandbox.shim, None
        ended = await self._clean(sandbox)
        if shim is not None:
            await self._pool.run(remove_dead_socket, shim.address)
        sandbox.ended = sandbox.ended or ended or Exit(_UNKNOWN_EXIT, now())
        sandbox.gone.set()

    async def _shutdown(self, sandbox: _Running) -> None:
        shim = sandbox.shim
        if shim is not None:
            request = pb.ShutdownSandboxRequest(sandbox_id=sandbox.bundle.id)
            with suppress(NotFound, ShimClosed):
                await self._call(sandbox, "ShutdownSandbox", request, pb.ShutdownSandboxResponse)
            shim.closing = True
            await self._send_away(shim, sandbox.bundle.id)
        await self._discard(sandbox, clean=shim is None)
        if self._sandboxes.get(sandbox.key) is sandbox:
            del self._sandboxes[sandbox.key]

    async def _send_away(self, shim: Shim, id: str) -> None:
        """Wait for a shim to go, which it does as soon as it has no containers."""
        try:
            async with asyncio.timeout(self._places.shutdown or None):
                with suppress(OrlopError):
                    await shim.call("Shutdown", ShutdownRequest(id=id), Empty)
                await shim.gone.wait()
        except TimeoutError:
            log.info('sandbox "%s": its shim stays until its last container is deleted', id)

    async def _discard(self, sandbox: _Running, *, clean: bool) -> None:
        """Leave nothing of it on this side; with *clean* the launcher ends what runs."""
        shim, sandbox.shim = sandbox.shim, None
        if shim is not None:
            if clean:
                shim.closing = True
                await self._send_away(shim, sandbox.bundle.id)
            await shim.close()
        if clean:
            await self._clean(sandbox)
        if isinstance(sandbox.launcher, ShimKeeper):
            await sandbox.launcher.release(sandbox.request)
        try:
            await self._pool.run(sandbox.bundle.remove)
        except (OrlopError, OSError) as error:
            log.error('sandbox "%s": its bundle cannot be removed: %s', sandbox.bundle.id, error)
        sandbox.ended = sandbox.ended or Exit(0, now())
        sandbox.gone.set()

    async def _clean(self, sandbox: _Running) -> Exit | None:
        try:
            async with asyncio.timeout(self._places.cleanup or None):
                return await sandbox.launcher.clean(sandbox.request)
        except (OrlopError, TimeoutError) as error:
            # Shims complain when there is nothing to clean up, and often there is not.
            log.debug('sandbox "%s": clean-up after its shim: %s', sandbox.bundle.id, error or "took too long")
            return None

    # How they are asked.

    def _find(self, id: str) -> _Running:
        found = self._sandboxes.get((context.namespace(), id))
        if found is None:
            raise NotFound(f'sandbox "{id}": not found')
        return found

    def _shim(self, sandbox: _Running) -> Shim:
        if sandbox.shim is None:
            raise ShimClosed(f'sandbox "{sandbox.bundle.id}": has ended, and its shim with it; shut it down')
        return sandbox.shim

    async def _call(
        self, sandbox: _Running, method: str, request: Message, response: type[Any], *, timeout: float | None = None
    ) -> Any:
        return await self._shim(sandbox).invoke(_PATH + method, request, response, timeout)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            # Who waits for it gets the error.
            task.exception()


def _bundles_blocking(places: SandboxPlaces) -> list[Bundle]:
    """All bundles; removes those that were set aside."""
    found: list[Bundle] = []
    for directory in sorted(places.state.iterdir()) if places.state.is_dir() else ():
        if not directory.is_dir() or directory.name.startswith("."):
            continue
        for path in leftovers(directory):
            remove_leftover(path)
        found += [
            Bundle.at(places.state, places.root, directory.name, path.name)
            for path in sorted(directory.iterdir())
            if path.is_dir() and not path.is_symlink()
        ]
    return found


_: type[SandboxController] = ShimSandboxes
