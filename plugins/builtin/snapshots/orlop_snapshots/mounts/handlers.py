# SPDX-License-Identifier: Apache-2.0
"""The mount handlers of this distribution. See `orlop.interfaces.mount.MountHandler`."""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from orlop.errors import InvalidArgument
from orlop.interfaces.mount import ActiveMount, MountHandler
from orlop.values import Mount, now
from orlop_sdk.linux.mount import mount_one, unmount_all
from orlop_snapshots.mounts.loop import Loop, backing_file, detach

#: What kernels that cannot mount files say: the source is no block device.
_NO_FILES: Final = (errno.ENOTBLK, errno.EINVAL, errno.ENOENT)


class LoopHandler:
    """Type ``loop``: a file as a block device; the mount point is a symbolic link to the device.

    **When to choose it**: for images of file systems, with ``{{ mount N }}`` as the source of what comes after.
    **Host needs**: loop devices.
    """

    def mount(self, mount: Mount, target: str) -> ActiveMount:
        if not os.path.isfile(mount.source):
            raise InvalidArgument(f'mount of type loop: "{mount.source}" is no file')
        device = Loop(mount.source, readonly="ro" in mount.options)
        try:
            # Should we die before the link is there, nobody has the device open any more, and it is free again.
            os.symlink(device.path, target)
            device.stay()
        finally:
            device.close()
        return ActiveMount(mount, now(), target, {"device": device.path, "file": backing_file(device.path)})

    def unmount(self, active: ActiveMount) -> None:
        link = Path(active.mount_point)
        if link.is_symlink():
            device = os.readlink(link)
            # After a reboot, or when somebody else freed it, the device may be another file's.
            if os.path.realpath(active.mount.source) == backing_file(device):
                detach(device)
            link.unlink()


class ErofsHandler:
    """Type ``erofs``: a file with an EROFS image, mounted by itself or, on kernels that cannot, by a loop device.

    **Host needs**: erofs in the kernel (Linux 6.12 for files without a loop device).
    """

    def mount(self, mount: Mount, target: str) -> ActiveMount:
        os.mkdir(target, 0o700)
        try:
            self._mount(mount, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.rmdir(target)
            raise
        return ActiveMount(mount, now(), target)

    def unmount(self, active: ActiveMount) -> None:
        unmount_all(active.mount_point)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(active.mount_point)

    def _mount(self, mount: Mount, target: str) -> None:
        options = tuple(option for option in mount.options if option not in ("loop", "rw"))
        plain = replace(mount, options=options if "ro" in options else ("ro", *options))
        if "loop" not in mount.options:
            try:
                mount_one(plain, target)
                return
            except OSError as error:
                if error.errno not in _NO_FILES or not os.path.isfile(mount.source):
                    raise
        with contextlib.ExitStack() as devices:
            # They let go of their files when they are unmounted.
            def device(path: str) -> str:
                made = Loop(path, readonly=True)
                devices.callback(made.close)
                return made.path

            def option(text: str) -> str:
                name, equals, path = text.partition("=")
                return f"device={device(path)}" if name == "device" and equals and os.path.isfile(path) else text

            mount_one(replace(plain, source=device(mount.source), options=tuple(map(option, plain.options))), target)


_loop: type[MountHandler] = LoopHandler
_erofs: type[MountHandler] = ErofsHandler
