# SPDX-License-Identifier: Apache-2.0
"""The options of ``orlop run`` that shape a container, under the names they have in ``ctr run`` and ``docker run``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orlop.errors import InvalidArgument, NotFound
from orlop.values import AnyMessage, Mount
from orlop_cli.console import Usage
from orlop_sdk import oci
from orlop_sdk.client.container import ContainerSettings
from orlop_sdk.linux.idmap import IdRange, parse_mapping
from orlop_sdk.oci.default import DEFAULT_PATH

_SIZES: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
#: What runtimes take for a resource limit that is none (RLIM_INFINITY).
_UNLIMITED: Final = (1 << 64) - 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    _process(parser.add_argument_group("the process"))
    _limits(parser.add_argument_group("limits"))
    _files(parser.add_argument_group("files and devices"))
    _isolation(parser.add_argument_group("isolation"))
    _engine(parser.add_argument_group("how it is run"))


def _process(group: Any) -> None:
    add = group.add_argument
    add("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="without a value, this shell's")
    add("--env-file", action="append", default=[], metavar="FILE", help="a file with a line like that for each")
    add("-u", "--user", help="NAME or UID, with :GROUP if need be")
    add("--group-add", action="append", default=[], type=int, metavar="GID", help="be in this group, too")
    add("-w", "--workdir", "--cwd", help="directory to start in")


def _limits(group: Any) -> None:
    add = group.add_argument
    add("-m", "--memory", "--memory-limit", metavar="SIZE", help="memory, such as 512m")
    add("--cpus", type=float, help="CPU time, such as 1.5")
    add("--cpu-shares", type=int, metavar="WEIGHT", help="weight against other containers; 1024 is common")
    add("--cpu-quota", type=int, metavar="MICROSECONDS", help="CPU time in every period")
    add("--cpu-period", type=int, metavar="MICROSECONDS", help="that period (100000)")
    add("--cpuset-cpus", default="", metavar="LIST", help="which CPUs, such as 0-3,7")
    add("--cpuset-mems", default="", metavar="LIST", help="which memory (NUMA) nodes")
    add("--pids-limit", type=int, metavar="COUNT", help="processes and threads")
    add(
        "--ulimit", "--rlimit", action="append", default=[], metavar="NAME=SOFT[:HARD]", help="such as nofile=1024:4096"
    )
    add("--oom-score-adj", type=int, metavar="SCORE", help="whom the kernel kills when memory is short: -1000 to 1000")
    add("--cgroup", metavar="PATH", help="its cgroup, instead of /NAMESPACE/NAME")
    add("--cgroup-parent", metavar="PATH", help="the cgroup, or systemd slice, that its own is in")
    add("--rdt-class", default="", metavar="NAME", help="class of service for caches and memory bandwidth (resctrl)")


def _files(group: Any) -> None:
    add = group.add_argument
    add("-v", "--volume", action="append", default=[], metavar="SOURCE:TARGET[:ro]", help="bind mount")
    add("--mount", action="append", default=[], metavar="KEY=VALUE,...", help="type, src, dst, options=A:B or readonly")
    add("--tmpfs", action="append", default=[], metavar="TARGET[:OPTIONS]", help="an empty file system in memory")
    add("--read-only", action="store_true", help="make the root file system read-only")
    add("--rootfs", action="store_true", help="IMAGE is a directory of the host, to be used as it is")
    add("--rootfs-propagation", metavar="KIND", help="private, slave or shared, with or without an r before it")
    add("--device", action="append", default=[], metavar="PATH[:TARGET][:rwm]", help="or a directory of devices")
    add("--gpus", action="append", default=[], metavar="DEVICE", help="an NVIDIA GPU by number or UUID, or all")
    add("--snapshotter", default="")
    add("--snapshotter-label", action="append", default=[], metavar="NAME=VALUE", help="label of its snapshot")


def _isolation(group: Any) -> None:
    add = group.add_argument
    add("--hostname")
    networks = ("none", "host", "cni")
    add("--network", "--net", choices=networks, default="none", help="have none, share the host's, or CNI's first one")
    add("--net-host", dest="network", action="store_const", const="host", help="the same as --network host")
    add("--cni", dest="network", action="store_const", const="cni", help="the same as --network cni")
    add("--with-ns", action="append", default=[], metavar="TYPE:PATH", help="join a namespace, as pid:/proc/42/ns/pid")
    add("--uidmap", action="append", default=[], metavar="CONTAINER:HOST:SIZE", help="users of a user namespace")
    add("--gidmap", action="append", default=[], metavar="CONTAINER:HOST:SIZE", help="its groups")
    add("--remap-labels", action="store_true", help="have the snapshotter map owners even if it does not offer to")
    add("--sysctl", action="append", default=[], metavar="NAME=VALUE", help="kernel parameter of its own namespaces")
    add("--privileged", action="store_true", help="allow nearly everything that root may do on the host")
    add("--allow-new-privs", action="store_true", help="let set-uid programs work")
    add("--cap-add", action="append", default=[], metavar="CAPABILITY")
    add("--cap-drop", action="append", default=[], metavar="CAPABILITY")
    add("--seccomp", action="store_true", help="allow only the system calls of ordinary programs")
    add("--seccomp-profile", metavar="FILE", help="or those of a profile, JSON as in the OCI runtime-spec")
    add("--apparmor-profile", default="", metavar="NAME", help="an AppArmor profile that was loaded")
    add("--apparmor-default-profile", default="", metavar="NAME", help="load one for containers, under this name")


def _engine(group: Any) -> None:
    add = group.add_argument
    add("-c", "--config", default="", metavar="FILE", help="an OCI specification, instead of an image and its own")
    add("--null-io", action="store_true", help="no input, and no output that anybody keeps")
    add("--fifo-dir", default="", metavar="DIRECTORY", help="where to make the pipes of its streams")
    add("-l", "--label", action="append", default=[], metavar="NAME=VALUE")
    add("--annotation", action="append", default=[], metavar="NAME=VALUE", help="word for the OCI runtime")
    add("--platform", default="", help="which variant of the image, such as linux/arm64")
    add("--runtime", default="", help="such as io.containerd.runc.v2, or the path of a shim")
    add("--runc-binary", default="", metavar="PROGRAM", help="an OCI runtime, such as crun")
    add("--runc-root", default="", metavar="DIRECTORY", help="where it keeps its state")
    add("--runc-systemd-cgroup", action="store_true", help="have it leave cgroups to systemd")
    add("--no-pivot", action="store_true", help="for a root file system in the initramfs")


def check(arguments: argparse.Namespace) -> None:
    """Raise `Usage` for options that make no sense together."""
    if bool(arguments.uidmap) != bool(arguments.gidmap):
        raise Usage("run: --uidmap and --gidmap need one another; give both")
    if arguments.remap_labels and not arguments.uidmap:
        raise Usage("run: --remap-labels goes with --uidmap and --gidmap; add them")
    if arguments.cgroup is not None and arguments.cgroup_parent:
        raise Usage("run: --cgroup does not go with --cgroup-parent; leave one out")
    if arguments.cpus and arguments.cpu_quota:
        raise Usage("run: --cpus does not go with --cpu-quota; leave one out")
    if arguments.cpu_period and not arguments.cpu_quota:
        raise Usage("run: --cpu-period goes with --cpu-quota; add it")
    if arguments.seccomp_profile and arguments.privileged:
        raise Usage("run: --seccomp-profile does not go with --privileged, which confines nothing; leave one out")
    if arguments.apparmor_profile and arguments.apparmor_default_profile:
        raise Usage("run: --apparmor-profile does not go with --apparmor-default-profile; leave one out")
    _check_source(arguments)
    _check_streams(arguments)


def _check_source(arguments: argparse.Namespace) -> None:
    if arguments.config and arguments.image:
        raise Usage("run: --config does not go with an image; leave one out")
    if arguments.config and (arguments.rootfs or arguments.uidmap):
        raise Usage("run: --config does not go with --rootfs or --uidmap; write them into its file")
    if not arguments.config and not arguments.image:
        raise Usage("run: no image; write orlop run IMAGE, or --config FILE")
    if arguments.rootfs and not arguments.args:
        raise Usage("run: --rootfs has no image to name a command; write one behind the directory")


def _check_streams(arguments: argparse.Namespace) -> None:
    if arguments.null_io and (arguments.tty or arguments.interactive or arguments.log_uri):
        raise Usage("run: --null-io does not go with --tty, --interactive or --log-uri; leave one out")
    if arguments.fifo_dir and (arguments.detach or arguments.null_io):
        raise Usage("run: --fifo-dir goes with streams that are attended: leave out --detach and --null-io")


def settings(arguments: argparse.Namespace, labels: Mapping[str, str]) -> ContainerSettings:
    """What the client is told beside the specification. *labels* are further ones of the container."""
    uids, gids = _ranges(arguments.uidmap), _ranges(arguments.gidmap)
    return ContainerSettings(
        runtime=arguments.runtime,
        runtime_options=_runtime_options(arguments, uids, gids),
        snapshotter=arguments.snapshotter,
        labels=pairs(arguments.label, "label") | dict(labels),
        snapshot_labels=pairs(arguments.snapshotter_label, "snapshotter-label"),
        platform=arguments.platform,
        uids=uids,
        gids=gids,
        remap_labels=arguments.remap_labels,
    )


def _runtime_options(
    arguments: argparse.Namespace, uids: Sequence[IdRange], gids: Sequence[IdRange]
) -> AnyMessage | None:
    """The options of runc-like runtimes; None where all are as usual, for then any runtime takes them."""
    from orlop_sdk.api.types.runc.options.oci_pb2 import Options

    options = Options(
        binary_name=arguments.runc_binary,
        root=arguments.runc_root,
        systemd_cgroup=arguments.runc_systemd_cgroup,
        no_pivot_root=arguments.no_pivot,
        # Its root is to own the pipes that it writes to, or it cannot open /dev/stdout.
        io_uid=uids[0].host if uids else 0,
        io_gid=gids[0].host if gids else 0,
    )
    value = options.SerializeToString(deterministic=True)
    return AnyMessage("containerd.runc.v1.Options", value) if value else None


def spec_options(arguments: argparse.Namespace, size: tuple[int, int]) -> list[oci.Option]:
    """What the options change of the specification, in the order in which it has to be done."""
    given: list[tuple[Any, Callable[[], oci.Option]]] = [
        (arguments.config, lambda: oci.with_spec_file(arguments.config)),
        (arguments.rootfs, lambda: _rootfs(arguments.image)),
        (arguments.privileged, oci.with_privileged),
        (arguments.tty, lambda: oci.with_tty(*size)),
        *_process_options(arguments),
        *_limit_options(arguments),
        *_file_options(arguments),
        *_isolation_options(arguments),
    ]
    return [make() for wanted, make in given if wanted]


Wanted = list[tuple[Any, Callable[[], oci.Option]]]


def _process_options(arguments: argparse.Namespace) -> Wanted:
    lines = [line for path in arguments.env_file for line in _lines(path)]
    return [
        (lines or arguments.env, lambda: oci.with_env(environment([*lines, *arguments.env]))),
        (arguments.user, lambda: oci.with_user(arguments.user)),
        (arguments.group_add, lambda: oci.with_additional_groups(*arguments.group_add)),
        (arguments.workdir, lambda: oci.with_cwd(arguments.workdir)),
    ]


def _limit_options(arguments: argparse.Namespace) -> Wanted:
    limits = [oci.with_rlimit(*_rlimit(text)) for text in arguments.ulimit]
    quota = (arguments.cpu_quota, arguments.cpu_period or 100_000)
    return [
        (arguments.memory, lambda: oci.with_memory_limit(_bytes(arguments.memory))),
        (arguments.cpus, lambda: oci.with_cpus(arguments.cpus)),
        (arguments.cpu_shares, lambda: oci.with_cpu_shares(arguments.cpu_shares)),
        (arguments.cpu_quota, lambda: oci.with_cpu_quota(*quota)),
        (
            arguments.cpuset_cpus or arguments.cpuset_mems,
            lambda: oci.with_cpuset(arguments.cpuset_cpus, arguments.cpuset_mems),
        ),
        (arguments.pids_limit, lambda: oci.with_pids_limit(arguments.pids_limit)),
        (limits, lambda: oci.compose(*limits)),
        (arguments.oom_score_adj is not None, lambda: oci.with_oom_score_adj(arguments.oom_score_adj)),
        (arguments.cgroup is not None, lambda: oci.with_cgroup(arguments.cgroup)),
        (arguments.cgroup_parent, lambda: oci.with_cgroup_parent(arguments.cgroup_parent)),
        (arguments.rdt_class, lambda: oci.with_rdt(arguments.rdt_class)),
    ]


def _file_options(arguments: argparse.Namespace) -> Wanted:
    mounts = [
        *map(_volume, arguments.volume),
        *map(_mount, arguments.mount),
        *(oci.tmpfs(target, *filter(None, rest.split(","))) for target, _, rest in _split(arguments.tmpfs)),
    ]
    devices = [_device(text) for text in arguments.device]
    return [
        (mounts, lambda: oci.with_mounts(*mounts)),
        (arguments.read_only, oci.with_read_only_rootfs),
        (arguments.rootfs_propagation, lambda: oci.with_rootfs_propagation(arguments.rootfs_propagation)),
        (devices, lambda: oci.compose(*devices)),
        (arguments.gpus, lambda: oci.with_nvidia_gpus(*arguments.gpus)),
    ]


def _isolation_options(arguments: argparse.Namespace) -> Wanted:
    namespaces = [oci.with_namespace(type, path) for type, _, path in _split(arguments.with_ns)]
    return [
        (arguments.hostname, lambda: oci.with_hostname(arguments.hostname)),
        (arguments.network == "host", oci.with_host_network),
        (namespaces, lambda: oci.compose(*namespaces)),
        (arguments.sysctl, lambda: oci.with_sysctls(pairs(arguments.sysctl, "sysctl"))),
        (arguments.annotation, lambda: oci.with_annotations(pairs(arguments.annotation, "annotation"))),
        (arguments.allow_new_privs, oci.with_new_privileges),
        (
            arguments.cap_add or arguments.cap_drop,
            lambda: oci.with_capabilities(add=arguments.cap_add, drop=arguments.cap_drop),
        ),
        (arguments.apparmor_profile, lambda: oci.with_apparmor(arguments.apparmor_profile)),
        (
            arguments.apparmor_default_profile,
            lambda: oci.with_default_apparmor(arguments.apparmor_default_profile),
        ),
        # Last, since it depends on the capabilities.
        (arguments.seccomp and not arguments.seccomp_profile, oci.with_default_seccomp),
        (arguments.seccomp_profile, lambda: oci.with_seccomp_file(arguments.seccomp_profile)),
    ]


def _rootfs(directory: str) -> oci.Option:
    if not Path(directory).is_dir():
        raise NotFound(f'--rootfs "{directory}": no such directory on this host')
    return oci.compose(oci.with_rootfs_path(os.path.abspath(directory)), oci.with_env([DEFAULT_PATH]))


def pairs(words: Sequence[str], what: str) -> dict[str, str]:
    """``NAME=VALUE`` words of the option *what*. Raises `Usage`."""
    found = dict(word.partition("=")[::2] for word in words)
    if "" in found:
        raise Usage(f"--{what}: empty name; write NAME=VALUE")
    return found


def environment(words: Sequence[str]) -> dict[str, str]:
    """Variables with values; a name alone takes this process's, and is left out where there is none."""
    pairs(words, "env")
    here = [f"{word}={os.environ[word]}" for word in words if "=" not in word and word in os.environ]
    return pairs([*here, *(word for word in words if "=" in word)], "env")


