# SPDX-License-Identifier: Apache-2.0
"""Options of ``orlop run`` that need more than an image and a script: ``../test_run_options.py`` has the others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support import oci as trees
from tests.support.cli import PROGRAM, Orlop
from tests.support.ctr import eventually
from tests.support.daemon import Daemon

BUSY = "busy:1"
RESCTRL = Path("/sys/fs/resctrl")
APPARMOR = Path("/sys/kernel/security/apparmor/profiles")
CNI = next((path for path in (Path("/opt/cni/bin"), Path("/usr/lib/cni")) if (path / "bridge").exists()), None)


def info(daemon: Daemon, orlop: Orlop, id: str) -> dict[str, Any]:
    """A container's record."""
    found: dict[str, Any] = json.loads(daemon.ctr(orlop.namespace).ok("containers", "info", id))
    return found


# ---- where the specification comes from -----------------------------------------------------------------------------


def test_a_specification_from_a_file(any_busy: Orlop, tmp_path: Path) -> None:
    """Instead of an image; further options are applied to it."""
    trees.busybox_tree(tmp_path / "tree")
    spec = trees.spec(any_busy.namespace, "c1", ["sh", "-c", "echo $WORD $MORE; hostname; exit 6"])
    spec["root"]["path"] = str(tmp_path / "tree")
    spec["process"]["env"].append("WORD=filed")
    spec["hostname"] = "by-file"
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    (tmp_path / "tree/bin/hostname").symlink_to("busybox")
    done = any_busy.run("run", "--rm", "--config", str(file), "--env", "MORE=given")
    assert (done.code, done.lines()) == (6, ["filed given", "by-file"]), str(done)
    assert any_busy.ok("ps", "-aq") == ""


@pytest.mark.parametrize(
    ("content", "said"), [("{", "as JSON"), ("[]", "absolute"), ('{"root": {"path": "rootfs"}}', "absolute")]
)
def test_what_is_no_specification(orlop_busy: Orlop, tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "spec.json"
    file.write_text(content)
    assert said in orlop_busy.fails("run", "--config", str(file))
    assert "no such file" in orlop_busy.fails("run", "--config", str(tmp_path / "none"))
    assert orlop_busy.ok("ps", "-aq") == ""


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--config", "file", BUSY),
        ("--config", "file", "--uidmap", "0:1:2", "--gidmap", "0:1:2"),
        ("--null-io", "-i", BUSY),
        ("--null-io", "--fifo-dir", "/tmp", BUSY),
        ("--fifo-dir", "/tmp", "--detach", BUSY),
        ("--apparmor-profile", "a", "--apparmor-default-profile", "b", BUSY),
    ],
    ids=" ".join,
)
def test_what_does_not_go_together(orlop: Orlop, words: tuple[str, ...]) -> None:
    orlop.fails("run", *words, code=2)


# ---- streams --------------------------------------------------------------------------------------------------------


