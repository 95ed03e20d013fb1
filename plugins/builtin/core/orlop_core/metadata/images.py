# SPDX-License-Identifier: Apache-2.0
"""Image records."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime

from orlop.errors import AlreadyExists, InvalidArgument, NotFound
from orlop.interfaces.metadata import ImageStore
from orlop.values import Descriptor, Image, Labels, apply_labels, check_labels, now
from orlop_core.metadata import graph
from orlop_core.metadata.database import Database, Transaction
from orlop_core.metadata.links import CONTENT, IMAGES
from orlop_core.metadata.publish import event
from orlop_core.metadata.query import Query
from orlop_core.metadata.times import from_micros, to_micros
from orlop_sdk import digest as digests
from orlop_sdk.api.events.image_pb2 import ImageCreate, ImageDelete, ImageUpdate

_SELECT = (
    "SELECT n.id, n.name, r.media_type, r.digest, r.size, r.annotations, r.created, r.updated, "
    f"{graph.LABELS} FROM node n JOIN image r ON r.node = n.id "
    f"WHERE n.ns = {graph.NAMESPACE_ID} AND n.kind = 'images'"
)
_FIND = f"{_SELECT} AND n.name = ? AND n.present"


class Images:
    """The image records of all namespaces. *collect* runs a garbage collection for synchronous deletes."""

    def __init__(self, database: Database, collect: Callable[[], Awaitable[object]]) -> None:
        self._database = database
        self._collect = collect

    async def get(self, name: str) -> Image:
        ns, _ = graph.call_scope()
        return self._database.look_up(lambda db: _load(db, ns, name)[1])

    async def list(self, filters: Sequence[str] = ()) -> list[Image]:
        ns, _ = graph.call_scope()
        query = Query(filters, name="name", columns={"target.digest": "r.digest", "target.mediatype": "r.media_type"})
        return await query.all(self._database, _SELECT, (ns,), _image, _fields)

    async def create(self, image: Image, *, timestamp: datetime | None = None) -> Image:
        """*timestamp*, if given, becomes the time of creation and of the last update."""
        ns, lease = graph.call_scope()
        _check(image)
        moment = timestamp or now()
        stored = replace(_as_stored(image), created_at=moment, updated_at=moment)

        def write(tx: Transaction) -> Image:
            space = graph.namespace(tx, ns)
            node = graph.create(tx, space, IMAGES, image.name)
            if node is None:
                raise AlreadyExists(f'image "{image.name}": already exists')
            graph.keep(tx, space, (IMAGES, image.name), lease)
            _store(tx, node, space, stored)
            graph.set_labels(tx, node, space, IMAGES, stored.labels)
            message = ImageCreate(name=image.name, labels=stored.labels)
            tx.changed(event=event(ns, "/images/create", message))
            return stored

        return await self._database.write(write)

    async def update(self, image: Image, fieldpaths: Sequence[str] = (), *, timestamp: datetime | None = None) -> Image:
        """*timestamp*, if given, becomes the time of the update."""
        ns, lease = graph.call_scope()
        if not image.name:
            raise InvalidArgument("image: name must not be empty")

        def write(tx: Transaction) -> Image:
            node, current = _load(tx.db, ns, image.name)
            updated = replace(_as_stored(_merge(current, image, fieldpaths)), updated_at=timestamp or now())
            _check(updated)
            space = graph.namespace(tx, ns)
            graph.keep(tx, space, (IMAGES, image.name), lease)
            graph.unlink(tx, node, space, (CONTENT, current.target.digest))
            _store(tx, node, space, updated)
            graph.replace_labels(tx, node, space, IMAGES, updated.labels)
            message = ImageUpdate(name=image.name, labels=updated.labels)
            tx.changed(event=event(ns, "/images/update", message))
            return updated

        return await self._database.write(write)

    async def delete(self, name: str, *, target: str = "", sync: bool = False) -> None:
        ns, lease = graph.call_scope()

        def write(tx: Transaction) -> None:
            node, image = _load(tx.db, ns, name)
            if target and target != image.target.digest:
                raise NotFound(f'image "{name}": not found with target {target}; its target is {image.target.digest}')
            graph.let_go(tx, graph.namespace(tx, ns), (IMAGES, name), lease)
            tx.db.execute("DELETE FROM image WHERE node = ?", (node,))
            graph.remove(tx, node)
            tx.changed(removed=True, event=event(ns, "/images/delete", ImageDelete(name=name)))

        await self._database.write(write)
        if sync:
            await self._collect()


def _load(db: sqlite3.Connection, ns: str, name: str) -> tuple[int, Image]:
    row = db.execute(_FIND, (ns, name)).fetchone()
    if row is None:
        raise NotFound(f'image "{name}": not found')
    return row[0], _image(row)


def _image(row: tuple[int, str, str, str, int, str, int, int, str]) -> Image:
    _, name, media_type, digest, size, annotations, created, updated, labels = row
    target = Descriptor(media_type, digest, size, graph.parse_labels(annotations))
    return Image(name, target, graph.parse_labels(labels), from_micros(created), from_micros(updated))


def _fields(image: Image) -> dict[str, str | Labels]:
    return {
        "name": image.name,
        "target": {"digest": image.target.digest, "mediatype": image.target.media_type},
        "labels": image.labels,
        "annotations": image.target.annotations,
    }


def _store(tx: Transaction, node: int, space: int, image: Image) -> None:
    target = image.target
    tx.db.execute(
        "INSERT OR REPLACE INTO image VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            node,
            target.media_type,
            target.digest,
            target.size,
            json.dumps(dict(target.annotations)),
            to_micros(image.created_at),
            to_micros(image.updated_at),
        ),
    )
    graph.link(tx, node, space, (CONTENT, target.digest))


def _as_stored(image: Image) -> Image:
    target = replace(image.target, annotations=graph.stored_labels(image.target.annotations))
    return replace(image, labels=graph.stored_labels(image.labels), target=target)


def _merge(current: Image, new: Image, fieldpaths: Sequence[str]) -> Image:
    if not fieldpaths:
        return replace(new, created_at=current.created_at)
    result = current
    for path in fieldpaths:
        if path == "target":
            result = replace(result, target=new.target)
        elif path == "annotations" or path.startswith("annotations."):
            inner = "labels" + path.removeprefix("annotations")
            annotations = apply_labels(result.target.annotations, new.target.annotations, [inner])
            result = replace(result, target=replace(result.target, annotations=annotations))
        elif path == "labels" or path.startswith("labels."):
            result = replace(result, labels=apply_labels(result.labels, new.labels, [path]))
        else:
            raise InvalidArgument(f'image "{new.name}": field "{path}" cannot be updated')
    return result


def _check(image: Image) -> None:
    if not image.name:
        raise InvalidArgument("image: name must not be empty")
    check_labels(image.labels)
    digests.parse(image.target.digest)
    if image.target.size <= 0:
        raise InvalidArgument(f'image "{image.name}": size of the target must be greater than 0')
    if not image.target.media_type:
        raise InvalidArgument(f'image "{image.name}": media type of the target must be set')


_: type[ImageStore] = Images
