# SPDX-License-Identifier: Apache-2.0
r"""Mount what snapshotters return, and unmount it again.

A list of `orlop.values.Mount` goes on top of one directory, each mount at its own ``target`` below it::

    with temporary_mount(await snapshotter.mounts("key")) as tree:
        (tree / "etc/hostname").write_text("box\n")

All of it blocks. Failures are `OSError` with the errno; mount options that this module cannot honour are
`orlop.errors.InvalidArgument`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from orlop.errors import InvalidArgument
from orlop.values import Mount
from orlop_sdk.linux import syscalls as sc
from orlop_sdk.linux.mount_options import MountOptions, mount_plain, parse_options, settle
from orlop_sdk.linux.temporary import make_directory

_ATTRIBUTES: Final = {
    sc.MS_RDONLY: sc.MOUNT_ATTR_RDONLY,
    sc.MS_NOSUID: sc.MOUNT_ATTR_NOSUID,
    sc.MS_NODEV: sc.MOUNT_ATTR_NODEV,
    sc.MS_NOEXEC: sc.MOUNT_ATTR_NOEXEC,
    sc.MS_NOATIME: sc.MOUNT_ATTR_NOATIME,
    sc.MS_STRICTATIME: sc.MOUNT_ATTR_STRICTATIME,
    sc.MS_NODIRATIME: sc.MOUNT_ATTR_NODIRATIME,
    sc.MS_NOSYMFOLLOW: sc.MOUNT_ATTR_NOSYMFOLLOW,
}

# fsconfig(2) takes strings of 256 bytes, their terminating zero included.
_MOST_VALUE: Final = 255

# A process that was just killed may keep a mount busy until it is reaped; this is how long we give it.
_BUSY_TRIES: Final = 50
_BUSY_PAUSE: Final = 0.05


def mount_all(mounts: Sequence[Mount], target: str | os.PathLike[str]) -> None:
    """Make all mounts, in order, on top of *target*. If one fails, those before it are undone."""
    done = 0
    try:
        for mount in mounts:
            with _target(Path(target), mount.target) as path:
                mount_one(mount, path)
            done += 1
    except BaseException:
        if done:
            unmount_all(target)
        raise


def mount_one(mount: Mount, target: str | os.PathLike[str]) -> None:
    """Make one mount exactly at *target* (its own ``target`` is not looked at)."""
    with _ids_mapped(mount) as mapped:
        _mount_plain(mapped, target)


def unmount_all(target: str | os.PathLike[str], *, detach: bool = False) -> None:
    """Unmount everything at and below *target*; nothing mounted there, or no such directory, is fine.

    Waits some seconds while something is busy, then raises EBUSY; with *detach* (lazy unmount) it never is.
    """
    flags = sc.UMOUNT_NOFOLLOW | (sc.MNT_DETACH if detach else 0)
    for attempt in range(_BUSY_TRIES):
        try:
            for point in reversed(mount_points(target)):
                sc.umount2(point, flags)
        except OSError as error:
            gone = error.errno in (errno.EINVAL, errno.ENOENT)  # somebody else unmounted it meanwhile
            if attempt == _BUSY_TRIES - 1 or not (gone or error.errno == errno.EBUSY):
                raise
            if not gone:
                time.sleep(_BUSY_PAUSE)
        else:
            return


def mount_points(below: str | os.PathLike[str]) -> list[str]:
    """Mount points at and below a path, in the order they were mounted; a point mounted over appears repeatedly."""
    top = os.path.realpath(below)
    inside = top.rstrip("/") + "/"
    points = []
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            point = _unescape(line.split(b" ", 5)[4])
            if point == top or point.startswith(inside):
                points.append(point)
    return points


def readonly(mounts: Sequence[Mount]) -> list[Mount]:
    """The same tree, to be looked at only.

    An overlay loses its work directory and its upper one becomes the topmost lower one: then it may be mounted while
    the writable one is too.
    """
    return [_readonly_overlay(mount) if mount.type == "overlay" else _readonly(mount) for mount in mounts]


@contextlib.contextmanager
def temporary_mount(mounts: Sequence[Mount], directory: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Mount at a new directory below *directory* (default: see `orlop_sdk.linux.temporary`) while the body runs.

    No mounts give an empty directory.
    """
    path = make_directory("orlop-mount-", directory)
    try:
        mount_all(mounts, path)
        try:
            yield path
        finally:
            _unmount_surely(path)
    finally:
        # rmdir, never a recursive removal: should something still be mounted here, its contents are not ours.
        path.rmdir()


