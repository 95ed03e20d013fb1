# SPDX-License-Identifier: Apache-2.0
"""Three composed builds: each starts, runs a container, and comes out the same when it is made again. Needs root."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import any_pb2
from tests.support.composing import ROOT, Build, checkout, compose
from tests.support.daemon import Daemon
from tests.support.image import Image, write_archive

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(600)]

BUSYBOX = "docker.io/library/busybox:latest"
README = (ROOT / "plugins" / "README.md").read_text()
COMMON = """
version = "1.0"
sources = ["orlop/kernel", "orlop/sdk", "orlop/plugins/*/*", "orlop"]
constraints = "orlop/requirements.lock"
"""
FILES = {
    # The one that the page for integrators shows.
    "minimal": re.findall(r"^```toml\n(name.*?)^```$", README, re.DOTALL | re.MULTILINE)[0],
    # All that BuildKit asks of containerd, with proxy snapshotters, and a log driver from beside the default set.
    "builder": f"""
name = "orlop-builder"{COMMON}
distributions = ["orlop-core", "orlop-images", "orlop-proxy", "orlop-runtime", "orlop-services", "orlop-snapshots",
    "./orlop/plugins/contrib/jsonfile"]
outputs = ["executable"]
""",
    "default": f"""
name = "orlop-default"{COMMON}
distributions = ["orlop"]
outputs = ["executable"]
""",
}
SERVICES = "containers content diff events images introspection leases namespaces snapshots tasks version".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the build files and, as they expect, a checkout beside them."""
    folder = tmp_path_factory.mktemp("compose")
    checkout(folder / "orlop")
    for name, text in FILES.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture(scope="module", params=list(FILES))
def build(request: pytest.FixtureRequest, place: Path) -> Iterator[Build]:
    made = Build(place / f"{request.param}.toml", place / request.param, place / f"{request.param}.root")
    yield made
    shutil.rmtree(made.unpacked, ignore_errors=True)


@pytest.fixture(scope="module")
def daemon(request: pytest.FixtureRequest, build: Build) -> Iterator[Daemon]:
    """The build's daemon, with an image in it. It took its time to unpack itself before it was started."""
    base = Path(tempfile.mkdtemp(prefix="or", dir="/tmp"))
    try:
        first = seconds(build)
        with Daemon(base, (str(build.executable),), env=build.env) as started:
            began = time.monotonic()
            started.restart()
            ready = time.monotonic() - began
            told = report(build, started, first, ready)
            # Whoever runs these tests shall see it, whether they pass or not.
            with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
                sys.stdout.write(told)
            write_archive(base / "image.tar", {BUSYBOX: Image()})
            started.ctr("composed").ok("images", "import", str(base / "image.tar"))
            yield started
    finally:
        shutil.rmtree(base)


