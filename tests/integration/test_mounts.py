# SPDX-License-Identifier: Apache-2.0
"""The mount manager on a real daemon: what it mounts, what it keeps, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from tests.conftest import mount_points
from tests.support import oci
from tests.support.ctr import eventually
from tests.support.daemon import ORLOPD, Daemon
from tests.support.image import LAYER_TAR, entry, tar
from tests.support.place import short_directory
from tests.support.runtime import forget_namespace

from orlop import context
from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable, Unimplemented
from orlop.interfaces.mount import Activation, MountHandler
from orlop.interfaces.task import TaskOptions
from orlop.values import Container, Descriptor, Mount, RuntimeInfo, Stdio
from orlop_sdk.client.connection import open_channel
from orlop_sdk.client.mounts import RemoteMountManager
from orlop_sdk.client.services import remote_services
from orlop_sdk.linux.mount import mount_one, temporary_mount
from orlop_snapshots.mounts.handlers import ErofsHandler, LoopHandler
from orlop_snapshots.mounts.manager import Mounts
from orlop_snapshots.mounts.transform import parse_size

#: Seconds that a system call is held up where a test wants the daemon to stand still.
HANG = 100.0
CRASH = Path(__file__).with_name("mount_crash.py")
RUNTIMES = ("io.containerd.orlop.v1", "/usr/bin/containerd-shim-runc-v2")


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture(scope="module")
def daemon(base: Path) -> Iterator[Daemon]:
    (base / "d").mkdir()
    with Daemon(base / "d", ORLOPD) as running:
        yield running


@pytest.fixture(scope="module")
def image(base: Path) -> Path:
    """An EROFS image with busybox in it."""
    oci.busybox_tree(base / "tree")
    path = base / "busybox.erofs"
    subprocess.run(["mkfs.erofs", str(path), str(base / "tree")], check=True, capture_output=True)
    return path


@pytest.fixture
def namespace(daemon: Daemon) -> Iterator[str]:
    name = f"mnt-{uuid.uuid4().hex[:12]}"
    daemon.ctr(name)
    yield name
    forget_namespace(name)


class Host:
    """The daemon's parts that tests of mounts need."""

    def __init__(self, mounts: RemoteMountManager, channel: object, namespace: str) -> None:
        services = remote_services(channel, namespace)  # type: ignore[arg-type]
        self.mounts = mounts
        self.leases, self.containers, self.tasks = services.leases, services.containers, services.tasks
        self.content, self.diff = services.content, services.diff


@asynccontextmanager
async def host(daemon: Daemon, namespace: str) -> AsyncIterator[Host]:
    channel = open_channel(str(daemon.address))
    try:
        with context.scope(namespace=namespace):
            yield Host(RemoteMountManager(channel), channel, namespace)
    finally:
        await channel.close()