def _unmount_surely(path: Path) -> None:
    try:
        unmount_all(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        unmount_all(path, detach=True)


@contextlib.contextmanager
def _ids_mapped(mount: Mount) -> Iterator[Mount]:
    """Honour ``uidmap=`` and ``gidmap=``: the mount to make instead, whose sources show the owners mapped.

    The writable layer of an overlay is not mapped: what is written there has the owners of the outside at once.
    """
    plain = [option for option in mount.options if not option.startswith(("uidmap=", "gidmap="))]
    if len(plain) == len(mount.options):
        yield mount
        return
    # Only here: small processes mount much, but seldom like this.
    from orlop_sdk.linux.idmap import mapped_copies, parse_mapping

    maps = {
        name: parse_mapping(value)
        for name, _, value in (option.partition("=") for option in mount.options)
        if name in ("uidmap", "gidmap")
    }
    if len(maps) != 2:
        raise InvalidArgument("mount options uidmap and gidmap: need one another; give both")
    lower = next((option for option in plain if option.startswith("lowerdir=")), None)
    sources = split_lower(lower.removeprefix("lowerdir=")) if lower else [mount.source]
    with mapped_copies(sources, maps["uidmap"], maps["gidmap"]) as copies:
        if lower is None:
            yield replace(mount, source=copies[0], options=tuple(plain))
        else:
            plain[plain.index(lower)] = f"lowerdir={':'.join(copies)}"
            yield replace(mount, options=tuple(plain))


def _mount_plain(mount: Mount, target: str | os.PathLike[str]) -> None:
    options = parse_options(mount.options)
    if options.fits:
        mount_plain(mount.type, mount.source, target, options)
    elif mount.type == "overlay":
        _mount_long_overlay(mount.source, target, options)
        settle(target, options)
    else:
        raise OSError(errno.E2BIG, f"mount {mount.type}: options take more than a page", str(target))


@contextlib.contextmanager
def _target(root: Path, inner: str) -> Iterator[str]:
    """The path of *inner* below *root*. Symbolic links of what is mounted there cannot lead out of it."""
    if not inner.strip("/"):
        yield str(root)
        return
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = sc.openat2(inner, os.O_PATH, dir_fd=root_fd, resolve=sc.RESOLVE_IN_ROOT)
    finally:
        os.close(root_fd)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _unescape(field: bytes) -> str:
    """A path of mountinfo, where space, tab, newline and backslash are octal."""
    for octal, plain in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(octal, plain)
    return os.fsdecode(field)


def _readonly(mount: Mount) -> Mount:
    return replace(mount, options=(*(option for option in mount.options if option not in ("rw", "ro")), "ro"))


def _readonly_overlay(mount: Mount) -> Mount:
    upper = next((option.partition("=")[2] for option in mount.options if option.startswith("upperdir=")), "")
    options = [option for option in mount.options if not option.startswith(("upperdir=", "workdir="))]
    if upper:
        options = [
            f"lowerdir={upper}:{option.partition('=')[2]}" if option.startswith("lowerdir=") else option
            for option in options
        ]
    return _readonly(replace(mount, options=tuple(options)))


def _mount_long_overlay(source: str, target: str | os.PathLike[str], options: MountOptions) -> None:
    """Mount an overlay of so many layers that their paths do not fit into a page.

    Kernels since 6.7 take the layers one by one. For older ones we open each layer and name it by its descriptor:
    shorter, and unlike relative paths it leaves the working directory of this process alone.
    """
    lowers = [lower for option in options.data if option.startswith("lowerdir=") for lower in split_lower(option[9:])]
    others = [option for option in options.data if not option.startswith("lowerdir=")]
    try:
        if all(len(os.fsencode(text)) <= _MOST_VALUE for text in (*lowers, *others)):
            _mount_overlay_by_steps(source, target, lowers, others, options.flags)
            return
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
    _mount_overlay_by_descriptors(source, target, lowers, others, options.flags)


def split_lower(value: str) -> list[str]:
    r"""The layers of an overlay's ``lowerdir``, topmost first; ``\:`` is a colon within a path."""
    layers = [""]
    escaped = False
    for character in value:
        if not escaped and character == ":":
            layers.append("")
        elif not escaped and character == "\\":
            escaped = True
            continue
        else:
            layers[-1] += character
        escaped = False
    return layers


def _mount_overlay_by_steps(
    source: str, target: str | os.PathLike[str], lowers: list[str], others: list[str], flags: int
) -> None:
    attributes = 0
    for flag, attribute in _ATTRIBUTES.items():
        if flags & flag:
            attributes |= attribute
    context = sc.fsopen("overlay")
    try:
        sc.fsconfig(context, sc.FSCONFIG_SET_STRING, "source", source or "overlay")
        for lower in lowers:
            sc.fsconfig(context, sc.FSCONFIG_SET_STRING, "lowerdir+", lower)
        for option in others:
            key, equals, value = option.partition("=")
            sc.fsconfig(context, sc.FSCONFIG_SET_STRING if equals else sc.FSCONFIG_SET_FLAG, key, value)
        sc.fsconfig(context, sc.FSCONFIG_CMD_CREATE)
        mounted = sc.fsmount(context, attributes=attributes)
    finally:
        os.close(context)
    try:
        sc.move_mount(mounted, target)
    finally:
        os.close(mounted)


def _mount_overlay_by_descriptors(
    source: str, target: str | os.PathLike[str], lowers: list[str], others: list[str], flags: int
) -> None:
    with contextlib.ExitStack() as opened:
        names = []
        for lower in lowers:
            fd = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            names.append(f"/proc/self/fd/{fd}")
        sc.mount(source, target, "overlay", flags, ",".join((*others, f"lowerdir={':'.join(names)}")))
