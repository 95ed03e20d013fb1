# SPDX-License-Identifier: Apache-2.0
"""What ``ctr run`` and ``orlop run`` offer has its effect, as seen from inside the container.

Both commands run on orlopd with its own shim; where both have an option, both are asked for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from tests.support import oci as trees
from tests.support.cli import Orlop
from tests.support.ctr import Ctr, Result, columns, eventually
from tests.support.daemon import ORLOPD, Daemon
from tests.support.image import Image, busybox_layer, entry, tar, write_archive
from tests.support.place import short_directory
from tests.support.runtime import cgroup_files, forget_namespace

from orlop_sdk import oci
from orlop_sdk.client import Client
from orlop_sdk.client.remap import remapped
from orlop_sdk.linux.idmap import parse_mapping

IMAGE = "example.com/run:1"
TOP = Path("/sys/fs/cgroup")
#: As the mappings of user namespaces below have it.
UIDS, GIDS = 100_000, 200_000
MAPS = ("--uidmap", f"0:{UIDS}:65536", "--gidmap", f"0:{GIDS}:65536")
_numbers = count(1)


def image() -> Image:
    """Busybox, and files of several owners, one of them with two names, one that runs as its owner."""
    files = [
        entry("data/", uid=1000, gid=1001),
        entry("data/plain", b"x", uid=1000, gid=1001),
        entry("data/twice", b"y", uid=5, gid=6),
        entry("data/again", type=b"1", linkname="data/twice", uid=5, gid=6),
        entry("data/setuid", b"z", uid=7, gid=8, mode=0o4755),
        entry("data/link", type=b"2", linkname="/nowhere", uid=9, gid=10),
    ]
    return Image([busybox_layer(), tar(files)])


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with short_directory() as base:
        # The root of a user namespace must get to its root file system, as it can below /run.
        base.chmod(0o711)
        with Daemon(base, ORLOPD) as daemon:
            yield daemon


@pytest.fixture(scope="module")
def ctr(daemon: Daemon) -> Iterator[Ctr]:
    ctr = daemon.ctr(f"run-{uuid.uuid4().hex[:10]}")
    ctr.ok("images", "import", str(write_archive(daemon.base / "image.tar", {IMAGE: image()})))
    yield ctr
    for name in (ctr.namespace, f"{ctr.namespace}-parent"):
        forget_namespace(name)
        assert cgroup_files(name, "") == []


@dataclass
class Command:
    """``ctr run``, or ``orlop run`` if that is given."""

    daemon: Daemon
    ctr: Ctr
    orlop: Orlop | None = None

    def run(self, *flags: str, script: str = "", rootfs: Path | None = None) -> Result:
        """Run a script in a container with these options, to its end."""
        id = f"c{next(_numbers)}"
        words = [*flags, str(rootfs or IMAGE)]
        if self.orlop is None:
            return self.ctr.run("run", "--rm", *words, id, "/bin/sh", "-c", script, timeout=60)
        return self.orlop.run("run", "--rm", "--name", id, *words, "/bin/sh", "-c", script)

    def lines(self, *flags: str, script: str, rootfs: Path | None = None) -> list[str]:
        """What a script prints that succeeds."""
        result = self.run(*flags, script=script, rootfs=rootfs)
        assert result.code == 0, str(result)
        return result.lines()


@pytest.fixture(params=["ctr", "orlop"])
def command(request: pytest.FixtureRequest, daemon: Daemon, ctr: Ctr) -> Command:
    """Either command."""
    return Command(daemon, ctr, Orlop(daemon.address, ctr.namespace) if request.param == "orlop" else None)


@pytest.fixture
def orlop(daemon: Daemon, ctr: Ctr) -> Command:
    """``orlop run``."""
    return Command(daemon, ctr, Orlop(daemon.address, ctr.namespace))


def mask(line: str) -> int:
    """The capabilities of a line of ``/proc/PID/status``."""
    return int(line.split()[1], 16)


def cgroup_script(path: str, controller: str, old: str, new: str) -> str:
    """Print a file of a cgroup that is mounted at ``/cg``: *old* of its version 1, *new* of version 2."""
    if (TOP / controller).is_dir():
        return f"cat /cg/{controller}{path}/{old}"
    return f"cat /cg{path}/{new}"


CGROUPS = ("--mount", f"type=bind,src={TOP},dst=/cg,options=rbind:ro")


def test_capabilities(command: Command) -> None:
    script = "grep -E 'Cap(Eff|Bnd|Prm)|NoNewPrivs' /proc/self/status; busybox chown 5 /data/plain 2>&1"
    *sets, privileges, refused = command.run(
        "--cap-add", "CAP_SYS_NICE", "--cap-drop", "CAP_CHOWN", script=script
    ).lines()
    assert len(sets) == 3
    for line in sets:
        assert mask(line) >> 23 & 1, "CAP_SYS_NICE was added"
        assert not mask(line) & 1, "CAP_CHOWN was dropped"
        assert mask(line) >> 10 & 1, "CAP_NET_BIND_SERVICE is one of the usual"
    assert privileges == "NoNewPrivs:\t1"
    assert "Operation not permitted" in refused


def test_privileged(command: Command) -> None:
    script = "grep CapEff /proc/self/status; busybox ls -l /dev/kmsg; grep ' /proc/sys ' /proc/mounts; echo done"
    capabilities, device, done = command.lines("--privileged", script=script)
    ours = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    assert mask(capabilities) == mask(ours)
    assert device.startswith("c")
    assert done == "done", "nothing is mounted over /proc/sys"


def test_seccomp(command: Command) -> None:
    script = "grep Seccomp: /proc/self/status; busybox unshare -U true && echo unshared"
    confined = command.run("--seccomp", script=script)
    assert confined.lines() == ["Seccomp:\t2"], str(confined)
    assert "Operation not permitted" in confined.err
    usual = command.run(script=f"grep -c ' /proc/sys ' /proc/mounts; {script}")
    assert usual.lines()[:2] == ["1", "Seccomp:\t0"]


def test_seccomp_follows_the_capabilities(command: Command) -> None:
    script = "busybox unshare -u true && echo unshared; grep NoNewPrivs /proc/self/status"
    flags = ("--seccomp", "--cap-add", "CAP_SYS_ADMIN", "--allow-new-privs")
    assert command.lines(*flags, script=script) == ["unshared", "NoNewPrivs:\t0"]


def test_a_seccomp_profile(command: Command, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    result = command.run("--seccomp", "--seccomp-profile", str(profile), script="mkdir /new; touch /file && echo made")
    assert result.lines() == ["made"]
    assert "Function not implemented" in result.err


def test_apparmor(command: Command) -> None:
    """A container is confined as told, or does not run at all."""
    result = command.run("--apparmor-profile", "no-such-profile", script="echo ran")
    assert result.code != 0
    assert result.out == ""
    assert "apparmor" in result.err.lower()
    if not Path("/sys/kernel/security/apparmor/profiles").exists():
        pytest.skip("the kernel has no AppArmor: that a profile which exists confines cannot be seen here")
    line = Path("/sys/kernel/security/apparmor/profiles").read_text().partition("\n")[0]
    if not line:
        pytest.skip("no AppArmor profile is loaded")
    name = line.rpartition(" (")[0]
    said = command.run("--apparmor-profile", name, script="cat /proc/self/attr/current")
    assert name in said.out + said.err


def test_devices(command: Command) -> None:
    node = os.stat("/dev/fuse")
    numbers = f"{os.major(node.st_rdev):x}:{os.minor(node.st_rdev):x}"
    script = "stat -c %t:%T /dev/fuse; : </dev/fuse && echo opened"
    assert command.lines("--device", "/dev/fuse", script=script) == [numbers, "opened"]
    forbidden = command.run(script="busybox mknod /fuse c 10 229; : </fuse && echo opened")
    assert forbidden.out == ""
    assert "Operation not permitted" in forbidden.err


def test_a_read_only_root(command: Command) -> None:
    result = command.run(
        "--read-only", script="grep -E '^[^ ]+ / ' /proc/mounts; touch /new; touch /run/new && echo ok"
    )
    root, said = result.lines()
    assert root.split()[3].split(",")[0] == "ro"
    assert said == "ok"
    assert "Read-only file system" in result.err


def test_environment_and_directory(command: Command, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=from the file\nB=2\n")
    flags = ("--env-file", str(tmp_path / "env"), "--env", "B=3", "--cwd", "/tmp")
    assert command.lines(*flags, script='echo "$A $B $IMAGE"; pwd') == ["from the file 3 yes", "/tmp"]


def test_mounts(command: Command, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("from the host")
    flags = (
        *("--mount", f"type=bind,src={tmp_path},dst=/host,options=rbind:ro"),
        *("--mount", "type=tmpfs,src=tmpfs,dst=/small,options=size=64k:nosuid:noexec:nodev"),
    )
    script = "cat /host/file; echo; touch /host/new; grep -E ' /(small|host) ' /proc/mounts"
    result = command.run(*flags, script=script)
    content, *mounts = result.lines()
    assert content == "from the host"
    assert "Read-only file system" in result.err
    options = {line.split()[1]: set(line.split()[3].split(",")) for line in mounts}
    assert "ro" in options["/host"]
    assert options["/small"] >= {"rw", "nosuid", "nodev", "noexec", "size=64k"}


def test_the_hosts_network(command: Command) -> None:
    script = "readlink /proc/self/ns/net; echo $HOSTNAME; cat /etc/hosts"
    namespace, hostname, *hosts = command.lines("--net-host", script=script.replace("readlink", "busybox readlink"))
    assert namespace == os.readlink("/proc/self/ns/net")
    assert hostname == socket.gethostname()
    assert hosts == Path("/etc/hosts").read_text().splitlines()


def test_namespaces_of_others(command: Command) -> None:
    flags = ("--with-ns", f"ipc:/proc/{os.getpid()}/ns/ipc")
    ipc, uts = command.lines(*flags, script="for n in ipc uts; do busybox readlink /proc/self/ns/$n; done")
    assert ipc == os.readlink("/proc/self/ns/ipc")
    assert uts != os.readlink("/proc/self/ns/uts")


def test_a_cgroup_and_its_limits(command: Command) -> None:
    path = f"/{command.ctr.namespace}/of-its-own"
    files = (
        ("memory", "memory.limit_in_bytes", "memory.max"),
        ("cpu", "cpu.cfs_quota_us", "cpu.max"),
        ("cpu", "cpu.shares", "cpu.weight"),
    )
    script = "cat /proc/self/cgroup; echo; " + "; ".join(cgroup_script(path, *each) for each in files)
    limits = ("--memory-limit", str(48 << 20), "--cpus", "0.5", "--cpu-shares", "512")
    lines = command.lines("--cgroup", path, *limits, *CGROUPS, script=script)
    end = lines.index("")
    assert path in {line.split(":", 2)[2] for line in lines[:end]}
    memory, quota, shares = lines[end + 1 :]
    assert memory == str(48 << 20)
    assert quota.split()[0] == "50000"
    assert shares in ("512", "20")


def test_rootfs_of_the_host_and_cpu_quota(command: Command, tmp_path: Path) -> None:
    trees.busybox_tree(tmp_path / "tree")
    (tmp_path / "tree" / "mark").write_text("mine\n")
    path = f"/{command.ctr.namespace}/quota"
    files = (("cpu", "cpu.cfs_quota_us", "cpu.max"), ("cpu", "cpu.cfs_period_us", "cpu.max"))
    script = "; ".join(("cat /mark", *(cgroup_script(path, *each) for each in files)))
    flags = ("--cgroup", path, "--cpu-quota", "7000", "--cpu-period", "20000", *CGROUPS, "--rootfs")
    lines = command.lines(*flags, script=script, rootfs=tmp_path / "tree")
    assert " ".join(lines).split()[:3] == ["mine", "7000", "20000"]


def peers(mountinfo: str, place: str) -> tuple[set[str], set[str]]:
    """The peer groups that a mount is in, and those that it is a slave of."""
    line = next(line for line in mountinfo.splitlines() if line.split()[4] == place)
    words = [word.partition(":") for word in line.partition(" - ")[0].split()[6:]]
    return {word[2] for word in words if word[0] == "shared"}, {word[2] for word in words if word[0] == "master"}


def test_propagation(command: Command, tmp_path: Path) -> None:
    """What is mounted below a shared directory is told to the host only if the root file system is shared, too."""
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(tmp_path)], check=True)
        (group,) = peers(Path("/proc/self/mountinfo").read_text(), str(tmp_path))[0]
        flags = ("--mount", f"type=bind,src={tmp_path},dst=/host,options=rbind:rshared")
        for propagation, index in (("shared", 0), ("rslave", 1)):
            said = command.lines(*flags, "--rootfs-propagation", propagation, script="cat /proc/self/mountinfo")
            assert group in peers("\n".join(said), "/host")[index]
            assert group not in peers("\n".join(said), "/host")[1 - index]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_pid_file_and_labels(command: Command, tmp_path: Path) -> None:
    id = f"c{next(_numbers)}"
    file = tmp_path / "pid"
    words = [
        *("--detach", "--pid-file", str(file), "--label", "mine=yes", "--annotation", "word=given"),
        *("--snapshotter-label", "containerd.io/snapshot/mine=yes"),
    ]
    if command.orlop is None:
        command.ctr.ok("run", *words, IMAGE, id, "sleep", "1000")
    else:
        command.orlop.ok("run", *words, "--log-uri", f"file://{tmp_path}/log", "--name", id, IMAGE, "sleep", "1000")
    try:
        pids = {row[0]: row[1] for row in columns(command.ctr.ok("tasks", "ls"))}
        assert file.read_text() == pids[id]
        info = json.loads(command.ctr.ok("containers", "info", id))
        assert info["Labels"]["mine"] == "yes"
        assert info["Spec"]["annotations"]["word"] == "given"
        snapshot = json.loads(command.ctr.ok("snapshots", "info", id))
        assert snapshot["Labels"]["containerd.io/snapshot/mine"] == "yes"
    finally:
        command.ctr.ok("tasks", "kill", "--signal", "SIGKILL", id)
        eventually(lambda: "STOPPED" in command.ctr.ok("tasks", "ls"), "it does not end")
        command.ctr.run("tasks", "rm", id)
        command.ctr.ok("containers", "rm", id)


# ---- user namespaces ------------------------------------------------------------------------------------------------

OWNERS = "stat -c '%n %u:%g %a' /bin/busybox /data /data/plain /data/twice /data/again /data/setuid /data/link"
SEEN = """\
/bin/busybox 0:0 755
/data 1000:1001 755
/data/plain 1000:1001 644
/data/twice 5:6 644
/data/again 5:6 644
/data/setuid 7:8 4755
/data/link 9:10 777
""".splitlines()


def needs_mapped_layers() -> None:
    """Skip where the kernel cannot map the owners of an overlay's layers."""
    if tuple(map(int, platform.release().split(".")[:2])) < (5, 19):
        pytest.skip("the kernel cannot map the owners of layers; Linux 5.19 can")


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_a_user_namespace(command: Command, snapshotter: str) -> None:
    """Its root is nobody on the host, and the files of the image have the owners that it knows."""
    if command.orlop is not None and snapshotter == "overlayfs":
        needs_mapped_layers()
    script = "; ".join(
        (
            "cat /proc/self/uid_map /proc/self/gid_map",
            OWNERS,
            "touch /data/new && stat -c '%u:%g' /data/new",
            "echo more >>/data/plain && stat -c '%u:%g' /data/plain",
        )
    )
    uids, gids, *rest = command.lines(*MAPS, "--snapshotter", snapshotter, script=script)
    assert uids.split() == ["0", str(UIDS), "65536"]
    assert gids.split() == ["0", str(GIDS), "65536"]
    wanted = [*SEEN, "0:0", "1000:1001"]
    if command.orlop is None:
        # The copy that ctr makes by itself forgets set-uid bits, and maps a file once for each of its names.
        rest, wanted = ([line for line in lines if "plain" in line or ":" in line[:5]] for lines in (rest, wanted))
    assert rest == wanted


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_the_snapshotter_is_told_of_a_user_namespace(command: Command, snapshotter: str) -> None:
    """With the labels it is the snapshotter that sees to the owners, for any client."""
    if snapshotter == "overlayfs":
        needs_mapped_layers()
    told = command.run(*MAPS, "--remap-labels", "--snapshotter", snapshotter, script=OWNERS)
    if command.orlop is None and "failed to mount" in told.err:
        pytest.skip("this ctr mounts snapshots itself to look users up, and does not know the mount option uidmap")
    assert told.lines() == SEEN


