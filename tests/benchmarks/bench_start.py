# SPDX-License-Identifier: Apache-2.0
"""How long each daemon takes from exec until it answers, and how much memory it holds then.

    python -m tests.benchmarks.bench_start [--runs 5]

Budget of Orlop alone: ready within 0.7 s, at most 80 MB resident when idle.
"""

from __future__ import annotations

import argparse
import socket
import time
from collections.abc import Callable
from pathlib import Path

import grpc
from tests.benchmarks.sides import OURS, THEIRS, Figure, both, show
from tests.support.daemon import Daemon

READY_SECONDS = 0.7
IDLE_MEGABYTES = 80


def answers(address: Path, timeout: float) -> None:
    """Wait until a version call is answered."""
    deadline = time.perf_counter() + timeout
    while time.perf_counter() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(address)) == 0:
                break
        time.sleep(0.002)
    with grpc.insecure_channel(f"unix:{address}") as channel:
        call: Callable[..., bytes] = channel.unary_unary("/containerd.services.version.v1.Version/Version")
        call(b"", timeout=timeout, wait_for_ready=True)


def start(daemon: Daemon) -> float:
    """Start a stopped daemon and return the seconds until it answers."""
    daemon.address.unlink(missing_ok=True)
    began = time.perf_counter()
    daemon.launch()
    answers(daemon.address, 30)
    return time.perf_counter() - began


def resident(pid: int) -> float:
    """Resident memory of a process (MB of a million bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid}: no VmRSS")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    ready: dict[str, list[float]] = {OURS: [], THEIRS: []}
    memory: dict[str, list[float]] = {OURS: [], THEIRS: []}
    with both() as daemons:
        for _ in range(options.runs):
            for side, daemon in daemons.items():
                daemon.stop()
                ready[side].append(start(daemon))
                time.sleep(1)
                memory[side].append(resident(daemon.pid))
    show(
        f"daemon start (Orlop's own budget: {READY_SECONDS} s, {IDLE_MEGABYTES} MB)",
        [
            Figure("ready after exec", "s", ready[OURS], ready[THEIRS]),
            Figure("resident when idle", "MB", memory[OURS], memory[THEIRS]),
        ],
    )


if __name__ == "__main__":
    main()