def loops(below: Path) -> list[str]:
    """The files below a directory that loop devices show."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = path.read_text().strip().removesuffix(" (deleted)")
        except OSError:
            continue
        if Path(file).is_relative_to(below):
            found.append(file)
    return found


def nothing_mounted(daemon: Daemon) -> bool:
    return not mount_points(daemon.state) and not loops(daemon.base)


async def test_an_image_is_mounted_until_it_is_deactivated(daemon: Daemon, namespace: str, image: Path) -> None:
    async with host(daemon, namespace) as to:
        made = await to.mounts.activate("a", [Mount("erofs", str(image))], labels={"x": "1"})
        (active,) = made.active
        assert same(Path(active.mount_point) / "bin/busybox", Path("/usr/bin/busybox"))
        assert made.system == (Mount("bind", active.mount_point, options=("rbind", "ro")),)
        assert await to.mounts.info("a") == made
        with pytest.raises(AlreadyExists):
            await to.mounts.activate("a", [Mount("erofs", str(image))])
        await to.mounts.activate("b", [Mount("erofs", str(image))], labels={"x": "2"})
        assert [each.name for each in await to.mounts.list()] == ["a", "b"]
        assert [each.name for each in await to.mounts.list(["labels.x==2"])] == ["b"]
        changed = await to.mounts.update(Activation("a", labels={"y": "3"}), ["labels.y"])
        assert changed.labels == {"x": "1", "y": "3"}
        with pytest.raises(InvalidArgument):
            await to.mounts.update(Activation("a"), ["system"])
        busy = (Path(active.mount_point) / "bin/busybox").open("rb")
        with pytest.raises(FailedPrecondition, match="busy"):
            await to.mounts.deactivate("a")
        busy.close()
        for name in ("a", "b"):
            await to.mounts.deactivate(name)
            with pytest.raises(NotFound):
                await to.mounts.info(name)
        assert await to.mounts.list() == []
    assert nothing_mounted(daemon)


async def test_an_image_on_a_loop_device(daemon: Daemon, namespace: str, image: Path) -> None:
    """As on kernels that cannot mount files; the device is free again when the mount goes."""
    async with host(daemon, namespace) as to:
        made = await to.mounts.activate("a", [Mount("erofs", str(image), options=("loop",))])
        assert same(Path(made.active[0].mount_point) / "bin/busybox", Path("/usr/bin/busybox"))
        assert loops(daemon.base.parent) == [str(image)]
        await to.mounts.deactivate("a")
    eventually(lambda: not loops(daemon.base.parent), "the loop device is free")
    assert nothing_mounted(daemon)


async def test_a_chain_of_transformers(daemon: Daemon, namespace: str, image: Path) -> None:
    """An overlay of an image and of a new file system in a file, whose directories are made on the way."""
    disk = daemon.root / "disks" / "one.img"
    chain = [
        Mount("erofs", str(image)),
        Mount("mkfs/loop", str(disk), options=("X-containerd.mkfs.size=16MiB", "X-containerd.mkfs.fs=ext4")),
        Mount("format/ext4", "{{ mount 1 }}"),
        Mount(
            "format/mkdir/overlay",
            "overlay",
            options=(
                "X-containerd.mkdir.path={{ mount 2 }}/upper:0755",
                "X-containerd.mkdir.path={{ mount 2 }}/work:0711:7:8",
                "lowerdir={{ overlay 0 0 }}",
                "upperdir={{ mount 2 }}/upper",
                "workdir={{ mount 2 }}/work",
            ),
        ),
    ]
    async with host(daemon, namespace) as to:
        made = await to.mounts.activate("chain", chain)
        assert [active.mount.type for active in made.active] == ["erofs", "loop", "ext4"]
        assert loops(daemon.base) == [str(disk)]
        upper = Path(made.active[2].mount_point)
        assert [oct((upper / name).stat().st_mode & 0o7777) for name in ("upper", "work")] == ["0o755", "0o711"]
        assert ((upper / "work").stat().st_uid, (upper / "work").stat().st_gid) == (7, 8)
        (overlay,) = made.system
        assert overlay.type == "overlay"
        with temporary_mount(made.system) as tree:
            (tree / "etc/made").write_text("here")
            assert (tree / "bin/busybox").exists()
        await to.mounts.deactivate("chain")
        assert nothing_mounted(daemon)
        # The disk is there again, with what was written to it.
        made = await to.mounts.activate("again", chain)
        assert (Path(made.active[2].mount_point) / "upper/etc/made").read_text() == "here"
        await to.mounts.deactivate("again")
    assert nothing_mounted(daemon)


async def test_temporary_activations_are_mounted_whole(daemon: Daemon, namespace: str, image: Path) -> None:
    async with host(daemon, namespace) as to:
        made = await to.mounts.activate("t", [Mount("tmpfs", "tmpfs", options=("size=1m",))], temporary=True)
        assert made.active[0].mount_point in mount_points(daemon.state)
        assert made.system == (Mount("bind", made.active[0].mount_point, options=("rbind", "rw")),)
        await to.mounts.deactivate("t")
    assert nothing_mounted(daemon)


async def test_refusals(daemon: Daemon, namespace: str, image: Path, base: Path) -> None:
    outside = base / "outside.img"
    size = "X-containerd.mkfs.size=1MiB"
    erofs = Mount("erofs", str(image))
    inside = str(daemon.root / "no.img")
    refused = {
        "none of them needs help": ([Mount("bind", "/", options=("rbind",))], Unimplemented),
        "there are 1 mounts before it": ([erofs, Mount("format/bind", "{{ mount 1 }}")], InvalidArgument),
        "write one of source N": ([erofs, Mount("format/bind", "{{ exec 0 }}")], InvalidArgument),
        'nothing is known of "zip/"': ([Mount("zip/bind", "/")], InvalidArgument),
        "lies below none of": ([Mount("mkfs/loop", str(outside), options=(size,))], InvalidArgument),
        "needs the option": ([Mount("mkfs/loop", inside)], InvalidArgument),
        "is none of ext2": (
            [Mount("mkfs/loop", inside, options=(size, "X-containerd.mkfs.fs=ntfs"))],
            InvalidArgument,
        ),
        "is not PATH": ([Mount("mkdir/bind", "/", options=("X-containerd.mkdir.path=/a:b:c",))], InvalidArgument),
        "is no file": ([Mount("loop", str(base))], InvalidArgument),
        "mount 1 of type erofs": ([erofs, Mount("erofs", "/usr/bin/busybox")], Unavailable),
    }
    async with host(daemon, namespace) as to:
        for words, (mounts, error) in refused.items():
            with pytest.raises(error, match=words):
                await to.mounts.activate("no", mounts)
            with pytest.raises(NotFound):
                await to.mounts.info("no")
        with pytest.raises(InvalidArgument):
            await to.mounts.activate("", [erofs])
        with pytest.raises(NotFound):
            await to.mounts.deactivate("no")
    assert not outside.exists()
    assert nothing_mounted(daemon), "a failure undoes what was done before it"


async def test_links_do_not_lead_out(daemon: Daemon, namespace: str, image: Path, base: Path) -> None:
    (base / "elsewhere").mkdir()
    (daemon.root / "link").symlink_to(base / "elsewhere")
    async with host(daemon, namespace) as to:
        for kind, option in (
            ("mkfs/loop", "X-containerd.mkfs.size=1MiB"),
            ("mkdir/bind", f"X-containerd.mkdir.path={daemon.root}/link/new"),
        ):
            with pytest.raises(InvalidArgument, match="symbolic links"):
                await to.mounts.activate("no", [Mount(kind, str(daemon.root / "link/disk"), options=(option,))])
    assert list((base / "elsewhere").iterdir()) == []


async def test_activations_survive_the_death_of_the_daemon(daemon: Daemon, namespace: str, image: Path) -> None:
    async with host(daemon, namespace) as to:
        made = await to.mounts.activate("kept", [Mount("erofs", str(image)), Mount("loop", str(image))])
    daemon.kill()
    daemon.start()
    async with host(daemon, namespace) as to:
        assert await to.mounts.info("kept") == made
        assert (Path(made.active[0].mount_point) / "bin/busybox").exists()
        await to.mounts.deactivate("kept")
    assert nothing_mounted(daemon)


def die_in_the_middle(state: Path, image: Path, copy: Path, where: str) -> None:
    copy.write_bytes(image.read_bytes())
    command = [sys.executable, str(CRASH), str(state), str(copy.parent), str(copy), where]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    assert mount_points(state)


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("where", ["before", "after"])
async def test_half_an_activation_is_undone_by_the_next_start(where: str, image: Path, short_tmp: Path) -> None:
    copy = short_tmp / "copy.erofs"
    state = short_tmp / "state"
    die_in_the_middle(state, image, copy, where)
    manager = Mounts(state, {"erofs": ErofsHandler(), "loop": LoopHandler()}, (short_tmp,))
    await manager.restore()
    with context.scope(namespace="test"):
        assert await manager.list() == []
        assert mount_points(state) == []
        assert loops(short_tmp) == []
        assert list((state / "t").iterdir()) == []
        await manager.activate("a", [Mount("erofs", str(copy))])
        await manager.deactivate("a")
    await manager.close()


@contextmanager
def slow(daemon: Daemon, call: str) -> Iterator[subprocess.Popen[bytes]]:
    """Let the daemon stand still after each such system call, for longer than any test takes."""
    inject = f"inject={call}:delay_exit={int(HANG * 1e6)}"
    command = ["strace", "-f", "-e", f"trace={call}", "-e", inject, "-o", "/dev/null", "-p", str(daemon.pid)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        try:
            assert b"attached" in tracer.stderr.readline()
            yield tracer
        finally:
            tracer.kill()
            tracer.communicate(timeout=30)


async def test_mounts_for_a_moment_do_not_outlive_a_killed_daemon(short_tmp: Path) -> None:
    """Ids are mapped on copies of a mount, which are there until the mount itself is made."""
    source, kept = short_tmp / "source", short_tmp / "kept"
    source.mkdir()
    kept.mkdir()
    (kept / "file").write_text("somebody's")
    mapped = Mount("bind", str(source), options=("bind", "rw", "uidmap=0:100000:9", "gidmap=0:100000:9"))
    place = short_tmp / "root/tmpmounts"
    with Daemon(short_tmp, ORLOPD) as daemon:
        assert mount_points(place) == []
        with slow(daemon, "move_mount") as tracer:
            async with host(daemon, "mnt-moment") as to:
                making = asyncio.create_task(to.mounts.activate("t", [mapped], temporary=True))
                await asyncio.to_thread(eventually, lambda: bool(mount_points(place)), "a copy is there", 30.0)
                os.kill(daemon.pid, signal.SIGKILL)
                # It ends once nobody holds it up any more.
                tracer.kill()
                await asyncio.to_thread(daemon.kill)
                with pytest.raises(Unavailable):
                    await making
        assert mount_points(place) != []
        # And what a containerd left, which mounted one thing in another; and what is no mount at all.
        left = place / "containerd-mount123"
        left.mkdir()
        mount_one(Mount("bind", str(kept), options=("bind",)), left)
        (left / "inner").mkdir()
        mount_one(Mount("tmpfs", "tmpfs"), left / "inner")
        (place / "no-mount").mkdir()
        (place / "no-mount/file").touch()
        (place / "link").symlink_to(kept)
        daemon.start()
        assert mount_points(place) == []
        assert {entry.name for entry in place.iterdir()} == {"no-mount", "link"}
        assert (kept / "file").read_text() == "somebody's"
        assert "no-mount" in daemon.log.read_text()
        assert daemon.ctr("mnt-moment").run("version").code == 0


async def test_after_a_reboot_there_is_nothing_to_undo(image: Path, short_tmp: Path) -> None:
    handlers: dict[str, MountHandler] = {"erofs": ErofsHandler(), "loop": LoopHandler()}
    manager = Mounts(short_tmp, handlers, ())
    with context.scope(namespace="test"):
        made = await manager.activate("a", [Mount("erofs", str(image)), Mount("loop", str(image))])
    for active in reversed(made.active):
        handlers[active.mount.type].unmount(active)
    record = short_tmp / "t/1/record.json"
    document = json.loads(record.read_text())
    record.write_text(json.dumps(document | {"boot": "another"}))
    after = Mounts(short_tmp, handlers, ())
    await after.restore()
    assert await after.all() == []
    assert list((short_tmp / "t").iterdir()) == []
    for each in (manager, after):
        await each.close()


async def test_garbage_collection_follows_leases_and_back_references(
    daemon: Daemon, namespace: str, image: Path
) -> None:
    erofs = [Mount("erofs", str(image))]
    async with host(daemon, namespace) as to:
        await to.leases.create("l")
        with context.scope(namespace=namespace, lease="l"):
            await to.mounts.activate("leased", erofs)
        await to.containers.create(Container("c", RuntimeInfo("r"), oci.spec_message(oci.spec(namespace, "c", ["x"]))))
        await to.mounts.activate("bound", erofs, labels={"containerd.io/gc.bref.container": "c"})
        await to.mounts.activate("free", erofs)

        async def collected() -> list[str]:
            await to.leases.create("now")
            await to.leases.delete("now", sync=True)
            return [each.name for each in await to.mounts.list()]

        assert await collected() == ["bound", "free", "leased"]
        await to.leases.delete("l", sync=True)
        assert await collected() == ["bound", "free"]
        await to.containers.delete("c")
        assert await collected() == ["free"]
        await to.mounts.deactivate("free")
    assert nothing_mounted(daemon)


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_tasks_run_on_what_needs_help(runtime: str, daemon: Daemon, namespace: str, image: Path) -> None:
    """A container on an EROFS image with an overlay over it, through a death of the daemon."""
    work = daemon.root / "layers" / namespace
    rootfs = [
        Mount("erofs", str(image)),
        Mount(
            "format/mkdir/overlay",
            "overlay",
            options=(
                f"X-containerd.mkdir.path={work}/upper:0755",
                f"X-containerd.mkdir.path={work}/work",
                "lowerdir={{ mount 0 }}",
                f"upperdir={work}/upper",
                f"workdir={work}/work",
            ),
        ),
    ]
    async with host(daemon, namespace) as to:
        spec = oci.spec(namespace, "c", ["sh", "-c", "echo hello > /written; sleep 1000"])
        await to.containers.create(Container("c", RuntimeInfo(runtime), oci.spec_message(spec)))
        task = await to.tasks.create("c", TaskOptions(rootfs=rootfs, stdio=Stdio()))
        await task.start()
        eventually((work / "upper/written").exists, "the container writes through the overlay")
        assert [each.name for each in await to.mounts.list()] == ["c"]
    daemon.kill()
    daemon.start()
    async with host(daemon, namespace) as to:
        task = await to.tasks.get("c")
        await task.kill(signal.SIGKILL)
        await task.wait()
        await task.delete()
        await all_deactivated(to)
        assert nothing_mounted(daemon)
        await to.containers.delete("c")


async def all_deactivated(to: Host) -> None:
    """The task's end does not wait for it."""
    for _ in range(600):
        if not await to.mounts.list():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("still active after a minute")


