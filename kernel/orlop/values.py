# SPDX-License-Identifier: Apache-2.0
"""The values that interfaces exchange: small, frozen, typed, free of any wire format.

Times are timezone-aware UTC datetimes. Sizes are bytes. Digests are strings ``<algorithm>:<hex>``. Labels are
``Mapping[str, str]``. What travels as a protobuf ``Any`` is an `AnyMessage`: decoded only by who owns it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Final

from orlop.errors import InvalidArgument


class _Empty(Mapping[str, str]):
    """No keys at all. Hashable, unlike a mapping proxy before Python 3.12: dataclasses want that of defaults."""

    def __getitem__(self, key: str) -> str:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "{}"


#: The empty mapping that frozen values may share.
EMPTY: Final[Mapping[str, str]] = _Empty()
#: "Never": what an unset timestamp is on the wire and here.
EPOCH: Final = datetime.fromtimestamp(0, UTC)

Labels = Mapping[str, str]

_MAX_LABEL: Final = 4096


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


def check_labels(labels: Labels) -> None:
    """Raise `InvalidArgument` for a label without a key, or that takes more than 4096 bytes (containerd's rules)."""
    for key, value in labels.items():
        if not key:
            raise InvalidArgument(f'label ""="{value[:64]}": a label needs a key')
        size = len(key.encode()) + len(value.encode())
        if size > _MAX_LABEL:
            raise InvalidArgument(f'label "{key[:64]}": key and value take {size} bytes, the most is {_MAX_LABEL}')


def apply_labels(current: Labels, new: Labels, fieldpaths: Sequence[str], what: str = "") -> dict[str, str]:
    """Labels after an update under a field mask.

    No path, or the path ``labels``, replaces all of them; ``labels.<key>`` sets that key, or removes it when *new* has
    no value for it. Any other path raises `InvalidArgument`, which names *what* is updated.
    """
    if not fieldpaths:
        return dict(new)
    result = dict(current)
    for path in fieldpaths:
        if path == "labels":
            result = dict(new)
        elif path.startswith("labels."):
            key = path.removeprefix("labels.")
            if new.get(key):
                result[key] = new[key]
            else:
                result.pop(key, None)
        else:
            raise InvalidArgument(f'{what}{": " if what else ""}field "{path}" cannot be updated; only labels can')
    return result


@dataclass(frozen=True, slots=True)
class AnyMessage:
    """A typed payload nobody here looks into: protobuf bytes, or JSON for ``types.containerd.io/...`` URLs."""

    type_url: str
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points at content (OCI image-spec, descriptor.md)."""

    media_type: str
    digest: str
    size: int
    annotations: Labels = EMPTY


@dataclass(frozen=True, slots=True)
class Platform:
    """An image's or plugin's platform, normalised (OCI image-spec, image-index.md)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount to make, in the words of mount(8). ``options`` are fstab-like (``ro``, ``lowerdir=...``)."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


# ---- content --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContentInfo:
    """What a content store knows of one blob."""

    digest: str
    size: int
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH
    labels: Labels = EMPTY


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """A blob that is being written. ``offset`` bytes are stored; ``total`` is 0 when unknown."""

    ref: str
    offset: int = 0
    total: int = 0
    expected: str = ""
    started_at: datetime = EPOCH
    updated_at: datetime = EPOCH


# ---- snapshots ------------------------------------------------------------------------------------------------------


class SnapshotKind(IntEnum):
    """What a snapshot is; the numbers are the wire's."""

    UNKNOWN = 0
    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What a snapshotter knows of one snapshot. ``name`` is the key while active or view, the name once committed."""

    kind: SnapshotKind
    name: str
    parent: str = ""
    labels: Labels = EMPTY
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH


@dataclass(frozen=True, slots=True)
class Usage:
    """Disk use of one snapshot, its parents not counted."""

    size: int = 0
    inodes: int = 0


# ---- records of the metadata store ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Namespace:
    """An administrative partition of everything below."""

    name: str
    labels: Labels = EMPTY


@dataclass(frozen=True, slots=True)
class Image:
    """A name for a descriptor."""

    name: str
    target: Descriptor
    labels: Labels = EMPTY
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """Which runtime runs a container, with its own options."""

    name: str
    options: AnyMessage | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """What is needed to make a task; nothing runs because of it."""

    id: str
    runtime: RuntimeInfo
    spec: AnyMessage | None = None
    image: str = ""
    snapshotter: str = ""
    snapshot_key: str = ""
    sandbox: str = ""
    labels: Labels = EMPTY
    extensions: Mapping[str, AnyMessage] = field(default_factory=dict)
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A group of containers that share an environment (a pod, a virtual machine)."""

    id: str
    runtime: RuntimeInfo
    spec: AnyMessage | None = None
    sandboxer: str = ""
    labels: Labels = EMPTY
    extensions: Mapping[str, AnyMessage] = field(default_factory=dict)
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH


@dataclass(frozen=True, slots=True)
class Lease:
    """Keeps the resources added to it from garbage collection."""

    id: str
    created_at: datetime = EPOCH
    labels: Labels = EMPTY


@dataclass(frozen=True, slots=True)
class LeaseResource:
    """One thing a lease keeps. ``type`` is ``content``, ``ingests``, ``images`` or ``snapshots/<snapshotter>``."""

    id: str
    type: str


@dataclass(frozen=True, slots=True)
class Event:
    """One event in its envelope. ``topic`` starts with ``/``, for example ``/tasks/exit``."""

    topic: str
    payload: AnyMessage
    namespace: str = ""
    timestamp: datetime = EPOCH


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """One garbage collection, in seconds.

    ``removed`` counts what went, by kind. Of the whole ``duration``, ``marking`` was spent to find and forget it, the
    rest on the back ends; writers had to wait for ``pause`` only.
    """

    removed: Mapping[str, int] = field(default_factory=dict)
    pause: float = 0.0
    duration: float = 0.0
    marking: float = 0.0


# ---- tasks ----------------------------------------------------------------------------------------------------------


class TaskStatus(StrEnum):
    """The state of a process in a container."""

    UNKNOWN = "unknown"
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"
    PAUSING = "pausing"


@dataclass(frozen=True, slots=True)
class Stdio:
    """Where a process's streams go: empty, a FIFO's path, or a log URI (``fifo://``, ``file://``, ``binary://``...)."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A process as its shim sees it. ``exec_id`` is empty for the container's first process."""

    id: str
    exec_id: str
    pid: int
    status: TaskStatus
    stdio: Stdio = Stdio()
    bundle: str = ""
    exit_status: int = 0
    exited_at: datetime = EPOCH


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended. ``pid`` is 0 where nobody knows it any more."""

    status: int
    exited_at: datetime
    pid: int = 0


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One process inside a container, with what its runtime says about it."""

    pid: int
    info: AnyMessage | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """A container's figures at one moment, encoded by its runtime (cgroup v1 or v2 metrics)."""

    id: str
    timestamp: datetime
    data: AnyMessage | None
