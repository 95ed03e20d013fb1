# SPDX-License-Identifier: Apache-2.0
"""How fast the output of a container gets to where its log URI says, by scheme.

    python -m tests.benchmarks.bench_logs [--size 1g] [--line 1024] [--runs 1] [--schemes fifo,file,...]

Orlop with its own shim, and with containerd's; beside them containerd, where it has the scheme. A container writes
lines as fast as it can; the clock runs until the last of them has arrived. Drivers that may drop are told to wait.

In each run another one begins: on a virtual machine, files that the first of them writes may get memory that the host
has yet to find. So three runs are the least for a comparison, and the machine should have nothing else to do.

What the journal itself can take is measured too, by a bare loop that sends it the same lines: one entry a datagram, as
its own clients do, and several at once, as the driver does.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.bench_lifecycle import SHIMS, TABLES, record
from tests.benchmarks.log_sinks import LAST, SINKS, floor
from tests.benchmarks.sides import OURS, THEIRS, both
from tests.support import oci

from orlop_sdk.api.services.containers.v1 import containers_pb2
from orlop_sdk.api.services.tasks.v1 import tasks_pb2
from orlop_sdk.api.types import mount_pb2
from orlop_sdk.client.connection import open_channel
from orlop_sdk.logs.options import size
from orlop_sdk.rpc.stub import Stub

NATIVE: Final = ("fifo", "file", "binary")
"""What shims know themselves, and so containerd as well."""
SIDES: Final = ((OURS, "own"), (OURS, "containerd"), (THEIRS, "containerd"))
"""Daemon and shim."""
PATIENCE: Final = 1800.0
# The file that a container writes again and again.
_PART: Final = 16 << 20
# containerd 1.6's shim closes the file of both streams when the first one ends, hence the sleep.
_SCRIPT: Final = (
    'while [ ! -e "/$1" ]; do sleep 0.01; done; i=0; while [ "$i" -lt "$2" ]; do cat /data; i=$((i + 1)); done; '
    f'echo "{LAST.decode().strip()}"; sleep 1'
)


@dataclass(frozen=True)
class Output:
    """How much a container writes."""

    parts: int
    tree: Path

    @property
    def bytes(self) -> int:
        """In all."""
        return self.parts * _PART + len(LAST)


async def one(address: str, namespace: str, id: str, shim: str, output: Output, scheme: str) -> float:
    """One container; returns MiB a second."""
    metadata = [("containerd-namespace", namespace)]
    folder = Path(tempfile.mkdtemp(prefix="obl", dir="/tmp"))
    sink = SINKS[scheme](folder, output.bytes)
    channel = open_channel(address)
    containers = Stub(channel, "containerd.services.containers.v1.Containers")
    tasks = Stub(channel, "containerd.services.tasks.v1.Tasks")
    args = ["/bin/sh", "-c", _SCRIPT, "sh", f"go-{id}", str(output.parts)]
    container = record(id, namespace, "runc", shim, args)
    mount = mount_pb2.Mount(type="bind", source=str(output.tree), options=["rbind", "rw"])
    try:
        await containers.Create(containers_pb2.CreateContainerRequest(container=container), metadata=metadata)
        # A named pipe is for one stream; everything else is for both, as clients have it.
        stderr = f"{sink.uri}2" if scheme == "fifo" else sink.uri
        request = tasks_pb2.CreateTaskRequest(container_id=id, rootfs=[mount], stdout=sink.uri, stderr=stderr)
        await tasks.Create(request, metadata=metadata)
        await tasks.Start(tasks_pb2.StartRequest(container_id=id), metadata=metadata)
        (output.tree / f"go-{id}").touch()
        began = time.perf_counter()
        while not await asyncio.to_thread(sink.complete):
            if time.perf_counter() - began > PATIENCE:
                raise RuntimeError(f"{id}: {scheme}: the output did not arrive")
            await asyncio.sleep(sink.pause)
        took = time.perf_counter() - began
        await tasks.Wait(tasks_pb2.WaitRequest(container_id=id), metadata=metadata)
        await tasks.Delete(tasks_pb2.DeleteTaskRequest(container_id=id), metadata=metadata)
        await containers.Delete(containers_pb2.DeleteContainerRequest(id=id), metadata=metadata)
    finally:
        await channel.close()
        sink.close()
        shutil.rmtree(folder)
    return output.bytes / (1 << 20) / took


async def measure(
    addresses: Mapping[str, str], schemes: Sequence[str], runs: int, output: Output
) -> dict[tuple[str, str, str], list[float]]:
    """All sides in turn, by scheme, daemon and shim."""
    found: dict[tuple[str, str, str], list[float]] = {}
    number = itertools.count()
    for scheme in schemes:
        for run in range(runs):
            first = run % len(SIDES)
            for side, shim in SIDES[first:] + SIDES[:first]:
                if side == THEIRS and scheme not in NATIVE:
                    continue
                id = f"log-{next(number)}"
                rate = await one(addresses[side], f"bench-{side}", id, SHIMS[shim], output, scheme)
                found.setdefault((scheme, side, shim), []).append(rate)
    return found


def lines(length: int) -> bytes:
    """What a container writes again and again: numbered lines of about this length."""
    numbered = (b"%0*d" % (length - 1, number) for number in range(_PART // length + 1))
    return b"\n".join(numbered)[: _PART - 1] + b"\n"


def show(found: Mapping[tuple[str, str, str], Sequence[float]], schemes: Sequence[str], mebibytes: int) -> None:
    """Print the table."""
    print(f"\n{mebibytes} MiB of output (MiB/s, more is better; ratios to containerd)")
    print(f"  {'scheme':<12}{'orlop, own shim':>22}{'orlop, containerd shim':>30}{'containerd':>12}")
    for scheme in schemes:
        rates = [statistics.median(found.get((scheme, side, shim), [0.0])) for side, shim in SIDES]
        theirs = rates[2]
        ratios = [f"{rate / theirs:.2f}x" if theirs else "" for rate in rates[:2]]
        last = f"{theirs:.0f}" if theirs else "-"
        print(f"  {scheme:<12}{rates[0]:>14.0f}{ratios[0]:>8}{rates[1]:>22.0f}{ratios[1]:>8}{last:>12}")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1g", help="how much each container writes, such as 256m")
    parser.add_argument("--line", type=int, default=1024, help="bytes of a line")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--schemes", default=",".join(SINKS))
    options = parser.parse_args()
    schemes = options.schemes.split(",")
    parts = max(1, size(options.size, 1, 1 << 40) // _PART)
    tree = Path(tempfile.mkdtemp(prefix="obroot", dir="/tmp"))
    try:
        shutil.rmtree(tree)
        oci.busybox_tree(tree)
        (tree / "data").write_bytes(lines(options.line))
        with both(tables=TABLES) as daemons:
            for side, daemon in daemons.items():
                daemon.ctr(f"bench-{side}")
            addresses = {side: str(daemon.address) for side, daemon in daemons.items()}
            found = asyncio.run(measure(addresses, schemes, options.runs, Output(parts, tree)))
            show(found, schemes, parts * _PART >> 20)
        if "journald" in schemes:
            alone, together = (floor(lines(options.line), entries) for entries in (1, 32))
            print(
                f"  the journal itself, from a bare loop: {alone:.0f} with an entry a datagram, {together:.0f} with 32"
            )
    finally:
        shutil.rmtree(tree)


if __name__ == "__main__":
    main()
