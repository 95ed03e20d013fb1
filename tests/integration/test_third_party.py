# SPDX-License-Identifier: Apache-2.0
"""A distribution from elsewhere: installed beside Orlop, it is there; disabled, its code is never imported.

The distribution is written into a temporary folder as its author would have it, with a snapshotter and a log driver,
and installed with pip: into a directory named in the config, and into a virtual environment with Orlop.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.ctr import columns, eventually
from tests.support.daemon import ORLOPD, Daemon
from tests.support.environment import Environment, pip_install
from tests.support.image import Image, write_archive

SNAPSHOTTER = "io.containerd.snapshotter.v1.demo"
LOG_DRIVER = "io.orlop.log.v1.demo"
IMAGE = "example.com/busy:1"
PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "orlop-demo"
version = "1.0"
dependencies = ["orlop-kernel", "orlop-sdk"]

[project.entry-points."orlop.snapshotter.v1"]
demo = "orlop_demo.plugins:demo_snapshotter"

[project.entry-points."orlop.log.v1"]
demo = "orlop_demo.logs:demo_driver"

[tool.hatch.build.targets.wheel]
packages = ["orlop_demo"]
"""
SENTINEL = """\
import os
from pathlib import Path

# Tells the test that this module was imported.
if "DEMO_SENTINELS" in os.environ:
    (Path(os.environ["DEMO_SENTINELS"]) / __name__).touch()
"""
PLUGINS = '''\
"""A snapshotter that copies trees, like many a first one."""

from __future__ import annotations

import shutil
from pathlib import Path

from orlop.blocking import run_blocking
from orlop.interfaces.snapshotter import Snapshotter, snapshotter
from orlop.plugin import ConfigPath, InitContext, PluginConfig
from orlop.values import Mount, SnapshotKind
from orlop_sdk.storage.directories import DirectorySnapshotter, NewSnapshot
from orlop_sdk.storage.snapshots import StoredSnapshot

# SENTINEL


class DemoConfig(PluginConfig):
    root_path: ConfigPath = None
    """Where snapshots are kept."""


class DemoSnapshotter(DirectorySnapshotter):
    def populate(self, directory: Path, new: NewSnapshot) -> None:
        if new.parents:
            shutil.copytree(new.parents[0], directory, symlinks=True, dirs_exist_ok=True)

    def describe(self, snapshot: StoredSnapshot) -> list[Mount]:
        access = "rw" if snapshot.info.kind == SnapshotKind.ACTIVE else "ro"
        return [Mount("bind", str(self.directory(snapshot.id)), options=("rbind", access))]


@snapshotter("demo", config=DemoConfig)
async def demo_snapshotter(ctx: InitContext[DemoConfig]) -> Snapshotter:
    return await run_blocking(DemoSnapshotter, ctx.config.root_path or ctx.root)
'''
LOGS = '''\
"""A log driver that writes both streams into one file, each line with the container's name."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping

from orlop.interfaces.log import LogDriver, LogStreams, log_driver
from orlop.plugin import InitContext, NoConfig

# SENTINEL


class DemoDriver:
    @property
    def schemes(self) -> tuple[str, ...]:
        return ("demo",)

    def shim_uri(self, uri: str) -> str | None:
        return None

    def run(self, uri: str, options: Mapping[str, str], streams: LogStreams) -> None:
        path = uri.removeprefix("demo://").partition("?")[0]

        def copy(source: int) -> None:
            with os.fdopen(source, "rb") as lines, open(path, "ab", buffering=0) as sink:
                for line in lines:
                    sink.write(f"{options['tag']} {streams.namespace}/{streams.container}: ".encode() + line)

        workers = [threading.Thread(target=copy, args=(source,)) for source in (streams.stdout, streams.stderr)]
        for worker in workers:
            worker.start()
        streams.ready()
        for worker in workers:
            worker.join()


@log_driver("demo", exports={"schemes": "demo"})
async def demo_driver(ctx: InitContext[NoConfig]) -> LogDriver:
    return DemoDriver()
'''


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source folder of the distribution."""
    folder = tmp_path_factory.mktemp("orlop-demo")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "orlop_demo").mkdir()
    (folder / "orlop_demo" / "__init__.py").write_text("")
    for name, text in (("plugins", PLUGINS), ("logs", LOGS)):
        (folder / "orlop_demo" / f"{name}.py").write_text(text.replace("# SENTINEL", SENTINEL))
    return folder


@pytest.fixture(scope="module")
def target(distribution: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that pip installed it into."""
    path = tmp_path_factory.mktemp("target")
    pip_install([distribution], "--target", str(path))
    return path


