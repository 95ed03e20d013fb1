# SPDX-License-Identifier: Apache-2.0
"""The examples, and the plugin that the SDK's README writes: each is run as its reader would."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import runc_directories
from tests.support.ctr import columns, environment, eventually
from tests.support.daemon import Daemon
from tests.support.environment import Environment, pip_install
from tests.support.image import Image, write_archive

from orlop_sdk import testing

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "sdk/README.md").read_text()
BIN = Path(sys.executable).parent
BUSY = "example.com/busy:1"


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command as if somebody stood in *cwd*."""
    variables = environment() | ({"PYTHONPATH": f"{path}:{os.environ.get('PYTHONPATH', '')}"} if path else {})
    return subprocess.run(
        command,
        cwd=cwd,
        env=variables | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        stdin=subprocess.DEVNULL,
    )


def block(language: str, number: int = 0) -> str:
    """A code block of the SDK's README."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return found[number]


def entries(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def test_embedded_leaves_nothing_behind(tmp_path: Path) -> None:
    before = runc_directories()
    done = run(sys.executable, ROOT / "examples/embedded/run.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("hello from ")
    assert rest[0].split() == ["PID", "USER", "COMMAND"]
    failed = run(sys.executable, ROOT / "examples/embedded/run.py", "sh", "-c", "echo x >&2; exit 5", cwd=tmp_path)
    assert (failed.returncode, failed.stdout, failed.stderr) == (5, "", "x\n")
    assert [path for path in runc_directories() - before if path.name.startswith("embedded-")] == []
    assert entries(tmp_path) == set()


def test_from_an_empty_folder_to_both_daemons(tmp_path: Path) -> None:
    """A distribution is made, installed and checked, and containers of orlopd and of containerd run on it."""
    before = runc_directories()
    done = run(sys.executable, ROOT / "examples/new_snapshotter/run.py", "fresh", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path for path in runc_directories() - before if path.name.startswith("empty-folder-")] == []
    _, _, shown = done.stdout.partition("$ orlop-sdk check fresh\n")
    kit, orlop, containerd = re.split(r"^# under .*$", shown, flags=re.MULTILINE)
    assert re.search(
        r"^io\.containerd\.snapshotter\.v1\.fresh conforms: 3\d ok, 1 skipped, 0 failed$", kit, re.MULTILINE
    )
    assert "io.containerd.snapshotter.v1.fresh is ok" in orlop
    assert "\nhello from Orlop\n" in orlop
    assert "--snapshotter fresh" in containerd
    assert "\nhello from containerd\n" in containerd
    assert entries(tmp_path) == set()
    assert {name for name in entries(Path("/run/containerd/runc")) if name.startswith("empty-folder-")} == set()
    assert [item.name for item in importlib.metadata.distributions() if item.name == "orlop-fresh"] == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the distribution of examples/third_party."""
    target = tmp_path_factory.mktemp("demo")
    pip_install([ROOT / "examples/third_party"], "--target", str(target))
    return target


def test_third_party_conforms(demo: Path, tmp_path: Path) -> None:
    """Its own tests pass, and so do the checks that its README tells of."""
    options = ("-q", "-c", os.devnull, "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", "-W", "ignore")
    tests = run(sys.executable, "-m", "pytest", *options, ROOT / "examples/third_party/tests", cwd=tmp_path, path=demo)
    assert tests.returncode == 0, tests.stdout
    text = (ROOT / "examples/third_party/README.md").read_text()
    checks = re.findall(r"^orlop-sdk check (.*?)(?:  #.*)?$", text, re.MULTILINE)
    assert len(checks) == 2
    for words in checks:
        done = run("orlop-sdk", "check", *(word.strip("'") for word in words.split()), cwd=tmp_path, path=demo)
        assert done.returncode == 0, done.stdout + done.stderr


def test_third_party_runs(demo: Path, short_tmp: Path, tmp_path: Path) -> None:
    with Daemon(short_tmp, top=f'plugin_dirs = ["{demo}"]\n') as daemon:
        ctr = daemon.ctr(f"demo-{short_tmp.name}")
        ctr.ok("images", "import", "--snapshotter", "demo", str(write_archive(tmp_path / "b.tar", {BUSY: Image()})))
        log = tmp_path / "log"
        script = "echo one; echo two >&2"
        options = ("--detach", "--snapshotter", "demo", "--log-uri", f"demo://{log}")
        ctr.ok("run", *options, BUSY, "c1", "sh", "-c", script)
        eventually(lambda: log.exists() and len(log.read_text().splitlines()) == 2, "both lines are logged")
        assert {tuple(line.split()[1:]) for line in log.read_text().splitlines()} == {
            ("stdout", "one"),
            ("stderr", "two"),
        }
        assert len(columns(ctr.ok("snapshots", "--snapshotter", "demo", "ls"))) == 2


def test_the_readme_makes_a_working_snapshotter(short_tmp: Path, tmp_path: Path) -> None:
    """From an empty folder, by what is written there and nothing else."""
    folder = tmp_path / "hello"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(block("toml"))
    (folder / "orlop_hello.py").write_text(block("python"))
    command = block("sh").split()
    checked = run(*command, cwd=folder)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "io.containerd.snapshotter.v1.hello conforms: " in checked.stdout
    environment = Environment(tmp_path / "venv")
    environment.install(folder)
    with Daemon(short_tmp, environment.orlopd) as daemon:
        ctr = daemon.ctr(f"hello-{short_tmp.name}")
        ctr.ok("images", "import", "--snapshotter", "hello", str(write_archive(tmp_path / "b.tar", {BUSY: Image()})))
        assert ctr.ok("run", "--rm", "--snapshotter", "hello", BUSY, "c1", "echo", "fine") == "fine\n"


def test_the_readme_tells_of_every_module_and_suite() -> None:
    packages = {f"orlop_sdk.{path.parent.name}" for path in (ROOT / "sdk/orlop_sdk").glob("*/__init__.py")}
    suites = {
        f"{testing.__name__}.{path.stem}"
        for path in (ROOT / "sdk/orlop_sdk/testing").glob("*.py")
        if re.search(r"^class \w+Suite:", path.read_text(), re.MULTILINE)
    }
    assert [name for name in sorted(packages | suites) if f"`{name}`" not in README] == []
