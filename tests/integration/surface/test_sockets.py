# SPDX-License-Identifier: Apache-2.0
"""The daemon's sockets: who may reach them, how much may be sent, and peers that break every rule."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from tests.support.ctr import eventually
from tests.support.daemon import ORLOPD, Daemon
from tests.support.fuzzing import GrpcSender
from tests.support.http2 import fields, message
from tests.support.place import short_directory
from tests.unit.services.test_servers import certificate

from orlop_sdk.api.services.containers.v1.containers_pb2 import Container, CreateContainerRequest
from orlop_sdk.http2 import frames
from orlop_sdk.http2.headers import block
from orlop_sdk.ttrpc import frames as ttrpc

TIMEOUT = 30.0
NOBODY = 65534
LIMIT = 1 << 20
VERSION = "/containerd.services.version.v1.Version/Version"
FORWARD = "/containerd.services.events.v1.Events/Forward"
RESOURCE_EXHAUSTED = 8


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with short_directory() as base:
        base.chmod(0o755)
        daemon = Daemon(base, ORLOPD, tables=f'[debug]\naddress = "{base}/d.sock"\nuid = 3\ngid = 4\n')
        text = daemon.config.read_text()
        for table, owner in (("grpc", f"uid = 1\ngid = {NOBODY}\n"), ("ttrpc", "uid = 2\ngid = 2\n")):
            text = text.replace(f"[{table}]\n", f"[{table}]\n{owner}")
        limits = f"max_recv_message_size = {LIMIT}\nmax_send_message_size = {LIMIT}\n"
        daemon.config.write_text(text.replace("[grpc]\n", f"[grpc]\n{limits}"))
        with daemon:
            yield daemon


def test_every_socket_has_its_owner_and_mode(daemon: Daemon) -> None:
    found = {
        path.name: (oct(path.stat().st_mode & 0o777), path.stat().st_uid, path.stat().st_gid)
        for path in daemon.base.iterdir()
        if path.is_socket()
    }
    assert found == {
        "s.sock": ("0o660", 1, NOBODY),
        "s.sock.ttrpc": ("0o660", 2, 2),
        "d.sock": ("0o660", 3, 4),
    }


def test_a_member_of_the_group_gets_in_and_others_do_not(daemon: Daemon) -> None:
    def try_as(gid: int) -> subprocess.CompletedProcess[bytes]:
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect({str(daemon.address)!r})"
        return subprocess.run(
            ["/usr/bin/python3", "-I", "-S", "-c", connect],
            check=False,
            capture_output=True,
            timeout=TIMEOUT,
            user=NOBODY,
            group=gid,
            extra_groups=[],
        )

    assert try_as(NOBODY).returncode == 0
    refused = try_as(12345)
    assert refused.returncode != 0
    assert b"PermissionError" in refused.stderr


def test_messages_beyond_the_limit_are_refused_in_both_directions(daemon: Daemon) -> None:
    sender = GrpcSender(str(daemon.address))
    namespace = [("containerd-namespace", "limits")]
    try:
        outcome = sender.call(FORWARD, [bytes(LIMIT + 1)], TIMEOUT, namespace)
        assert (outcome.code, outcome.messages) == (RESOURCE_EXHAUSTED, 0)
        assert str(LIMIT) in outcome.text
        spec = any_pb2.Any(type_url="x", value=bytes(4096))
        for number in range(300):
            record = Container(id=f"c{number}", runtime={"name": "io.containerd.runc.v2"}, spec=spec)
            request = CreateContainerRequest(container=record).SerializeToString()
            made = sender.call("/containerd.services.containers.v1.Containers/Create", [request], TIMEOUT, namespace)
            assert made.code == 0, made
        outcome = sender.call("/containerd.services.containers.v1.Containers/List", [b""], TIMEOUT, namespace)
        assert (outcome.code, outcome.messages) == (RESOURCE_EXHAUSTED, 0)
        # What is streamed, or small, still passes.
        outcome = sender.call("/containerd.services.containers.v1.Containers/ListStream", [b""], TIMEOUT, namespace)
        assert (outcome.code, outcome.messages) == (0, 300)
    finally:
        sender.close()


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def noise(chance: random.Random, name: str) -> bytes:
    """Frames of the right form with content of none, cut somewhere."""
    pieces = [frames.PREFACE, frames.encode(frames.SETTINGS, 0, 0)] if name == "s.sock" else []
    for _ in range(chance.randrange(12)):
        payload = chance.choice((b"", chance.randbytes(chance.randrange(60)), block(fields(VERSION)), message(b"")))
        stream = chance.choice((0, 1, 3, 5, 2, 2**31 - 1))
        if name == "s.sock":
            pieces.append(frames.encode(chance.randrange(11), chance.randrange(256), stream, payload))
        else:
            pieces.append(ttrpc.encode(stream, chance.randrange(5), chance.randrange(256), payload))
    sent = b"".join(pieces)
    return sent[: chance.randrange(len(sent) + 1)] if chance.random() < 0.3 else sent


@pytest.mark.parametrize("name", ["s.sock", "s.sock.ttrpc", "d.sock"])
def test_noise_on_a_socket_leaves_nothing_behind(daemon: Daemon, name: str) -> None:
    chance = random.Random(name)
    before = descriptors(daemon)
    since = len(daemon.log.read_bytes())
    for _ in range(300):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(TIMEOUT)
            peer.connect(str(daemon.base / name))
            try:
                peer.sendall(chance.choice((noise(chance, name), chance.randbytes(chance.randrange(200)))))
                if chance.random() < 0.5:
                    peer.shutdown(socket.SHUT_WR)
                    while peer.recv(65536):
                        continue
            except (BrokenPipeError, ConnectionResetError):
                continue
    eventually(lambda: descriptors(daemon) <= before + 2, lambda: f"{descriptors(daemon)} descriptors, {before} before")
    assert "Traceback" not in daemon.log.read_bytes()[since:].decode(errors="replace")
    assert daemon.ctr("n").run("version").code == 0


def test_hundreds_of_silent_peers_do_not_keep_others_out(daemon: Daemon) -> None:
    before = descriptors(daemon)
    silent = []
    try:
        for _ in range(400):
            peer = socket.socket(socket.AF_UNIX)
            silent.append(peer)
            peer.connect(str(daemon.address))
        assert daemon.ctr("n").run("version").code == 0
    finally:
        for peer in silent:
            peer.close()
    eventually(lambda: descriptors(daemon) <= before + 2, "their descriptors are free again")


def test_tcp_is_warned_of_without_certificates_and_asks_for_them_with(tmp_path: Path) -> None:
    certificate(tmp_path, "ca")
    certificate(tmp_path, "server", "ca")
    own, signed = certificate(tmp_path, "client", "ca")
    authority = (tmp_path / "ca.crt").read_bytes()
    files = {"ca": "ca.crt", "cert": "server.crt", "key": "server.key"}
    tls = "".join(f'tcp_tls_{key} = "{tmp_path / file}"\n' for key, file in files.items())
    for more in ("", tls):
        with short_directory() as base:
            daemon = Daemon(base, ORLOPD)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            text = daemon.config.read_text()
            daemon.config.write_text(text.replace("[grpc]\n", f'[grpc]\ntcp_address = "127.0.0.1:{port}"\n{more}'))
            with daemon:
                assert ("nothing is encrypted" in daemon.log.read_text()) == (not more)
                if more:
                    target = f"127.0.0.1:{port}"
                    trusted = grpc.ssl_channel_credentials(authority, own, signed)
                    # No built-in service may be reached from afar, so a known client is told that there is none.
                    assert answer(grpc.secure_channel(target, trusted)) == grpc.StatusCode.UNIMPLEMENTED
                    assert answer(grpc.insecure_channel(target)) == grpc.StatusCode.UNAVAILABLE
                    stranger = grpc.ssl_channel_credentials(authority)
                    assert answer(grpc.secure_channel(target, stranger)) == grpc.StatusCode.UNAVAILABLE


def answer(channel: grpc.Channel) -> grpc.StatusCode:
    with channel, pytest.raises(grpc.RpcError) as caught:
        method: Any = channel.unary_unary(VERSION, None, None)
        method(b"", timeout=TIMEOUT)
    code: Any = caught.value.code()
    assert isinstance(code, grpc.StatusCode)
    return code
