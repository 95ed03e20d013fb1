# SPDX-License-Identifier: Apache-2.0
"""From an empty folder to a snapshotter that runs under Orlop and under containerd, in less than a minute.

    python examples/new_snapshotter/run.py [NAME]

Every command is printed as one would type it, with what it says below. Nothing of this host is touched: all that is
made, both daemons included, lies below one temporary directory. Needs root, containerd with ctr, runc, busybox-static.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
IMAGE = "docker.io/library/hello:latest"
RUNC_STATE = Path("/run/containerd/runc")
CGROUPS = Path("/sys/fs/cgroup")
PATIENCE = 60.0
"""Seconds that a program gets until it listens, and until it ends."""
ORLOP = """\
version = 3
root = "{folder}/orlop-root"
state = "{folder}/orlop-state"
plugin_dirs = ["{folder}/plugins"]
[plugins."io.containerd.server.v1.grpc"]
  address = "{folder}/orlop.sock"
[plugins."io.containerd.server.v1.ttrpc"]
  address = "{folder}/orlop.sock.ttrpc"
"""
CONTAINERD = """\
version = 2
root = "{folder}/containerd-root"
state = "{folder}/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[proxy_plugins.{name}]
  type = "snapshot"
  address = "{folder}/{name}.sock"
"""


def main(name: str = "hello") -> int:
    """Run the example and return an exit status."""
    if not BUSYBOX.exists():
        print(f"{BUSYBOX} is missing; apt-get install busybox-static", file=sys.stderr)
        return 1
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="orlop-") as path:
        folder = Folder(Path(path))
        try:
            make(folder, name)
            image_archive(folder.path / "hello.tar")
            under_orlop(folder, name)
            under_containerd(folder, name)
        finally:
            remove_traces(folder.namespace)
    print(f"\nfrom an empty folder to both daemons in {time.monotonic() - began:.0f} s")
    return 0


def remove_traces(namespace: str) -> None:
    """Remove what runc leaves elsewhere: an empty directory of the namespace in each of these places."""
    for place in (RUNC_STATE, CGROUPS, *CGROUPS.glob("*/")):
        with contextlib.suppress(OSError):
            (place / namespace).rmdir()


def make(folder: Folder, name: str) -> None:
    """A distribution; it is installed, and passes the conformance kit."""
    folder.run(f"orlop-sdk new snapshotter {name}")
    # Without options it would be beside Orlop, and hatchling, which builds it, would come from an index.
    folder.run(f"python -m pip install --quiet --no-deps --no-build-isolation --target plugins ./{name}")
    folder.run(f"orlop-sdk check {name}")


def under_orlop(folder: Folder, name: str) -> None:
    """A container of orlopd's runs on it."""
    print("\n# under Orlop")
    folder.write("orlop.toml", ORLOP.format(folder=folder.path))
    with folder.running("orlopd --config orlop.toml", "orlop.sock"):
        folder.run(f"orlop plugins why {name}")
        folder.run(f"orlop import --snapshotter {name} hello.tar")
        folder.run(f"orlop run --rm --snapshotter {name} {IMAGE} echo 'hello from Orlop'")


def under_containerd(folder: Folder, name: str) -> None:
    """The same object serves containerd, from a process beside it."""
    print("\n# under containerd")
    folder.write("containerd.toml", CONTAINERD.format(folder=folder.path, name=name))
    serve = f"orlop-sdk serve snapshot {name} --socket {folder.path}/{name}.sock --root {name}-root"
    with (
        folder.running(serve, f"{name}.sock"),
        folder.running("containerd --config containerd.toml", "containerd.sock"),
    ):
        folder.run(f"ctr images import --snapshotter {name} hello.tar")
        folder.run(f"ctr run --rm --snapshotter {name} {IMAGE} c1 echo 'hello from containerd'")


class Folder:
    """The folder that was empty, and commands as they are run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # No other daemon has it, and runc keeps its state by namespace on the whole host.
        self.namespace = f"empty-folder-{uuid.uuid4().hex[:12]}"
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(path / "plugins"),  # where pip puts what a virtual environment would have
            "PIP_ROOT_USER_ACTION": "ignore",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "CONTAINERD_NAMESPACE": self.namespace,
        }

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        (self.path / name).write_text(text)

    def run(self, command: str) -> None:
        """Run a command to its end, and show both it and what it says; raise if it fails."""
        print(f"$ {command}", flush=True)
        subprocess.run(
            shlex.split(command), cwd=self.path, env=self.environment, stdin=subprocess.DEVNULL, check=True, timeout=300
        )

    @contextlib.contextmanager
    def running(self, command: str, socket: str) -> Iterator[None]:
        """A program in the background, from when it listens on *socket* until the block ends.

        Clients use the socket of the one that was started last. Raises with what it said if it does not listen.
        """
        print(f"$ {command} &", flush=True)
        address, log = self.path / socket, self.path / f"{socket}.log"
        self.environment["CONTAINERD_ADDRESS"] = str(address)
        with log.open("wb") as output:
            process = subprocess.Popen(
                shlex.split(command), cwd=self.path, env=self.environment, stdout=output, stderr=output
            )
        try:
            deadline = time.monotonic() + PATIENCE
            while not address.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command} does not listen:\n{log.read_text(errors='replace')}")
                time.sleep(0.02)
            yield
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()
                process.wait()


def image_archive(path: Path) -> Path:
    """Write an image with this host's busybox, in the form of ``docker save``, which both daemons import."""
    layer = tar({"bin/busybox": BUSYBOX.read_bytes()}, {"bin/echo": "busybox", "bin/sh": "busybox"})
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    files = {"layer.tar": layer, "config.json": json.dumps(config).encode()}
    path.write_bytes(tar(files | {"manifest.json": json.dumps(manifest).encode()}, {}))
    return path


def tar(files: dict[str, bytes], links: dict[str, str]) -> bytes:
    """A tar archive of executable files and symbolic links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
