# SPDX-License-Identifier: Apache-2.0
"""Memory of shims: the PSS of all shims of some running containers, a shim each and one for all.

    python -m tests.benchmarks.bench_shim [--containers 20] [--rest 6]

Each side has its own shim, with runc. Orlop's figure includes its zygote, which shims share memory with, and the
workers of shims that have not come to rest. It is taken twice: right after the last container has started, and some
seconds later, on both sides.
"""

from __future__ import annotations

import argparse
import shutil
import time
import uuid
from pathlib import Path

from tests.benchmarks.bench_lifecycle import SHIMS
from tests.benchmarks.sides import OURS, THEIRS, Figure, both, show
from tests.support import oci
from tests.support.daemon import Daemon


def pss(pid: int) -> float:
    """The proportional set size of a process in MiB; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def family(daemon: Daemon) -> list[int]:
    """The shims of a daemon, their workers, and the zygotes that it has started."""
    found = list(daemon.shims())
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
                program = (entry / "cmdline").read_bytes().partition(b"\0")[0]
            except OSError:
                continue  # gone meanwhile
            is_worker = parent in found and program.endswith(b"-worker")
            if is_worker or (parent == daemon.pid and program.startswith(b"orlop-zygote")):
                found.append(int(entry.name))
    return found


def measure(
    daemon: Daemon, runtime: str, containers: int, tree: Path, rest: float, *, group: bool
) -> tuple[list[float], list[float]]:
    """The summed PSS of the shims of so many containers: at once, and after some seconds."""
    ctr = daemon.ctr(f"bench-{uuid.uuid4().hex[:8]}")
    flags = ["--annotation", "io.containerd.runc.v2.group=bench"] if group else []
    for number in range(containers):
        ctr.ok("run", "-d", "--runtime", runtime, *flags, "--rootfs", str(tree), f"c{number}", "/bin/sleep", "1000")
    at_once = sum(map(pss, family(daemon)))
    time.sleep(rest)
    at_rest = sum(map(pss, family(daemon)))
    ctr.remove_tasks()
    return [at_once], [at_rest]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=20)
    parser.add_argument("--rest", type=float, default=6.0, help="seconds between the two looks")
    options = parser.parse_args()
    count, rest = options.containers, options.rest
    with both() as daemons:
        tree = daemons[OURS].base / "tree"
        oci.busybox_tree(tree)
        ours = {g: measure(daemons[OURS], SHIMS["own"], count, tree, rest, group=g) for g in (False, True)}
        theirs = measure(daemons[THEIRS], SHIMS["containerd"], count, tree, rest, group=False)
        figures = [
            Figure(f"{count} containers' shims at once", "MiB", ours[False][0], theirs[0]),
            Figure(f"{count} containers' shims at rest", "MiB", ours[False][1], theirs[1], budget=0.6),
            Figure(f"one shim of {count} at once", "MiB", ours[True][0], theirs[0]),
            Figure(f"one shim of {count} at rest", "MiB", ours[True][1], theirs[1], budget=0.15),
        ]
        show("memory of shims (PSS)", figures)
        shutil.rmtree(tree)


if __name__ == "__main__":
    main()
