# SPDX-License-Identifier: Apache-2.0
"""What the mount manager knows of its activations, one directory each.

**On disk**::

    <state>/t/<number>/
        record.json       name, namespace, lease, labels, mounts: see `Record`
        <n>               where the n-th mount is
        <n>-type          its type, for who looks

The record is written before the first mount is made, and again after each, so that after the death of the daemon at any
moment everything can be undone. Mounts do not outlive a reboot: a record of an earlier boot is one of nothing.
All of it blocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from orlop.interfaces.gc import Attachment
from orlop.interfaces.mount import Activation, ActiveMount
from orlop.values import LeaseResource, Mount

_RECORD: Final = "record.json"
_BACK_REFERENCE: Final = "containerd.io/gc.bref."
_KINDS: Final = {"content": "content", "image": "images", "container": "containers"}
Key = tuple[str, str]
"""Namespace and name."""


@dataclass(slots=True)
class Record:
    """One activation."""

    directory: Path
    namespace: str
    name: str
    lease: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    complete: bool = False
    making: Mount | None = None
    """The mount that is being made; one that was made when the daemon died may be there, or not."""
    active: list[ActiveMount] = field(default_factory=list)
    system: list[Mount] = field(default_factory=list)

    @property
    def key(self) -> Key:
        return self.namespace, self.name

    def activation(self) -> Activation:
        """What clients get to see."""
        return Activation(self.name, tuple(self.active), tuple(self.system), dict(self.labels))

    def place(self, number: int) -> str:
        """Where the n-th mount is."""
        return str(self.directory / str(number))

    def attachments(self) -> Iterator[Attachment]:
        """What keeps it: its lease, and what its labels name."""
        if self.lease:
            yield Attachment(self.namespace, self.name, LeaseResource(self.lease, "leases"))
        for key, value in self.labels.items():
            if key.startswith(_BACK_REFERENCE) and (kind := _kind(key.removeprefix(_BACK_REFERENCE))):
                yield Attachment(self.namespace, self.name, LeaseResource(value, kind))

    def save(self) -> None:
        """Write it, whole or not at all."""
        document = {
            "boot": boot_id(),
            "namespace": self.namespace,
            "name": self.name,
            "lease": self.lease,
            "labels": dict(self.labels),
            "complete": self.complete,
            "making": None if self.making is None else asdict(self.making),
            "active": [asdict(active) | {"mounted_at": active.mounted_at.isoformat()} for active in self.active],
            "system": [asdict(mount) for mount in self.system],
        }
        new = self.directory / f".{_RECORD}.new"
        new.write_text(json.dumps(document))
        new.rename(self.directory / _RECORD)


def new_directory(top: Path) -> Path:
    """A directory for one more activation."""
    top.mkdir(mode=0o711, parents=True, exist_ok=True)
    number = max((int(name) for name in os.listdir(top) if name.isdecimal()), default=0)
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            path = top / str(number)
            path.mkdir(mode=0o711)
            return path


def load(directory: Path) -> tuple[Record | None, bool]:
    """The record in a directory, None for none, and whether it is one of this boot. Raises ValueError, KeyError."""
    try:
        document: dict[str, Any] = json.loads((directory / _RECORD).read_text())
    except FileNotFoundError:
        return None, True
    record = Record(
        directory,
        document["namespace"],
        document["name"],
        document["lease"],
        document["labels"],
        document["complete"],
        None if document["making"] is None else _mount(document["making"]),
        [
            ActiveMount(
                _mount(active["mount"]),
                datetime.fromisoformat(active["mounted_at"]),
                active["mount_point"],
                active["data"],
            )
            for active in document["active"]
        ],
        [_mount(mount) for mount in document["system"]],
    )
    return record, document["boot"] == boot_id()


def remove(directory: Path) -> None:
    """Delete a directory in which nothing is mounted any more; never what is below a mount."""
    for path in sorted(directory.iterdir()):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        elif path.name != _RECORD:
            path.unlink()
    (directory / _RECORD).unlink(missing_ok=True)
    directory.rmdir()


def boot_id() -> str:
    """Tells this boot of the host from all others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _mount(document: Mapping[str, Any]) -> Mount:
    return Mount(document["type"], document["source"], document["target"], tuple(document["options"]))


def _kind(path: str) -> str:
    if path.startswith("snapshot."):
        return f"snapshots/{path.removeprefix('snapshot.').partition('/')[0]}"
    return _KINDS.get(re.split(r"[./]", path, maxsplit=1)[0], "")