@pytest.fixture(scope="module")
def environment(distribution: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A virtual environment with Orlop and, beside it, the distribution."""
    environment = Environment(tmp_path_factory.mktemp("environment") / "venv")
    environment.install(distribution)
    return environment


@pytest.fixture
def sentinels(tmp_path: Path) -> Path:
    """Where the distribution's modules leave a file each when they are imported."""
    path = tmp_path / "sentinels"
    path.mkdir()
    return path


@pytest.fixture(params=["plugin_dirs", "environment"])
def installed(request: pytest.FixtureRequest) -> tuple[tuple[str, ...], str]:
    """The daemon's command, and what the config has to say for it to find the distribution."""
    if request.param == "plugin_dirs":
        return ORLOPD, f'plugin_dirs = ["{request.getfixturevalue("target")}"]\n'
    return request.getfixturevalue("environment").orlopd, ""


def states(daemon: Daemon) -> dict[str, str]:
    """The state of every plugin, by URI."""
    return {f"{row[0]}.{row[1]}": row[-1] for row in columns(daemon.ctr("demo").ok("plugins", "ls")) if row}


@pytest.fixture
def working(installed: tuple[tuple[str, ...], str], short_tmp: Path, sentinels: Path) -> Iterator[Daemon]:
    """A daemon that has the distribution."""
    command, top = installed
    with Daemon(short_tmp, command, top=top, env={"DEMO_SENTINELS": str(sentinels)}) as daemon:
        yield daemon


def test_it_is_there_and_works(working: Daemon, tmp_path: Path, sentinels: Path) -> None:
    """Containers run on its snapshotter and log through its driver, without any further change."""
    found = states(working)
    assert {found.get(SNAPSHOTTER), found.get(LOG_DRIVER)} == {"ok"}
    assert {file.name for file in sentinels.iterdir()} == {"orlop_demo.plugins", "orlop_demo.logs"}
    ctr = working.ctr(f"demo-{short_name(tmp_path)}")
    archive = write_archive(tmp_path / "busy.tar", {IMAGE: Image()})
    ctr.ok("images", "import", "--snapshotter", "demo", str(archive))
    assert ctr.ok("run", "--rm", "--snapshotter", "demo", IMAGE, "c1", "cat", "/etc/group").startswith("root:x:0:")
    log = tmp_path / "container.log"
    script = "echo one; echo two >&2"
    uri = f"demo://{log}?tag=it"
    ctr.ok("run", "--detach", "--snapshotter", "demo", "--log-uri", uri, IMAGE, "c2", "sh", "-c", script)
    wanted = {f"it {ctr.namespace}/c2: one", f"it {ctr.namespace}/c2: two"}
    eventually(lambda: log.exists() and set(log.read_text().splitlines()) == wanted, "both lines are logged")
    assert columns(ctr.ok("snapshots", "--snapshotter", "demo", "ls"))
    assert columns(ctr.ok("snapshots", "ls")) == []


def short_name(path: Path) -> str:
    """A name for a namespace that no other test has."""
    return path.name.replace("_", "-")[-12:].strip("-")


def test_disabled_it_is_never_imported(
    installed: tuple[tuple[str, ...], str], short_tmp: Path, tmp_path: Path, sentinels: Path
) -> None:
    """Disabled by URI, both of its plugins are gone for clients, and nothing of its code runs."""
    command, top = installed
    top += f'disabled_plugins = ["{SNAPSHOTTER}", "{LOG_DRIVER}"]\n'
    with Daemon(short_tmp, command, top=top, env={"DEMO_SENTINELS": str(sentinels)}) as daemon:
        assert {SNAPSHOTTER, LOG_DRIVER} & {uri for uri, state in states(daemon).items() if state == "ok"} == set()
        ctr = daemon.ctr(f"demo-{short_name(tmp_path)}")
        archive = write_archive(tmp_path / "busy.tar", {IMAGE: Image()})
        ctr.ok("images", "import", str(archive))
        refused = ctr.run("run", "--rm", "--snapshotter", "demo", IMAGE, "c1", "true")
        assert refused.code != 0
        assert "demo" in refused.err
        refused = ctr.run("run", "--rm", "--log-uri", "demo:///tmp/never", IMAGE, "c2", "true")
        assert refused.code != 0
        assert "demo" in refused.err
        assert ctr.ok("run", "--rm", IMAGE, "c3", "echo", "fine") == "fine\n"
    assert list(sentinels.iterdir()) == []


def test_one_of_two_is_disabled(target: Path, short_tmp: Path, sentinels: Path) -> None:
    top = f'plugin_dirs = ["{target}"]\ndisabled_plugins = ["{SNAPSHOTTER}"]\n'
    with Daemon(short_tmp, top=top, env={"DEMO_SENTINELS": str(sentinels)}) as daemon:
        assert states(daemon)[LOG_DRIVER] == "ok"
    assert {file.name for file in sentinels.iterdir()} == {"orlop_demo.logs"}
