# SPDX-License-Identifier: Apache-2.0
"""Plugins of a running daemon, changed with ``orlop plugins`` and ``orlop config reload``, as ``ctr`` sees it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.cli import Orlop
from tests.support.ctr import Ctr, columns, eventually
from tests.support.daemon import ORLOPD, Daemon
from tests.support.image import Image, write_archive
from tests.support.place import short_directory

P = "io.containerd."
NATIVE = f"{P}snapshotter.v1.native"
OVERLAYFS = f"{P}snapshotter.v1.overlayfs"
IMAGES = f"{P}grpc.v1.images"
BOLT = f"{P}metadata.v1.bolt"
SCHEDULER = f"{P}gc.v1.scheduler"
IMAGE = "example.com/busy:1"
DROP_IN = "conf.d/zz-orlop-plugins.toml"
MODULE = '''\
"""A service nobody has heard of."""
from orlop.interfaces.rpc import GRPC_SERVICE

class Nothing:
    def methods(self):
        return {}

@GRPC_SERVICE.plugin("nothing")
async def nothing(ctx):
    return Nothing()

@GRPC_SERVICE.plugin("broken")
async def broken(ctx):
    raise ValueError("it is broken")
'''


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with short_directory() as base:
        (base / "conf.d").mkdir()
        (base / "lib").mkdir()
        (base / "lib" / "live_example.py").write_text(MODULE)
        daemon = Daemon(
            base, ORLOPD, top='# precious\nimports = ["conf.d/*.toml"]\n', env={"PYTHONPATH": f"{base}/lib"}
        )
        with daemon:
            yield daemon


@pytest.fixture
def orlop(daemon: Daemon) -> Orlop:
    return Orlop(daemon.address, "default")


@pytest.fixture
def ctr(daemon: Daemon) -> Ctr:
    return daemon.ctr(f"live-{uuid.uuid4().hex}")


def state(orlop: Orlop, uri: str) -> dict[str, str]:
    found: dict[str, str] = next(
        (row for row in orlop.json("plugins", "ls") if f"{row['type']}.{row['id']}" == uri), {"state": "absent"}
    )
    return found


def refused(orlop: Orlop, *words: str) -> str:
    result = orlop.run(*words)
    assert result.code == 1, str(result)
    return result.err


def test_a_service_vanishes_and_appears_for_ctr(daemon: Daemon, orlop: Orlop, ctr: Ctr) -> None:
    assert ctr.run("images", "ls").code == 0
    assert f"stopped: {IMAGES}" in orlop.ok("plugins", "disable", IMAGES)
    assert "unknown service containerd.services.images.v1.Images" in ctr.run("images", "ls").err
    assert ctr.run("containers", "ls").code == 0
    shown = state(orlop, IMAGES)
    assert shown["state"] == "disabled"
    assert re.search(r"disabled by \w+ at \d{4}-", shown["reason"])
    assert f"started: {IMAGES}" in orlop.ok("plugins", "enable", IMAGES)
    assert ctr.run("images", "ls").code == 0
    assert "nothing changed" in orlop.ok("plugins", "enable", IMAGES)


@pytest.mark.parametrize(
    "uri",
    [
        NATIVE,
        f"{P}differ.v1.walking",
        f"{P}service.v1.diff-service",
        "io.orlop.log.v1.file",
        f"{P}shim.v1.manager",
        f"{P}runtime.v2.task",
        f"{P}event.v1.exchange",
        f"{P}content.v1.content",
        BOLT,
        SCHEDULER,
        f"{P}internal.v1.opt",
        f"{P}server.v1.ttrpc",
        f"{P}ttrpc.v1.events",
        "io.orlop.proxy.v1.snapshot",
        "io.orlop.hook.v1.task-users",
    ],
)
def test_every_kind_goes_and_comes(orlop: Orlop, ctr: Ctr, uri: str) -> None:
    before = {f"{row['type']}.{row['id']}": row["state"] for row in orlop.json("plugins", "ls")}
    orlop.ok("plugins", "disable", uri, "--force")
    during = {f"{row['type']}.{row['id']}": row for row in orlop.json("plugins", "ls")}
    assert during[uri]["state"] == "disabled"
    for other, row in during.items():
        if before[other] == "ok" and row["state"] != "ok" and other != uri:
            assert row["cause"] == uri
            assert f"needs {uri}, which is disabled by " in row["reason"]
    assert "<- root cause" in orlop.ok("plugins", "why", f"{P}grpc.v1.images") or uri not in (
        BOLT,
        f"{P}content.v1.content",
    )
    orlop.ok("plugins", "enable", uri)
    orlop.ok("plugins", "reload", uri, "--force")
    after = {f"{row['type']}.{row['id']}": row["state"] for row in orlop.json("plugins", "ls")}
    assert after == before
    assert ctr.run("images", "ls").code == 0


def test_what_holds_containers_and_what_others_need_is_not_stopped(daemon: Daemon, orlop: Orlop, ctr: Ctr) -> None:
    archive = write_archive(daemon.base / "busy.tar", {IMAGE: Image()})
    ctr.ok("images", "import", "--snapshotter", "overlayfs", str(archive))
    ctr.ok("run", "--detach", "--snapshotter", "overlayfs", IMAGE, "web", "sleep", "100")
    said = refused(orlop, "plugins", "disable", OVERLAYFS, "--cascade")
    assert f'container "{ctr.namespace}/web"' in said
    assert f'snapshots in namespace "{ctr.namespace}"' in said
    said = refused(orlop, "plugins", "disable", f"{P}shim.v1.orlop", "--cascade")
    assert f'task "{ctr.namespace}/web"' in said
    said = refused(orlop, "plugins", "disable", BOLT)
    assert f"{IMAGES} needs it; stop that, too (cascade)" in said
    assert "every client of unix://" in refused(orlop, "plugins", "disable", f"{P}server.v1.grpc")
    # Everything but the shims starts anew, and the container does not notice.
    orlop.ok("plugins", "reload", BOLT, "--cascade")
    orlop.ok("plugins", "reload", f"{P}event.v1.exchange", "--cascade", "--force")
    assert [row[0] for row in columns(ctr.ok("tasks", "ls"))] == ["web"]
    assert ctr.ok("tasks", "exec", "--exec-id", "x", "web", "echo", "alive").strip() == "alive"
    warned = orlop.run("plugins", "disable", OVERLAYFS, "--force").err
    assert f'was stopped in spite of container "{ctr.namespace}/web"' in warned
    orlop.ok("plugins", "enable", OVERLAYFS)
    ctr.ok("tasks", "kill", "--signal", "9", "web")


def test_plugins_are_added_and_removed(daemon: Daemon, orlop: Orlop, ctr: Ctr) -> None:
    uri = f"{P}grpc.v1.nothing"
    assert f"started: {uri}" in orlop.ok("plugins", "add", uri, "live_example:nothing")
    assert state(orlop, uri)["state"] == "ok"
    assert "is there already" in refused(orlop, "plugins", "add", uri, "live_example:nothing")
    assert f"stopped: {uri}" in orlop.ok("plugins", "remove", uri)
    assert state(orlop, uri)["state"] == "absent"
    assert "it is broken" in refused(orlop, "plugins", "add", f"{P}grpc.v1.broken", "live_example:broken")
    assert state(orlop, f"{P}grpc.v1.broken")["state"] == "absent"
    assert "comes with orlop-services" in refused(orlop, "plugins", "remove", IMAGES)
    orlop.ok("plugins", "add", "--proxy", "far", "--type", "snapshot", "--socket", f"{daemon.base}/far.sock")
    assert f"{P}snapshotter.v1" in ctr.ok("plugins", "ls", "id==far")
    assert "does not answer" in orlop.run("plugins", "doctor").out
    orlop.ok("plugins", "remove", f"{P}snapshotter.v1.far")
    assert orlop.run("plugins", "doctor").code == 0


def test_a_reload_changes_one_plugin_and_a_bad_one_nothing(daemon: Daemon, orlop: Orlop) -> None:
    table = f'\n[plugins."{SCHEDULER}"]\n'
    text = daemon.config.read_text()
    daemon.config.write_text(f"{text}{table}pause_threshold = 0.5\n")
    assert orlop.ok("plugins", "reload", SCHEDULER).splitlines() == [f"restarted: {SCHEDULER}"]
    assert state(orlop, SCHEDULER)["exports"]["PauseThreshold"] == "0.5"  # type: ignore[index]
    daemon.config.write_text(f'{text}{table}pause_threshold = "much"\n')
    line = daemon.config.read_text().splitlines().index('pause_threshold = "much"') + 1
    for words in (("plugins", "reload", SCHEDULER), ("config", "reload"), ("config", "reload", "--dry-run")):
        assert f'{daemon.config}:{line}: plugins."{SCHEDULER}".pause_threshold = "much"' in refused(orlop, *words)
    assert state(orlop, SCHEDULER)["exports"]["PauseThreshold"] == "0.5"  # type: ignore[index]


def test_the_daemon_follows_its_config(daemon: Daemon, orlop: Orlop, ctr: Ctr) -> None:
    (daemon.base / "conf.d" / "a.toml").write_text(
        f'version = 2\ndisabled_plugins = ["{NATIVE}"]\noom_score = 7\n'
        f'[proxy_plugins.far]\ntype = "snapshot"\naddress = "{daemon.base}/far.sock"\n'
        f'[plugins."{SCHEDULER}"]\npause_threshold = 0.3\n'
    )
    planned = orlop.ok("config", "reload", "--dry-run")
    assert set(planned.splitlines()) == {
        f"would be stopped: {NATIVE}",
        f"would be started: {P}snapshotter.v1.far",
        f"would be restarted: {SCHEDULER}",
        "counts after a restart of the daemon only: oom_score",
    }
    assert state(orlop, NATIVE)["state"] == "ok"
    os.kill(daemon.pid, signal.SIGHUP)
    eventually(lambda: state(orlop, NATIVE)["state"] == "disabled", daemon.tail)
    assert "conf.d/a.toml:2" in state(orlop, NATIVE)["reason"]
    assert state(orlop, f"{P}snapshotter.v1.far")["state"] == "ok"
    assert state(orlop, SCHEDULER)["exports"]["PauseThreshold"] == "0.3"  # type: ignore[index]
    (daemon.base / "conf.d" / "a.toml").write_text("version = 9\n")
    os.kill(daemon.pid, signal.SIGHUP)
    eventually(lambda: "config not reloaded, nothing is changed" in daemon.log.read_text(), daemon.tail)
    (daemon.base / "conf.d" / "a.toml").unlink()
    orlop.ok("config", "reload")
    assert state(orlop, f"{P}snapshotter.v1.far")["state"] == "absent"
    assert state(orlop, NATIVE)["state"] == "ok"
    assert ctr.run("images", "ls").code == 0


def test_what_is_in_use_stays_until_a_restart(daemon: Daemon, orlop: Orlop, ctr: Ctr) -> None:
    archive = write_archive(daemon.base / "busy.tar", {IMAGE: Image()})
    ctr.ok("images", "import", "--snapshotter", "native", str(archive))
    (daemon.base / "conf.d" / "a.toml").write_text(
        f'version = 2\n[plugins."{NATIVE}"]\nroot_path = "{daemon.base}/n"\n'
    )
    said = orlop.ok("config", "reload")
    assert said.startswith(f"unchanged until the daemon restarts: {NATIVE}, used by ")
    assert said == orlop.ok("config", "reload")


def test_saved_changes_outlive_the_daemon(daemon: Daemon, orlop: Orlop) -> None:
    main = daemon.config.read_text()
    assert f"saved in {daemon.base}/{DROP_IN}" in orlop.ok("plugins", "disable", NATIVE, "--save")
    orlop.ok("plugins", "add", f"{P}grpc.v1.nothing", "live_example:nothing", "--save")
    orlop.ok("plugins", "add", "--proxy", "far", "--type", "snapshot", "--socket", f"{daemon.base}/far.sock", "--save")
    settings = daemon.base / "scheduler.toml"
    settings.write_text("pause_threshold = 0.4  # because\n")
    orlop.ok("plugins", "reload", SCHEDULER, "--config", str(settings), "--save")
    # What somebody notes in that file stays there as well.
    drop_in = daemon.base / DROP_IN
    noted = drop_in.read_text().replace("pause_threshold = 0.4", "pause_threshold = 0.4  # as measured")
    drop_in.write_text(f"{noted}\n# until the upgrade\n")
    assert "nothing changed" in orlop.ok("config", "reload")
    before = {f"{row['type']}.{row['id']}": row["state"] for row in orlop.json("plugins", "ls")}
    daemon.restart()
    assert {f"{row['type']}.{row['id']}": row["state"] for row in orlop.json("plugins", "ls")} == before
    assert state(orlop, SCHEDULER)["exports"]["PauseThreshold"] == "0.4"  # type: ignore[index]
    orlop.ok("plugins", "enable", NATIVE, "--save")
    orlop.ok("plugins", "remove", f"{P}grpc.v1.nothing", "--save")
    orlop.ok("plugins", "remove", f"{P}snapshotter.v1.far", "--save")
    daemon.restart()
    assert state(orlop, NATIVE)["state"] == "ok"
    assert state(orlop, f"{P}grpc.v1.nothing")["state"] == "absent"
    assert daemon.config.read_text() == main
    assert "pause_threshold = 0.4  # as measured\n" in drop_in.read_text()
    assert "\n# until the upgrade\n" in drop_in.read_text()


def test_saving_needs_a_place(short_tmp: Path) -> None:
    with Daemon(short_tmp, top=f'disabled_plugins = ["{NATIVE}"]\n') as daemon:
        orlop = Orlop(daemon.address, "default")
        said = refused(orlop, "plugins", "disable", IMAGES, "--save")
        assert 'write imports = ["conf.d/*.toml"] at its top' in said
        assert state(orlop, IMAGES)["state"] == "ok"
        (short_tmp / "conf.d").mkdir()
        daemon.config.write_text('imports = ["conf.d/*.toml"]\n' + daemon.config.read_text())
        said = refused(orlop, "plugins", "enable", NATIVE, "--save")
        assert f"is disabled in {daemon.config}:" in said
        assert state(orlop, NATIVE)["state"] == "disabled"
        orlop.ok("plugins", "enable", NATIVE)


def test_a_call_in_progress_ends_well(daemon: Daemon, orlop: Orlop, ctr: Ctr) -> None:
    archive = write_archive(daemon.base / "busy.tar", {IMAGE: Image()})
    ctr.ok("images", "import", str(archive))
    with subprocess.Popen(ctr.command("run", "--rm", IMAGE, "c", "sleep", "1000"), stdin=subprocess.DEVNULL) as waiting:
        eventually(lambda: "RUNNING" in ctr.run("tasks", "ls").out, "no task")
        # It waits in a call of this service.
        orlop.ok("plugins", "disable", f"{P}grpc.v1.tasks")
        orlop.ok("plugins", "enable", f"{P}grpc.v1.tasks")
        assert waiting.poll() is None
        ctr.ok("tasks", "kill", "--signal", "9", "c")
        assert waiting.wait(30) == 128 + signal.SIGKILL


def test_config_differences_and_keys_are_explained(daemon: Daemon, orlop: Orlop) -> None:
    said = orlop.ok("config", "diff", "-c", str(daemon.config))
    assert f"# {daemon.config}:" in said
    assert f"root = '{daemon.root}'" in said
    said = orlop.ok("config", "explain", "-c", str(daemon.config), f'plugins."{SCHEDULER}".pause_threshold')
    assert "default: 0.02" in said
    assert "share of time" in said
    assert "did you mean" in refused(orlop, "config", "explain", "oom_scor")


def test_the_doctor_names_each_cause_once(daemon: Daemon, orlop: Orlop) -> None:
    assert orlop.run("plugins", "doctor").code == 0
    orlop.ok("plugins", "disable", BOLT, "--cascade")
    lines = orlop.run("plugins", "doctor").out.splitlines()
    assert len([line for line in lines if line.startswith(f"note: {BOLT}: disabled: ")]) == 1
    assert f"  remedy: orlop plugins enable {BOLT}" in lines
    assert f"  keeps from running: {IMAGES}" in lines
    assert any(line.startswith("took ") for line in lines)
