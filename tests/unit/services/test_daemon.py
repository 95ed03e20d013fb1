# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as Any_

from orlop_sdk.api.services.events.v1.events_pb2 import SubscribeRequest
from orlop_sdk.rpc.stub import Stub

ORLOPD = str(Path(sys.executable).parent / "orlopd")
VERSION = "io.containerd.grpc.v1.version"


def write_config(base: Path, top: str = "") -> Path:
    file = base / "c.toml"
    file.write_text(
        f'version = 4\nroot = "{base}/root"\nstate = "{base}/state"\n{top}\n'
        f'[plugins."io.containerd.server.v1.grpc"]\naddress = "{base}/s"\n'
        f'[plugins."io.containerd.server.v1.ttrpc"]\naddress = "{base}/s.ttrpc"\n'
        f'[plugins."io.containerd.internal.v1.opt"]\npath = "{base}/opt"\n'
    )
    return file


class Running:
    """A daemon that said it is ready, and what it says to its service manager."""

    def __init__(self, process: subprocess.Popen[bytes], notes: socket.socket, log: Path) -> None:
        self.process, self.notes, self.log = process, notes, log

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def running(base: Path, *arguments: str, abstract: bool = False, **env: str) -> Iterator[Running]:
    name = f"orlop-test-{base.name}" if abstract else f"{base}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes, (base / "log").open("wb") as log:
        notes.bind(f"\0{name}" if abstract else name)
        notes.settimeout(30)
        environment = {**os.environ, "NOTIFY_SOCKET": f"@{name}" if abstract else name, **env}
        command = [ORLOPD, "-c", str(base / "c.toml"), *arguments]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            assert notes.recv(100) == b"READY=1", (base / "log").read_text()
            yield Running(process, notes, base / "log")
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(30)


@pytest.mark.parametrize(("abstract", "number"), [(False, signal.SIGTERM), (True, signal.SIGINT)])
def test_it_tells_its_manager_and_leaves_no_socket(short_tmp: Path, abstract: bool, number: int) -> None:
    write_config(short_tmp)
    with running(short_tmp, abstract=abstract) as daemon:
        assert stat.S_IMODE((short_tmp / "root").stat().st_mode) == 0o700
        assert stat.S_IMODE((short_tmp / "state").stat().st_mode) == 0o711
        assert (short_tmp / "s").is_socket()
        assert (short_tmp / "s.ttrpc").is_socket()
        assert daemon.stop(number) == 0
        assert daemon.notes.recv(100) == b"STOPPING=1"
    assert not (short_tmp / "s").exists()
    assert not (short_tmp / "s.ttrpc").exists()
    assert "Traceback" not in (short_tmp / "log").read_text()


def test_a_signal_shows_what_it_is_doing(short_tmp: Path) -> None:
    write_config(short_tmp)
    with running(short_tmp, TMPDIR=str(short_tmp)) as daemon:
        daemon.process.send_signal(signal.SIGUSR1)
        daemon.process.send_signal(signal.SIGPIPE)
        assert daemon.stop() == 0
        file = short_tmp / f"orlopd.{daemon.process.pid}.stacks.log"
        text = file.read_text()
    assert 'thread "MainThread"' in text
    assert re.search(r"<Task .*_serve\(\)", text)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def start(base: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [ORLOPD, "-c", str(base / "c.toml"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)


def test_a_second_daemon_is_told_of_the_first(short_tmp: Path) -> None:
    write_config(short_tmp)
    with running(short_tmp) as first:
        same = start(short_tmp)
        other = start(short_tmp, "--root", f"{short_tmp}/root2", "--state", f"{short_tmp}/state2")
        assert first.stop() == 0
    assert same.returncode == 1
    assert same.stderr.splitlines()[-1] == (
        f'orlopd: root = "{short_tmp}/root": another daemon uses it; stop that, or choose another'
    )
    assert other.returncode == 1
    assert f'address "{short_tmp}/s": another process listens there' in other.stderr
    assert "Traceback" not in same.stderr + other.stderr


def test_a_fault_in_the_config_ends_it(short_tmp: Path) -> None:
    file = write_config(short_tmp, "oom_score = true\ntimeouts = 5")
    done = start(short_tmp)
    assert done.returncode == 1
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [f"{file}:4", f"{file}:5"]
    assert not (short_tmp / "root").exists()


def test_a_required_plugin_that_is_off_ends_it(short_tmp: Path) -> None:
    file = write_config(short_tmp, f'required_plugins = ["{VERSION}"]\ndisabled_plugins = ["{VERSION}"]')
    done = start(short_tmp)
    assert done.returncode == 1
    assert f"orlopd: {file}:4: {VERSION} is required, but disabled: disabled in {file}:5" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("over", ["grpc", "ttrpc"])
async def test_an_event_can_be_published_from_the_command_line(short_tmp: Path, over: str) -> None:
    write_config(short_tmp)
    event = Any_(type_url="types.example.org/Event", value=b"\x01")
    command = [ORLOPD, "publish", "--namespace", "here", "--topic", "/mine/thing"]
    env = {**os.environ, "TTRPC_ADDRESS": f"{short_tmp}/s.ttrpc"}
    if over == "grpc":
        command[1:1] = ["--address", f"{short_tmp}/s"]
        del env["TTRPC_ADDRESS"]

    def publish() -> None:
        subprocess.run(command, input=event.SerializeToString(), env=env, check=True, timeout=30)

    with running(short_tmp):
        async with grpc.aio.insecure_channel(f"unix:{short_tmp}/s") as channel:
            stub = Stub(channel, "containerd.services.events.v1.Events")
            async with stub.Subscribe(SubscribeRequest(filters=['topic=="/mine/thing"']), timeout=30) as stream:
                got = asyncio.ensure_future(anext(stream))
                # Nothing says when the daemon has the subscription, so what it may miss is published again.
                for _ in range(20):
                    await asyncio.to_thread(publish)
                    await asyncio.wait([got], timeout=0.5)
                    if got.done():
                        break
                envelope = await got
    assert (envelope.namespace, envelope.topic, envelope.event) == ("here", "/mine/thing", event)
    assert envelope.timestamp.seconds > 0
