# SPDX-License-Identifier: Apache-2.0
"""What the command says about the daemon: events, plugins and why they are what they are, its config, its absence."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.support.cli import Orlop
from tests.support.ctr import columns
from tests.support.daemon import Daemon

BUSY = "busy:1"
NATIVE = "io.containerd.snapshotter.v1.native"


def test_version(any_orlop: Orlop) -> None:
    assert any_orlop.json("version")["server"]
    client, server = any_orlop.ok("version").splitlines()
    assert client.startswith("client ")
    assert server.startswith("server ")
    assert any_orlop.ok("version", "--client") == f"{client}\n"


def test_events(any_orlop: Orlop, archive: Path) -> None:
    with any_orlop.background("--format", "json", "events", "--count", "2", 'topic~="^/images/"') as watcher:
        # A subscription is there once its first event comes, so that there have to be more than one.
        assert watcher.stdout is not None
        for _ in range(20):
            any_orlop.ok("import", "--no-unpack", str(archive))
            any_orlop.ok("rmi", "--async", BUSY)
            try:
                out, err = watcher.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                continue
        else:
            pytest.fail("no event was shown")
    assert watcher.returncode == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert {event["namespace"] for event in events} == {any_orlop.namespace}
    assert {event["event"]["name"] for event in events} == {f"docker.io/library/{BUSY}"}


def test_plugins(any_orlop: Orlop) -> None:
    rows = any_orlop.json("plugins", "ls")
    assert {"type", "id", "state", "reason", "requires"} <= rows[0].keys()
    assert {row["state"] for row in rows if row["type"] == "io.containerd.content.v1"} == {"ok"}
    listed = columns(any_orlop.ok("plugins", "ls", "type==io.containerd.snapshotter.v1"))
    assert {row[0] for row in listed} == {"io.containerd.snapshotter.v1"}
    assert any_orlop.ok("plugins", "why", NATIVE).startswith(f"{NATIVE} is ok\n")
    assert any_orlop.json("plugins", "why", "native")["state"] == "ok"
    assert f"\n  {NATIVE}\n" in any_orlop.ok("plugins", "tree", "io.containerd.metadata.v1.bolt")
    needs = {f"{row['type']}.{row['id']}": row["needs"] for row in any_orlop.json("plugins", "tree")}
    assert NATIVE in needs["io.containerd.metadata.v1.bolt"]
    assert "orlop plugins ls lists those it has" in any_orlop.fails("plugins", "why", "nosuch")


def test_a_skipped_plugin_says_why(orlop: Orlop) -> None:
    first, second, *needs = orlop.ok("plugins", "why", "grpc-tcp").splitlines()
    assert first == "io.containerd.server.v1.grpc-tcp is skipped"
    assert second.startswith("  because: no address; to listen on TCP set")
    assert "  needs io.containerd.grpc.v1.images, which is ok" in needs
    assert "say which: io.containerd.grpc.v1.events" in orlop.fails("plugins", "why", "events")


def test_a_disabled_plugin_says_where(short_tmp: Path) -> None:
    top = f'disabled_plugins = ["{NATIVE}"]\n'
    with Daemon(short_tmp, top=top) as daemon:
        orlop = Orlop(daemon.address, "default")
        for name in ("native", NATIVE):
            said = orlop.ok("plugins", "why", name)
            assert said.startswith(f"{NATIVE} is disabled\n  because: ")
            assert str(daemon.config) in said
        assert orlop.json("plugins", "why", "native")["state"] == "disabled"


def test_nobody_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, said in (("nosuch", "no such socket"), ("file", "nobody listens there"), ("file/x", "no such socket")):
        address = tmp_path / name
        orlop = Orlop(address, "default")
        for words in (("ps",), ("images",), ("rm", "a", "b"), ("plugins", "ls"), ("events",), ("run", BUSY)):
            assert orlop.fails(*words).startswith(f'daemon "{address}": {said}')
    result = Orlop(tmp_path / "nosuch", "default").run("version")
    assert result.code == 1
    assert result.out.startswith("client ")


def test_config(orlop: Orlop, tmp_path: Path, daemon: Daemon) -> None:
    defaults = tmp_path / "defaults.toml"
    defaults.write_text(orlop.ok("config", "default"))
    assert orlop.run("config", "check", "--config", str(defaults)).code == 0
    dumped = orlop.ok("config", "dump", "-c", str(daemon.config))
    assert f'root = "{daemon.root}"  # {daemon.config}:' in dumped
    assert orlop.json("config", "dump", "-c", str(daemon.config))["root"] == str(daemon.root)
    schema = json.loads(orlop.ok("config", "schema"))
    assert NATIVE in schema["properties"]["plugins"]["properties"]
    assert "cannot be read" in orlop.fails("config", "dump", "-c", str(tmp_path / "nosuch"))


def test_config_is_migrated_and_checked(orlop: Orlop, tmp_path: Path) -> None:
    old = tmp_path / "old.toml"
    old.write_text('version = 2\n[plugins."io.containerd.snapshotter.v1.native"]\nroot_path = "/x"\n')
    new = tmp_path / "new.toml"
    new.write_text(orlop.ok("config", "migrate", "-c", str(old)))
    assert new.read_text().startswith("version = 4")
    assert orlop.run("config", "check", "-c", str(new)).code == 0
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('version = 2\nrooot = "/x"\n[plugins."io.containerd.snapshotter.v1.native"]\nroot_path = 3\n')
    result = orlop.run("config", "check", "-c", str(wrong))
    assert result.code == 1
    faults = result.out.splitlines()
    assert any(f"{wrong}:2" in line and "rooot" in line for line in faults)
    assert any(f"{wrong}:4" in line and "root_path" in line for line in faults)
    assert json.loads(orlop.run("--format", "json", "config", "check", "-c", str(wrong)).out) == faults
