# SPDX-License-Identifier: Apache-2.0
"""What operators are told: what is wrong and how to mend it, what a config may hold, and where a value comes from."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from tests.support.cli import Orlop
from tests.support.ctr import environment
from tests.support.daemon import ORLOPD, Daemon
from tests.support.distributions import SENTINELS, install, uri_of
from tests.support.image import Image, write_archive

from orlop.errors import Unimplemented
from orlop_sdk.api.services.ttrpc.events.v1.events_pb2 import ForwardRequest
from orlop_sdk.rpc.stub import Stub
from orlop_sdk.ttrpc.client import Client

BIN = Path(sys.executable).parent
VALIDATOR = ("/usr/bin/python3", "-W", "ignore", "-m", "jsonschema")
OVERLAYFS = "io.containerd.snapshotter.v1.overlayfs"
NATIVE = "io.containerd.snapshotter.v1.native"
SCHEDULER = "io.containerd.gc.v1.scheduler"
IMAGE = "example.com/busy:1"
#: Runs a program for which no file system can be mounted, as if the kernel had none: mount and fsopen give ENODEV.
WITHOUT_MOUNTS = f"""\
import ctypes, errno, os, struct, sys
MOUNT, FSOPEN = {40 if platform.machine() == "aarch64" else 165}, 430
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.ENODEV
code = [(0x20, 0, 0, 0), (0x15, 1, 0, MOUNT), (0x15, 0, 1, FSOPEN), (0x06, 0, 0, REFUSE), (0x06, 0, 0, ALLOW)]
filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in code))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(filters)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    raise OSError(ctypes.get_errno(), "seccomp")
os.execv(sys.argv[1], sys.argv[1:])
"""
#: Runs a program that sees no overlayfs in the kernel.
WITHOUT_OVERLAY = 'mount --bind "$0" /proc/filesystems && mount -t tmpfs none /sys/module && exec "$@"'


# ---- the doctor ------------------------------------------------------------------------------------------------------


def findings(orlop: Orlop) -> dict[str, dict[str, str]]:
    """What the doctor says, by plugin."""
    done = orlop.run("--format", "json", "plugins", "doctor")
    return {each["plugin"]: each for each in json.loads(done.out)["findings"]}


def test_a_kernel_module_that_is_missing(short_tmp: Path, tmp_path: Path) -> None:
    script = tmp_path / "without_mounts.py"
    script.write_text(WITHOUT_MOUNTS)
    filesystems = tmp_path / "filesystems"
    lines = Path("/proc/filesystems").read_text().splitlines(keepends=True)
    filesystems.write_text("".join(line for line in lines if line.split()[-1] != "overlay"))
    program = ("unshare", "--mount", "sh", "-c", WITHOUT_OVERLAY, str(filesystems), str(BIN / "orlop"))
    with Daemon(short_tmp, (sys.executable, str(script), *ORLOPD)) as daemon:
        lacking = findings(Orlop(daemon.address, "default", program))[OVERLAYFS]
        assert "No such device" in lacking["problem"]
        assert lacking["remedy"] == f"load the kernel module: modprobe overlay; then orlop plugins enable {OVERLAYFS}"
        # Where the kernel has it meanwhile, all that is left to do is to try again.
        assert findings(Orlop(daemon.address, "default"))[OVERLAYFS]["remedy"] == f"orlop plugins enable {OVERLAYFS}"
        told = daemon.ctr("doctor").ok("plugins", "ls", "-d", "id==overlayfs")
        assert "No such device; the kernel lacks overlayfs; load the module (modprobe overlay)" in told
        # The others are well: an image can be unpacked elsewhere, as the reason says.
        assert "is ok" in Orlop(daemon.address, "default").ok("plugins", "why", "native")


PROCESSORS = """\
[stream_processors.absent]
  accepts = ["application/x-absent"]
  returns = "application/vnd.oci.image.layer.v1.tar"
  path = "a-decoder-that-nobody-has"
[stream_processors.there]
  accepts = ["application/x-there"]
  returns = "application/vnd.oci.image.layer.v1.tar"
  path = "/bin/cat"
