# SPDX-License-Identifier: Apache-2.0
"""Options about what surrounds the process: mounts, devices, namespaces, limits, and how much is shut off.

::

    options = [
        with_mounts(bind("/srv/data", "/data")),
        with_memory_limit(64 << 20),
        with_cpus(0.5),
        with_host_namespace("network"),
    ]
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orlop.blocking import run_blocking
from orlop.errors import InvalidArgument, NotFound
from orlop.values import Mount
from orlop_sdk.linux.idmap import IdRange
from orlop_sdk.oci.process import current_capabilities, with_env, with_only_capabilities
from orlop_sdk.oci.spec import Option, Spec, SpecContext, apply, section

#: Microseconds in which a quota of CPU time is used up.
_CPU_PERIOD: Final = 100_000
_NAMESPACES: Final = ("pid", "ipc", "uts", "mount", "network", "user", "cgroup", "time")
_MOMENTS: Final = ("createRuntime", "createContainer", "startContainer", "poststart", "poststop", "prestart")
#: Directories of /dev whose devices are not the host's to give.
_NOT_DEVICES: Final = frozenset(("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"))
#: null, zero, full, tty, random, urandom, console, ptmx and pts, as (major, minor); None is any minor.
_DEFAULT_DEVICES: Final = ((1, 3), (1, 8), (1, 7), (5, 0), (1, 5), (1, 9), (5, 1), (136, None), (5, 2))


def bind(source: str, destination: str, *, read_only: bool = False) -> Mount:
    """A bind mount, to hand to `with_mounts`."""
    return Mount("bind", source, destination, ("rbind", "ro" if read_only else "rw"))


def tmpfs(destination: str, *options: str) -> Mount:
    """An empty file system in memory, to hand to `with_mounts`. *options* are mount(8)'s, such as ``size=1m``."""
    return Mount("tmpfs", "tmpfs", destination, ("nosuid", "nodev", *options))


def with_mounts(*mounts: Mount) -> Option:
    """Further mounts; ``target`` is the absolute path in the container. One at a place that has one replaces it."""
    for mount in mounts:
        if not mount.target.startswith("/"):
            raise InvalidArgument(f'mount at "{mount.target}": must be an absolute path in the container')

    def option(spec: Spec, context: SpecContext) -> None:
        taken = {mount.target for mount in mounts}
        kept = [each for each in spec.get("mounts", ()) if each["destination"] not in taken]
        added = [
            {"destination": each.target, "type": each.type, "source": each.source, "options": list(each.options)}
            for each in mounts
        ]
        spec["mounts"] = kept + added

    return option


def without_mounts(*destinations: str) -> Option:
    """Leave these out, as far as they are there."""

    def option(spec: Spec, context: SpecContext) -> None:
        spec["mounts"] = [each for each in spec.get("mounts", ()) if each["destination"] not in destinations]

    return option


def with_hostname(name: str) -> Option:
    """The name that ``hostname`` tells in the container."""

    def option(spec: Spec, context: SpecContext) -> None:
        spec["hostname"] = name

    return option


def with_annotations(annotations: Mapping[str, str]) -> Option:
    """Annotations for the runtime, beside those it has."""

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "annotations").update(annotations)

    return option


def with_read_only_rootfs() -> Option:
    """Nothing can be written to the root file system."""

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "root")["readonly"] = True

    return option


def with_rootfs_path(path: str) -> Option:
    """Use this directory of the host as root file system, instead of a snapshot."""

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "root")["path"] = path

    return option


def with_rootfs_propagation(propagation: str) -> Option:
    """``private``, ``slave`` or ``shared``, with or without ``r`` before it."""

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "linux")["rootfsPropagation"] = propagation

    return option


def with_cgroup(path: str) -> Option:
    """The cgroup: an absolute path, or ``slice:prefix:name`` where systemd manages them."""

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "linux")["cgroupsPath"] = path

    return option


