# SPDX-License-Identifier: Apache-2.0
"""Reads and writes of metadata over the socket, by 1 and by 16 clients at once, the same Python client on both sides.

    python -m tests.benchmarks.bench_metadata [--seconds 3] [--rounds 3]

A write creates a container record, a read gets one of 1,000. The client's own cost is in both figures.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

from tests.benchmarks.sides import OURS, THEIRS, Figure, both, show

from orlop_sdk.api.services.containers.v1 import containers_pb2 as messages
from orlop_sdk.client.connection import open_channel
from orlop_sdk.rpc.stub import Stub

SERVICE = "containerd.services.containers.v1.Containers"
RECORDS = 1000
METADATA = [("containerd-namespace", "bench")]
_numbers = itertools.count()


def record(id: str) -> messages.Container:
    """A container record of the usual size."""
    container = messages.Container(id=id, image="docker.io/library/busybox:latest", labels={"a": "b", "c": "d"})
    container.runtime.name = "io.containerd.runc.v2"
    container.spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
    container.spec.value = b"{" + b" " * 8000 + b"}"
    return container


async def rate(call: Callable[[], Awaitable[object]], clients: int, seconds: float) -> tuple[float, list[float]]:
    """Calls in a second that so many clients get through, and what each call took (seconds)."""
    took: list[float] = []
    deadline = time.perf_counter() + seconds

    async def client() -> None:
        while (began := time.perf_counter()) < deadline:
            await call()
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return len(took) / (time.perf_counter() - began), took


async def measure(addresses: dict[str, str], seconds: float, rounds: int) -> list[Figure]:
    """All figures."""
    figures: dict[tuple[str, str], list[float]] = {}
    for address in addresses.values():
        stub = Stub(open_channel(address), SERVICE)
        for number in range(RECORDS):
            await stub.Create(
                messages.CreateContainerRequest(container=record(f"kept-{number}")), timeout=60, metadata=METADATA
            )
    for _ in range(rounds):
        for side, address in addresses.items():
            channel = open_channel(address)
            stub = Stub(channel, SERVICE)

            async def write(stub: Stub = stub) -> object:
                request = messages.CreateContainerRequest(container=record(f"c-{next(_numbers)}"))
                return await stub.Create(request, timeout=60, metadata=METADATA)

            async def read(stub: Stub = stub) -> object:
                request = messages.GetContainerRequest(id=f"kept-{next(_numbers) % RECORDS}")
                return await stub.Get(request, timeout=60, metadata=METADATA)

            for clients in (1, 16):
                writes, _ = await rate(write, clients, seconds)
                reads, times = await rate(read, clients, seconds)
                figures.setdefault((f"writes, {clients} clients", side), []).append(writes)
                figures.setdefault((f"reads, {clients} clients", side), []).append(reads)
                middle = sorted(times)[len(times) // 2]
                figures.setdefault((f"read p50, {clients} clients", side), []).append(middle * 1e3)
            await channel.close()
    return [
        figure(name, figures[name, OURS], figures[name, THEIRS]) for name in dict.fromkeys(name for name, _ in figures)
    ]


def figure(name: str, ours: list[float], theirs: list[float]) -> Figure:
    """A line of the table, with its budget."""
    if name.startswith("read p50"):
        return Figure(name, "ms", ours, theirs, budget=2.0)
    budget = 1.0 if name == "writes, 16 clients" else None
    return Figure(name, "1/s", ours, theirs, rate=True, budget=budget)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with both() as daemons:
        addresses = {side: str(daemon.address) for side, daemon in daemons.items()}
        show("metadata", asyncio.run(measure(addresses, options.seconds, options.rounds)))


if __name__ == "__main__":
    main()