"""


def test_a_program_that_is_missing(short_tmp: Path, tmp_path: Path) -> None:
    with Daemon(short_tmp, tables=PROCESSORS) as daemon:
        found = findings(Orlop(daemon.address, "default"))
        lacking = found["io.orlop.stream-processor.v1.absent"]
        assert lacking["severity"] == "error"
        assert lacking["problem"].endswith("is not installed: a-decoder-that-nobody-has")
        assert lacking["remedy"].startswith("install a-decoder-that-nobody-has ")
        assert "io.orlop.stream-processor.v1.there" not in found
        assert "io.containerd.shim.v1.orlop" not in found
        bare = Orlop(daemon.address, "default", (str(BIN / "orlop"),), {"PATH": str(tmp_path)})
        runtimes = findings(bare)["io.containerd.shim.v1.orlop"]
        assert runtimes["problem"].endswith("is not installed: runc or crun")
        # What ctr install puts there counts.
        (daemon.base / "opt/bin").mkdir(parents=True, exist_ok=True)
        crun = daemon.base / "opt/bin/crun"
        crun.write_text("#!/bin/sh\n")
        crun.chmod(0o755)
        assert "io.containerd.shim.v1.orlop" not in findings(bare)


def test_a_socket_that_does_not_answer(short_tmp: Path) -> None:
    address = short_tmp / "far.sock"
    with Daemon(short_tmp, tables=f'[proxy_plugins.far]\n  type = "snapshot"\n  address = "{address}"\n') as daemon:
        orlop = Orlop(daemon.address, "default")
        silent = findings(orlop)["io.containerd.snapshotter.v1.far"]
        assert silent["problem"] == f"its socket {address} does not answer: No such file or directory"
        assert silent["remedy"] == "start the program that serves it"
        assert orlop.run("plugins", "doctor").code == 1
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(address))
            assert "Connection refused" in findings(orlop)["io.containerd.snapshotter.v1.far"]["problem"]
            listening.listen()
            assert "io.containerd.snapshotter.v1.far" not in findings(orlop)


def test_ctr_is_told_the_same(short_tmp: Path) -> None:
    """The chain down to the root cause, needs, and how long plugins took to come up."""
    top = f'disabled_plugins = ["{OVERLAYFS}", "io.containerd.content.v1.content", "io.containerd.grpc.v1.cri"]\n'
    with Daemon(short_tmp, top=top) as daemon:
        ctr, orlop = daemon.ctr("told"), Orlop(daemon.address, "default")
        why = orlop.json("plugins", "why", "io.containerd.grpc.v1.images")
        assert why["chain"][-1] == "io.containerd.content.v1.content"
        told = ctr.ok("plugins", "ls", "-d", "type==io.containerd.grpc.v1,id==images")
        assert why["reason"] in told
        assert f"needs io.containerd.content.v1.content, which is disabled in {daemon.config}:4" in told
        shown = ctr.ok("plugins", "ls", "-d", "id==native").split()
        assert float(shown[shown.index("init") + 1].removesuffix("ms")) > 0
        assert why["requires"] == ["io.containerd.metadata.v1"]
        assert "Requires:" in told
        assert "io.containerd.metadata.v1" in told.partition("Requires:")[2].partition("Error:")[0]


# ---- the config ------------------------------------------------------------------------------------------------------


def validate(schema: Path, instance: object) -> subprocess.CompletedProcess[str]:
    """Ask a validator of JSON Schema that has nothing to do with us; it checks the schema itself first."""
    file = schema.with_name("instance.json")
    file.write_text(json.dumps(instance))
    return subprocess.run(
        [*VALIDATOR, "-i", str(file), str(schema)], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def orlop(tmp_path: Path) -> Orlop:
    """The command, where no daemon is."""
    return Orlop(tmp_path / "nosuch", "default")


def test_the_schema_tells_right_from_wrong(orlop: Orlop, tmp_path: Path, short_tmp: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(orlop.ok("config", "schema"))
    (tmp_path / "defaults.toml").write_text(orlop.ok("config", "default"))
    defaults = orlop.json("config", "dump", "-c", str(tmp_path / "defaults.toml"))
    # One that a daemon runs with, of an older format as all our tests write them.
    real = Daemon(short_tmp, tables=f'{PROCESSORS}[plugins."{NATIVE}"]\n  isolated = true\n').config
    used = orlop.json("config", "dump", "-c", str(real))
    for right in ({}, {"version": 4}, defaults, used):
        done = validate(schema, right)
        assert done.returncode == 0, done.stdout + done.stderr
    for key, wrong in (
        ("high", {"oom_score": "high"}),
        ("rooot", {"rooot": "/x"}),
        ("sometimes", {"plugin_trust": "sometimes"}),
        ("upside_down", {"plugins": {NATIVE: {"upside_down": True}}}),
        ("much", {"plugins": {SCHEDULER: {"pause_threshold": "much"}}}),
        ("accepts", {"stream_processors": {"x": {"path": "cat", "returns": "y"}}}),
    ):
        done = validate(schema, wrong)
        assert done.returncode == 1, key
        assert key in done.stdout + done.stderr
        assert "SchemaError" not in done.stderr


def test_values_are_explained_with_the_line_they_come_from(orlop: Orlop, tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text(f'version = 4\n\n[plugins."{SCHEDULER}"]\npause_threshold = 0.25\n')
    main = tmp_path / "c.toml"
    main.write_text('version = 4\nimports = ["more.toml"]\noom_score = -500\n')
    key = f'plugins."{SCHEDULER}".pause_threshold'
    (row,) = orlop.json("config", "explain", "-c", str(main), key)
    assert (row["key"], row["value"], row["default"]) == (key, 0.25, 0.02)
    assert row["origin"] == f"{tmp_path}/more.toml:4"
    said = orlop.ok("config", "explain", "-c", str(main), "oom_score").splitlines()
    assert said[0] == "oom_score"
    assert f"  in effect: -500 ({main}:3)" in said
    (unset,) = orlop.json("config", "explain", "-c", str(main), f'plugins."{SCHEDULER}".startup_delay')
    assert unset["origin"] == "default"
    changed = {row["key"]: (row["value"], row["origin"]) for row in orlop.json("config", "diff", "-c", str(main))}
    assert changed[key] == (0.25, f"{tmp_path}/more.toml:4")
    assert changed["oom_score"] == (-500, f"{main}:3")
    assert not any("startup_delay" in each for each in changed)


# ---- changes while it runs -------------------------------------------------------------------------------------------


def test_a_plan_says_what_cannot_change_live(short_tmp: Path, tmp_path: Path) -> None:
    (short_tmp / "conf.d").mkdir()
    with Daemon(short_tmp, top='imports = ["conf.d/*.toml"]\n') as daemon:
        ctr, orlop = daemon.ctr(f"plan-{uuid.uuid4().hex}"), Orlop(daemon.address, "default")
        archive = write_archive(tmp_path / "b.tar", {IMAGE: Image()})
        ctr.ok("images", "import", "--snapshotter", "native", str(archive))
        (short_tmp / "conf.d/a.toml").write_text(
            f'version = 2\ntemp = "{tmp_path}"\n[plugins."{NATIVE}"]\nroot_path = "{short_tmp}/n"\n'
            f'[plugins."{SCHEDULER}"]\npause_threshold = 0.3\n'
        )
        before = orlop.json("plugins", "ls")
        lines = orlop.ok("config", "reload", "--dry-run").splitlines()
        assert f"would be restarted: {SCHEDULER}" in lines
        assert "counts after a restart of the daemon only: temp" in lines
        (kept,) = [line for line in lines if NATIVE in line]
        assert kept.startswith(f"unchanged until the daemon restarts: {NATIVE}, used by ")
        assert f'snapshots in namespace "{ctr.namespace}"' in kept
        assert orlop.json("plugins", "ls") == before


async def test_a_ttrpc_service_vanishes_and_appears(short_tmp: Path) -> None:
    events = "io.containerd.ttrpc.v1.events"
    with Daemon(short_tmp) as daemon:
        orlop = Orlop(daemon.address, "default")
        async with await Client.connect(f"unix://{daemon.address}.ttrpc") as client:
            shim = Stub(client, "containerd.services.events.ttrpc.v1.Events")
            request = ForwardRequest()
            request.envelope.namespace, request.envelope.topic = "default", "/mine"
            request.envelope.event.type_url = "example.Mine"
            request.envelope.timestamp.GetCurrentTime()
            await shim.Forward(request)
            orlop.ok("plugins", "disable", events, "--force")
            with pytest.raises(Unimplemented):
                await shim.Forward(request)
            orlop.ok("plugins", "enable", events)
            await shim.Forward(request)


# ---- trust -----------------------------------------------------------------------------------------------------------


def test_what_the_lock_does_not_know_is_refused_by_name(short_tmp: Path, tmp_path: Path) -> None:
    """One plugin whose file changed, one entry point more, one distribution more; the fourth is as it was."""
    site, sentinels = tmp_path / "site", tmp_path / "sentinels"
    site.mkdir()
    sentinels.mkdir()
    install(site, range(3))
    done = subprocess.run(
        [str(BIN / "orlop"), "compose", "lock", "--output", str(short_tmp / "plugins.lock")],
        env=environment() | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    changed = site / "acme_0001.py"
    changed.write_text(changed.read_text() + "\n# one line more\n")
    points = site / "acme_0002-1.0.dist-info/entry_points.txt"
    points.write_text(points.read_text() + "unexpected = os:system\n")
    install(site, range(3, 4))
    top = f'plugin_trust = "locked"\nplugin_lock = "plugins.lock"\nplugin_dirs = ["{site}"]\n'
    with Daemon(short_tmp, top=top, env={SENTINELS: str(sentinels)}) as daemon:
        orlop = Orlop(daemon.address, "default")
        found = {f"{row['type']}.{row['id']}": row for row in orlop.json("plugins", "ls")}
        reasons = {
            uri_of(1): "acme_0001.py of distribution acme-0001 1.0 differs from the lock",
            uri_of(2): "entry_points.txt of distribution acme-0002 1.0 differs from the lock",
            uri_of(2).replace("acme-0002", "unexpected"): "entry_points.txt of distribution acme-0002 1.0 differs",
            uri_of(3): f"distribution acme-0003 1.0 is not in the lock {short_tmp}/plugins.lock",
        }
        log = daemon.log.read_text()
        for uri, reason in reasons.items():
            assert found[uri]["state"] == "failed"
            assert reason in found[uri]["reason"]
            assert reason in log
        assert found[uri_of(0)]["state"] == "ok"
        assert {path.name for path in sentinels.iterdir()} == {"acme_0000"}
        assert os.fspath(daemon.ctr("locked").ok("plugins", "ls", "id==overlayfs")).rstrip().endswith("ok")
