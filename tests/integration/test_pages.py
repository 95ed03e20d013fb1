# SPDX-License-Identifier: Apache-2.0
"""Every code block of the three pages, for operators, authors and integrators, is run, here or in a test named here."""

from __future__ import annotations

import lzma
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.cli import Orlop
from tests.support.ctr import columns, environment, eventually
from tests.support.daemon import CONTAINERD, NO_CRI, Daemon
from tests.support.image import Image, write_archive

from orlop.interfaces.stream import TAR

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
IMAGE = "example.com/busy:1"
PAGES = ("kernel", "sdk", "plugins")
HERE = "tests/integration/test_pages.py"
EXAMPLES = "tests/integration/test_examples.py"
BUILDS = "tests/packaging/test_builds.py"
#: Page, language, which one of that language; and the test that runs it.
SHOWN = {
    ("kernel", "text", 0): (HERE, "test_a_fault_is_told_as_the_page_shows_it"),
    ("kernel", "python", 0): (HERE, "test_the_hook_is_called"),
    ("kernel", "python", 1): (HERE, "test_a_program_embeds_the_kernel"),
    ("sdk", "toml", 0): (EXAMPLES, "test_the_readme_makes_a_working_snapshotter"),
    ("sdk", "python", 0): (EXAMPLES, "test_the_readme_makes_a_working_snapshotter"),
    ("sdk", "sh", 0): (EXAMPLES, "test_the_readme_makes_a_working_snapshotter"),
    ("sdk", "sh", 1): (HERE, "test_the_snapshotter_serves_containerd"),
    ("sdk", "toml", 1): (HERE, "test_the_snapshotter_serves_containerd"),
    ("sdk", "sh", 2): (HERE, "test_the_checks_hold"),
    ("plugins", "toml", 0): (BUILDS, "test_every_command_of_the_page_works_and_makes_the_same_again"),
    ("plugins", "sh", 0): (BUILDS, "test_every_command_of_the_page_works_and_makes_the_same_again"),
    ("plugins", "sh", 1): (BUILDS, "test_every_command_of_the_page_works_and_makes_the_same_again"),
    ("plugins", "toml", 1): (HERE, "test_only_what_is_locked_loads"),
}
MINE = f'''\
"""An author's stream processor and log driver, both called mine."""

import lzma
import shutil

import orlop_demo.log
from orlop.interfaces.log import log_driver
from orlop.interfaces.stream import stream_processor
from orlop_sdk.serving.converter import Converter


def convert(stream):
    with lzma.open(stream.source) as plain:
        shutil.copyfileobj(plain, stream.sink)


@stream_processor("mine")
async def processor(ctx):
    return Converter("orlop_mine:convert", {{"application/x-mine": "{TAR}"}})


class Driver(orlop_demo.log.DemoDriver):
    schemes = ("mine",)


@log_driver("mine", exports={{"schemes": "mine"}})
async def driver(ctx):
    return Driver()


read = orlop_demo.log.read
'''
POINTS = """\
[orlop.stream_processor.v1]
mine = orlop_mine:processor
[orlop.log.v1]
mine = orlop_mine:driver
"""


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and text of each code block of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def block(page: str, language: str, number: int) -> str:
    """One of them."""
    return [text for spoken, text in blocks(page) if spoken == language][number]


def lines(page: str, number: int) -> list[str]:
    """The command lines of a block, without remarks."""
    return [line.partition("  #")[0].strip() for line in block(page, "sh", number).splitlines()]


