# SPDX-License-Identifier: Apache-2.0
"""Loop devices: a file as a block device (loop(4)). All of it blocks; failures are OSError."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from orlop.errors import ResourceExhausted

_SET_FD: Final = 0x4C00
_CLR_FD: Final = 0x4C01
_SET_STATUS64: Final = 0x4C04
_GET_STATUS64: Final = 0x4C05
_CONFIGURE: Final = 0x4C0A
_GET_FREE: Final = 0x4C82
_READ_ONLY: Final = 1
_AUTOCLEAR: Final = 4
#: struct loop_info64: device, inode, rdevice, offset, size limit; number, encryption twice, flags; name, ...
_INFO: Final = struct.Struct("=5Q4I64s64s32s2Q")
#: struct loop_config: descriptor, block size; the above; reserved.
_CONFIG: Final = struct.Struct(f"=2I{_INFO.size}s8Q")
_TRIES: Final = 50
_MAJOR: Final = 7


class Loop:
    """A device that shows a file. It lets go of the file when nobody has it open, unless it is told to `stay`."""

    def __init__(self, source: str, *, readonly: bool = False) -> None:
        self.path, self._fd = _attach(source, readonly)

    def stay(self) -> None:
        """Keep the file until `detach`, also without anybody who has the device open."""
        info = list(_INFO.unpack(fcntl.ioctl(self._fd, _GET_STATUS64, bytes(_INFO.size))))
        info[8] &= ~_AUTOCLEAR
        fcntl.ioctl(self._fd, _SET_STATUS64, _INFO.pack(*info))

    def close(self) -> None:
        """Close our own descriptor of it."""
        os.close(self._fd)


def detach(path: str) -> None:
    """Let go of the file once nobody uses the device. One that is not attached, or is not there, is fine."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, OSError) as error:
        if isinstance(error, FileNotFoundError) or error.errno == errno.ENXIO:
            return
        raise
    try:
        fcntl.ioctl(fd, _CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    finally:
        os.close(fd)


def backing_file(path: str) -> str:
    """The file that a device shows; empty for none."""
    try:
        return Path("/sys/block", Path(path).name, "loop/backing_file").read_text().rstrip("\n")
    except OSError:
        return ""


def _attach(source: str, readonly: bool) -> tuple[str, int]:
    file = os.open(source, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            path = f"/dev/loop{_free()}"
            fd = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
            try:
                _configure(fd, file, source, readonly)
            except OSError as error:
                os.close(fd)
                # Somebody else was faster with this one.
                if error.errno != errno.EBUSY:
                    raise
            else:
                return path, fd
    finally:
        os.close(file)
    raise ResourceExhausted(f'"{source}": no loop device was free {_TRIES} times in a row; try again')


def _free() -> int:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = int(fcntl.ioctl(control, _GET_FREE))
    finally:
        os.close(control)
    # In a container nobody makes the device's file for us.
    with contextlib.suppress(FileExistsError):
        if not os.path.exists(f"/dev/loop{number}"):
            os.mknod(f"/dev/loop{number}", 0o060660, os.makedev(_MAJOR, number))
    return number


def _configure(fd: int, file: int, source: str, readonly: bool) -> None:
    flags = _AUTOCLEAR | (_READ_ONLY if readonly else 0)
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, os.fsencode(source)[:63], b"", b"", 0, 0)
    try:
        fcntl.ioctl(fd, _CONFIGURE, _CONFIG.pack(file, 0, info, *(0,) * 8))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTTY):
            raise
        # Linux before 5.8 takes two steps.
        fcntl.ioctl(fd, _SET_FD, file)
        try:
            fcntl.ioctl(fd, _SET_STATUS64, info)
        except OSError:
            fcntl.ioctl(fd, _CLR_FD)
            raise