async def test_a_snapshotter_that_cannot(daemon: Daemon, ctr: Ctr) -> None:
    """The client makes one copy with other owners, for all containers of the same mapping."""
    uids, gids = parse_mapping(MAPS[1]), parse_mapping(MAPS[3])
    async with Client(str(daemon.address), ctr.namespace) as client:
        parent = await client.unpack(IMAGE, snapshotter="native")
        native = client.snapshots("native")
        async with client.lease():
            names = await asyncio.gather(*(remapped(native, parent, uids, gids) for _ in range(3)))
            assert len(set(names)) == 1
            (mount,) = await native.view("look", names[0])
            try:
                found = [os.lstat(f"{mount.source}/data/{name}") for name in ("plain", "twice", "again", "setuid")]
            finally:
                await native.remove("look")
            active = [info.name async for info in native.walk(["kind==active"])]
    assert [each.st_uid - UIDS for each in found] == [1000, 5, 5, 7]
    assert [each.st_gid - GIDS for each in found] == [1001, 6, 6, 8]
    assert oct(found[-1].st_mode)[-4:] == "4755"
    assert active == []


async def test_who_a_user_namespace_is_outside(daemon: Daemon, ctr: Ctr, orlop: Command, tmp_path: Path) -> None:
    id = f"c{next(_numbers)}"
    assert orlop.orlop is not None
    orlop.orlop.ok(*("run", "-d", "--log-uri", f"file://{tmp_path}/log", "--name", id, *MAPS, IMAGE, "sleep", "1000"))
    pid = next(int(row[1]) for row in columns(ctr.ok("tasks", "ls")) if row[0] == id)
    try:
        root = Path(f"/proc/{pid}/root")
        assert os.stat(f"/proc/{pid}").st_uid == UIDS
        plain = os.stat(root / "data/plain")
        assert (plain.st_uid, plain.st_gid) == (UIDS + 1000, GIDS + 1001)
    finally:
        orlop.orlop.ok("rm", "--force", id)
    # Nobody else's: a container without the mapping has the owners of the image.
    assert orlop.lines(script=OWNERS) == SEEN


