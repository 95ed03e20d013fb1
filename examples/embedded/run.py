# SPDX-License-Identifier: Apache-2.0
"""A container without a daemon: the kernel and its plugins run in this program, and nothing is left of them.

    python examples/embedded/run.py [COMMAND ...]

The client is the one that talks to daemons, too; only how it is made differs. The image is this host's static busybox.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import platform
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orlop_sdk.client import Client

BUSYBOX = Path("/bin/busybox")
IMAGE = "docker.io/library/busybox-of-this-host:latest"
# Some of busybox's names; the others can be had by `busybox NAME`.
APPLETS = ("cat", "echo", "hostname", "ls", "ps", "sh", "uname")
RUNC_STATE = Path("/run/containerd/runc")
CGROUPS = Path("/sys/fs/cgroup")


async def main(*command: str) -> int:
    """Run a command in a container, print what it says, and return its status."""
    namespace = f"embedded-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="orlop-") as folder:
        place = Path(folder)
        try:
            async with Client.embedded(
                {"root": str(place / "root"), "state": str(place / "state")}, namespace
            ) as client:
                await client.import_images(image_archive(place / "image.tar"))
                result = await client.run(IMAGE, *command)
        finally:
            remove_traces(namespace)
    sys.stdout.write(result.stdout.decode(errors="replace"))
    sys.stderr.write(result.stderr.decode(errors="replace"))
    return result.status


def remove_traces(namespace: str) -> None:
    """Remove what runc leaves elsewhere: an empty directory of the namespace in each of these places."""
    for place in (RUNC_STATE, CGROUPS, *CGROUPS.glob("*/")):
        with contextlib.suppress(OSError):
            (place / namespace).rmdir()


def image_archive(path: Path) -> Path:
    """Write an image with busybox alone: an OCI layout in a tar file, as the OCI image specification has it."""
    links = [(f"bin/{name}", "busybox") for name in APPLETS]
    layer = tar({"bin/busybox": BUSYBOX.read_bytes(), "proc/": b"", "sys/": b"", "dev/": b""}, links)
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    config = encode(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
    )
    manifest = encode(
        {
            "schemaVersion": 2,
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    named = descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    named["annotations"] = {"io.containerd.image.name": IMAGE}
    files = {f"blobs/sha256/{digest(blob).partition(':')[2]}": blob for blob in (layer, config, manifest)}
    files["index.json"] = encode({"schemaVersion": 2, "manifests": [named]})
    files["oci-layout"] = encode({"imageLayoutVersion": "1.0.0"})
    path.write_bytes(tar(files))
    return path


def tar(files: Mapping[str, bytes], links: list[tuple[str, str]] | None = None) -> bytes:
    """A tar archive of files (directories where a name ends in a slash) and symbolic links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mode, info.size = 0o755, len(data)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(data))
        for name, target in links or ():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def encode(document: Mapping[str, Any]) -> bytes:
    """A document as JSON."""
    return json.dumps(document).encode()


def descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    """What points at a blob."""
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob)}


def digest(blob: bytes) -> str:
    """The name of a blob."""
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


if __name__ == "__main__":
    if not BUSYBOX.exists():
        sys.exit(f"{BUSYBOX} is missing; apt-get install busybox-static")
    sys.exit(asyncio.run(main(*(sys.argv[1:] or ("sh", "-c", "echo hello from $(hostname); ps")))))
