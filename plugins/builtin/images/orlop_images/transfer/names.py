# SPDX-License-Identifier: Apache-2.0
"""Which names an image gets where it is stored, and the records of these names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from orlop.errors import AlreadyExists, NotFound
from orlop.interfaces.metadata import ImageStore
from orlop.values import Descriptor, Image, Labels, now
from orlop_sdk.api.types.transfer import imagestore_pb2
from orlop_sdk.client.archive import IMAGE_NAME, REF_NAME

_TRIES: Final = 10
_BACK_REFERENCE: Final = "containerd.io/gc.bref.image"
_EXPIRE: Final = "containerd.io/gc.expire"


@dataclass(frozen=True, slots=True)
class Named:
    """A name to store, and the labels of its record."""

    name: str
    labels: Labels


def direct(store: imagestore_pb2.ImageStore, digest: str) -> list[Named]:
    """The names for an image that comes from one place: the store's, and its further ones.

    Those go when the first one does: they refer to it, and have no right of their own to stay.
    """
    found = [Named(store.name, dict(store.labels))] if store.name else []
    labels = dict(store.labels)
    if store.name:
        labels |= {_BACK_REFERENCE: store.name, _EXPIRE: now().strftime("%Y-%m-%dT%H:%M:%SZ")}
    for extra in store.extra_references:
        if not extra.is_prefix:
            found.append(Named(f"{extra.name}@{digest}" if extra.add_digest else extra.name, labels))
    return found


def annotated(store: imagestore_pb2.ImageStore, target: Descriptor) -> list[Named]:
    """The names for an image of an archive, from what that calls it and the store's prefixes."""
    labels = dict(store.labels)
    found: list[Named] = []
    for prefix in store.extra_references:
        if not prefix.is_prefix:
            continue
        name = _prefixed(target.annotations, prefix)
        if name:
            found.append(Named(name, labels))
        if prefix.add_digest and not (name and prefix.skip_named_digest):
            found.append(Named(f"{prefix.name}@{target.digest}", labels))
    return found


def _prefixed(annotations: Mapping[str, str], prefix: imagestore_pb2.ImageReference) -> str:
    if full := annotations.get(IMAGE_NAME, ""):
        return full if _is_full(full) and _may_stay(full, prefix) else ""
    name = annotations.get(REF_NAME, "")
    if not name or _is_full(name):
        return name if name and _may_stay(name, prefix) else ""
    return f"{prefix.name}:{name}" if prefix.name else ""


def _is_full(name: str) -> bool:
    return any(mark in name for mark in "/:@")


def _may_stay(name: str, prefix: imagestore_pb2.ImageReference) -> bool:
    """Whether a full name is taken as it is: one of another prefix only if that may replace ours."""
    if not prefix.name:
        return False
    return prefix.allow_overwrite or name == prefix.name or name.startswith(tuple(f"{prefix.name}{c}" for c in "/:@"))


async def store(images: ImageStore, target: Descriptor, names: Iterable[Named]) -> list[Image]:
    """Make these names stand for *target*, whatever they stood for before."""
    return [await _store(images, Image(each.name, target, each.labels)) for each in names]


async def _store(images: ImageStore, image: Image) -> Image:
    for _ in range(_TRIES):
        try:
            return await images.create(image)
        except AlreadyExists:
            try:
                return await images.update(image)
            except NotFound:
                continue  # deleted between the two calls
    raise AlreadyExists(f'image "{image.name}": somebody else keeps creating and deleting it')