def _lines(path: str) -> list[str]:
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f'--env-file "{path}": cannot be read: {error}') from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _split(words: Sequence[str]) -> list[tuple[str, str, str]]:
    return [word.partition(":") for word in words]


def _ranges(words: Sequence[str]) -> tuple[IdRange, ...]:
    return tuple(each for word in words for each in parse_mapping(word))


def _volume(text: str) -> Mount:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if source.startswith("."):
        source = os.path.abspath(source)
    if not source.startswith("/") or not target.startswith("/") or mode not in ("", "ro", "rw"):
        raise Usage(f'--volume "{text}": write /host/path:/container/path, with :ro to make it read-only')
    if not Path(source).exists():
        raise NotFound(f'--volume "{text}": {source} does not exist on this host; create it first')
    return Mount("bind", source, target, ("rbind", mode or "rw"))


_KEYS: Final = {
    "source": "src",
    "target": "dst",
    "destination": "dst",
    "ro": "readonly",
}


def _mount(text: str) -> Mount:
    found = {_KEYS.get(key, key): value for key, _, value in (part.partition("=") for part in text.split(","))}
    kind, source, target = (found.pop(key, "") for key in ("type", "src", "dst"))
    options = [option for option in found.pop("options", "").split(":") if option]
    if "readonly" in found:
        options += ["ro"] if found.pop("readonly") in ("", "true", "1") else []
    if found or not kind or not target.startswith("/"):
        raise Usage(f'--mount "{text}": write type=bind,src=/host/path,dst=/container/path,options=rbind:ro')
    if kind == "bind" and not {"bind", "rbind"} & set(options):
        options.insert(0, "rbind")
    return Mount(kind, source or kind, target, tuple(options))


