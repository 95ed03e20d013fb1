# SPDX-License-Identifier: Apache-2.0
"""Layers that are hard to unpack, our differ with real stores around it, and trees as they can be compared."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import sys
import tarfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.support.image import digest, entry

from orlop import context
from orlop.interfaces.content import ContentStore
from orlop.interfaces.snapshotter import Snapshotter
from orlop.interfaces.stream import StreamProcessor
from orlop.values import Descriptor, Mount
from orlop_core.content.local import LocalContentStore
from orlop_core.events.exchange import Exchange
from orlop_core.metadata.store import SqliteMetadataStore
from orlop_images import media
from orlop_images.process import Workers
from orlop_images.streams import Decompressor
from orlop_images.walking import Parts, WalkingConfig, WalkingDiffer
from orlop_snapshots.native import NativeSnapshotter
from orlop_snapshots.overlayfs import OverlaySnapshotter, default_options

Member = tuple[tarfile.TarInfo, bytes]


def directory(name: str, **attributes: Any) -> Member:
    return entry(f"{name}/", **attributes)


def file(name: str, data: bytes = b"", **attributes: Any) -> Member:
    return entry(name, data, **attributes)


def link(name: str, target: str, **attributes: Any) -> Member:
    return entry(name, type=tarfile.LNKTYPE, linkname=target, **attributes)


def symlink(name: str, target: str, **attributes: Any) -> Member:
    return entry(name, type=tarfile.SYMTYPE, linkname=target, **{"mode": 0o777, **attributes})


def node(name: str, kind: bytes, major: int = 0, minor: int = 0, **attributes: Any) -> Member:
    return entry(name, type=kind, devmajor=major, devminor=minor, **attributes)


def xattrs(**values: bytes) -> dict[str, dict[str, str]]:
    """The attribute of an entry that carries extended attributes; ``__`` in names is a dot."""
    records = {
        f"SCHILY.xattr.{key.replace('__', '.')}": value.decode(errors="surrogateescape")
        for key, value in values.items()
    }
    return {"pax_headers": records}


def raw(members: Iterable[Member], format: Literal[0, 1, 2] = tarfile.GNU_FORMAT, *, end: bool = True) -> bytes:
    """A tar of any format, its names whatever they are (`tarfile.addfile` mends some)."""
    parts = []
    for info, data in members:
        parts += [info.tobuf(format, "utf-8", "surrogateescape"), data, bytes(-len(data) % 512)]
    return b"".join(parts) + (bytes(1024) if end else b"")


CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""cap_net_bind_service, permitted and effective."""


@dataclass
class Bench:
    """A content store, snapshots (on overlayfs, or copies), and a differ between them."""

    content: ContentStore
    snapshots: Snapshotter
    differ: WalkingDiffer

    async def add(self, blob: bytes, media_type: str = media.OCI_GZIP) -> Descriptor:
        """Put a blob into the store."""
        name = digest(blob)
        writer = await self.content.writer(f"test-{name}", expected=name)
        await writer.write(blob)
        await writer.commit(size=len(blob), expected=name)
        await writer.close()
        return Descriptor(media_type, name, len(blob))

    async def unpack(self, layers: Sequence[Descriptor]) -> str:
        """Unpack layers on top of each other. Returns the name of the last snapshot."""
        parent = ""
        for number, layer in enumerate(layers):
            name = f"{layer.digest}-{number}"
            mounts = await self.snapshots.prepare(f"extract-{name}", parent)
            await self.differ.apply(layer, mounts)
            await self.snapshots.commit(name, f"extract-{name}")
            parent = name
        return parent


def processors(workers: Workers) -> dict[str, StreamProcessor]:
    """The built-in ones."""
    return {
        "tar": Decompressor(media.SNIFFED, "orlop_images.codecs:sniff", workers),
        "gzip": Decompressor(media.GZIP, "orlop_images.codecs:gunzip", workers),
        "zstd": Decompressor(media.ZSTD, "orlop_images.codecs:unzstd", workers),
    }


@asynccontextmanager
async def bench(
    base: Path,
    extra: Mapping[str, StreamProcessor] | None = None,
    config: WalkingConfig | None = None,
    *,
    native: bool = False,
) -> AsyncIterator[Bench]:
    """Everything in *base*, and stopped afterwards."""
    local = await LocalContentStore.open(base / "content")
    metadata = await SqliteMetadataStore.open(
        base / "meta.sqlite", content=local, snapshotters={}, events=Exchange(), sync=False
    )
    content = metadata.content
    snapshots: Snapshotter
    if native:
        snapshots = NativeSnapshotter(base / "snapshots", sync_remove=True)
    else:
        snapshots = OverlaySnapshotter(base / "snapshots", options=default_options(), sync_remove=True)
    workers = Workers("test-streams")
    everything = processors(workers) | dict(extra or {})
    state = base / "state"
    differ = WalkingDiffer(Parts(content, everything, lambda _, __: None, state), config)
    try:
        with context.scope(namespace="bench"):
            yield Bench(content, snapshots, differ)
    finally:
        await differ.close()
        workers.close()
        await snapshots.close()
        await metadata.close()
        await local.close()


def look(root: Path, *, times: bool = True, unsure: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """A tree, name by name, with everything that a layer can say of it.

    Directories named in *unsure*, and the root, have times that nobody promises.
    """
    found: dict[str, dict[str, Any]] = {}
    inodes: dict[tuple[int, int], str] = {}
    untimed = {".", *unsure}
    top = os.fsencode(root)
    stack = [b"."]
    while stack:
        name = stack.pop()
        path = os.path.join(top, name)
        status = os.lstat(path)
        shown = os.fsdecode(os.path.normpath(name))
        is_directory = stat.S_ISDIR(status.st_mode)
        said: dict[str, Any] = {
            "mode": stat.filemode(status.st_mode) + oct(status.st_mode),
            "owner": (status.st_uid, status.st_gid),
            "xattrs": {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            },
        }
        if times and shown not in untimed:
            said["mtime"] = status.st_mtime_ns
        if is_directory:
            stack += sorted(os.path.join(name, base) for base in os.listdir(path))
        else:
            said |= {"size": status.st_size, "device": status.st_rdev, "links": status.st_nlink}
            first = inodes.setdefault((status.st_dev, status.st_ino), shown)
            if first != shown:
                said["same as"] = first
        if stat.S_ISLNK(status.st_mode):
            said["target"] = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            with open(path, "rb") as content:
                said["content"] = hashlib.file_digest(content, "sha256").hexdigest()
        found[shown] = said
    return found


def bind(path: Path) -> list[Mount]:
    """A writable mount of a directory."""
    return [Mount("bind", str(path), options=("rbind", "rw"))]


def zstd_compress(data: bytes) -> bytes:
    """One frame."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.compress(data)
