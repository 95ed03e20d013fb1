# SPDX-License-Identifier: Apache-2.0
"""The root file system of a container: mounted before it is created, unmounted when it is deleted."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from orlop_sdk.linux import syscalls as sc
from orlop_sdk.linux.mount_options import mount_plain, parse_options
from orlop_shim.wire import Values

# Mounts on top of one another at one place; more than a client would ever stack.
_LAYERS = 64
# Options that take more than mount(2).
_HARD = ("uidmap=", "gidmap=")


def mount(mounts: Sequence[Values], target: str) -> None:
    """Mount what a daemon sent at *target*, which is made. Raises OSError, `InvalidArgument`."""
    if not mounts:
        return
    os.makedirs(target, mode=0o711, exist_ok=True)
    if len(mounts) == 1 and _is_plain(mounts[0]):
        one = mounts[0]
        mount_plain(one["type"], one["source"], target, parse_options(one["options"]))
    else:
        _mount_any(mounts, target)


def _is_plain(item: Values) -> bool:
    hard = any(option.startswith(_HARD) for option in item["options"])
    return not hard and not item["target"] and parse_options(item["options"]).fits


def _mount_any(mounts: Sequence[Values], target: str) -> None:
    # Only here: what it imports takes more memory than the rest of a shim, and is seldom needed.
    from orlop.values import Mount
    from orlop_sdk.linux.mount import mount_all

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
            from orlop_sdk.linux.mount import unmount_all

            unmount_all(target, detach=True)
            return
