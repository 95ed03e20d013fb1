# SPDX-License-Identifier: Apache-2.0
"""Parts behind a socket: as plugins of a kernel, with their errors, their context, and while nobody is there."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orlop import context
from orlop.blocking import run_blocking
from orlop.config import from_data
from orlop.errors import AlreadyExists, ConfigError, FailedPrecondition, InvalidArgument, Unavailable, Unimplemented
from orlop.interfaces.content import CONTENT, ContentStore
from orlop.interfaces.differ import DIFFER, Differ
from orlop.interfaces.proxy import PROXY
from orlop.interfaces.snapshotter import SNAPSHOTTER, Snapshotter
from orlop.kernel import Kernel
from orlop.values import EMPTY, AnyMessage, Descriptor, Labels, Mount
from orlop_proxy.remote import ProxyDiffer, ProxySnapshotter
from orlop_sdk.serving.proxy import Parts, serve
from orlop_snapshots.native import NativeSnapshotter

LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar", "sha256:" + "0" * 64, 7, {"note": "x"})
MOUNTS = [Mount("overlay", "overlay", "inner", ("lowerdir=/a:/b", "ro"))]


class Recorder:
    """A differ that keeps what it was asked, and in which context."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    async def apply(
        self,
        descriptor: Descriptor,
        mounts: Sequence[Mount],
        *,
        payloads: Mapping[str, AnyMessage] = {},  # never changed
        sync: bool = False,
    ) -> Descriptor:
        self.calls.append((descriptor, list(mounts), dict(payloads), sync, context.namespace(), context.lease()))
        if descriptor.media_type == "foreign":
            raise Unimplemented('media type "foreign": not known here')
        return descriptor

    async def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        *,
        media_type: str = "",
        ref: str = "",
        labels: Labels = EMPTY,
        source_date_epoch: datetime | None = None,
    ) -> Descriptor:
        self.calls.append((list(lower), list(upper), media_type, ref, dict(labels), source_date_epoch))
        return LAYER


def kernel(tmp_path: Path, address: Path, **kinds: str) -> Kernel:
    data = {
        "version": 3,
        "root": str(tmp_path / "root"),
        "state": str(tmp_path / "state"),
        "proxy_plugins": {
            name: {"type": kind, "address": str(address), "capabilities": ["rebase"], "exports": {"root": "/r"}}
            for name, kind in kinds.items()
        },
    }
    uris = [f"{type.name}.{name}" for name in kinds for type in (SNAPSHOTTER, CONTENT, DIFFER)]
    return Kernel(from_data(data), only=[*uris, *(f"{PROXY.name}.{kind}" for kind in ("snapshot", "content", "diff"))])


async def test_tables_of_the_config_become_plugins(tmp_path: Path, short_tmp: Path) -> None:
    address = short_tmp / "s.sock"
    async with kernel(tmp_path, address, sn="snapshot", long=SNAPSHOTTER.name, co="content", di="diff") as running:
        assert isinstance(running.get(SNAPSHOTTER, "sn"), Snapshotter)
        assert isinstance(running.get(SNAPSHOTTER, "long"), Snapshotter)
        assert isinstance(running.get(CONTENT, "co"), ContentStore)
        assert isinstance(running.get(DIFFER, "di"), Differ)
        (status,) = [each for each in running.registry.statuses() if each.uri == f"{SNAPSHOTTER.name}.sn"]
        assert status.exports == {"root": "/r", "address": str(address)}
        assert status.capabilities == ("rebase",)


async def test_an_unknown_kind_is_a_fault_of_the_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='unknown kind "snapshots"'):
        await kernel(tmp_path, tmp_path / "s.sock", sn="snapshots").start()


