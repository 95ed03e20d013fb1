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

import base64
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from orlop.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound, OrlopError
from orlop.interfaces.snapshotter import Snapshotter
from orlop.values import EMPTY, AnyMessage, Descriptor, Labels, Mount
from orlop_sdk.client.image import Manifest, chain_ids, diff_ids, is_layer, read_json
from orlop_sdk.client.progress import ProgressCallback, ProgressKind, about, silent
from orlop_sdk.client.services import ImageServices
from orlop_sdk.client.transfer import add_labels

SNAPSHOT_REF: Final = "containerd.io/snapshot.ref"
UNCOMPRESSED: Final = "containerd.io/uncompressed"
_INHERITED: Final = "containerd.io/snapshot/"
_TRIES: Final = 3

#: Waits until a layer is in the content store; the first call starts fetching.
Ready = Callable[[Descriptor], Awaitable[None]]


async def _is_ready(descriptor: Descriptor) -> None:
    """Everything is there already."""


@dataclass(frozen=True, slots=True)
class UnpackOptions:
    """How to unpack. Labels go to every snapshot; *payloads* to the stream processors by their id."""

    labels: Labels = EMPTY
    layer_labels: Callable[[Manifest, int], Mapping[str, str]] | None = None
    """Further labels for the snapshot of one layer, by its index (remote snapshotters want the image's name)."""
    payloads: Mapping[str, AnyMessage] = EMPTY  # type: ignore[assignment]  # an empty mapping of anything
    sync: bool = False


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
            for index, layer in enumerate(layers):
                step = _Layer(layer, ids[index], chain[index], chain[index - 1] if index else "", index)
                await self._unpack_layer(snapshotter, manifest, step, ready)
        label = {f"containerd.io/gc.ref.snapshot.{self._name}": chain[-1]}
        await add_labels(self._services.content, manifest.config.digest, label)
        return chain[-1]

    async def _unpack_layer(self, snapshotter: Snapshotter, manifest: Manifest, step: _Layer, ready: Ready) -> None:
        prepared = await self._prepare(snapshotter, manifest, step)
        if prepared is None:
            about(self._progress, ProgressKind.EXISTS, step.layer)
            return
        key, mounts = prepared
        try:
            await ready(step.layer)
            await self._apply(step, mounts)
            try:
                await snapshotter.commit(step.chain, key, labels=self._labels(manifest, step))
            except AlreadyExists:
                await snapshotter.remove(key)
        except BaseException:
            with suppress(OrlopError):
                await snapshotter.remove(key)
            raise
        about(self._progress, ProgressKind.EXTRACTED, step.layer)

    async def _prepare(
        self, snapshotter: Snapshotter, manifest: Manifest, step: _Layer
    ) -> tuple[str, list[Mount]] | None:
        """Key and mounts to apply the layer to; None when its snapshot exists."""
        for _ in range(_TRIES):
            key = _key(step.chain)
            try:
                mounts = await snapshotter.prepare(key, step.parent, labels=self._labels(manifest, step))
            except AlreadyExists:
                if await _exists(snapshotter, step.chain):
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


async def _exists(snapshotter: Snapshotter, name: str) -> bool:
    try:
        await snapshotter.stat(name)
    except NotFound:
        return False
    return True


def _key(chain: str) -> str:
    chance = base64.urlsafe_b64encode(os.urandom(3)).decode()
    return f"extract-{time.time_ns() % 1_000_000_000}-{chance} {chain}"
