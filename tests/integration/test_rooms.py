# SPDX-License-Identifier: Apache-2.0
"""Built-in plugins come the way everybody's do, and each room can be left out."""

from __future__ import annotations

import ast
import json
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from tests.support.ctr import Ctr, columns
from tests.support.daemon import Daemon
from tests.support.environment import Environment, members
from tests.support.image import Image, write_archive

from orlop.plugin import TYPE_GROUP, PluginType

ROOT = Path(__file__).resolve().parents[2]
BUILTIN = ROOT / "plugins" / "builtin"
# The kinds that anybody can add, and what plugins of each there has to be out of the box.
PROMISED = {
    "snapshotters": ("io.containerd.snapshotter.v1", {"overlayfs", "native"}),
    "differs": ("io.containerd.differ.v1", {"walking"}),
    "stream processors": ("io.orlop.stream-processor.v1", {"tar", "gzip", "zstd"}),
    "log URI handlers": ("io.orlop.log.v1", {"fifo", "file", "binary"}),
    "proxy plugins": ("io.orlop.proxy.v1", {"snapshot", "content", "diff"}),
    "runtime shims": ("io.containerd.shim.v1", {"manager"}),
}
WITHOUT_DAEMON = "services"
"""The room that has the daemon's program itself."""


def rooms() -> list[str]:
    return sorted(path.parent.name for path in BUILTIN.glob("*/pyproject.toml"))


def types() -> dict[str, PluginType[Any]]:
    """All plugin types that are declared, by name."""
    loaded = [point.load() for point in entry_points(group=TYPE_GROUP)]
    return {item.name: item for item in loaded}


@pytest.mark.parametrize("kind", PROMISED)
def test_promised_kind_loads_by_entry_point(kind: str) -> None:
    """Each promised kind has a group, and the built-in ones of it are in that group like everybody's."""
    name, wanted = PROMISED[kind]
    declared = types()
    assert name in declared, f"{kind}: no such plugin type; there are {sorted(declared)}"
    points = {point.name: point for point in entry_points(group=declared[name].group)}
    assert wanted <= points.keys()
    for id in wanted:
        assert points[id].load().uri == f"{name}.{id}"


def test_everything_registered_is_declared() -> None:
    """No room registers a plugin that its metadata does not declare: there is no second way in."""
    declared = {point.value for type in types().values() for point in entry_points(group=type.group)}
    found = []
    for room in rooms():
        for file in (BUILTIN / room).glob("orlop_*/**/*.py"):
            module = ".".join(file.relative_to(BUILTIN / room).with_suffix("").parts)
            for name in registered(file):
                if f"{module}:{name}" not in declared:
                    found.append(f"{module}:{name}")
    assert found == []


def registered(file: Path) -> list[str]:
    """The functions of a module that are decorated as a plugin's factory: their one parameter is an init context."""
    return [
        node.name
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.AsyncFunctionDef)
        and node.decorator_list
        and node.args.args
        and re.match(r"(\w+\.)?InitContext\b", ast.unparse(node.args.args[0].annotation or ast.Constant("")))
    ]


def plugin_rows(ctr: Ctr) -> dict[str, str]:
    """The state of every plugin, by URI."""
    return {f"{row[0]}.{row[1]}": row[-1] for row in columns(ctr.ok("plugins", "ls")) if row}


def provided(room: str) -> set[str]:
    """The URIs of the plugins that a room declares."""
    by_group = {item.group: item.name for item in types().values()}
    points = members()[f"orlop-{room}"].entry_points
    return {f"{by_group[point.group]}.{point.name}" for point in points if point.group in by_group}


@pytest.mark.parametrize("room", [room for room in rooms() if room not in {"core", WITHOUT_DAEMON}])
def test_daemon_without_a_room(room: str, short_tmp: Path) -> None:
    """Without any one distribution the daemon starts, its plugins are gone, and what needs them says what it misses."""
    environment = Environment(short_tmp / "venv", without=[f"orlop-{room}"])
    base = short_tmp / "d"
    base.mkdir()
    with Daemon(base, environment.orlopd) as daemon:
        ctr = daemon.ctr("rooms")
        found = plugin_rows(ctr)
        assert provided(room) & found.keys() == set()
        log = daemon.tail(1000)
        for uri, state in found.items():
            assert state in {"ok", "skip", "error"}
            if state == "error":
                reason = ctr.ok("plugins", "ls", "-d", f"id=={uri.rpartition('.')[2]}")
                assert "needs" in reason, reason
        # One root cause for each thing that is missing, not one error for each plugin that misses it.
        errors = [line for line in log.splitlines() if "level=error" in line]
        assert len(errors) <= len({line.split("which", 1)[0] for line in errors})
        assert ctr.run("version").code == 0


def test_daemon_without_any_snapshotter_names_the_distribution(short_tmp: Path) -> None:
    """Whoever tries to unpack an image is told that there is no such snapshotter."""
    environment = Environment(short_tmp / "venv", without=["orlop-snapshots"])
    base = short_tmp / "d"
    base.mkdir()
    archive = write_archive(short_tmp / "busy.tar", {"example.com/busy:1": Image()})
    with Daemon(base, environment.orlopd) as daemon:
        refused = daemon.ctr("rooms").run("images", "import", str(archive))
        assert refused.code != 0
        assert "overlayfs" in refused.err


def test_kernel_without_the_daemon(short_tmp: Path) -> None:
    """The room with the servers is no exception: the others work in a program that embeds the kernel."""
    environment = Environment(short_tmp / "venv", without=["orlop-services"])
    program = short_tmp / "embed.py"
    program.write_text(
        "import asyncio, json, sys\n"
        "from orlop.config import from_data\n"
        "from orlop.kernel import Kernel\n"
        "async def main():\n"
        "    async with Kernel(from_data({'root': sys.argv[1] + '/r', 'state': sys.argv[1] + '/s'})) as kernel:\n"
        "        print(json.dumps({item.uri: item.state for item in kernel.registry.statuses()}))\n"
        "asyncio.run(main())\n"
    )
    done = environment.run(str(program), str(short_tmp))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["io.containerd.content.v1.content"] == "ok"
    assert found["io.containerd.snapshotter.v1.overlayfs"] == "ok"
    assert provided("services") & found.keys() == set()


def test_daemon_without_core_says_what_is_missing(short_tmp: Path) -> None:
    """Nothing works without the stores, but the daemon still answers, and names what it misses."""
    environment = Environment(short_tmp / "venv", without=["orlop-core"])
    base = short_tmp / "d"
    base.mkdir()
    with Daemon(base, environment.orlopd) as daemon:
        ctr = daemon.ctr("rooms")
        assert plugin_rows(ctr)["io.containerd.grpc.v1.images"] == "error"
        reason = ctr.ok("plugins", "ls", "-d", "id==images")
        assert "io.containerd.metadata.v1" in reason
        assert ctr.run("images", "ls").code != 0
