# SPDX-License-Identifier: Apache-2.0
"""The root file system of a container: mounted before it is created, unmounted when it is deleted."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from orlop.values import Mount
from orlop_sdk.linux import syscalls as sc
from orlop_sdk.linux.mount import mount_all, unmount_all
from orlop_shim.wire import Values

# Mounts on top of one another at one place; more than a client would ever stack.
_LAYERS = 64


def mount(mounts: Sequence[Values], target: str) -> None:
    """Mount what a daemon sent at *target*, which is made. Raises OSError, `InvalidArgument`."""
    if not mounts:
        return
    os.makedirs(target, mode=0o711, exist_ok=True)
    mount_all([Mount(item["type"], item["source"], item["target"], tuple(item["options"])) for item in mounts], target)


def unmount(target: str) -> None:
    """Unmount everything at and below *target*; what is busy goes when its last user does."""
    for _ in range(_LAYERS):
        try:
            sc.umount2(target, sc.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return
            # Something is mounted below, or a process that is about to end still uses it.
            unmount_all(target, detach=True)
            return