def shell(line: str, folder: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run a line as a reader would who stands in *folder*."""
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=variables(*path),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def variables(*path: Path) -> dict[str, str]:
    """An environment with our programs, and with *path* to import from."""
    return environment() | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(str, path)),
    }


def test_every_block_is_run_by_a_test() -> None:
    found = set()
    for page in PAGES:
        languages = [language for language, _ in blocks(page)]
        found |= {(page, language, number) for language in languages for number in range(languages.count(language))}
    assert found == set(SHOWN), "run it in a test, and say in which"
    for file, name in SHOWN.values():
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), name


def test_python_passes_a_strict_type_check(tmp_path: Path) -> None:
    shown = [(page, number) for page, language, number in SHOWN if language == "python"]
    for page, number in shown:
        (tmp_path / f"{page}_{number}.py").write_text(block(page, "python", number))
    options = ["--strict", "--disable-error-code=type-abstract", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [str(BIN / "mypy"), *options, *(f"{page}_{number}.py" for page, number in shown)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# ---- kernel/README.md ------------------------------------------------------------------------------------------------


def test_a_fault_is_told_as_the_page_shows_it(tmp_path: Path) -> None:
    shown = block("kernel", "text", 0)
    place, key, value = re.findall(r'^/etc/containerd/(\S+):3: (plugins\."\S+")\.\w+ = ("\S+"):', shown)[0]
    main, included = tmp_path / "config.toml", tmp_path / place
    included.parent.mkdir()
    main.write_text(f'version = 4\nimports = ["{place}"]\n')
    name = re.findall(r"(\w+) = \"", shown)[0]
    included.write_text(f"version = 4\n[{key}]\n{name} = {value}\n")
    done = shell("orlop config check --config config.toml", tmp_path)
    assert done.returncode == 1
    (told,) = done.stdout.splitlines()
    assert told.replace(str(tmp_path), "/etc/containerd") == " ".join(shown.split())


def test_the_hook_is_called(short_tmp: Path, tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "orlop_site.py").write_text(block("kernel", "python", 0))
    top = f'{NO_CRI}[plugin_modules]\n"io.orlop.hook.v1.site" = "orlop_site:site"\n'
    with Daemon(short_tmp, top=top, env={"PYTHONPATH": str(modules)}) as daemon:
        ctr = daemon.ctr(f"hook-{short_tmp.name}")
        ctr.ok("images", "import", str(write_archive(tmp_path / "b.tar", {IMAGE: Image()})))
        assert f"SITE=north/{ctr.namespace}" in ctr.ok("run", "--rm", IMAGE, "c1", "env").split()


def test_a_program_embeds_the_kernel(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block("kernel", "python", 1)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" in done.stdout
    assert list(tmp_path.iterdir()) == []


# ---- sdk/README.md ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """The author's folder."""
    folder = tmp_path / "hello"
    folder.mkdir()
    (folder / "orlop_hello.py").write_text(block("sdk", "python", 0))
    return folder


@contextmanager
def serving(folder: Path, short: Path) -> Iterator[None]:
    """What the page starts for containerd, with its paths below *short*."""
    (line,) = lines("sdk", 1)
    words = moved(line, short).split()
    assert words[0] == "orlop-sdk"
    process = subprocess.Popen([str(BIN / words[0]), *words[1:]], cwd=folder, env=variables(), stdin=subprocess.DEVNULL)
    try:
        eventually(lambda: (short / "hello.sock").exists() or process.poll() is not None, "it serves")
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


def moved(text: str, short: Path) -> str:
    """The page's text with other paths."""
    return text.replace("/run/hello.sock", f"{short}/hello.sock").replace("/var/lib/hello", f"{short}/hello")


def test_the_snapshotter_serves_containerd(hello: Path, short_tmp: Path, tmp_path: Path) -> None:
    tables = moved(block("sdk", "toml", 1), short_tmp)
    with serving(hello, short_tmp), Daemon(short_tmp, CONTAINERD, tables=tables) as daemon:
        ctr = daemon.ctr(f"hello-{short_tmp.name}")
        ctr.ok("images", "import", "--snapshotter", "hello", str(write_archive(tmp_path / "b.tar", {IMAGE: Image()})))
        assert ctr.ok("run", "--rm", "--snapshotter", "hello", IMAGE, "c1", "echo", "fine") == "fine\n"
        assert columns(ctr.ok("snapshots", "--snapshotter", "hello", "ls"))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A directory that the distribution is installed in whose plugins the page checks."""
    site = tmp_path / "site"
    info = site / "orlop_mine-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "orlop_mine.py").write_text(MINE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: orlop-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    return site


@pytest.mark.parametrize("number", range(len(lines("sdk", 2))))
def test_the_checks_hold(number: int, hello: Path, mine: Path, short_tmp: Path) -> None:
    (hello / "plain").write_bytes(b"hello" * 1000)
    (hello / "packed").write_bytes(lzma.compress(b"hello" * 1000))
    line = moved(lines("sdk", 2)[number], short_tmp)
    # The snapshotters' suite has a test of its own for each; here it is the line that has to be right.
    quick = " -k 'layers_build or labels or siblings'" if "overlayfs" in line or "snapshot=" in line else ""
    with serving(hello, short_tmp):
        done = shell(line + quick, hello, mine, ROOT / "examples/third_party")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout


# ---- plugins/README.md -----------------------------------------------------------------------------------------------


def test_only_what_is_locked_loads(short_tmp: Path, mine: Path) -> None:
    (lock,) = lines("plugins", 1)
    made = shell(lock, short_tmp)
    assert made.returncode == 0, made.stderr
    top = f'{block("plugins", "toml", 1)}plugin_dirs = ["{mine}"]\n'
    with Daemon(short_tmp, top=top) as daemon:
        orlop = Orlop(daemon.address, "locked")
        refused = orlop.json("plugins", "why", "io.orlop.log.v1.mine")
        assert refused["state"] == "failed"
        assert f"distribution orlop-mine 1.0 is not in the lock {short_tmp}/plugins.lock" in refused["reason"]
        assert orlop.json("plugins", "why", "overlayfs")["state"] == "ok"
