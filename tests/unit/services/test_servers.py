# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.empty_pb2 import Empty
from pydantic import ValidationError

from orlop.errors import FailedPrecondition, InvalidArgument, Unavailable, Unimplemented
from orlop.interfaces.rpc import RpcMethod, Server
from orlop_sdk.rpc.stub import Stub
from orlop_sdk.ttrpc.client import Client
from orlop_services.servers.config import GrpcConfig, TcpConfig, TtrpcConfig
from orlop_services.servers.grpc import UnixServer
from orlop_services.servers.grpc_tcp import TcpServer
from orlop_services.servers.ttrpc import TtrpcServer
from orlop_services.services.health import HEALTH, Request
from orlop_services.services.version import VersionService

SERVICE = "containerd.services.version.v1.Version"
METHODS: dict[str, RpcMethod] = dict(VersionService("7.0", "abc").methods())


def unix(path: Path, **settings: Any) -> UnixServer:
    return UnixServer(GrpcConfig(address=str(path), **settings), METHODS)


def ttrpc(path: Path, **settings: Any) -> TtrpcServer:
    return TtrpcServer(TtrpcConfig(address=str(path), **settings), METHODS)


both = pytest.mark.parametrize("make", [unix, ttrpc])
Make = Callable[..., Server]


@both
async def test_the_socket_is_for_owner_and_group_and_goes_at_the_end(make: Make, short_tmp: Path) -> None:
    path = short_tmp / "new" / "s.sock"
    server = make(path, uid=0, gid=12345)
    assert server.address == ""
    await server.start()
    found = path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o660, 0, 12345)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o770
    assert [entry.name for entry in path.parent.iterdir()] == ["s.sock"]
    assert server.address == f"unix://{path}"
    await server.close()
    await server.close()
    assert list(path.parent.iterdir()) == []


@both
async def test_a_stale_socket_is_replaced(make: Make, short_tmp: Path) -> None:
    path = short_tmp / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = make(path)
    await server.start()
    await server.close()
    assert not path.exists()


@both
async def test_a_socket_that_somebody_answers_on_is_left_alone(make: Make, short_tmp: Path) -> None:
    path = short_tmp / "s"
    first, second = make(path), make(path)
    await first.start()
    before = path.stat().st_ino
    with pytest.raises(Unavailable, match="another process listens there"):
        await second.start()
    await second.close()
    assert path.stat().st_ino == before
    await first.close()


@both
async def test_a_file_that_is_no_socket_is_left_alone(make: Make, short_tmp: Path) -> None:
    path = short_tmp / "s"
    path.write_text("precious")
    with pytest.raises(FailedPrecondition, match="no socket"):
        await make(path).start()
    assert path.read_text() == "precious"


@both
async def test_a_socket_that_was_replaced_by_another_daemon_stays_at_close(make: Make, short_tmp: Path) -> None:
    path = short_tmp / "s"
    server = make(path)
    await server.start()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        await server.close()
    assert path.exists()


@both
async def test_the_longest_path_works_and_a_longer_one_is_refused(make: Make, short_tmp: Path) -> None:
    path = short_tmp / ("x" * (103 - len(os.fsencode(short_tmp))))
    server = make(path)
    await server.start()
    await server.close()
    with pytest.raises(InvalidArgument, match="105 bytes"):
        await make(Path(f"{path}y")).start()


async def test_grpc_clients_are_answered(short_tmp: Path) -> None:
    server = unix(short_tmp / "s")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            answer = await Stub(channel, SERVICE).Version(Empty())
            assert (answer.version, answer.revision) == ("7.0", "abc")
            with pytest.raises(Unimplemented, match=r"^unknown service grpc\.health\.v1\.Health$"):
                await Stub(channel, HEALTH).Check(Request())
            with pytest.raises(grpc.aio.AioRpcError) as error:
                call: Any = channel.unary_unary(f"/{SERVICE}/Nothing")
                await call(b"")
            assert error.value.details() == f"unknown method Nothing for service {SERVICE}"
    finally:
        await server.close()


async def test_ttrpc_clients_are_answered(short_tmp: Path) -> None:
    server = ttrpc(short_tmp / "s")
    await server.start()
    try:
        async with await Client.connect(server.address) as client:
            assert (await Stub(client, SERVICE).Version(Empty())).version == "7.0"
    finally:
        await server.close()


def certificate(directory: Path, name: str, authority: str = "") -> tuple[bytes, bytes]:
    key, file = directory / f"{name}.key", directory / f"{name}.crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(file)]
    if authority:
        command += ["-CA", str(directory / f"{authority}.crt"), "-CAkey", str(directory / f"{authority}.key")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return key.read_bytes(), file.read_bytes()


async def test_tcp_asks_for_certificates_of_its_authority(tmp_path: Path) -> None:
    _, authority = certificate(tmp_path, "ca")
    certificate(tmp_path, "server", "ca")
    key, signed = certificate(tmp_path, "client", "ca")
    stranger_key, stranger = certificate(tmp_path, "stranger")
    server = TcpServer(
        TcpConfig(
            address="127.0.0.1:0",
            tls_ca=str(tmp_path / "ca.crt"),
            tls_cert=str(tmp_path / "server.crt"),
            tls_key=str(tmp_path / "server.key"),
        ),
        METHODS,
    )
    await server.start()
    try:
        target = server.address.removeprefix("tcp://")
        good = grpc.ssl_channel_credentials(authority, key, signed)
        async with grpc.aio.secure_channel(target, good) as channel:
            assert (await Stub(channel, SERVICE).Version(Empty(), timeout=10)).version == "7.0"
        for credentials in (
            grpc.ssl_channel_credentials(authority, stranger_key, stranger),
            grpc.ssl_channel_credentials(authority),
        ):
            async with grpc.aio.secure_channel(target, credentials) as channel:
                with pytest.raises(Unavailable):
                    await Stub(channel, SERVICE).Version(Empty(), timeout=10)
    finally:
        await server.close()


async def test_a_tcp_port_in_use_is_an_error() -> None:
    first = TcpServer(TcpConfig(address="127.0.0.1:0"), METHODS)
    await first.start()
    try:
        second = TcpServer(TcpConfig(address=first.address.removeprefix("tcp://")), METHODS)
        with pytest.raises(Unavailable, match="cannot listen there"):
            await second.start()
    finally:
        await first.close()


async def test_a_missing_certificate_names_the_file() -> None:
    config = TcpConfig(address="127.0.0.1:0", tls_cert="/nowhere/c", tls_key="/nowhere/k")
    with pytest.raises(InvalidArgument, match="/nowhere/k"):
        await TcpServer(config, METHODS).start()


@pytest.mark.parametrize("settings", [{"tls_cert": "c"}, {"tls_key": "k"}, {"tls_ca": "a"}])
def test_half_a_tls_config_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="tls_"):
        TcpConfig(address="127.0.0.1:0", **settings)
