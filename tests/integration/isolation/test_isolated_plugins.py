# SPDX-License-Identifier: Apache-2.0
"""Every kind of plugin that can be isolated, in the real daemon: containers run, and nothing else notices a death."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.cgroups import plugin_cgroups
from tests.support.ctr import Ctr, columns, eventually
from tests.support.daemon import Daemon
from tests.support.image import Image, write_archive
from tests.support.processes import arguments, parents

IMAGE = "example.com/busy:1"
SNAPSHOTTER = "io.containerd.snapshotter.v1.native"
CONTENT = "io.containerd.content.v1.content"
DIFFER = "io.containerd.differ.v1.walking"
STREAM = "io.orlop.stream-processor.v1.gzip"
URIS = (SNAPSHOTTER, CONTENT, DIFFER, STREAM)


def table(*uris: str, how: str = "true") -> str:
    return "".join(f'[plugins."{uri}"]\n  isolated = {how}\n' for uri in uris)


def children(daemon: Daemon) -> set[int]:
    """The processes of isolated plugins: children of the daemon, or of the keepers of their containers."""
    above = parents()
    hosts = {pid for pid in above if b"orlop_proxy.child" in b" ".join(arguments(pid))}
    return {pid for pid in hosts if daemon.pid in (above[pid], above.get(above[pid]))}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("images") / "busy.tar", {IMAGE: Image()})


CASES = {**{uri: ((uri,), "true") for uri in URIS}, "all": (URIS, "true"), "contained": (URIS, '"container"')}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[tuple[str, ...], str]:
    return CASES[request.param]


@pytest.fixture
def uris(case: tuple[tuple[str, ...], str]) -> tuple[str, ...]:
    return case[0]


@pytest.fixture
def daemon(short_tmp: Path, case: tuple[tuple[str, ...], str]) -> Iterator[Daemon]:
    uris, how = case
    with Daemon(short_tmp, tables=table(*uris, how=how)) as daemon:
        yield daemon


@pytest.fixture
def ctr(daemon: Daemon) -> Ctr:
    return daemon.ctr(f"iso-{uuid.uuid4().hex}")


def states(ctr: Ctr) -> dict[str, str]:
    return {f"{row[0]}.{row[1]}": row[-1] for row in columns(ctr.ok("plugins", "ls")) if row}


def use(ctr: Ctr, archive: Path, name: str) -> None:
    """Unpack an image, run a container, and remove everything, through all four kinds of plugin."""
    ctr.ok("images", "import", "--snapshotter", "native", str(archive))
    ctr.ok("run", "--detach", "--snapshotter", "native", IMAGE, name, "sleep", "100")
    assert ctr.ok("tasks", "exec", "--exec-id", "e", name, "cat", "/etc/group").startswith("root:x:0:")
    ctr.ok("tasks", "exec", "--exec-id", "f", name, "touch", "/made-inside")
    assert ctr.ok("snapshots", "--snapshotter", "native", "diff", name)
    ctr.ok("tasks", "kill", "--signal", "KILL", name)
    ctr.remove_tasks()
    ctr.ok("containers", "rm", name)
    ctr.ok("images", "rm", "--sync", IMAGE)


def test_containers_run_with_it_and_after_its_death(
    daemon: Daemon, uris: tuple[str, ...], ctr: Ctr, archive: Path
) -> None:
    assert {states(ctr)[uri] for uri in uris} == {"ok"}
    before = children(daemon)
    assert len(before) == len(uris)
    use(ctr, archive, "c1")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    ctr.ok("version")
    assert {states(ctr)[uri] for uri in URIS} == {"ok"}
    eventually(lambda: len(children(daemon) - before) == len(uris), "they are started again")
    eventually(lambda: daemon.log.read_text().count("its process runs again") == len(uris), "they are ready again")
    use(ctr, archive, "c2")
    assert daemon.running


def test_they_end_with_the_daemon_however_it_ends(daemon: Daemon, case: tuple[tuple[str, ...], str]) -> None:
    uris, contained = case[0], "container" in case[1]
    for end in (daemon.stop, daemon.kill):
        pids = children(daemon)
        assert len(pids) == len(uris)
        groups = [group for pid in pids for group in plugin_cgroups(pid)]
        assert bool(groups) == contained
        left = [*(Path(f"/proc/{pid}") for pid in pids), *groups]
        end()
        eventually(lambda: not any(path.exists() for path in left), "they are gone")  # noqa: B023
        daemon.start()


def test_callers_are_told_that_it_is_down(short_tmp: Path) -> None:
    """One that cannot come back: its records were removed behind its back."""
    with Daemon(short_tmp, tables=table(SNAPSHOTTER)) as daemon:
        ctr = daemon.ctr(f"iso-{uuid.uuid4().hex}")
        ctr.ok("snapshots", "--snapshotter", "native", "prepare", "one")
        (daemon.root / SNAPSHOTTER / "snapshots.db").unlink()
        (pid,) = children(daemon)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: "does not start" in daemon.log.read_text(), "it tries")
        refused = ctr.run("snapshots", "--snapshotter", "native", "prepare", "two")
        assert refused.code != 0
        assert f'plugin "{SNAPSHOTTER}": its process does not start: snapshot directory' in refused.err
        assert "is being started again" in refused.err
        # The others go on.
        ctr.ok("snapshots", "--snapshotter", "overlayfs", "prepare", "one")
        assert SNAPSHOTTER in daemon.log.read_text()


def test_a_failure_at_start_is_the_plugins_state(short_tmp: Path) -> None:
    (short_tmp / "foreign/snapshots/1").mkdir(parents=True)
    tables = table(SNAPSHOTTER) + f'  root_path = "{short_tmp}/foreign"\n'
    with Daemon(short_tmp, tables=tables) as daemon:
        ctr = daemon.ctr(f"iso-{uuid.uuid4().hex}")
        assert states(ctr)[SNAPSHOTTER] == "error"
        assert "holds snapshots but not the records" in ctr.ok("plugins", "ls", "--detailed")
        assert children(daemon) == set()


def test_types_that_cannot_be_isolated_are_refused(short_tmp: Path) -> None:
    daemon = Daemon(short_tmp, tables=table("io.containerd.metadata.v1.bolt"))
    daemon.launch()
    assert daemon.process is not None
    assert daemon.process.wait(20) != 0
    said = daemon.tail()
    assert f"{daemon.config}:" in said
    assert 'isolated: there is no isolator "process" for it; drop the key' in said
