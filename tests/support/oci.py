# SPDX-License-Identifier: Apache-2.0
"""Root file systems and OCI specs for containers that run busybox."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orlop.values import AnyMessage, Mount

SPEC_URL = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS_URL = "types.containerd.io/opencontainers/runtime-spec/1/Process"
CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT"]
APPLETS = ("cat", "echo", "false", "kill", "ls", "sh", "sleep", "true", "seq", "stty", "printf")


def busybox_tree(path: Path) -> list[Mount]:
    """Fill *path* with busybox; returns the mount that shows it, writable."""
    binaries = path / "bin"
    binaries.mkdir(parents=True)
    shutil.copy("/usr/bin/busybox", binaries / "busybox")
    for applet in APPLETS:
        (binaries / applet).symlink_to("busybox")
    for name in ("dev", "etc", "proc", "sys", "tmp"):
        (path / name).mkdir()
    return [Mount("bind", str(path), options=("rbind", "rw"))]


def process(args: Sequence[str], *, terminal: bool = False, env: Sequence[str] = ()) -> dict[str, Any]:
    """The ``process`` of a spec."""
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(args),
        "env": ["PATH=/bin", "TERM=xterm", *env],
        "cwd": "/",
        "capabilities": {kind: CAPABILITIES for kind in ("bounding", "effective", "permitted")},
        "noNewPrivileges": True,
    }


def spec(namespace: str, id: str, args: Sequence[str], *, terminal: bool = False, **annotations: str) -> dict[str, Any]:
    """A spec with namespaces of its own for everything but the network; underscores in annotations become dots."""
    return {
        "ociVersion": "1.0.2",
        "process": process(args, terminal=terminal),
        "root": {"path": "rootfs"},
        "hostname": id,
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
        ],
        "annotations": {key.replace("_", "."): value for key, value in annotations.items()},
        "linux": {
            "cgroupsPath": f"/{namespace}/{id}",
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
        },
    }


def spec_message(document: dict[str, Any]) -> AnyMessage:
    """A spec as it travels."""
    return AnyMessage(SPEC_URL, json.dumps(document).encode())


def process_message(document: dict[str, Any]) -> AnyMessage:
    """A process as it travels, for exec."""
    return AnyMessage(PROCESS_URL, json.dumps(document).encode())
