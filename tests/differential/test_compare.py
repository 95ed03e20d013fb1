# SPDX-License-Identifier: Apache-2.0
"""Layers that one side makes of two trees and the other unpacks."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.daemon import CONTAINERD, Daemon
from tests.support.place import short_directory
from tests.support.unpacking import CAPABILITY, bench, look

from orlop import context
from orlop_proxy.remote import ProxyContentStore, ProxyDiffer
from orlop_sdk.api.services.leases.v1 import leases_pb2
from orlop_sdk.client.connection import open_channel
from orlop_sdk.rpc.stub import Stub
from orlop_sdk.testing.differ import BEFORE, CHANGES, add, bind, read
from orlop_sdk.testing.trees import run, setxattr, write


@pytest.fixture(scope="module")
def containerd() -> Iterator[Daemon]:
    with short_directory() as base, Daemon(base, CONTAINERD) as daemon:
        yield daemon


@pytest.fixture
async def leased(containerd: Daemon) -> tuple[str, str]:
    """A namespace of containerd, with a lease that keeps what a test puts there."""
    namespace = f"compare-{uuid.uuid4().hex}"
    async with open_channel(str(containerd.address)) as channel:
        with context.scope(namespace=namespace):
            leases = Stub(channel, "containerd.services.leases.v1.Leases")
            created = await leases.Create(leases_pb2.CreateRequest(id="test"))
    return namespace, created.lease.id


@pytest.mark.parametrize("maker", ["orlop", "containerd"])
async def test_each_unpacks_what_the_other_makes(
    containerd: Daemon, leased: tuple[str, str], short_tmp: Path, maker: str
) -> None:
    lower, upper, result = (short_tmp / name for name in ("lower", "upper", "result"))
    for tree in (lower, upper, result):
        tree.mkdir()
        run(BEFORE, tree)
    run([*CHANGES, write("caps", "x"), setxattr("caps", "security.capability", CAPABILITY)], upper)
    address = str(containerd.address)
    content, differ = ProxyContentStore(address), ProxyDiffer(address)
    scope = {"namespace": leased[0], "lease": leased[1]}
    async with bench(short_tmp / "b") as parts:
        if maker == "orlop":
            made = await parts.differ.compare(bind(lower), bind(upper))
            blob = await read(parts.content, made)
            with context.scope(**scope):
                await differ.apply(await add(content, blob, made.media_type), bind(result))
        else:
            with context.scope(**scope):
                made = await differ.compare(bind(lower), bind(upper))
                blob = await read(content, made)
            await parts.differ.apply(await add(parts.content, blob, made.media_type), bind(result))
    await differ.close()
    await content.close()
    assert look(result, times=False) == look(upper, times=False)
