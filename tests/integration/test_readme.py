# SPDX-License-Identifier: Apache-2.0
"""Every command that the README shows is run, and does what the README says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import runc_directories
from tests.support.daemon import Daemon
from tests.support.image import Image, write_archive

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """The command lines of all ``sh`` blocks, without remarks."""
    lines = [line.partition("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, module_daemon: Daemon) -> tuple[Path, dict[str, str]]:
    """A directory to run commands in, and an environment that names a private daemon."""
    folder = tmp_path_factory.mktemp("readme")
    base = module_daemon.base
    (folder / "orlop.toml").write_text(
        f'version = 3\nroot = "{base}/root"\nstate = "{base}/state"\n'
        f'[plugins."io.containerd.server.v1.grpc"]\naddress = "{module_daemon.address}"\n'
    )
    write_archive(folder / "busybox.tar", {"docker.io/library/busybox:latest": Image()})
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "CONTAINERD_ADDRESS": str(module_daemon.address),
        "CONTAINERD_NAMESPACE": "readme",
    }
    return folder, environment


@pytest.fixture(scope="module")
def module_daemon() -> Iterator[Daemon]:
    base = Path(tempfile.mkdtemp(prefix="or", dir="/tmp"))
    try:
        with Daemon(base) as daemon:
            daemon.ctr("readme")
            yield daemon
    finally:
        shutil.rmtree(base)


def shell(line: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one line as a reader would."""
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_make_run_prints_what_the_readme_shows() -> None:
    (shown,) = blocks("console")
    before = runc_directories()
    done = subprocess.run(["make", "run"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    pattern = re.escape(shown.partition("\n")[2].strip())
    for literal, general in (
        (r"/tmp/orlop\-5c0nj3to/orlop\.sock", r"/\S+/orlop\.sock"),
        (r"65\ of\ 73", r"\d+ of \d+"),
        (r"0\.20\ s", r"[\d.]+ s"),
        (r"container\ vm", r"container \S+"),
        (r"Linux\ 6\.18\.44", r"Linux \S+"),
    ):
        assert literal in pattern
        pattern = pattern.replace(literal, general)
    assert re.search(pattern, done.stdout), done.stdout
    assert [path for path in runc_directories() - before if path.name.startswith("first-")] == []


def test_commands_work_in_order(place: tuple[Path, dict[str, str]]) -> None:
    folder, environment = place
    seen = {}
    for line in commands():
        if line.endswith("&"):
            continue  # the daemon: it runs already, and a second one must refuse to start (below)
        done = shell(line, folder, environment)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        seen[line] = done.stdout
    assert seen["orlop run --rm busybox echo hello"] == "hello\n"
    assert "sleep 60" in seen["orlop exec web ps"]
    assert "is ok" in seen["orlop plugins why overlayfs"]
    assert "busybox" in seen["ctr image ls"]


def test_a_second_daemon_on_the_same_socket_says_so(place: tuple[Path, dict[str, str]]) -> None:
    folder, environment = place
    (line,) = [line for line in commands() if line.endswith("&")]
    done = shell(line.rstrip("& "), folder, environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(environment["CONTAINERD_ADDRESS"]).rpartition("/")[0] in done.stderr


def test_the_python_example_runs(place: tuple[Path, dict[str, str]]) -> None:
    folder, environment = place
    assert shell("orlop import busybox.tar", folder, environment).returncode == 0
    example = blocks("python")[-1]
    done = subprocess.run(
        [sys.executable, "-c", example],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "b'hello\\n'\n", done.stderr


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
