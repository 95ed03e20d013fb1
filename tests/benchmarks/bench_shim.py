# SPDX-License-Identifier: Apache-2.0
"""Memory of shims: the PSS of all shims of some running containers, a shim each and one for all.

    python -m tests.benchmarks.bench_shim [--containers 20] [--rest 6]

Each side has its own shim, with runc. Orlop's figure includes its zygote, which shims share memory with, the workers of
shims that have not come to rest, and the spare that waits to become a shim. It is taken twice: right after the last
container has started, and some seconds later, on both sides.
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
from tests.support.processes import arguments, memory, parents

# What zygotes, spares and workers are called.
FORKS = (b"orlop-zygote", b"containerd-shim-orlop-v1-worker")


def family(daemon: Daemon) -> set[int]:
    """The shims of a daemon, the zygote that it has started, and all that these have forked: workers, and a spare."""
    above = parents()
    forks = {pid for pid in above if arguments(pid)[0] in FORKS}
    found = {daemon.pid, *daemon.shims()}
    while more := {pid for pid in forks - found if above[pid] in found}:
        found |= more
    return found - {daemon.pid}


def pss(daemon: Daemon) -> float:
    """The proportional set size of a daemon's shims in MiB."""
    return sum(memory(pid, "Pss") for pid in family(daemon)) / 1024


def measure(
    daemon: Daemon, runtime: str, containers: int, tree: Path, rest: float, *, group: bool
) -> tuple[list[float], list[float]]:
    """The summed PSS of the shims of so many containers: at once, and after some seconds."""
    ctr = daemon.ctr(f"bench-{uuid.uuid4().hex[:8]}")
    flags = ["--annotation", "io.containerd.runc.v2.group=bench"] if group else []
    for number in range(containers):
        ctr.ok("run", "-d", "--runtime", runtime, *flags, "--rootfs", str(tree), f"c{number}", "/bin/sleep", "1000")
    at_once = pss(daemon)
    time.sleep(rest)
    at_rest = pss(daemon)
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