def _device(text: str) -> oci.Option:
    source, *rest = text.split(":")
    access = rest.pop() if rest and rest[-1] and not rest[-1].strip("rwm") else "rwm"
    if not source or len(rest) > 1 or (rest and not rest[0].startswith("/")):
        raise Usage(f'--device "{text}": write /dev/name, with :/dev/other and :rwm if need be')
    return oci.with_device(source, rest[0], access) if rest else oci.with_devices(source, access=access)


def _rlimit(text: str) -> tuple[str, int, int]:
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    try:
        numbers = [_UNLIMITED if word in ("-1", "unlimited") else int(word) for word in (soft, hard or soft)]
    except ValueError:
        numbers = []
    if not name or not numbers or min(numbers) < 0:
        raise Usage(f'--ulimit "{text}": write NAME=SOFT:HARD, such as nofile=1024:4096 or core=unlimited')
    return f"RLIMIT_{name.upper().removeprefix('RLIMIT_')}", numbers[0], numbers[1]


def _bytes(text: str) -> int:
    number, unit = text.rstrip("bkmgtBKMGT"), text.lower()[len(text.rstrip("bkmgtBKMGT")) :]
    if unit not in _SIZES or not number.isdigit():
        raise Usage(f'--memory "{text}": write a number with k, m or g, such as 512m')
    return int(number) * _SIZES[unit]
