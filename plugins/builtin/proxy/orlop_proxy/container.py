# SPDX-License-Identifier: Apache-2.0
"""Containers for plugins: the bundle that an OCI runtime makes one of, and the launch of one.

The OCI runtime is called directly, not through the daemon's own services: plugins are among those services' needs, and
a container that waits for them would wait for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from orlop.errors import SkipPlugin
from orlop.values import Mount
from orlop_proxy.launch import CHILD, Launch, search_path, start
from orlop_sdk.linux.mount import mount_one, mount_points, unmount_all
from orlop_sdk.oci.default import DEFAULT_PATH, default_spec

#: Where programs and their libraries are; what is a link on the host is one in the container.
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
#: What programs look up, none of it secret.
_LOOKED_UP: Final = ("/etc/ld.so.cache", "/etc/passwd", "/etc/group", "/etc/localtime")
_NETWORK: Final = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl")
#: To keep files of any owner.
FILES: Final = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID")
#: To make trees with everything that layers have, and to mount them.
TREES: Final = (
    *FILES,
    *("CAP_DAC_READ_SEARCH", "CAP_MKNOD", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETUID"),
    *("CAP_SYS_ADMIN", "CAP_SYS_CHROOT"),
)


@dataclass(frozen=True)
class Box:
    """What a plugin's container has of the host."""

    runtime: str
    """Path of the OCI runtime."""
    directory: Path
    """Where the bundle goes; everything in it is made anew by each start."""
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    rootfs: Path | None = None
    """A root file system, which stays as it is; None for an empty one in the bundle."""
    writable: Sequence[Path] = ()
    """Seen in the same place, mounts that either side makes in them included."""
    readonly: Sequence[Path] = ()
    devices: Sequence[Path] = ()
    capabilities: Sequence[str] = ()
    network: bool = False
    memory: int = 0
    """Most bytes of memory; 0 for no limit."""

    @property
    def id(self) -> str:
        """The container's id, unique on this host."""
        return f"orlop-plugin-{hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]}"

    def spec(self) -> dict[str, Any]:
        """The OCI specification."""
        spec = default_spec(self.id)
        process, linux = spec["process"], spec["linux"]
        process["args"] = list(self.arguments)
        process["env"] = [f"{name}={value}" for name, value in self.environment.items()]
        process["capabilities"] = {name: list(self.capabilities) for name in ("bounding", "effective", "permitted")}
        del process["rlimits"]  # the daemon's own
        spec["root"] = {"path": str(self.rootfs or self.directory / "rootfs"), "readonly": self.rootfs is not None}
        spec["hostname"] = self.id
        spec["mounts"] += [
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},  # noqa: S108  # in the container
            *(_bind(path, "ro", "rslave") for path in outermost(self.readonly)),
            *(_bind(path, "rw", "rshared") for path in outermost(self.writable)),
            *(_bind(path, "rw", "rslave") for path in self.devices),
        ]
        linux["cgroupsPath"] = f"/{self.id}"  # of one level, which goes with the container
        linux["rootfsPropagation"] = "shared"
        rules = linux["resources"]["devices"]
        for path in self.devices:
            number = path.stat().st_rdev
            rules.append(
                {"allow": True, "type": "c", "major": os.major(number), "minor": os.minor(number), "access": "rwm"}
            )
        if self.memory:
            linux["resources"]["memory"] = {"limit": self.memory}
        if self.network:
            linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "network"]
        return spec

    def write(self) -> None:
        """Write the bundle. Blocks."""
        rootfs = self.directory / "rootfs"
        rootfs.mkdir(parents=True, exist_ok=True)
        if self.rootfs is None:
            for name in _SYSTEM:
                link = rootfs / name[1:]
                if os.path.islink(name) and not os.path.lexists(link):
                    link.symlink_to(os.readlink(name))
        (self.directory / "config.json").write_text(json.dumps(self.spec()))


class InContainer:
    """The program in a container. See `orlop_proxy.launch.Launch`."""

    def __init__(self, box: Box, *, stops: bool = False) -> None:
        self._box = box
        #: The program does not notice by itself that its standard input ends.
        self._stops = stops
        self._root = str(box.directory / "runtime")

    def start(self) -> subprocess.Popen[bytes]:
        self._remove()
        self._box.write()
        keeper = str(Path(__file__).with_name("keeper.py"))
        command = [sys.executable, "-I", "-S", keeper, *(["--stop"] if self._stops else [])]
        return start([*command, self._box.runtime, self._root, self._box.id, str(self._box.directory)], os.environ)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        self._remove()  # then its keeper ends
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()

    def close(self) -> None:
        """Remove the container, if it is there. May be called twice."""
        self._remove()

    def _remove(self) -> None:
        if (Path(self._root) / self._box.id).exists():
            command = [self._box.runtime, "--root", self._root, "delete", "--force", self._box.id]
            subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)


def find_runtime(name: str) -> str:
    """The path of an OCI runtime by name or path; of runc, or else crun, without one. Raises `SkipPlugin`."""
    for each in (name,) if name else ("runc", "crun"):
        if found := shutil.which(each):
            return found
    raise SkipPlugin(f'no OCI runtime "{name or "runc"}" is installed; install one, or name it with the key runtime')


def host_environment(network: bool) -> list[Path]:
    """What the program needs of the host: programs, libraries, and this Python with all that it may import."""
    # An interpreter that links stand for is there under each of their names.
    pythons = [sys.prefix, sys.base_prefix, *(os.path.dirname(os.path.realpath(path)) for path in (sys.executable,))]
    names = [
        *(name for name in _SYSTEM if not os.path.islink(name)),
        *_LOOKED_UP,
        *(_NETWORK if network else ()),
        *pythons,
        *filter(None, sys.path),
    ]
    return [Path(name) for name in names if os.path.exists(name)]


def outermost(paths: Iterable[Path]) -> list[Path]:
    """The paths without those that lie in others."""
    found: list[Path] = []
    for path in sorted(set(paths)):
        if not found or not path.is_relative_to(found[-1]):
            found.append(path)
    return found


def python_box(runtime: str, directory: Path, capabilities: Sequence[str], **more: Any) -> Box:
    """A box that hosts a plugin of this installation: the host's programs and this Python, read-only."""
    environment = {
        "PATH": DEFAULT_PATH.partition("=")[2],
        "PYTHONPATH": search_path(),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANG": "C.UTF-8",
    }
    readonly = [*host_environment(more.get("network", False)), *more.pop("readonly", ())]
    return Box(runtime, directory, CHILD, environment, capabilities=capabilities, readonly=readonly, **more)


def share(path: Path) -> None:
    """Have mounts that containers make in a directory seen by the host, whatever is so of the file system it is on.

    The directory becomes a mount point of its own.
    """
    path.mkdir(parents=True, exist_ok=True)
    if not mount_points(path):  # one that is there is of a daemon that was killed
        mount_one(Mount("bind", str(path), options=("bind", "shared")), path)


def unshare(path: Path) -> None:
    """Undo `share`, unless something is still mounted in it."""
    if len(mount_points(path)) == 1:
        unmount_all(path)


def _bind(path: Path, *options: str) -> dict[str, Any]:
    return {"destination": str(path), "type": "bind", "source": str(path), "options": ["rbind", *options]}


_: type[Launch] = InContainer