def with_cgroup_parent(parent: str) -> Option:
    """A cgroup named as the container, below this one: a path, or ``name.slice`` where systemd manages them."""

    def option(spec: Spec, context: SpecContext) -> None:
        path = f"{parent}:orlop:{context.id}" if parent.endswith(".slice") else f"/{parent.strip('/')}/{context.id}"
        section(spec, "linux")["cgroupsPath"] = path

    return option


def with_hook(moment: str, *args: str, env: Sequence[str] = (), timeout: int = 0) -> Option:
    """A program of the host that the runtime runs at a *moment*, after those that are there.

    Moments are those of the OCI runtime-spec (config.md): ``createRuntime``, ``createContainer``, ``startContainer``,
    ``poststart``, ``poststop``, and the older ``prestart``. *args* begin with its absolute path; *timeout* is in
    seconds, 0 for none. It reads the container's state as JSON from its standard input.
    """
    if moment not in _MOMENTS:
        raise InvalidArgument(f'hook "{moment}": there are {", ".join(_MOMENTS)}')
    if not args or not args[0].startswith("/"):
        raise InvalidArgument(f'hook "{moment}": must begin with the absolute path of a program')
    hook: dict[str, Any] = {"path": args[0], "args": list(args)}
    if env:
        hook["env"] = list(env)
    if timeout:
        hook["timeout"] = timeout

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "hooks").setdefault(moment, []).append(hook)

    return option


def with_sysctls(values: Mapping[str, str]) -> Option:
    """Kernel parameters of the container's own namespaces, such as ``net.ipv4.ip_forward``."""

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "linux", "sysctl").update(values)

    return option


# ---- namespaces -----------------------------------------------------------------------------------------------------


def with_namespace(type: str, path: str = "") -> Option:
    """A namespace of its own, or, with a path such as ``/proc/1234/ns/net``, the one that is there."""
    _check_namespace(type)

    def option(spec: Spec, context: SpecContext) -> None:
        linux = section(spec, "linux")
        wanted = {"type": type, "path": path} if path else {"type": type}
        namespaces = linux.setdefault("namespaces", [])
        for index, each in enumerate(namespaces):
            if each["type"] == type:
                namespaces[index] = wanted
                return
        namespaces.append(wanted)

    return option


def with_host_namespace(*types: str) -> Option:
    """Share these namespaces with the host: ``network``, ``pid``, ``ipc``, ``uts``, ``cgroup``..."""
    for type in types:
        _check_namespace(type)

    def option(spec: Spec, context: SpecContext) -> None:
        linux = section(spec, "linux")
        linux["namespaces"] = [each for each in linux.get("namespaces", ()) if each["type"] not in types]

    return option


def with_host_network() -> Option:
    """The host's network, with its ``/etc/hosts``, ``/etc/resolv.conf`` and host name."""

    async def option(spec: Spec, context: SpecContext) -> None:
        files = [Mount("bind", path, path, ("rbind", "ro")) for path in ("/etc/hosts", "/etc/resolv.conf")]
        await apply(
            spec,
            context,
            with_host_namespace("network"),
            with_mounts(*files),
            with_env({"HOSTNAME": socket.gethostname()}),
        )

    return option


def with_user_namespace(uid: int, gid: int, size: int = 65536) -> Option:
    """Map the container's ids from 0 on to the host's from *uid* and *gid* on."""
    return with_id_mappings([IdRange(0, uid, size)], [IdRange(0, gid, size)])


def with_id_mappings(uids: Sequence[IdRange], gids: Sequence[IdRange]) -> Option:
    """A user namespace with these mappings. `ContainerSettings.uids` gives the files owners to match."""

    def option(spec: Spec, context: SpecContext) -> None:
        linux = section(spec, "linux")
        if not any(each["type"] == "user" for each in linux.get("namespaces", ())):
            linux.setdefault("namespaces", []).append({"type": "user"})
        for key, ranges in (("uidMappings", uids), ("gidMappings", gids)):
            linux[key] = [{"containerID": each.container, "hostID": each.host, "size": each.size} for each in ranges]

    return option


