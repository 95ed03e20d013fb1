# SPDX-License-Identifier: Apache-2.0
"""Descriptors that run out, and the most clients that there may be: what there is goes on, and all ends well."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.support.ctr import eventually
from tests.support.daemon import ORLOPD, OUR_SHIM, Daemon
from tests.support.fuzzing import GrpcSender
from tests.support.image import Image, write_archive
from tests.support.oci import busybox_tree

from orlop_sdk.api.services.content.v1 import content_pb2
from orlop_sdk.http2 import frames

TIMEOUT = 30.0
#: Files that the daemon may have open; it takes about 30 for itself.
FILES = 256
NAMESPACE = [("containerd-namespace", "n")]
IMAGE = "example.com/busy:1"
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.fixture
def limited(short_tmp: Path) -> Iterator[Daemon]:
    with Daemon(short_tmp, ORLOPD) as daemon:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (FILES, HARD))
        yield daemon


def answers(sender: GrpcSender) -> bool:
    found = sender.call("/containerd.services.images.v1.Images/List", [b""], TIMEOUT, NAMESPACE)
    return (found.code, found.messages) == (0, 1)


def connect(daemon: Daemon) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TIMEOUT)
    client.connect(str(daemon.address))
    return client


def refusal(client: socket.socket) -> bytes:
    """What the daemon says to a client that has to go; empty for one that may stay, and greets then."""
    # The daemon speaks first, and says it all at once.
    said = client.recv(4096)
    if frames.GOAWAY in (kind for kind, *_ in frames.Decoder(1 << 14).feed(frames.PREFACE + said)):
        return said
    client.sendall(frames.PREFACE + frames.encode_settings({}))
    return b""


def enter(daemon: Daemon, stack: ExitStack) -> None:
    """Let one more client in, as soon as those that were there before have left."""
    deadline = time.monotonic() + TIMEOUT
    while refusal(client := stack.enter_context(connect(daemon))):
        client.close()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def sending(daemon: Daemon) -> Iterator[GrpcSender]:
    sender = GrpcSender(str(daemon.address))
    try:
        yield sender
    finally:
        sender.close()


def test_one_client_too_many_is_told(short_tmp: Path) -> None:
    daemon = Daemon(short_tmp, ORLOPD)
    daemon.config.write_text(daemon.config.read_text().replace("[grpc]\n", "[grpc]\nmax_connections = 3\n"))
    with daemon:
        with ExitStack() as stack:
            sender = stack.enter_context(sending(daemon))
            eventually(lambda: answers(sender), "the first client is in", TIMEOUT)
            leaving = ExitStack()
            for each in (leaving, stack):
                enter(daemon, each)
            with connect(daemon) as outside:
                assert b"more than 3 connections" in refusal(outside)
            assert answers(sender)
            leaving.close()
            enter(daemon, stack)
        assert "refused 1 connections: more than 3 connections" in daemon.log.read_text()


def test_idle_clients_leave_descriptors_for_the_daemons_own_work(limited: Daemon) -> None:
    ctr = limited.ctr("crowded")
    ctr.ok("images", "import", str(write_archive(limited.base / "busy.tar", {IMAGE: Image()})))
    with ExitStack() as stack:
        # Connected before the crowd came.
        sender = stack.enter_context(sending(limited))
        assert answers(sender)
        told = b""
        for _ in range(2 * FILES):
            if told := refusal(stack.enter_context(connect(limited))):
                break
        assert b"hardly any descriptors left" in told
        assert answers(sender)
        # Content needs files, and a container needs many.
        path = "/containerd.services.content.v1.Content/Write"
        first = content_pb2.WriteContentRequest(action=content_pb2.WriteAction.WRITE, ref="r", data=b"x")
        assert sender.call(path, [first.SerializeToString()], TIMEOUT, NAMESPACE).code == 0
        assert len(os.listdir(f"/proc/{limited.pid}/fd")) < FILES - FILES // 16
    eventually(lambda: ctr.run("version").code == 0, "clients are let in again", TIMEOUT)
    assert ctr.ok("run", "--rm", IMAGE, "x", "echo", "room again") == "room again\n"


@pytest.mark.parametrize("runtime", ["io.containerd.runc.v2", OUR_SHIM], ids=["forked", "binary"])
def test_the_daemon_takes_all_that_it_may_have_and_shims_do_not(short_tmp: Path, runtime: str) -> None:
    """Containers get what the shim has, and many a program in them would go through half a million descriptors."""
    with Daemon(short_tmp, ("prlimit", f"--nofile={FILES}:", *ORLOPD)) as daemon:
        assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (HARD, HARD)
        ctr = daemon.ctr("limits")
        busybox_tree(short_tmp / "tree")
        ctr.ok("run", "-d", "--runtime", runtime, "--rootfs", str(short_tmp / "tree"), "c1", "/bin/sleep", "1000")
        (shim,) = daemon.shims()
        assert resource.prlimit(shim, resource.RLIMIT_NOFILE) == (FILES, HARD)


async def begun(channel: grpc.aio.Channel, ref: str) -> Any:
    """A write that has begun, and holds a file of the daemon's. Raises when it cannot."""
    call: Any = channel.stream_stream(
        "/containerd.services.content.v1.Content/Write",
        request_serializer=content_pb2.WriteContentRequest.SerializeToString,
        response_deserializer=content_pb2.WriteContentResponse.FromString,
    )(metadata=NAMESPACE)
    await call.write(content_pb2.WriteContentRequest(action=content_pb2.WriteAction.WRITE, ref=ref, data=b"x"))
    await call.read()
    return call


async def test_a_daemon_without_any_descriptor_left(limited: Daemon) -> None:
    """All are used up by calls on one connection: nothing keeps a client from that."""
    ctr = limited.ctr("short")
    async with grpc.aio.insecure_channel(f"unix://{limited.address}") as channel:
        version: Any = channel.unary_unary("/containerd.services.version.v1.Version/Version")
        held: list[Any] = []
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            while len(held) < 2 * FILES:
                held.append(await begun(channel, f"r{len(held)}"))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "Too many open files; end calls that hold files, or raise" in str(refused.value.details())
        assert await version(b"", timeout=TIMEOUT)
        # Nobody new gets in; and that costs the daemon no time.
        with connect(limited) as client:
            assert ended(client)
        before = cpu_seconds(limited)
        await asyncio.sleep(1)
        assert cpu_seconds(limited) - before < 0.5
        prepare: Any = channel.unary_unary("/containerd.services.snapshots.v1.Snapshots/Prepare")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await prepare(b"\n\toverlayfs\x12\x01k", metadata=NAMESPACE, timeout=TIMEOUT)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in held:
            call.cancel()
        eventually(lambda: ctr.run("version").code == 0, "clients are let in again", TIMEOUT)
        assert await version(b"", timeout=TIMEOUT)
        await prepare(b"\n\toverlayfs\x12\x01k", metadata=NAMESPACE, timeout=TIMEOUT)
    assert "Traceback" not in limited.log.read_text()


def ended(client: socket.socket) -> bool:
    """Whether the daemon hangs up."""
    try:
        while client.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def cpu_seconds(daemon: Daemon) -> float:
    """Processor time that the daemon has used."""
    user, system = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
