# SPDX-License-Identifier: Apache-2.0
"""What observers of calls cost: the same calls to a daemon without figures, and to one that counts them.

``python -m tests.benchmarks.bench_observed [calls]``
"""

from __future__ import annotations

import socket
import statistics
import sys
import time

import grpc
from tests.support.daemon import ORLOPD, Daemon
from tests.support.place import short_directory

METHOD = "/containerd.services.version.v1.Version/Version"
ROUNDS = 5


def rate(daemon: Daemon, calls: int) -> float:
    """Calls a second, one after the other."""
    with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
        call = channel.unary_unary(METHOD)  # type: ignore[var-annotated]
        call(b"", timeout=30)
        began = time.perf_counter()
        for _ in range(calls):
            call(b"", timeout=30)
        return calls / (time.perf_counter() - began)


def main() -> None:
    """Measure, and print both sides."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    figures = f'[metrics]\naddress = "127.0.0.1:{port}"\ngrpc_histogram = true\n'
    with (
        short_directory() as one,
        short_directory() as other,
        Daemon(one, ORLOPD) as plain,
        Daemon(other, ORLOPD, tables=figures) as counting,
    ):
        pairs = [(rate(plain, calls), rate(counting, calls)) for _ in range(ROUNDS)]
    without, counted = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"Version, calls/s: {without:.0f} without figures, {counted:.0f} with; ratio {counted / without:.2f}")


if __name__ == "__main__":
    main()