def _check_namespace(type: str) -> None:
    if type not in _NAMESPACES:
        raise InvalidArgument(f'namespace "{type}": there are {", ".join(_NAMESPACES)}')


# ---- limits ---------------------------------------------------------------------------------------------------------


def with_memory_limit(limit: int, *, swap: int | None = None) -> Option:
    """Bytes of memory, and of memory and swap together."""

    def option(spec: Spec, context: SpecContext) -> None:
        memory = section(spec, "linux", "resources", "memory")
        memory["limit"] = limit
        if swap is not None:
            memory["swap"] = swap

    return option


def with_cpus(cpus: float) -> Option:
    """CPU time as a number of CPUs: 0.5 is half of one."""
    return with_cpu_quota(round(cpus * _CPU_PERIOD), _CPU_PERIOD)


def with_cpu_quota(quota: int, period: int = _CPU_PERIOD) -> Option:
    """CPU time as microseconds in every *period* microseconds."""

    def option(spec: Spec, context: SpecContext) -> None:
        cpu = section(spec, "linux", "resources", "cpu")
        cpu["quota"], cpu["period"] = quota, period

    return option


def with_cpu_shares(shares: int) -> Option:
    """Weight of this container's CPU time against others'; 1024 is common."""

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "linux", "resources", "cpu")["shares"] = shares

    return option


def with_cpuset(cpus: str = "", mems: str = "") -> Option:
    """The CPUs and memory nodes that may be used, like ``0-3,7``."""

    def option(spec: Spec, context: SpecContext) -> None:
        cpu = section(spec, "linux", "resources", "cpu")
        cpu.update({key: value for key, value in (("cpus", cpus), ("mems", mems)) if value})

    return option


def with_pids_limit(limit: int) -> Option:
    """The most processes and threads."""

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "linux", "resources", "pids")["limit"] = limit

    return option


# ---- devices and confinement ----------------------------------------------------------------------------------------


def with_default_devices() -> Option:
    """Allow the devices that runtimes make in every container: null, zero, tty and their like."""

    def option(spec: Spec, context: SpecContext) -> None:
        rules = section(spec, "linux", "resources").setdefault("devices", [])
        for major, minor in _DEFAULT_DEVICES:
            place = {"major": major} if minor is None else {"major": major, "minor": minor}
            rules.append({"allow": True, "type": "c", **place, "access": "rwm"})

    return option


def with_devices(*paths: str, access: str = "rwm") -> Option:
    """Devices of the host, or all below a directory of it, with the right to read, write and make (``rwm``) them.

    Raises `NotFound` for a path that does not exist.
    """

    async def option(spec: Spec, context: SpecContext) -> None:
        for path in paths:
            devices = await run_blocking(_devices, path)
            if not devices:
                raise NotFound(f'device "{path}": no device on this host')
            for device in devices:
                section(spec, "linux").setdefault("devices", []).append(device)
                rule = {key: device[key] for key in ("type", "major", "minor")}
                rules = section(spec, "linux", "resources").setdefault("devices", [])
                rules.append({"allow": True, **rule, "access": access})

    return option


def with_device(source: str, destination: str, access: str = "rwm") -> Option:
    """One device of the host, under another path in the container. Raises `NotFound` for what is no device."""

    async def option(spec: Spec, context: SpecContext) -> None:
        before = len(section(spec, "linux").setdefault("devices", []))
        await apply(spec, context, with_devices(source, access=access))
        found = section(spec, "linux")["devices"][before:]
        if len(found) != 1 or found[0]["path"] != source:
            raise InvalidArgument(f'device "{source}": is a directory; only one device can have another path')
        found[0]["path"] = destination

    return option


