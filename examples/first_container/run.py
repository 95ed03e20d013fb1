# SPDX-License-Identifier: Apache-2.0
"""A first container: start a private daemon, bring in an image, run a container, print what it says, clean up.

    make run

Everything happens below one temporary directory, so that no other daemon on this host notices. The image is made on
the spot from this host's static busybox; the client is `orlop_sdk.client`, which drives containerd just as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orlop.errors import OrlopError
from orlop_sdk.client.sync import Client

BUSYBOX = Path("/bin/busybox")
IMAGE = "docker.io/library/hello-orlop:latest"
SCRIPT = 'echo "Hello from container $(hostname), process $$ of its own pid namespace."; uname -sr'
RUNC_STATE = Path("/run/containerd/runc")
CGROUPS = Path("/sys/fs/cgroup")
ORLOPD = Path(sys.executable).with_name("orlopd")


def main() -> int:
    """Run the example and return an exit status."""
    if not BUSYBOX.exists():
        print(f"{BUSYBOX} is missing; apt-get install busybox-static", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="orlop-") as folder, daemon(Path(folder)) as address:
        print(f"orlopd listens on {address}")
        with own_namespace() as namespace, Client(address, namespace) as client:
            plugins = client.introspection.plugins()
            working = sum(plugin.error is None for plugin in plugins)
            print(f"{working} of {len(plugins)} plugins work, each found by its entry point")
            client.import_images(image_archive(Path(folder) / "image.tar"), snapshotter=None)
            print(f"imported {IMAGE} and unpacked it")
            began = time.perf_counter()
            result = client.run(IMAGE, "/bin/sh", "-c", SCRIPT)
            took = time.perf_counter() - began
            print(f"the container ended with status {result.status} after {took:.2f} s and wrote:\n")
            print("    " + result.stdout.decode().rstrip().replace("\n", "\n    "))
            client.remove_image(IMAGE, sync=True)
    print("\nstopped the daemon and removed everything; make test runs the tests")
    return result.status


@contextlib.contextmanager
def own_namespace() -> Iterator[str]:
    """A namespace that no other daemon has, for runc keeps its state by namespace on the whole host."""
    name = f"first-{uuid.uuid4().hex[:12]}"
    try:
        yield name
    finally:
        # It leaves one empty directory of the namespace in each of these places.
        for place in (RUNC_STATE, CGROUPS, *CGROUPS.glob("*/")):
            with contextlib.suppress(OSError):
                (place / name).rmdir()


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[str]:
    """A daemon with everything below *folder*; gives its address."""
    config, log, address = folder / "config.toml", folder / "log", folder / "orlop.sock"
    config.write_text(
        "version = 3\n"
        f'root = "{folder}/root"\n'
        f'state = "{folder}/state"\n'
        f'[plugins."io.containerd.server.v1.grpc"]\naddress = "{address}"\n'
        f'[plugins."io.containerd.server.v1.ttrpc"]\naddress = "{address}.ttrpc"\n'
    )
    with log.open("wb") as output:
        process = subprocess.Popen([ORLOPD, "--config", config], stdout=output, stderr=output)
        try:
            wait_until_ready(process, str(address), log)
            yield str(address)
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Return when the daemon answers; raise with its log when it ended."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with Client(address) as client:
                client.version()
                return
        except OrlopError:
            time.sleep(0.05)
    raise RuntimeError(f"orlopd did not start:\n{log.read_text()}")


def image_archive(path: Path) -> Path:
    """Write an image of one layer, with busybox alone, as an OCI layout in a tar file (OCI image-spec)."""
    layer = tar({"bin/busybox": BUSYBOX.read_bytes()}, links=("sh", "hostname", "uname"))
    config = encode(
        {
            "architecture": machine(),
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
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
    files = {"oci-layout": encode({"imageLayoutVersion": "1.0.0"})}
    files["index.json"] = encode({"schemaVersion": 2, "manifests": [named]})
    files |= {f"blobs/sha256/{digest(blob).partition(':')[2]}": blob for blob in (layer, config, manifest)}
    path.write_bytes(tar(files))
    return path


def tar(files: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    """A tar archive with these files, executable, and in ``bin/`` these links to busybox."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
        for name in links:
            info = tarfile.TarInfo(f"bin/{name}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(info)
    return buffer.getvalue()


def machine() -> str:
    """This host's architecture as images spell it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def encode(document: dict[str, Any]) -> bytes:
    """A JSON document as bytes."""
    return json.dumps(document).encode()


def digest(blob: bytes) -> str:
    """The name of a blob in a content store."""
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    """What refers to a blob."""
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob)}


if __name__ == "__main__":
    sys.exit(main())
