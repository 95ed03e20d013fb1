# SPDX-License-Identifier: Apache-2.0
"""Images built on the spot from a few files, the same bytes every time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

BUSYBOX = Path("/bin/busybox")
APPLETS = (
    "cat chmod cp date dd echo env false find grep head hostname id kill ln ls mkdir mv ps pwd rm seq sh sleep sort "
    "stat stty sync tail test touch tr true tty uname wc yes"
).split()
EPOCH = "2020-01-02T03:04:05Z"
MTIME = 1577934245
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def digest(data: bytes) -> str:
    """The digest of a blob, as descriptors spell it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def entry(name: str, data: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One tar entry; attributes are those of `tarfile.TarInfo`. A name that ends in ``/`` is a directory."""
    info = tarfile.TarInfo(name.rstrip("/"))
    info.mtime = MTIME
    info.mode = 0o644
    if name.endswith("/"):
        info.type = tarfile.DIRTYPE
        info.mode = 0o755
    for key, value in attributes.items():
        setattr(info, key, value)
    info.size = len(data)
    return info, data


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """A tar entry that is a symbolic link."""
    return entry(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777)


def tar(entries: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """An uncompressed layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@cache
def busybox_layer() -> bytes:
    """A root file system with busybox and its common applets."""
    entries = [
        *(entry(f"{name}/") for name in ("bin", "etc", "proc", "sys", "dev", "root")),
        entry("tmp/", mode=0o1777),
        entry("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        *(symlink(f"bin/{name}", "busybox") for name in APPLETS),
        entry("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n"),
        entry("etc/group", b"root:x:0:\nuser:x:1000:\n"),
    ]
    return tar(entries)


@dataclass(frozen=True)
class Image:
    """An image to be written: its layers uncompressed, lowest first, and what its config says."""

    layers: Sequence[bytes] = field(default_factory=lambda: (busybox_layer(),))
    command: Sequence[str] = ("/bin/sh",)
    environment: Sequence[str] = ("PATH=/bin", "IMAGE=yes")
    labels: Mapping[str, str] = field(default_factory=dict)
    gzipped: bool = True
    architecture: str = "amd64"
    media_type: str = ""
    """Of layers that *pack* makes; those that `gzipped` says when empty."""
    pack: Callable[[bytes], bytes] = bytes

    def blobs(self) -> list[tuple[str, bytes]]:
        """Media types and blobs: layers, config and, last, the manifest."""
        layers = [self._packed(layer) for layer in self.layers]
        config = (CONFIG, encode(self._config()))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(*config),
            "layers": [descriptor(*layer) for layer in layers],
        }
        return [*layers, config, (MANIFEST, encode(manifest))]

    @property
    def chain_ids(self) -> list[str]:
        """The names of its committed snapshots, lowest first."""
        chain: list[str] = []
        for layer in self.layers:
            diff_id = digest(layer)
            chain.append(digest(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
        return chain

    def _packed(self, layer: bytes) -> tuple[str, bytes]:
        if self.media_type:
            return self.media_type, self.pack(layer)
        return (LAYER_GZIP, gzip.compress(layer, 6, mtime=0)) if self.gzipped else (LAYER_TAR, layer)

    def _config(self) -> dict[str, Any]:
        return {
            "created": EPOCH,
            "architecture": self.architecture,
            "os": "linux",
            "config": {"Env": list(self.environment), "Cmd": list(self.command), "Labels": dict(self.labels)},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in self.layers]},
            "history": [{"created": EPOCH, "created_by": f"layer {number}"} for number in range(len(self.layers))],
        }


def encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    """A descriptor of a blob."""
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob)}


def layout_files(images: Mapping[str, Image]) -> dict[str, bytes]:
    """The files of an OCI layout that holds images by name (a tag, or a whole reference)."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    manifests = []
    for name, image in images.items():
        blobs = image.blobs()
        for _, blob in blobs:
            files[f"blobs/sha256/{digest(blob).removeprefix('sha256:')}"] = blob
        names = {"org.opencontainers.image.ref.name": name}
        if "/" in name:
            names["io.containerd.image.name"] = name
        platform = {"architecture": image.architecture, "os": "linux"}
        manifests.append(descriptor(*blobs[-1]) | {"annotations": names, "platform": platform})
    files["index.json"] = encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
    return files


def write_layout(path: Path, images: Mapping[str, Image]) -> Path:
    """Write an OCI layout into a new directory, for ``skopeo``."""
    for name, data in layout_files(images).items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path


def write_archive(path: Path, images: Mapping[str, Image]) -> Path:
    """Write an OCI layout as one tar file, for ``ctr images import``."""
    path.write_bytes(tar(entry(name, data) for name, data in sorted(layout_files(images).items())))
    return path


def noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def many_layers(count: int, size: int = 1000) -> Image:
    """Busybox and *count* small layers on top of it, each with a file of its own and one that the next replaces.

    Every third layer also removes the file of the one below.
    """
    layers = [busybox_layer()]
    for number in range(count):
        entries = [
            entry("data/"),
            entry(f"data/{number}", noise(number, size)),
            entry("data/last", str(number).encode()),
        ]
        if number % 3 == 2:
            entries.append(entry(f"data/.wh.{number - 1}"))
        layers.append(tar(entries))
    return Image(layers)