def seconds(build: Build) -> float:
    """How long ``--version`` takes."""
    began = time.monotonic()
    done = build.run("--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"orlopd orlop ")
    return time.monotonic() - began


def report(build: Build, daemon: Daemon, first: float, ready: float) -> str:
    """What integrators want to know about a build."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    memory = int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024
    size = build.executable.stat().st_size / 1e6
    return (
        f"\n{build.executable.name}: composed in {build.seconds:.1f} s, {size:.1f} MB; first start, which unpacks, "
        f"{first:.1f} s; --version then {seconds(build):.2f} s; stopped and ready again after {ready:.2f} s; "
        f"{memory:.0f} MB resident\n"
    )


def plugins(daemon: Daemon) -> dict[str, str]:
    """The state of every plugin, as ``ctr`` shows it, by type and id."""
    lines = daemon.ctr("composed").ok("plugins", "ls").splitlines()[1:]
    return {f"{words[0]}.{words[1]}": words[-1] for words in map(str.split, lines)}


def test_a_container_runs_on_it(build: Build, daemon: Daemon) -> None:
    out = daemon.ctr("composed").ok("run", "--rm", BUSYBOX, "c1", "echo", "from a composed build")
    assert out == "from a composed build\n"


def test_it_has_what_its_name_promises(build: Build, daemon: Daemon) -> None:
    found = plugins(daemon)
    assert [name for name, state in found.items() if state == "error"] == []
    assert [name for name in SERVICES if found.get(f"io.containerd.grpc.v1.{name}") != "ok"] == []
    if build.file.stem == "minimal":
        assert [name for name in found if name.startswith("io.containerd.proxy") or "sandboxes" in name] == []
        config = build.run("orlopd", "--config", str(daemon.config), "config", "dump").stdout.decode()
        assert "sandboxes" in re.findall(r"disabled_plugins = \[[^\]]*\]", config)[0]
        assert 'startup_delay = "1s"' in config
        assert not list(build.unpacked.glob("installed_wheels/**/httpx*"))


def test_events_can_be_published_from_it(build: Build, daemon: Daemon) -> None:
    event = any_pb2.Any(type_url="example.Mine", value=b"{}").SerializeToString()
    words = ("--address", str(daemon.address), "publish", "--namespace", "composed", "--topic", "/mine")
    done = build.run(*words, stdin=event)
    assert done.returncode == 0, done.stderr


def test_log_helpers_run_from_it(build: Build, daemon: Daemon, tmp_path: Path) -> None:
    if build.file.stem != "builder":
        pytest.skip("no log driver that needs a helper in it")
    log = tmp_path / "c2.log"
    ctr = daemon.ctr("composed")
    ctr.ok("run", "--rm", "--log-uri", f"json-file://{log}", BUSYBOX, "c2", "echo", "logged")
    deadline = time.monotonic() + 20
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert json.loads(log.read_text().splitlines()[0])["log"] == "logged\n"


def test_its_materials_are_listed(build: Build) -> None:
    made = [path for path in build.artefacts if not path.name.endswith(".cdx.json")]
    bills = [path for path in build.artefacts if path.name.endswith(".cdx.json")]
    assert [path.name for path in bills] == [f"{path.name}.cdx.json" for path in made]
    assert len(made) == (2 if build.file.stem == "minimal" else 1)
    for path in bills:
        bill: dict[str, Any] = json.loads(path.read_text())
        components = {each["name"]: each for each in bill["components"]}
        assert bill["bomFormat"] == "CycloneDX"
        assert {"orlop-kernel", "orlop-services", "grpcio", "pydantic-core"} <= components.keys()
        assert ("httpx" in components) is (build.file.stem != "minimal")
        assert components["orlop-kernel"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
        assert bill["metadata"]["component"]["name"] == f"orlop-{build.file.stem}"
    assert "pex" in {each["name"] for each in json.loads(bills[0].read_text())["components"]}


def test_made_again_elsewhere_it_is_the_same(build: Build, tmp_path: Path) -> None:
    if build.file.stem == "minimal":
        pytest.skip("the test of the page's commands makes it again")
    file = Path(shutil.copy(build.file, tmp_path))
    shutil.copy(build.file.with_suffix(".lock"), tmp_path)
    shutil.copytree(build.file.with_name("orlop"), tmp_path / "orlop")
    again = compose(file, tmp_path / "out")
    assert [path.name for path in again] == [path.name for path in build.artefacts]
    assert different(build.artefacts, tmp_path / "out") == []


def different(artefacts: list[Path], folder: Path) -> list[str]:
    """The names of the files in *folder* that are not the same as these."""
    return [path.name for path in artefacts if path.read_bytes() != (folder / path.name).read_bytes()]


def test_a_changed_file_in_it_is_refused_by_name(build: Build, daemon: Daemon) -> None:
    (native,) = build.unpacked.glob("installed_wheels/*/*/*/orlop_snapshots/plugins.py")
    text = native.read_text()
    native.unlink()  # not written through: other directories may hold the same file
    try:
        native.write_text(text + "\n# changed\n")
        daemon.restart()
        assert plugins(daemon)["io.containerd.snapshotter.v1.native"] == "error"
        reason = daemon.ctr("composed").ok("plugins", "ls", "--detailed", "id==native")
        assert "orlop_snapshots/plugins.py of distribution orlop-snapshots" in reason + daemon.tail(400)
        assert "differs from the lock" in reason + daemon.tail(400)
    finally:
        native.write_text(text)
    daemon.restart()
    assert plugins(daemon)["io.containerd.snapshotter.v1.native"] == "ok"


def test_a_stranger_is_refused_unimported(build: Build, tmp_path: Path) -> None:
    info = tmp_path / "site" / "stranger-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[orlop.snapshotter.v1]\nstranger = stranger:plugin\n")
    (tmp_path / "site" / "stranger.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    base = Path(tempfile.mkdtemp(prefix="or", dir="/tmp"))
    try:
        top = f'plugin_dirs = ["{tmp_path / "site"}"]\n'
        with Daemon(base, (str(build.executable),), env=build.env, top=top) as other:
            assert plugins(other)["io.containerd.snapshotter.v1.stranger"] == "error"
            assert "distribution stranger 1 is not in the lock" in other.tail(400)
    finally:
        shutil.rmtree(base)
    assert not (tmp_path / "imported").exists()


def commands() -> list[str]:
    """The command lines of the page, without remarks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_every_command_of_the_page_works_and_makes_the_same_again(build: Build, tmp_path: Path) -> None:
    if build.file.stem != "minimal":
        pytest.skip("the page composes the smallest")
    shutil.copytree(build.file.with_name("orlop"), tmp_path / "orlop")
    for file in (build.file, build.file.with_suffix(".lock")):
        shutil.copy(file, tmp_path)
    environment = {"PEX_ROOT": str(tmp_path / "pex"), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    seen = {}
    for line in commands():
        here = line.replace("/opt/orlop-minimal", str(tmp_path / "opt"))
        done = subprocess.run(
            ["bash", "-c", here],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        seen[line] = done.stdout
    assert seen["/opt/orlop-minimal/bin/orlopd --version"].startswith("orlopd orlop ")
    assert "startup_delay" in seen["./dist/orlop-minimal-1.0 orlopd config default"]
    assert different(build.artefacts, tmp_path / "dist") == []
    assert "[distributions.orlop-core.files]" in (tmp_path / "plugins.lock").read_text()