async def test_a_task_that_fails_leaves_no_mounts(daemon: Daemon, namespace: str, image: Path) -> None:
    async with host(daemon, namespace) as to:
        spec = oci.spec(namespace, "c", ["/no/such/program"])
        await to.containers.create(Container("c", RuntimeInfo(RUNTIMES[0]), oci.spec_message(spec)))
        with pytest.raises(Exception, match="no such file"):
            await to.tasks.create("c", TaskOptions(rootfs=[Mount("erofs", str(image))]))
        assert await to.mounts.list() == []
        await to.containers.delete("c")
    assert nothing_mounted(daemon)


async def test_layers_are_unpacked_and_made_on_what_needs_help(daemon: Daemon, namespace: str, image: Path) -> None:
    """The differ has such mounts prepared for as long as it works."""
    work = daemon.root / "diffs" / namespace
    lower = [Mount("erofs", str(image))]
    upper = [
        Mount("erofs", str(image)),
        Mount(
            "format/mkdir/overlay",
            "overlay",
            options=(
                f"X-containerd.mkdir.path={work}/upper:0755",
                f"X-containerd.mkdir.path={work}/work",
                "lowerdir={{ mount 0 }}",
                f"upperdir={work}/upper",
                f"workdir={work}/work",
            ),
        ),
    ]
    async with host(daemon, namespace) as to:
        layer = tar([entry("etc/added", b"by a layer")])
        await to.leases.create("l")
        with context.scope(namespace=namespace, lease="l"):
            writer = await to.content.writer("layer")
            await writer.write(layer)
            stored = await writer.commit(size=len(layer))
            await writer.close()
            applied = await to.diff.apply(Descriptor(LAYER_TAR, stored, len(layer)), upper)
            assert (work / "upper/etc/added").read_text() == "by a layer"
            made = await to.diff.compare(lower, upper, media_type=LAYER_TAR)
            reader = await to.content.reader(made)
            assert b"by a layer" in await reader.read_at(0, made.size)
            await reader.close()
        assert applied.digest == stored
        with pytest.raises(InvalidArgument):
            await to.diff.apply(Descriptor(LAYER_TAR, stored, len(layer)), [Mount("zip/bind", "/")])
        assert await to.mounts.list() == []
        await to.leases.delete("l", sync=True)
    assert nothing_mounted(daemon)


@pytest.mark.parametrize(
    ("text", "size"), [("10", 10), ("1k", 1024), ("1.5KiB", 1536), ("64MB", 64 << 20), ("2g", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "ten", "5x", "-1"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(InvalidArgument, match="write a number"):
        parse_size(text)