def test_further_processes_and_terminals_of_a_user_namespace(ctr: Ctr, orlop: Command, tmp_path: Path) -> None:
    """Its streams are its own: what opens /dev/stdout anew can."""
    assert orlop.orlop is not None
    id, log = f"c{next(_numbers)}", tmp_path / "log"
    script = "echo first >/dev/stdout; sleep 1000"
    words = ("--log-uri", f"file://{log}", "--name", id, *MAPS, "--seccomp", "--read-only", IMAGE, "sh", "-c", script)
    orlop.orlop.ok("run", "-d", *words)
    try:
        eventually(lambda: log.read_text() == "first\n", log.read_text)
        script = "cat /proc/self/uid_map; grep Seccomp: /proc/self/status; touch /new || echo more >/dev/stdout"
        mapped, seccomp, more = ctr.ok("tasks", "exec", "--exec-id", "e1", id, "sh", "-c", script).splitlines()
        assert mapped.split() == ["0", str(UIDS), "65536"]
        assert (seccomp, more) == ("Seccomp:\t2", "more")
    finally:
        orlop.orlop.ok("rm", "--force", id)
    with orlop.orlop.terminal("run", "--rm", "-t", *MAPS, IMAGE, "sh", "-c", "tty >/dev/stdout; exit 4") as terminal:
        assert terminal.wait() == 4
        assert terminal.shown == "/dev/pts/0\r\n"