def with_all_devices_allowed() -> Option:
    """No device is forbidden."""

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "linux", "resources")["devices"] = [{"allow": True, "access": "rwm"}]

    return option


def with_host_devices() -> Option:
    """Every device of the host is there; whether it may be used is another matter."""

    async def option(spec: Spec, context: SpecContext) -> None:
        devices = await run_blocking(_devices, "/dev")
        section(spec, "linux").setdefault("devices", []).extend(devices)

    return option


def _devices(path: str) -> list[dict[str, Any]]:
    return list(_find_devices(path))


def _find_devices(path: str) -> Iterator[dict[str, Any]]:
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(info.st_mode):
        for name in sorted(os.listdir(path)):
            if name not in _NOT_DEVICES and name != "console":
                yield from _find_devices(os.path.join(path, name))
        return
    kind = "b" if stat.S_ISBLK(info.st_mode) else "c" if stat.S_ISCHR(info.st_mode) else ""
    if kind:
        yield {
            "path": path,
            "type": kind,
            "major": os.major(info.st_rdev),
            "minor": os.minor(info.st_rdev),
            "fileMode": stat.S_IMODE(info.st_mode),
            "uid": info.st_uid,
            "gid": info.st_gid,
        }


def with_masked_paths(*paths: str) -> Option:
    """Hide exactly these; none hides nothing."""
    return _paths("maskedPaths", paths)


def with_readonly_paths(*paths: str) -> Option:
    """Write-protect exactly these; none protects nothing."""
    return _paths("readonlyPaths", paths)


def _paths(key: str, paths: tuple[str, ...]) -> Option:
    def option(spec: Spec, context: SpecContext) -> None:
        linux = section(spec, "linux")
        linux.pop(key, None)
        if paths:
            linux[key] = list(paths)

    return option


def with_writable_sysfs() -> Option:
    """``/sys``, and cgroups below it, can be written to."""

    def option(spec: Spec, context: SpecContext) -> None:
        for mount in spec.get("mounts", ()):
            if mount["type"] in {"sysfs", "cgroup"}:
                mount["options"] = ["rw" if each == "ro" else each for each in mount.get("options", ())]

    return option


def with_seccomp(profile: Mapping[str, Any] | None) -> Option:
    """A seccomp profile (OCI runtime-spec, config-linux.md), or None for no restriction."""

    def option(spec: Spec, context: SpecContext) -> None:
        linux = section(spec, "linux")
        linux.pop("seccomp", None)
        if profile is not None:
            linux["seccomp"] = dict(profile)

    return option


def with_apparmor(profile: str) -> Option:
    """The AppArmor profile of this name, which must have been loaded; empty for none."""
    return _security("apparmorProfile", profile)


def with_rdt(name: str) -> Option:
    """The class of service of Intel's Resource Director Technology: a directory of ``/sys/fs/resctrl``."""

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "linux", "intelRdt")["closID"] = name

    return option


def with_selinux(label: str) -> Option:
    """The SELinux label of the process; empty for none."""
    return _security("selinuxLabel", label)


def _security(key: str, value: str) -> Option:
    def option(spec: Spec, context: SpecContext) -> None:
        process = section(spec, "process")
        process.pop(key, None)
        if value:
            process[key] = value

    return option


def with_privileged(*, devices: bool = True) -> Option:
    """Nothing is shut off: all capabilities, no masks, no profiles, and with *devices* all of the host's.

    Such a container can take the host over.
    """

    async def option(spec: Spec, context: SpecContext) -> None:
        await apply(
            spec,
            context,
            with_only_capabilities(current_capabilities()),
            with_masked_paths(),
            with_readonly_paths(),
            with_writable_sysfs(),
            with_selinux(""),
            with_apparmor(""),
            with_seccomp(None),
        )
        if devices:
            await apply(spec, context, with_all_devices_allowed(), with_host_devices())

    return option
