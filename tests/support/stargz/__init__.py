# SPDX-License-Identifier: Apache-2.0
"""The real stargz snapshotter, which brings layers that are never fetched as a whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orlop_sdk.linux.mount import mount_points, unmount_all

NAME = "containerd-stargz-grpc"
CTR_REMOTE = "/usr/bin/ctr-remote"
BUILT = Path(__file__).parents[3] / "build/stargz" / NAME
#: Only what is read is fetched, so that it can be told from all there is.
CONFIG = "no_background_fetch = true\nnoprefetch = true\n"
TABLE = """
[proxy_plugins.stargz]
  type = "snapshot"
  address = "{address}"
  [proxy_plugins.stargz.exports]
    enable_remote_snapshot_annotations = "true"
"""


def program() -> str:
    """The daemon: the installed one, or the one that was built here; empty where there is neither."""
    return shutil.which(NAME) or (str(BUILT) if BUILT.exists() else "")


def missing() -> str:
    """Why it cannot be used here, and what to do; empty if it can."""
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/dev/fuse").exists():
        return "needs FUSE: modprobe fuse"
    if not Path(CTR_REMOTE).exists():
        return "needs ctr-remote: apt-get install stargz-snapshotter"
    return "" if program() else f"needs {NAME}: run .ci/stargz, which takes go and a minute"


#: It may run in a container as well: a root file system with nothing but itself, and the mounts that it makes shared.
CONTAINER = """
  [proxy_plugins.stargz.container]
    rootfs = "{base}/rootfs"
    args = ["/stargz", "--config", "{base}/s/config", "--address", "{base}/s/sock", "--root", "{base}/stargz"]
    writable = ["{base}/stargz"]
    devices = ["/dev/fuse"]
    network = true
    mounts = true
"""


def contained(base: Path) -> str:
    """The tables of a snapshotter in a container, with everything below *base*."""
    for name in ("rootfs", "s", "stargz"):
        (base / name).mkdir()
    (base / "s/config").write_text(CONFIG)
    shutil.copy(program(), base / "rootfs/stargz")
    return TABLE.format(address=base / "s/sock") + CONTAINER.format(base=base)


@contextmanager
def stargz(base: Path) -> Iterator[Path]:
    """The snapshotter with everything below *base*; gives its socket, and leaves no mounts."""
    address, root, config = base / "stargz.sock", base / "stargz", base / "stargz.toml"
    config.write_text(CONFIG)
    with (base / "stargz.log").open("ab") as log:
        process = subprocess.Popen(
            [program(), "--config", str(config), "--address", str(address), "--root", str(root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 30
        while not address.exists():
            assert process.poll() is None, (base / "stargz.log").read_text()
            assert time.monotonic() < deadline, "the snapshotter does not listen"
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            for target in reversed(mount_points(root)):
                unmount_all(target)


def kinds_of_mounts(below: Path) -> list[str]:
    """Types of the file systems that are mounted below a directory."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[4].startswith(f"{below}/"):
            found.append(rest.split()[0])
    return found