# ---- what only orlop run offers -------------------------------------------------------------------------------------


def test_limits_by_their_names_in_docker(orlop: Command) -> None:
    path = f"/{orlop.ctr.namespace}-parent"
    flags = (
        *("--hostname", "box", "--ulimit", "nofile=77:99", "--rlimit", "core=unlimited", "--pids-limit", "33"),
        *("--cpuset-cpus", "0", "--cpuset-mems", "0", "--cgroup-parent", path, "--oom-score-adj", "555"),
        *("--tmpfs", "/scratch:size=64k,noexec", "--sysctl", "kernel.shm_rmid_forced=1", "--group-add", "4242"),
        *("--device", "/dev/fuse:/dev/other:r", "--mount", "type=bind,source=/usr,target=/host,readonly"),
    )
    script = "; ".join(
        (
            "hostname",
            "grep -E 'open files|core file' /proc/self/limits",
            "grep -E '_allowed_list|^Groups' /proc/self/status",
            "cat /proc/self/oom_score_adj /proc/sys/kernel/shm_rmid_forced",
            "grep -E ' /(scratch|host) ' /proc/mounts",
            "stat -c %t:%T /dev/other; : </dev/other && echo read; (: >>/dev/other) || echo not written",
            "echo; cat /proc/self/cgroup",
        )
    )
    result = orlop.run(*flags, *CGROUPS, script=script)
    lines = result.lines()
    assert "" in lines, str(result)
    end = lines.index("")
    known = " ".join(" ".join(lines[:end]).split())
    for wanted in (
        "box Max core file size unlimited unlimited bytes Max open files 77 99 files",
        "4242",
        "Cpus_allowed_list: 0 Mems_allowed_list: 0",
        " 555 1 ",
        "a:e5 read not written",
    ):
        assert wanted in known, known
    options = {line.split()[1]: line.split()[3].split(",") for line in lines[:end] if len(line.split()) == 6}
    assert {"noexec", "nosuid", "nodev", "size=64k"} <= set(options["/scratch"])
    assert options["/host"][0] == "ro"
    groups = {line.split(":", 2)[2] for line in lines[end + 1 :]}
    (own,) = [group for group in groups if group.startswith(f"{path}/")]
    assert own.rpartition("/")[2].startswith("c")


