# SPDX-License-Identifier: Apache-2.0
"""Memory of shims: the PSS of all shims of some running containers, a shim each and one for all.

    python -m tests.benchmarks.bench_shim [--containers 20]

Each side has its own shim, with runc. Orlop's figure includes its zygote, which shims share memory with.
"""

from __future__ import annotations

import argparse
import shutil
import uuid
from pathlib import Path

from tests.benchmarks.bench_lifecycle import SHIMS
from tests.benchmarks.sides import OURS, THEIRS, Figure, both, show
from tests.support import oci
from tests.support.daemon import Daemon


def pss(pid: int) -> float:
    """The proportional set size of a process in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no Pss")


def zygotes(daemon: Daemon) -> list[int]:
    """The zygotes that a daemon has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
                if parent == daemon.pid and (entry / "cmdline").read_bytes().startswith(b"orlop-zygote"):
                    found.append(int(entry.name))
            except OSError:
                continue  # gone meanwhile
    return found


def measure(daemon: Daemon, runtime: str, containers: int, tree: Path, *, group: bool) -> list[float]:
    """The summed PSS of the shims of so many containers."""
    ctr = daemon.ctr(f"bench-{uuid.uuid4().hex[:8]}")
    flags = ["--annotation", "io.containerd.runc.v2.group=bench"] if group else []
    for number in range(containers):
        ctr.ok("run", "-d", "--runtime", runtime, *flags, "--rootfs", str(tree), f"c{number}", "/bin/sleep", "1000")
    total = sum(pss(pid) for pid in [*daemon.shims(), *zygotes(daemon)])
    ctr.remove_tasks()
    return [total]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=20)
    count = parser.parse_args().containers
    with both() as daemons:
        tree = daemons[OURS].base / "tree"
        oci.busybox_tree(tree)
        ours = {g: measure(daemons[OURS], SHIMS["own"], count, tree, group=g) for g in (False, True)}
        theirs = measure(daemons[THEIRS], SHIMS["containerd"], count, tree, group=False)
        figures = [
            Figure(f"PSS of {count} containers' shims", "MiB", ours[False], theirs, budget=0.6),
            Figure(f"PSS of one shim for {count} containers", "MiB", ours[True], theirs, budget=0.15),
        ]
        show("memory of shims", figures)
        shutil.rmtree(tree)


if __name__ == "__main__":
    main()
