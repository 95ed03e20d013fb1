# SPDX-License-Identifier: Apache-2.0
"""Finds the tasks again that an earlier daemon left, and cleans up where only a bundle is left of them.

A container whose shim lives is never touched, however slow the shim is to answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from orlop import context
from orlop.errors import DeadlineExceeded, NotFound, OrlopError
from orlop.interfaces.runtime import ShimAddress, ShimKeeper, ShimRequest
from orlop_runtime.bundle import Bundle, leftovers, remove_leftover
from orlop_runtime.runtime import TaskRuntime
from orlop_runtime.shim import Shim, ShimClosed
from orlop_runtime.task import Keep
from orlop_sdk.api.runtime.task.v2 import shim_pb2 as pb

log = logging.getLogger("orlop.runtime")

#: Tells the runtime of a container record, in the namespace of the context; raises `NotFound`.
FindRuntime = Callable[[str], Awaitable[str]]

_AT_ONCE: Final = 32


async def restore(runtime: TaskRuntime, find_runtime: FindRuntime) -> None:
    """Bring the tasks of all bundles back into *runtime*. Returns when each is either there or cleaned up after."""
    bundles, leaving = await runtime.pool.run(_bundles_blocking, runtime)
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(bundle: Bundle) -> None:
        async with limit:
            with context.scope(namespace=bundle.namespace):
                try:
                    await _Restoring(runtime, bundle, find_runtime).run()
                except (OrlopError, OSError) as error:
                    log.error('task "%s" in namespace "%s": not restored: %s', bundle.id, bundle.namespace, error)

    async with asyncio.TaskGroup() as group:
        for bundle in bundles:
            group.create_task(one(bundle))
    # Only now is it known which of their shims have other containers to keep.
    for bundle in leaving:
        with context.scope(namespace=bundle.namespace):
            await _finish_removal(runtime, bundle)


async def _finish_removal(runtime: TaskRuntime, bundle: Bundle) -> None:
    """End the shim of a task that was being removed, unless others use it, and remove what is left of the task."""
    key = (bundle.namespace, bundle.path.name)
    saved = await runtime.pool.run(bundle.load)
    if saved.address is not None:
        # Usually it is gone by now.
        with contextlib.suppress(OrlopError, TimeoutError):
            async with asyncio.timeout(runtime.timeouts.load or None):
                shim = await runtime.shims.acquire(saved.address, key, kept=bool(saved.sandbox))
            await runtime.shims.release(shim, key)
    await runtime.pool.run(_try_to_remove, bundle.path)


class _Restoring:
    """One bundle's way back."""

    def __init__(self, runtime: TaskRuntime, bundle: Bundle, find_runtime: FindRuntime) -> None:
        self._runtime = runtime
        self._bundle = bundle
        self._find_runtime = find_runtime
        self._timeout = runtime.timeouts.load or None

    async def run(self) -> None:
        saved = await self._runtime.pool.run(self._bundle.load)
        name = saved.runtime or await self._recorded()
        if not name:
            # Nothing was ever started here.
            await self._runtime.pool.run(self._bundle.remove)
            return
        keep = self._keep(name)
        if saved.address is None:
            log.warning('task "%s": the daemon ended while it was being created; removed', self._bundle.id)
            await self._runtime.clean(keep)
            await self._runtime.discard(keep)
            return
        await self._load(keep, saved.address, kept=bool(saved.sandbox))

    def _keep(self, name: str) -> Keep:
        request = ShimRequest(self._bundle.id, self._bundle.namespace, name, self._bundle.path)
        return Keep(self._bundle, self._runtime.launcher(name), request)

    async def _recorded(self) -> str:
        try:
            return await self._find_runtime(self._bundle.id)
        except OrlopError:
            return ""

    async def _load(self, keep: Keep, address: ShimAddress, *, kept: bool) -> None:
        key = (self._bundle.namespace, self._bundle.id)
        try:
            async with asyncio.timeout(self._timeout):
                shim = await self._runtime.shims.acquire(address, key, kept=kept)
        except TimeoutError:
            log.error(
                'task "%s": its shim at "%s" takes no connection; left alone. '
                "Restart the daemon once the shim is well, or end the shim",
                self._bundle.id,
                address.address,
            )
            return
        except OrlopError as error:
            log.warning('task "%s": its shim is gone: %s', self._bundle.id, error)
            await self._runtime.bury(keep, address)
            return
        if isinstance(keep.launcher, ShimKeeper):
            await keep.launcher.attach(keep.request)
        await self._ask(keep, shim)

    async def _ask(self, keep: Keep, shim: Shim) -> None:
        id = self._bundle.id
        pid = 0
        try:
            answer = await shim.call("State", pb.StateRequest(id=id), pb.StateResponse, timeout=self._timeout)
            pid = answer.pid
        except NotFound:
            log.warning('task "%s": its shim does not have it; removed', id)
            await self._runtime.shims.release(shim, (self._bundle.namespace, id))
            await self._runtime.clean(keep)
            await self._runtime.discard(keep)
            return
        except ShimClosed as error:
            log.warning('task "%s": its shim ended: %s', id, error)
            await self._runtime.bury(keep, shim.address)
            return
        except DeadlineExceeded as error:
            log.warning('task "%s": its shim is slow to answer, and kept: %s', id, error)
        except OrlopError as error:
            log.warning('task "%s": its shim gives no state, and is kept: %s', id, error)
        self._runtime.add(keep, shim, pid)
        log.info('task "%s" in namespace "%s": found again', id, self._bundle.namespace)


def _bundles_blocking(runtime: TaskRuntime) -> tuple[list[Bundle], list[Bundle]]:
    """All bundles, and those that were set aside to be removed; removes what is no bundle (any more)."""
    bundles: list[Bundle] = []
    leaving: list[Bundle] = []
    if not runtime.state.exists():
        return bundles, leaving
    for directory in runtime.state.iterdir():
        if not directory.is_dir() or directory.name.startswith("."):
            continue
        _remove_leftover_work(runtime, directory.name)
        for path in leftovers(directory):
            leaving.append(
                Bundle(directory.name, path.name.removeprefix("."), path, runtime.root / directory.name / path.name)
            )
        for path in sorted(directory.iterdir()):
            if path.is_symlink() or not path.is_dir():
                continue
            with contextlib.suppress(OSError):
                # Succeeds for empty ones only.
                path.rmdir()
                continue
            bundles.append(Bundle.at(runtime.state, runtime.root, directory.name, path.name))
    _remove_stray_work(runtime)
    return bundles, leaving


def _remove_leftover_work(runtime: TaskRuntime, namespace: str) -> None:
    place = runtime.root / namespace
    for path in leftovers(place) if place.is_dir() else ():
        _try_to_remove(path)


def _remove_stray_work(runtime: TaskRuntime) -> None:
    """Remove work directories whose bundle a reboot took."""
    if not runtime.root.is_dir():
        return
    for directory in runtime.root.iterdir():
        if directory.is_dir():
            for work in directory.iterdir():
                if work.is_dir() and not (runtime.state / directory.name / work.name).exists():
                    _try_to_remove(work)


def _try_to_remove(path: Path) -> None:
    try:
        remove_leftover(path)
    except (OrlopError, OSError) as error:
        log.error("%s: cannot be removed: %s", path, error)
