# SPDX-License-Identifier: Apache-2.0
"""The differ suite, run against every differ there is: ours, ours behind others, and containerd's."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.daemon import CONTAINERD, Daemon
from tests.support.place import short_directory
from tests.support.unpacking import Bench, bench

from orlop import context
from orlop.interfaces.content import ContentStore
from orlop.interfaces.differ import Differ
from orlop_images.service import OrderedDiffer
from orlop_proxy.remote import ProxyContentStore, ProxyDiffer
from orlop_sdk.api.services.leases.v1 import leases_pb2
from orlop_sdk.client.connection import open_channel
from orlop_sdk.rpc.stub import Stub
from orlop_sdk.serving.proxy import Parts, serve
from orlop_sdk.testing.differ import DifferSuite


@pytest.fixture
async def parts(short_tmp: Path) -> AsyncIterator[Bench]:
    async with bench(short_tmp / "b") as made:
        yield made


class TestWalking(DifferSuite):
    @pytest.fixture
    def content(self, parts: Bench) -> ContentStore:
        return parts.content

    @pytest.fixture
    def differ(self, parts: Bench) -> Differ:
        return parts.differ


class TestOrdered(TestWalking):
    @pytest.fixture
    def differ(self, parts: Bench) -> Differ:
        return OrderedDiffer({"walking": parts.differ}, ("walking",))


class TestProxied(TestWalking):
    """Ours, served on a socket and reached through the proxy."""

    @pytest.fixture
    async def differ(self, parts: Bench, short_tmp: Path) -> AsyncIterator[Differ]:
        async with serve(str(short_tmp / "s.sock"), Parts(differ=parts.differ)):
            remote = ProxyDiffer(str(short_tmp / "s.sock"))
            yield remote
            await remote.close()


@pytest.fixture(scope="module")
def containerd() -> Iterator[Daemon]:
    with short_directory() as base, Daemon(base, CONTAINERD) as daemon:
        yield daemon


class TestContainerd(DifferSuite):
    """Debian's containerd, to tell that the suite asks for what containerd does."""

    @pytest.fixture(autouse=True)
    async def leased(self, containerd: Daemon) -> AsyncIterator[None]:
        namespace = f"suite-{uuid.uuid4().hex}"
        # Nothing refers to what the suite makes, so that garbage collection would take it but for a lease.
        async with open_channel(str(containerd.address)) as channel:
            with context.scope(namespace=namespace):
                leases = Stub(channel, "containerd.services.leases.v1.Leases")
                created = await leases.Create(leases_pb2.CreateRequest(id="suite"))
        with context.scope(namespace=namespace, lease=created.lease.id):
            yield

    @pytest.fixture
    async def content(self, containerd: Daemon) -> AsyncIterator[ContentStore]:
        store = ProxyContentStore(str(containerd.address))
        yield store
        await store.close()

    @pytest.fixture
    async def differ(self, containerd: Daemon) -> AsyncIterator[Differ]:
        remote = ProxyDiffer(str(containerd.address))
        yield remote
        await remote.close()

    async def test_the_same_trees_give_the_same_layer(
        self, differ: Differ, content: ContentStore, tmp_path: Path
    ) -> None:
        pytest.skip("containerd 1.6 knows no source_date_epoch")

    async def test_foreign_types_are_left_to_others(
        self, differ: Differ, content: ContentStore, tmp_path: Path
    ) -> None:
        pytest.skip("containerd 1.6 refuses them with the code Unknown")