def test_a_limit_of_processes(orlop: Command) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo all"
    result = orlop.run("--pids-limit", "4", script=script)
    assert "all" not in result.lines()
    assert "Resource temporarily unavailable" in result.err


def test_a_pid_file_that_cannot_be_written_leaves_nothing(orlop: Command) -> None:
    assert orlop.orlop is not None
    assert "cannot be written" in orlop.orlop.fails("run", "--pid-file", "/nosuch/pid", IMAGE, "true")
    assert orlop.orlop.ok("ps", "-a", "-q") == ""


# ---- hooks ----------------------------------------------------------------------------------------------------------

HOOK = """\
#!/bin/sh
state=$(cat)
echo "$1 $WORD" >>{told}
bundle=$(echo "$state" | sed 's/.*"bundle":"\\([^"]*\\)".*/\\1/')
if [ "$1" = createRuntime ]; then echo hooked >"$bundle/{rootfs}/hooked"; fi
"""
MOMENTS = ["createRuntime", "createContainer", "poststart", "poststop"]


def hook_program(directory: Path, rootfs: str) -> Path:
    """A program that tells when it was called, and before the container is made leaves a file in it."""
    program = directory / "hook"
    program.write_text(HOOK.format(told=directory / "told", rootfs=rootfs))
    program.chmod(0o755)
    return program


