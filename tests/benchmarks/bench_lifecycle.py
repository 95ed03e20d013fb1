# SPDX-License-Identifier: Apache-2.0
"""Create, start, wait for and delete a container over the socket, the same client and OCI runtime on both sides.

    python -m tests.benchmarks.bench_lifecycle [--runs 30] [--runtime runc|crun] [--shim own|containerd]

The container runs busybox ``true`` on a bind-mounted directory. containerd has its own shim; Orlop has Orlop's, or
containerd's as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from tests.benchmarks.sides import OURS, THEIRS, Figure, both, show
from tests.support.crun import crun_usable

from orlop_sdk.api.services.containers.v1 import containers_pb2
from orlop_sdk.api.services.tasks.v1 import tasks_pb2
from orlop_sdk.api.types import mount_pb2
from orlop_sdk.api.types.runc.options import oci_pb2
from orlop_sdk.client.connection import open_channel
from orlop_sdk.oci.default import default_spec
from orlop_sdk.rpc.stub import Stub

# runc keeps its state by namespace and id on the whole host, so each side has a namespace of its own.
SHIMS = {"own": "io.containerd.orlop.v1", "containerd": "io.containerd.runc.v2"}
# Leaves io.containerd.runc.v2 to containerd's shim on both sides.
TABLES = '[plugins."io.containerd.shim.v1.orlop"]\nruntimes = ["io.containerd.orlop.v1"]\n'
# Seconds between two lives, so that what one leaves to be done later falls into no other's time.
PAUSE = 0.1
STEPS = ("create", "start", "wait", "delete", "all")


def rootfs() -> Path:
    """A root file system with busybox alone."""
    path = Path(tempfile.mkdtemp(prefix="obroot", dir="/tmp"))
    (path / "bin").mkdir()
    for name in ("proc", "sys", "dev", "run"):
        (path / name).mkdir()
    shutil.copy("/bin/busybox", path / "bin/true")
    return path


def record(
    id: str, namespace: str, runtime: str, shim: str, args: Sequence[str] = ("/bin/true",)
) -> containers_pb2.Container:
    """A container record that runs ``true``, or something else."""
    spec = default_spec(id, namespace)
    spec["process"]["args"] = list(args)
    container = containers_pb2.Container(id=id)
    container.runtime.name = shim
    options = oci_pb2.Options(binary_name=runtime)
    container.runtime.options.type_url = "containerd.runc.v1.Options"
    container.runtime.options.value = options.SerializeToString()
    container.spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
    container.spec.value = json.dumps(spec).encode()
    return container


async def one(address: str, namespace: str, id: str, root: Path, runtime: str, shim: str) -> dict[str, float]:
    """One life, and how long its parts took (milliseconds)."""
    metadata = [("containerd-namespace", namespace)]
    channel = open_channel(address)
    containers = Stub(channel, "containerd.services.containers.v1.Containers")
    tasks = Stub(channel, "containerd.services.tasks.v1.Tasks")
    container = record(id, namespace, runtime, shim)
    began = time.perf_counter()
    await containers.Create(containers_pb2.CreateContainerRequest(container=container), metadata=metadata)
    mount = mount_pb2.Mount(type="bind", source=str(root), options=["rbind", "rw"])
    took: dict[str, float] = {}
    last = began

    def lap(step: str) -> None:
        nonlocal last
        took[step], last = (time.perf_counter() - last) * 1e3, time.perf_counter()

    await tasks.Create(tasks_pb2.CreateTaskRequest(container_id=id, rootfs=[mount]), metadata=metadata)
    lap("create")
    waiting = asyncio.ensure_future(tasks.Wait(tasks_pb2.WaitRequest(container_id=id), metadata=metadata))
    await tasks.Start(tasks_pb2.StartRequest(container_id=id), metadata=metadata)
    lap("start")
    ended = await waiting
    lap("wait")
    if ended.exit_status != 0:
        raise RuntimeError(f"{id}: exit status {ended.exit_status}")
    await tasks.Delete(tasks_pb2.DeleteTaskRequest(container_id=id), metadata=metadata)
    await containers.Delete(containers_pb2.DeleteContainerRequest(id=id), metadata=metadata)
    lap("delete")
    took["all"] = (time.perf_counter() - began) * 1e3
    await channel.close()
    return took


async def measure(addresses: dict[str, str], runs: int, runtime: str, shim: str, root: Path) -> list[Figure]:
    """Both sides in turn."""
    shims = {OURS: SHIMS[shim], THEIRS: SHIMS["containerd"]}
    taken: dict[str, list[dict[str, float]]] = {OURS: [], THEIRS: []}
    for number in range(runs + 1):
        for side, address in addresses.items():
            took = await one(address, f"bench-{side}", f"life-{number}", root, runtime, shims[side])
            await asyncio.sleep(PAUSE)
            if number:  # the first of each side warms up
                taken[side].append(took)
    return [
        Figure(
            f"{step} ({runtime})",
            "ms",
            [took[step] for took in taken[OURS]],
            [took[step] for took in taken[THEIRS]],
            budget=({"runc": 0.8, "crun": 0.5}[runtime] if step == "all" else None),
        )
        for step in STEPS
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--runtime", choices=("runc", "crun"), default="runc")
    parser.add_argument("--shim", choices=tuple(SHIMS), default="own")
    options = parser.parse_args()
    root = rootfs()
    try:
        with crun_usable() if options.runtime == "crun" else nullcontext(), both(tables=TABLES) as daemons:
            addresses = {side: str(daemon.address) for side, daemon in daemons.items()}
            for side, daemon in daemons.items():
                daemon.ctr(f"bench-{side}")
            figures = asyncio.run(measure(addresses, options.runs, options.runtime, options.shim, root))
            show(f"life of a container, {options.shim} shim", figures)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
