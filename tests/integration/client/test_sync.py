# SPDX-License-Identifier: Apache-2.0
"""The client with blocking calls."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.integration.client.conftest import BUSYBOX, Target, clean

from orlop.errors import FailedPrecondition, NotFound
from orlop_sdk.client import sync
from orlop_sdk.client.stdio import pipes


def connect(target: Target, namespace: str) -> sync.Client:
    if target.daemon is not None:
        target.daemon.ctr(namespace)
        return sync.Client(str(target.daemon.address), namespace)
    return sync.Client.embedded(target.config(), namespace)


@pytest.fixture
def client(target: Target, namespace: str):  # type: ignore[no-untyped-def]  # a generator fixture
    with connect(target, namespace) as client:
        yield client
        client._thread.call(clean, client._target)  # type: ignore[attr-defined]  # the stub shows what users need


def test_everything_blocks(client: sync.Client, archive: Path) -> None:
    assert client.healthy()
    (image,) = client.import_images(archive, snapshotter=None)
    assert [each.name for each in client.images.list()] == [image.name] == [BUSYBOX]
    assert client.run(BUSYBOX, "echo", "hi").stdout == b"hi\n"
    assert len(list(client.content.walk())) == 3
    with pytest.raises(NotFound):
        client.images.get("example.com/nothing:1")


def test_streams(client: sync.Client, archive: Path) -> None:
    client.import_images(archive, snapshotter=None)
    streams = pipes()
    with client.create_container("cat", BUSYBOX, args=["cat"]) as container, container.create_task(streams) as task:
        task.start()
        blocking = client.blocking(streams)
        blocking.write(b"one\ntwo\n")
        assert blocking.stdout.readline() == b"one\n"
        blocking.write_eof()
        assert task.wait().status == 0
        task.delete()
        assert list(blocking.stdout) == [b"two\n"]
    assert client.containers.list() == []


def test_a_lease_counts_for_its_thread(client: sync.Client) -> None:
    with client.lease() as lease:
        client.snapshots().prepare("mine")
        other = threading.Thread(target=lambda: client.snapshots().prepare("other"))
        other.start()
        other.join()
        assert [each.id for each in client.leases.resources(lease.id)] == ["mine"]


def test_events(client: sync.Client, archive: Path) -> None:
    with client.watch('topic~="^/images/"') as events:
        client.import_images(archive)
        assert next(iter(events)).topic == "/images/create"


def test_closed(target: Target, namespace: str) -> None:
    with connect(target, namespace) as client:
        client.version()
    client.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        client.version()