def test_no_streams(any_busy: Orlop, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    flags = ("--null-io", "--volume", f"{tmp_path}:/host", "--name", "c1")
    script = 'sh -c "ls -l /proc/$$/fd >/host/streams"; echo lost; exit 3'
    done = any_busy.run("run", *flags, BUSY, "sh", "-c", script)
    assert (done.code, done.out, done.err) == (3, "", "")
    said = (tmp_path / "streams").read_text()
    assert [f" {number} -> /dev/null" in said for number in range(3)] == [True] * 3, said
    any_busy.ok("rm", "c1")
    any_busy.ok("run", "--detach", *flags, BUSY, "sh", "-c", f"{script}; sleep 1000")
    assert "log" in any_busy.fails("logs", "c1")
    any_busy.ok("rm", "--force", "c1")


def test_pipes_in_a_directory(any_busy: Orlop, tmp_path: Path) -> None:
    place = tmp_path / "pipes"
    with any_busy.background("run", "-i", "--rm", "--name", "c1", "--fifo-dir", str(place), BUSY, "cat") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"through\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"through\n"
        found = [*place.glob("*/c1-*")]
        assert sorted(path.name for path in found) == ["c1-stderr", "c1-stdin", "c1-stdout"]
        assert all(path.is_fifo() for path in found)
        process.stdin.close()
        assert process.wait(30) == 0
        process.stdin = None
    assert [*place.iterdir()] == []
    (tmp_path / "file").touch()
    assert "cannot be made" in any_busy.fails("run", "--rm", "--fifo-dir", str(tmp_path / "file/x"), BUSY, "true")
    assert any_busy.ok("ps", "-aq") == ""


# ---- confinement and devices ----------------------------------------------------------------------------------------


def test_a_class_of_service(daemon: Daemon, orlop_busy: Orlop, tmp_path: Path) -> None:
    name = f"orlop-{uuid.uuid4().hex[:8]}"
    usable = (RESCTRL / "schemata").exists()
    if usable:
        (RESCTRL / name).mkdir()
    try:
        log = f"file://{tmp_path}/log"
        orlop_busy.ok("run", "-d", "--log-uri", log, "--name", "c1", "--rdt-class", name, BUSY, "sleep", "1000")
        assert info(daemon, orlop_busy, "c1")["Spec"]["linux"]["intelRdt"] == {"closID": name}
        if usable:
            pid = orlop_busy.json("ps")[0]["pid"]
            assert str(pid) in (RESCTRL / name / "tasks").read_text().split()
    finally:
        orlop_busy.run("rm", "--force", "c1")
        if usable:
            with suppress(OSError):
                (RESCTRL / name).rmdir()
    if not usable:
        pytest.skip("resctrl is not mounted: that it counts cannot be seen here")


def test_the_default_apparmor_profile(orlop_busy: Orlop) -> None:
    name = f"orlop-{uuid.uuid4().hex[:8]}"
    words = ("run", "--rm", "--apparmor-default-profile", name, BUSY, "sh", "-c")
    if not APPARMOR.exists() or shutil.which("apparmor_parser") is None:
        assert name in orlop_busy.fails(*words, "echo ran")
        assert orlop_busy.ok("ps", "-aq") == ""
        pytest.skip("the kernel has no AppArmor, or the system no apparmor_parser: nothing can be confined here")
    try:
        for _ in range(2):
            done = orlop_busy.run(*words, "cat /proc/self/attr/current; echo x >/proc/sys/vm/drop_caches && echo wrote")
            assert name in done.out
            assert "wrote" not in done.out
    finally:
        subprocess.run(["apparmor_parser", "--remove"], input=f"profile {name} {{}}".encode(), check=True)


GPUS = """\
#!/bin/sh
echo "$@" >{said}
for word; do :; done
echo prepared >"$word/gpus"
"""


def test_gpus(orlop_busy: Orlop, tmp_path: Path) -> None:
    """NVIDIA's program, here one in its place, is called before the container starts, and finds its files."""
    program = tmp_path / "nvidia-container-cli"
    program.write_text(GPUS.format(said=tmp_path / "said"))
    program.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = orlop_busy.run("run", "--rm", "--gpus", "0", "--gpus", "1", BUSY, "cat", "/gpus", env=path)
    assert (done.code, done.out) == (0, "prepared\n"), str(done)
    *words, pid, rootfs = (tmp_path / "said").read_text().split()
    assert words[:4] == ["--load-kmods", "configure", "--device=0", "--device=1"]
    assert "--utility" in words
    assert int(pid.removeprefix("--pid=")) > 1
    assert rootfs.endswith("/rootfs")
    if shutil.which("nvidia-container-cli") is None:
        assert "nvidia-container-cli" in orlop_busy.fails("run", "--gpus", "all", BUSY, "true")


# ---- networks -------------------------------------------------------------------------------------------------------


@dataclass
class Host:
    """A network namespace to be the host's, and the command in it; configuration and addresses in a directory."""

    orlop: Orlop
    base: Path
    name: str

    def configure(self, *more: dict[str, Any]) -> None:
        """A bridge, and what comes after it."""
        ipam = {
            "type": "host-local",
            "dataDir": str(self.base / "addresses"),
            "ranges": [[{"subnet": "10.77.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": "orlop0", "isGateway": True, "ipam": ipam}
        network = {"cniVersion": "0.4.0", "name": self.name, "plugins": [bridge, *more]}
        (self.base / "net.d").mkdir(exist_ok=True)
        (self.base / "net.d/10-test.conflist").write_text(json.dumps(network))
        (self.base / "net.d/20-other.conf").write_text("not this one")

    def addresses(self) -> list[str]:
        """Those that are given away."""
        return sorted(path.name for path in (self.base / "addresses" / self.name).glob("10.*"))

    def remembered(self) -> list[Path]:
        """What is remembered of attachments."""
        return [*Path("/var/lib/cni/results").glob(f"{self.name}-*")]


@pytest.fixture
def host(orlop_busy: Orlop, tmp_path: Path) -> Iterator[Host]:
    if CNI is None:
        pytest.skip("needs CNI's plugins; Debian has them as containernetworking-plugins")
    before = Path("/var/lib/cni").exists()
    keeper = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
    try:
        ours = os.stat("/proc/self/ns/net").st_ino
        eventually(lambda: os.stat(f"/proc/{keeper.pid}/ns/net").st_ino != ours, "no network namespace")
        program = ("nsenter", f"--net=/proc/{keeper.pid}/ns/net", *PROGRAM)
        env = {"CONTAINERD_ADDRESS": orlop_busy.env["CONTAINERD_ADDRESS"], "NETCONFPATH": str(tmp_path / "net.d")}
        command = Orlop(Path(env["CONTAINERD_ADDRESS"]), orlop_busy.namespace, program, env)
        made = Host(command, tmp_path, f"t{uuid.uuid4().hex[:8]}")
        yield made
        assert made.remembered() == []
    finally:
        keeper.kill()
        keeper.wait()
        if not before:
            for path in (Path("/var/lib/cni/results"), Path("/var/lib/cni")):
                with suppress(OSError):
                    path.rmdir()


def test_a_network(host: Host) -> None:
    """Every plugin of the first file has its say, and what a container had is free when it has ended."""
    host.configure({"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}})
    script = "; ".join(
        (
            "busybox ip -4 -o addr show eth0",
            "busybox ip route | grep default",
            "cat /proc/sys/net/core/somaxconn",
            "busybox ping -c 1 -W 20 10.77.0.1 >/dev/null && echo reached",
        )
    )
    done = host.orlop.run("run", "--rm", "--cni", BUSY, "sh", "-c", script)
    assert done.code == 0, str(done)
    address, route, tuned, reached = done.lines()
    assert " inet 10.77.0.2/24 " in address
    assert "via 10.77.0.1 dev eth0" in route
    assert (tuned, reached) == ("500", "reached")
    assert host.addresses() == []
    done = host.orlop.run("run", "--network", "cni", "--name", "c1", BUSY, "sh", "-c", "exit 4")
    assert (done.code, host.addresses()) == (4, [])
    host.orlop.ok("rm", "c1")


def test_containers_reach_one_another(host: Host, tmp_path: Path) -> None:
    """In the background they keep what they have until they are removed."""
    host.configure()
    log = f"file://{tmp_path}/log"
    host.orlop.ok("run", "-d", "--log-uri", log, "--name", "c1", "--cni", BUSY, "sleep", "1000")
    assert host.addresses() == ["10.77.0.2"]
    assert len(host.remembered()) == 1
    script = "busybox ping -c 1 -W 20 10.77.0.2 >/dev/null && echo reached"
    assert host.orlop.ok("run", "--rm", "--cni", BUSY, "sh", "-c", script) == "reached\n"
    # Whatever becomes of the configuration meanwhile.
    (host.base / "net.d/10-test.conflist").unlink()
    host.orlop.ok("rm", "--force", "c1")
    assert host.addresses() == []


def test_a_network_that_cannot_be_had(host: Host) -> None:
    """The error says which plugin and why; no container is left, and no address is taken."""
    (host.base / "net.d").mkdir()
    assert "NETCONFPATH" in host.orlop.fails("run", "--cni", BUSY, "true")
    assert "as JSON" in refused(host, "{")
    assert '"plugins"' in refused(host, '{"name": "n", "plugins": [{"type": "../../bin/sh"}]}')
    host.configure({"type": "no-such-plugin"})
    assert 'plugin "no-such-plugin": not in' in host.orlop.fails("run", "--cni", BUSY, "true")
    host.configure({"type": "tuning", "mac": "nonsense"}, {"type": "no-such-plugin"})
    assert 'plugin "tuning": ADD failed' in host.orlop.fails("run", "--cni", BUSY, "true")
    assert host.addresses() == []
    assert host.orlop.ok("ps", "-aq") == ""


def refused(host: Host, configuration: str) -> str:
    """What is said about a file."""
    (host.base / "net.d/10-test.conflist").write_text(configuration)
    return host.orlop.fails("run", "--cni", BUSY, "true")


def test_a_plugin_that_is_gone(host: Host, tmp_path: Path) -> None:
    """It is told of once, and then holds up nobody who removes the container."""
    (tmp_path / "plugins").mkdir()
    assert CNI is not None
    for name in ("bridge", "host-local", "tuning"):
        (tmp_path / "plugins" / name).symlink_to(CNI / name)
    env = {"CNI_PATH": str(tmp_path / "plugins")}
    host.configure({"type": "tuning"})
    done = host.orlop.run("run", "--cni", "--name", "c1", "--null-io", "--detach", BUSY, "sleep", "1000", env=env)
    assert done.code == 0, str(done)
    (tmp_path / "plugins/tuning").unlink()
    assert "tuning" in host.orlop.run("rm", "--force", "c1", env=env).err
    # The others have done their part.
    assert host.addresses() == []
    host.orlop.ok("rm", "--force", "c1")
