# SPDX-License-Identifier: Apache-2.0
"""What labels mean to garbage collection: which make a thing a root, and which refer to other things."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from orlop.config import seconds
from orlop.values import Labels
from orlop_core.metadata.times import parse_rfc3339

CONTENT: Final = "content"
INGESTS: Final = "ingests"
IMAGES: Final = "images"
SNAPSHOTS: Final = "snapshots/"
CONTAINERS: Final = "containers"
SANDBOXES: Final = "sandboxes"
LEASES: Final = "leases"
NAMESPACES: Final = "namespaces"

_PREFIX: Final = "containerd.io/gc."
_ROOT: Final = "containerd.io/gc.root"
_EXPIRE: Final = "containerd.io/gc.expire"
_FLAT: Final = "containerd.io/gc.flat"
_REFERENCE: Final = "containerd.io/gc.ref."
_BACK_REFERENCE: Final = "containerd.io/gc.bref."
_CONDITION: Final = "containerd.io/gc.cond.snapshot"
_USED: Final = "containerd.io/gc.cond.value-usedat"
_SINGULAR: Final = {"content": CONTENT, "image": IMAGES, "container": CONTAINERS}
_TEST: Final = re.compile(r"usedat([<>])([^!<>=]+)")

#: Kinds that stay until somebody deletes them, or until they expire.
_STANDING: Final = {IMAGES, CONTAINERS, SANDBOXES, LEASES}

Target = tuple[str, str]
"""Kind and name of a node in the same namespace."""


@dataclass(slots=True)
class Meaning:
    """What the labels of one thing say."""

    root: bool = False
    flat: bool = False
    expires: int | None = None
    used: int | None = None
    """When it was last used, for conditions of others (microseconds)."""
    references: set[Target] = field(default_factory=set)
    back_references: set[Target] = field(default_factory=set)
    """Things that keep this one."""
    conditions: set[tuple[Target, bool, int]] = field(default_factory=set)
    """Snapshots kept while last used less (True) or more (False) than so many microseconds ago."""


def read(kind: str, labels: Labels) -> Meaning:
    """The meaning of a thing's labels. Malformed ones mean nothing, as in containerd."""
    meaning = Meaning(root=kind in _STANDING)
    for key, value in labels.items():
        if key.startswith(_PREFIX):
            _read_label(meaning, kind, key, value)
    return meaning


def _read_label(meaning: Meaning, kind: str, key: str, value: str) -> None:
    snapshot = kind.startswith(SNAPSHOTS)
    if kind == LEASES:
        if key == _FLAT:
            meaning.flat = True
        elif key == _EXPIRE:
            meaning.expires = parse_rfc3339(value)
    elif key == _EXPIRE:
        meaning.expires = parse_rfc3339(value) if kind == IMAGES else None
    elif key == _ROOT:
        meaning.root = meaning.root or snapshot or kind == CONTENT
    elif key == _USED and snapshot:
        meaning.used = parse_rfc3339(value)
    elif key.startswith(_CONDITION) and kind in (CONTENT, IMAGES):
        meaning.conditions.update(_conditions(key.removeprefix(_CONDITION), value))
    elif key.startswith(_REFERENCE):
        meaning.references.update(_targets(key.removeprefix(_REFERENCE), value, collectibles=True))
    elif key.startswith(_BACK_REFERENCE) and (snapshot or kind in (CONTENT, IMAGES)):
        meaning.back_references.update(_targets(key.removeprefix(_BACK_REFERENCE), value, collectibles=False))


def _targets(path: str, name: str, *, collectibles: bool) -> Iterable[Target]:
    """What a reference with this key, less its prefix, points to. What follows the kind only tells keys apart."""
    if path.startswith("snapshot."):
        snapshotter = path.removeprefix("snapshot.").partition("/")[0]
        return [(SNAPSHOTS + snapshotter, name)]
    word = re.split(r"[./]", path, maxsplit=1)[0]
    if word in _SINGULAR and (word != "container" or not collectibles):
        return [(_SINGULAR[word], name)]
    return [(word, name)] if collectibles and word not in ("", "snapshot") else []


def _conditions(path: str, value: str) -> Iterable[tuple[Target, bool, int]]:
    snapshotter = path.lstrip("./").partition("/")[0]
    tests, separator, name = value.partition("|")
    if not separator:
        return
    for test in tests.split(","):
        if match := _TEST.fullmatch(test):
            try:
                age = seconds(match[2])
            except ValueError:
                continue
            yield (SNAPSHOTS + snapshotter, name), match[1] == "<", int(age * 1_000_000)