async def test_errors_keep_their_class_and_text(short_tmp: Path) -> None:
    address = str(short_tmp / "s.sock")
    served = await run_blocking(NativeSnapshotter, short_tmp / "root")
    async with serve(address, Parts(snapshotter=served)):
        proxy = ProxySnapshotter(address, "native")
        await proxy.prepare("key")
        with pytest.raises(AlreadyExists, match=r'^snapshot "key": already exists$'):
            await proxy.prepare("key")
        with pytest.raises(InvalidArgument, match="not committed"):
            await proxy.prepare("other", "key")
        with pytest.raises(FailedPrecondition, match="not active"):
            await proxy.view("view")
            await proxy.commit("name", "view")
        await proxy.close()
    await served.close()


async def test_everything_about_a_layer_travels(short_tmp: Path) -> None:
    address = f"unix://{short_tmp}/s.sock"
    recorder = Recorder()
    async with serve(address, Parts(differ=recorder)):
        proxy = ProxyDiffer(address)
        # Larger than what grpc takes without being told.
        payloads = {"decrypt": AnyMessage("type/url", b"k" * (10 << 20))}
        with context.scope(namespace="ns", lease="lease"):
            assert await proxy.apply(LAYER, MOUNTS, payloads=payloads, sync=True) == LAYER
            date = datetime(2020, 1, 1, tzinfo=UTC)
            arguments = {"media_type": "m", "ref": "r", "labels": {"a": "b"}}
            await proxy.compare(MOUNTS, [], **arguments, source_date_epoch=date)  # type: ignore[arg-type]  # as named
            await proxy.compare([], MOUNTS)
            with pytest.raises(Unimplemented, match="foreign"):
                await proxy.apply(Descriptor("foreign", "", 0), [])
        await proxy.close()
    assert recorder.calls[:3] == [
        (LAYER, MOUNTS, payloads, True, "ns", "lease"),
        (MOUNTS, [], "m", "r", {"a": "b"}, date),
        ([], MOUNTS, "", "", {}, None),
    ]


async def test_calls_fail_while_nobody_is_there_and_work_again(short_tmp: Path) -> None:
    address = str(short_tmp / "s.sock")
    served = await run_blocking(NativeSnapshotter, short_tmp / "root")
    proxy = ProxySnapshotter(address, "native")
    for turn in range(2):
        with pytest.raises(Unavailable):
            await proxy.prepare(f"key-{turn}")
        async with serve(address, Parts(snapshotter=served)):
            for _ in range(100):
                try:
                    await proxy.prepare(f"key-{turn}")
                except Unavailable:
                    await asyncio.sleep(0.1)
                else:
                    break
        assert not os.path.exists(address)  # noqa: ASYNC240  # one stat
    assert [info.name async for info in served.walk()] == ["key-0", "key-1"]
    await proxy.close()
    await served.close()


async def test_a_socket_in_use_is_refused(short_tmp: Path) -> None:
    address = str(short_tmp / "s.sock")
    async with serve(address, Parts(differ=Recorder())):
        with pytest.raises(Unavailable, match="another process listens"):
            async with serve(address, Parts(differ=Recorder())):
                pytest.fail("two servers on one socket")
        # The first one was not disturbed.
        proxy = ProxyDiffer(address)
        with context.scope(namespace="ns"):
            assert await proxy.apply(LAYER, []) == LAYER
        await proxy.close()


async def test_nothing_to_serve_is_refused(short_tmp: Path) -> None:
    with pytest.raises(InvalidArgument, match="nothing to serve"):
        async with serve(str(short_tmp / "s.sock"), Parts()):
            pytest.fail("it serves nothing")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_program_ends_cleanly_when_it_is_told_to(short_tmp: Path, number: signal.Signals) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from orlop_sdk.serving.proxy import run;"
        "from orlop_snapshots.native import NativeSnapshotter as N;"
        "asyncio.run(run(sys.argv[1], snapshotter=N(Path(sys.argv[2]))))"
    )
    address = short_tmp / "s.sock"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, str(address), str(short_tmp / "root")],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(400):
            if address.exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert (process.returncode, said) == (0, "")
    assert not address.exists()
