# SPDX-License-Identifier: Apache-2.0
"""The general launcher against shims that are shell scripts: what they are given, and what becomes of their answers."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from google.protobuf.any_pb2 import Any as AnyPb
from google.protobuf.timestamp_pb2 import Timestamp

from orlop.errors import DeadlineExceeded, InvalidArgument, Unavailable
from orlop.interfaces.runtime import ShimRequest
from orlop.values import AnyMessage
from orlop_runtime.launcher import LauncherSettings, ShimManager
from orlop_sdk.api.runtime.bootstrap.v1.bootstrap_pb2 import BootstrapParams
from orlop_sdk.api.runtime.task.v2.shim_pb2 import DeleteResponse

OPTIONS = AnyMessage("containerd.runc.v1.Options", b"\x32\x04crun")

Script = Callable[[str], ShimRequest]


@pytest_asyncio.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[ShimManager]:
    made = ShimManager(settings(tmp_path))
    yield made
    await made.close()


def settings(tmp_path: Path) -> LauncherSettings:
    log = logging.getLogger("orlop.test.launcher")
    log.setLevel(logging.INFO)
    return LauncherSettings(
        ttrpc_address="unix:///run/t.sock",
        grpc_address="/run/g.sock",
        publish_binary="/usr/bin/orlopd",
        environment=("SCHED_CORE=1",),
        version="1.2.3",
        log=log,
    )


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Makes a shim of a script's body; what it is given is kept in files."""
    (tmp_path / "bundle").mkdir()

    def make(body: str) -> ShimRequest:
        shim = tmp_path / "containerd-shim-test-v1"
        keep = (
            f'cat > {tmp_path}/stdin; printf "%s\\n" "$@" > {tmp_path}/args; env > {tmp_path}/env; pwd > {tmp_path}/cwd'
        )
        shim.write_text(f"#!/bin/sh\n{keep}\n{body}\n")
        shim.chmod(0o755)
        return ShimRequest("c1", "ns1", str(shim), tmp_path / "bundle", OPTIONS)

    return make


async def test_a_shim_is_started_as_containerd_does(launcher: ShimManager, script: Script, tmp_path: Path) -> None:
    address = await launcher.launch(script("echo unix:///run/shim.sock"))
    assert (address.address, address.version, address.protocol) == ("unix:///run/shim.sock", 2, "ttrpc")
    arguments = (tmp_path / "args").read_text().split()
    assert arguments == shlex.split("-namespace ns1 -address /run/g.sock -publish-binary /usr/bin/orlopd -id c1 start")
    environment = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    assert environment["TTRPC_ADDRESS"] == "/run/t.sock"
    assert environment["GRPC_ADDRESS"] == "/run/g.sock"
    assert environment["NAMESPACE"] == "ns1"
    assert environment["GOMAXPROCS"] == "2"
    assert environment["SCHED_CORE"] == "1"
    assert environment["PATH"] == os.environ["PATH"]
    assert (tmp_path / "cwd").read_text().strip() == str(tmp_path / "bundle")
    assert AnyPb.FromString((tmp_path / "stdin").read_bytes()).type_url == OPTIONS.type_url
    assert (tmp_path / "bundle" / "shim-binary-path").read_text() == str(tmp_path / "containerd-shim-test-v1")


async def test_all_that_a_failing_shim_says_is_the_error(launcher: ShimManager, script: Script) -> None:
    with pytest.raises(Unavailable, match=r"one\ntwo \(status 7 of: .*containerd-shim-test-v1 .* start\)"):
        await launcher.launch(script("echo one; echo two >&2; exit 7"))


async def test_a_shim_that_answers_nonsense(launcher: ShimManager, script: Script) -> None:
    with pytest.raises(Unavailable, match="no address"):
        await launcher.launch(script("echo what is going on"))


async def test_debug_is_passed_on(launcher: ShimManager, script: Script, tmp_path: Path) -> None:
    logging.getLogger("orlop.test.launcher").setLevel(logging.DEBUG)
    await launcher.launch(script("echo unix:///x"))
    assert "-debug" in (tmp_path / "args").read_text().split()


async def test_the_shims_log_comes_into_ours(
    launcher: ShimManager, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    request = script('(echo "level=warning msg=careful"; printf "no newline") > log; echo unix:///x')
    await launcher.launch(request)
    await launcher.release(request)
    assert [(record.levelname, record.message.partition(": ")[2]) for record in caplog.records] == [
        ("WARNING", "level=warning msg=careful"),
        ("INFO", "no newline"),
    ]


async def test_clean_returns_how_the_container_ended(launcher: ShimManager, script: Script, tmp_path: Path) -> None:
    answer = DeleteResponse(pid=12, exit_status=137, exited_at=Timestamp(seconds=1700000000))
    (tmp_path / "answer").write_bytes(answer.SerializeToString())
    ended = await launcher.clean(script(f"cat {tmp_path}/answer; echo never mind >&2"))
    assert (ended.status, ended.pid, ended.exited_at.timestamp()) == (137, 12, 1700000000)
    arguments = (tmp_path / "args").read_text().split()
    assert arguments[-3:] == ["-bundle", str(tmp_path / "bundle"), "delete"]
    assert (tmp_path / "stdin").read_bytes() == b""


async def test_clean_does_not_wait_for_ever(script: Script, tmp_path: Path) -> None:
    launcher = ShimManager(replace(settings(tmp_path), cleanup_timeout=0.2))
    with pytest.raises(DeadlineExceeded, match="delete"):
        await launcher.clean(script("exec sleep 60"))
    await launcher.close()


async def test_info_passes_options_and_returns_bytes(launcher: ShimManager, script: Script, tmp_path: Path) -> None:
    request = script(r"printf '\012\001x'")
    assert await launcher.info(request.runtime, OPTIONS) == b"\n\x01x"
    assert (tmp_path / "args").read_text().split() == ["-info"]
    assert AnyPb.FromString((tmp_path / "stdin").read_bytes()).value == OPTIONS.value


async def test_a_socket_directory_goes_to_shims_that_read_it(script: Script, tmp_path: Path) -> None:
    for version, reads in (("2.3.4", True), ("1.6.20~ds1", False), ("nonsense", False)):
        launcher = ShimManager(replace(settings(tmp_path), socket_dir="/run/sockets"))
        request = script(f'if [ "$1" = -v ]; then echo "name:"; echo "  Version: {version}"; else echo unix:///x; fi')
        await launcher.launch(request)
        await launcher.close()
        data = (tmp_path / "stdin").read_bytes()
        if reads:
            params = BootstrapParams.FromString(data)
            assert (params.instance_id, params.namespace, params.socket_dir) == ("c1", "ns1", "/run/sockets")
            assert params.extensions[0].value.value == OPTIONS.value
        else:
            assert AnyPb.FromString(data).type_url == OPTIONS.type_url


def test_environment_must_be_assignments(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="NAME=value"):
        ShimManager(replace(settings(tmp_path), environment=("SCHED_CORE",)))
