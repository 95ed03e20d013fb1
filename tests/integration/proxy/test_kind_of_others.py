# SPDX-License-Identifier: Apache-2.0
"""A distribution from elsewhere brings an interface, a proxy kind for it with its own protocol, and what uses them.

It is written into a temporary folder as its author would have it, and installed with pip into a directory that the
config names: the kernel, the SDK and the built-in rooms know nothing of it.
"""

from __future__ import annotations

import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from tests.support.ctr import columns, environment, eventually
from tests.support.daemon import Daemon
from tests.support.environment import pip_install

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "acme-greeter"
version = "1.0"
dependencies = ["orlop-kernel"]

[project.entry-points."orlop.plugin_type.v1"]
greeter = "acme_greeter:GREETER"

[project.entry-points."orlop.proxy.v1"]
greeter = "acme_greeter:greeter"

[project.entry-points."orlop.grpc.v1"]
greetings = "acme_greeter:greetings"

[tool.hatch.build.targets.wheel]
packages = ["acme_greeter"]
"""
CODE = '''\
"""Greeters: an interface that nobody but this distribution knows, spoken over sockets one line at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from google.protobuf.wrappers_pb2 import StringValue
from orlop.errors import NotFound, Unavailable
from orlop.interfaces.proxy import ProxyKind, proxy_kind
from orlop.interfaces.rpc import GRPC_SERVICE, RpcMethod, RpcService
from orlop.plugin import InitContext, NoConfig, PluginType, Plugins, ProxyTarget


@runtime_checkable
class Greeter(Protocol):
    async def greet(self, whom: str) -> str: ...


GREETER = PluginType("com.acme.greeter.v1", Greeter, group="acme.greeter.v1", many=True)


class RemoteGreeter:
    def __init__(self, address: str) -> None:
        self._address = address

    async def greet(self, whom: str) -> str:
        try:
            reader, writer = await asyncio.open_unix_connection(self._address)
        except OSError as error:
            raise Unavailable(f'greeter "{self._address}": {error}') from error
        writer.write(whom.encode() + b"\\n")
        answer = await reader.readline()
        writer.close()
        return answer.decode().strip()

    async def close(self) -> None:
        """There is no connection between calls."""


class GreeterKind:
    async def connect(self, name: str, target: ProxyTarget) -> RemoteGreeter:
        return RemoteGreeter(target.address)


@proxy_kind("greeter", exports={"target": GREETER.name})
async def greeter(ctx: InitContext[NoConfig]) -> ProxyKind:
    return GreeterKind()


class Greetings:
    """Calls the greeter that is named before the slash."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins

    def methods(self) -> Mapping[str, RpcMethod]:
        return {"/acme.Greetings/Greet": RpcMethod(self._greet, StringValue, StringValue)}

    async def _greet(self, request: StringValue) -> StringValue:
        name, _, whom = request.value.partition("/")
        found = self._plugins.instance(f"{GREETER.name}.{name}")
        if not isinstance(found, Greeter):
            raise NotFound(f'greeter "{name}": not found')
        return StringValue(value=await found.greet(whom))


@GRPC_SERVICE.plugin("greetings", requires=[GREETER.optional()])
async def greetings(ctx: InitContext[NoConfig]) -> RpcService:
    return Greetings(ctx.plugins)
'''
TABLE = """
[proxy_plugins.north]
  type = "greeter"
  address = "{base}/north"
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that pip installed the distribution into."""
    folder, path = tmp_path_factory.mktemp("acme-greeter"), tmp_path_factory.mktemp("target")
    (folder / "acme_greeter").mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "acme_greeter/__init__.py").write_text(CODE)
    pip_install([folder], "--target", str(path))
    return path


@pytest.fixture
def daemon(target: Path, short_tmp: Path) -> Iterator[Daemon]:
    with Daemon(short_tmp, top=f'plugin_dirs = ["{target}"]\n', tables=TABLE.format(base=short_tmp)) as daemon:
        yield daemon


@contextmanager
def serving(path: Path) -> Iterator[None]:
    """A greeter in this process, which is another than the daemon's."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"%s greets %s" % (path.name.encode(), self.rfile.readline()))

    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            path.unlink()


def greet(daemon: Daemon, request: str) -> str:
    """Ask through the daemon's own socket; the error's code where there is one."""
    with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
        call = channel.unary_unary(
            "/acme.Greetings/Greet",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        try:
            answer: StringValue = call(StringValue(value=request), timeout=20)
        except grpc.RpcError as error:
            return str(error.code().name)
        return answer.value


def plugins(daemon: Daemon, *args: str) -> subprocess.CompletedProcess[str]:
    """Call ``orlop plugins``."""
    program = str(Path(sys.executable).parent / "orlop")
    command = [program, "--address", str(daemon.address), "plugins", *args]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, timeout=60)


def test_its_parts_are_reached_through_the_daemon(daemon: Daemon) -> None:
    rows = [
        row for row in columns(daemon.ctr("default").ok("plugins", "ls")) if row and row[0] == "com.acme.greeter.v1"
    ]
    assert [(row[1], row[-1]) for row in rows] == [("north", "ok")]
    assert greet(daemon, "north/you") == "UNAVAILABLE"
    with serving(daemon.base / "north"):
        assert greet(daemon, "north/you") == "north greets you"
    assert greet(daemon, "north/you") == "UNAVAILABLE"
    with serving(daemon.base / "north"):
        assert greet(daemon, "north/us") == "north greets us"


def test_further_ones_come_and_go_while_it_runs(daemon: Daemon) -> None:
    assert greet(daemon, "south/you") == "NOT_FOUND"
    added = plugins(daemon, "add", "--proxy", "south", "--type", "greeter", "--socket", str(daemon.base / "south"))
    assert added.returncode == 0, added.stderr
    with serving(daemon.base / "south"):
        assert greet(daemon, "south/you") == "south greets you"
        assert "com.acme.greeter.v1.south" in plugins(daemon, "tree").stdout
        removed = plugins(daemon, "remove", "com.acme.greeter.v1.south")
        assert removed.returncode == 0, removed.stderr
        assert greet(daemon, "south/you") == "NOT_FOUND"
    eventually(lambda: greet(daemon, "north/you") == "UNAVAILABLE", "the other is as it was")


def test_without_it_the_kind_is_unknown(short_tmp: Path) -> None:
    daemon = Daemon(short_tmp, tables=TABLE.format(base=short_tmp))
    daemon.launch()
    assert daemon.process is not None
    try:
        assert daemon.process.wait(30) != 0
    finally:
        daemon.purge()
    assert 'unknown kind "greeter"; valid: content, diff' in daemon.tail()