async def test_hooks_by_the_library(daemon: Daemon, ctr: Ctr, tmp_path: Path) -> None:
    program = str(hook_program(tmp_path, "rootfs"))
    hooks = [oci.with_hook(moment, program, moment, env=["WORD=w", "PATH=/bin"], timeout=20) for moment in MOMENTS]
    async with Client(str(daemon.address), ctr.namespace) as client:
        result = await client.run(IMAGE, "cat", "/hooked", options=hooks)
    assert result.check().stdout == b"hooked\n"
    assert (tmp_path / "told").read_text().splitlines() == [f"{moment} w" for moment in MOMENTS]


async def test_a_hook_that_fails_keeps_the_container_from_running(daemon: Daemon, ctr: Ctr) -> None:
    async with Client(str(daemon.address), ctr.namespace) as client:
        with pytest.raises(Exception, match=r"hook"):
            await client.run(IMAGE, "true", options=[oci.with_hook("createRuntime", "/bin/false")])
        assert await client.containers.list() == []


def test_hooks_by_ctr(ctr: Ctr, tmp_path: Path) -> None:
    trees.busybox_tree(tmp_path / "tree")
    id = f"c{next(_numbers)}"
    spec = trees.spec(ctr.namespace, id, ["cat", "/hooked"])
    spec["root"]["path"] = str(tmp_path / "tree")
    program = str(hook_program(tmp_path, f"../../../../../../../../..{tmp_path}/tree"))
    hook = {"path": program, "env": ["WORD=w", "PATH=/bin"]}
    spec["hooks"] = {moment: [{**hook, "args": [program, moment]}] for moment in MOMENTS}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert ctr.ok("run", "--rm", "--config", str(tmp_path / "spec.json"), id) == "hooked\n"
    assert (tmp_path / "told").read_text().splitlines() == [f"{moment} w" for moment in MOMENTS]
