# SPDX-License-Identifier: Apache-2.0
"""Networks of containers, by CNI plugins: what ``run`` attaches and ``rm`` detaches again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from orlop.blocking import run_blocking
from orlop_sdk.client.container import Container, Task
from orlop_sdk.linux import cni

#: The network that a container was attached to.
NETWORK_LABEL: Final = "orlop.io/cni-network"


async def load() -> cni.Network:
    """The network of this host. ``NETCONFPATH`` and ``CNI_PATH`` say where else to look, as for CNI's own tools."""
    directory = Path(os.environ.get("NETCONFPATH") or cni.CONFIGURATION)
    return await run_blocking(cni.load, directory, _programs())


async def attach(network: cni.Network, namespace: str, task: Task) -> None:
    """Give a task that was created an interface before it is started. Raises as `cni.Network.attach`."""
    await run_blocking(network.attach, f"{namespace}-{task.container_id}", f"/proc/{task.pid}/ns/net")


async def detach(container: Container, namespace: str) -> None:
    """Give back what a container got, if it got anything. Raises as `cni.detach`."""
    if name := container.record.labels.get(NETWORK_LABEL):
        await run_blocking(cni.detach, f"{namespace}-{container.id}", name, programs=_programs())


def _programs() -> tuple[Path, ...]:
    places = os.environ.get("CNI_PATH", "")
    return tuple(Path(place) for place in places.split(":") if place) or cni.PROGRAMS
