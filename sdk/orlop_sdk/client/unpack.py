# SPDX-License-Identifier: Apache-2.0
"""Unpack an image's layers into snapshots, each layer as soon as it has come.

::

    unpacker = Unpacker(services, "overlayfs")
    chain = await unpacker.unpack(manifest)
    mounts = await services.snapshotters["overlayfs"].prepare("web", chain)

A snapshotter that brings layers from elsewhere (stargz, nydus, ...) is asked first: it is offered each layer's chain
id in the label ``containerd.io/snapshot.ref``, and where it answers "exists" the layer is neither fetched nor applied.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Final

from orlop.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound, OrlopError
from orlop.interfaces.snapshotter import Snapshotter
from orlop.values import EMPTY, AnyMessage, Descriptor, Labels, Mount
from orlop_sdk.client.image import Manifest, chain_ids, diff_ids, is_layer, read_json
from orlop_sdk.client.image_services import ImageServices
from orlop_sdk.client.progress import ProgressCallback, ProgressKind, about, silent
from orlop_sdk.client.transfer import add_labels, first_of

SNAPSHOT_REF: Final = "containerd.io/snapshot.ref"
UNCOMPRESSED: Final = "containerd.io/uncompressed"
_INHERITED: Final = "containerd.io/snapshot/"
_TRIES: Final = 3

#: Waits until a layer is in the content store; the first call starts fetching.
Ready = Callable[[Descriptor], Awaitable[None]]

#: Waits until it is a layer's turn.
Turn = Callable[[], Awaitable[None]]


async def _is_ready(descriptor: Descriptor) -> None:
    """Everything is there already."""


@dataclass(frozen=True, slots=True)
class UnpackOptions:
    """How to unpack. Labels go to every snapshot; *payloads* to the stream processors by their id."""

    labels: Labels = EMPTY
    layer_labels: Callable[[Manifest, int], Mapping[str, str]] | None = None
    """Further labels for the snapshot of one layer, by its index (remote snapshotters want the image's name)."""
    payloads: Mapping[str, AnyMessage] = field(default_factory=dict)
    sync: bool = False
    parallel: int = 1
    """Layers to apply at a time. More than one takes a snapshotter with the capability ``rebase``."""


class Unpacker:
    """Unpacks manifests into one snapshotter."""

    def __init__(
        self,
        services: ImageServices,
        snapshotter: str,
        options: UnpackOptions | None = None,
        progress: ProgressCallback = silent,
    ) -> None:
        self._services = services
        self._name = snapshotter
        self._options = options or UnpackOptions()
        self._progress = progress

    async def unpack(self, manifest: Manifest, ready: Ready = _is_ready) -> str:
        """Make the snapshots of all layers and return the chain id: the parent of the container's snapshot.

        It is empty for an image without layers. Raises `NotFound` for absent content, `DataLoss` for a layer that is
        not what the configuration says, `InvalidArgument` for an image that is no file system.
        """
        config = await read_json(self._services.content, manifest.config)
        ids = diff_ids(config)
        layers = [layer for layer in manifest.layers if is_layer(layer.media_type)]
        if len(layers) != len(ids):
            raise InvalidArgument(
                f'manifest "{manifest.descriptor.digest}": {len(layers)} layers, but its configuration names {len(ids)}'
            )
        chain = chain_ids(ids)
        if not chain:
            return ""
        snapshotter = self._services.snapshotters[self._name]
        if not await _exists(snapshotter, chain[-1]):
            parents = ["", *chain]
            steps = [_Layer(*each) for each in zip(layers, ids, chain, parents, range(len(layers)), strict=False)]
            job = _Job(snapshotter, manifest, ready)
            if self._options.parallel > 1:
                await self._unpack_together(job, steps)
            else:
                for step in steps:
                    await self._unpack_layer(job, step)
        label = {f"containerd.io/gc.ref.snapshot.{self._name}": chain[-1]}
        await add_labels(self._services.content, manifest.config.digest, label)
        return chain[-1]

    async def _unpack_together(self, job: _Job, steps: Sequence[_Layer]) -> None:
        """Apply layers side by side, each to an empty tree, and put them on top of one another in order."""
        slots = asyncio.Semaphore(self._options.parallel)
        below: asyncio.Event | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for step in steps:
                    done = asyncio.Event()
                    group.create_task(self._unpack_beside(job, step, slots, below, done))
                    below = done
        except BaseExceptionGroup as errors:
            raise first_of(errors) from errors

    async def _unpack_beside(
        self, job: _Job, step: _Layer, slots: asyncio.Semaphore, below: asyncio.Event | None, done: asyncio.Event
    ) -> None:
        async def turn() -> None:
            if below is not None:
                await below.wait()

        await self._unpack_layer(job, step, slots, turn)
        done.set()

    async def _unpack_layer(
        self, job: _Job, step: _Layer, slots: asyncio.Semaphore | None = None, turn: Turn | None = None
    ) -> None:
        """Unpack one layer; with a *turn* without its parent, which it gets when it is committed in its turn."""
        snapshotter = job.snapshotter
        prepared = await self._prepare(job, step, "" if turn else step.parent)
        if prepared is None:
            about(self._progress, ProgressKind.EXISTS, step.layer)
            return
        key, mounts = prepared
        labels = self._labels(job.manifest, step)
        try:
            await job.ready(step.layer)
            async with slots or nullcontext():
                await self._apply(step, _as_upper(mounts) if turn and step.parent else mounts)
            if turn:
                await turn()
            try:
                await snapshotter.commit(step.chain, key, parent=step.parent if turn else "", labels=labels)
            except AlreadyExists:
                await snapshotter.remove(key)
        except BaseException:
            with suppress(OrlopError):
                await snapshotter.remove(key)
            raise
        about(self._progress, ProgressKind.EXTRACTED, step.layer)

    async def _prepare(self, job: _Job, step: _Layer, parent: str) -> tuple[str, list[Mount]] | None:
        """Key and mounts to apply the layer to; None when its snapshot exists."""
        for _ in range(_TRIES):
            key = _key(step.chain)
            try:
                mounts = await job.snapshotter.prepare(key, parent, labels=self._labels(job.manifest, step))
            except AlreadyExists:
                if await _exists(job.snapshotter, step.chain):
                    return None
                continue  # the key, which is made of the time and chance, was in use
            return key, mounts
        raise FailedPrecondition(
            f'snapshotter "{self._name}": says that layer "{step.chain}" exists, and then that it does not'
        )

    async def _apply(self, step: _Layer, mounts: Sequence[Mount]) -> None:
        about(self._progress, ProgressKind.EXTRACTING, step.layer, 0)
        applied = await self._services.diff.apply(
            step.layer, mounts, payloads=self._options.payloads, sync=self._options.sync
        )
        if applied.digest != step.diff_id:
            raise DataLoss(
                f'layer "{step.layer.digest}": unpacked it is "{applied.digest}", '
                f'but the image\'s configuration says "{step.diff_id}"'
            )
        await add_labels(self._services.content, step.layer.digest, {UNCOMPRESSED: step.diff_id})

    def _labels(self, manifest: Manifest, step: _Layer) -> dict[str, str]:
        labels = {key: value for key, value in step.layer.annotations.items() if key.startswith(_INHERITED)}
        labels.update(self._options.labels)
        if self._options.layer_labels:
            labels.update(self._options.layer_labels(manifest, step.index))
        return labels | {SNAPSHOT_REF: step.chain}


@dataclass(frozen=True, slots=True)
class _Layer:
    layer: Descriptor
    diff_id: str
    chain: str
    parent: str
    index: int


@dataclass(frozen=True, slots=True)
class _Job:
    snapshotter: Snapshotter
    manifest: Manifest
    ready: Ready


def image_labels(name: str) -> Callable[[Manifest, int], Mapping[str, str]]:
    """Labels by which remote snapshotters find a layer of the image *name* in its registry."""

    def labels(manifest: Manifest, index: int) -> Mapping[str, str]:
        layers = [layer for layer in manifest.layers if is_layer(layer.media_type)]
        following = ""
        for layer in layers[index:]:
            longer = f"{following},{layer.digest}" if following else layer.digest
            if len(longer) + len(_INHERITED) > 4000:  # a label takes 4096 bytes with its key
                break
            following = longer
        return {
            f"{_INHERITED}cri.image-ref": name,
            f"{_INHERITED}cri.manifest-digest": manifest.descriptor.digest,
            f"{_INHERITED}cri.layer-digest": layers[index].digest,
            f"{_INHERITED}cri.image-layers": following,
        }

    return labels


def _as_upper(mounts: Sequence[Mount]) -> list[Mount]:
    """A tree without a parent, to be applied to as to the upper directory of an overlay.

    What the layer removes is not there yet, so its marks have to stay in the tree until it has its parent.
    """
    if len(mounts) != 1 or mounts[0].type != "bind":
        return list(mounts)
    others = tuple(option for option in mounts[0].options if option not in {"bind", "rbind"})
    return [Mount("overlay", "overlay", mounts[0].target, (*others, f"upperdir={mounts[0].source}"))]


async def _exists(snapshotter: Snapshotter, name: str) -> bool:
    try:
        await snapshotter.stat(name)
    except NotFound:
        return False
    return True


def _key(chain: str) -> str:
    chance = base64.urlsafe_b64encode(os.urandom(3)).decode()
    return f"extract-{time.time_ns() % 1_000_000_000}-{chance} {chain}"
