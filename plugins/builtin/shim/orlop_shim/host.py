# SPDX-License-Identifier: Apache-2.0
"""What a process does to itself to be a shim: session, subreaper, name, OOM score, control group."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

from orlop_sdk.hints import Final, NoReturn
from orlop_shim import files

_PR_SET_PDEATHSIG: Final = 1
_MADV_DONTNEED: Final = 4
# How code and constants of a file are mapped.
_FROM_FILES: Final = (b"r-xp", b"r--p")
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SCHED_CORE: Final = 62
_SCHED_CORE_CREATE: Final = 1
_SCOPE_PROCESS_GROUP: Final = 2
_MOST_OOM_SCORE: Final = 1000
_CGROUPS: Final = "/sys/fs/cgroup"
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
# For what stays: converting arguments, and looking after errno, take ten times the memory.
_plain_prctl: Final = ctypes.CDLL(None).prctl
_ONE: Final = ctypes.c_ulong(1)
_ZERO: Final = ctypes.c_ulong(0)


def _prctl(option: int, first: int, second: int = 0, third: int = 0) -> None:
    if _libc.prctl(option, first, second, third, 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def become_subreaper() -> None:
    """Be the parent of all descendants whose own parents end."""
    if _plain_prctl(_PR_SET_CHILD_SUBREAPER, _ONE, _ZERO, _ZERO, _ZERO) != 0:
        raise OSError("prctl PR_SET_CHILD_SUBREAPER: refused; it takes Linux 3.4")


def hear_of_parents_end() -> None:
    """Get SIGTERM when the parent ends, however it does."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_group() -> NoReturn:
    """Kill this process and all of its group, at once."""
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def set_name(name: str) -> None:
    """Set the name that ``ps -o comm`` shows."""
    files.order("/proc/self/comm", name.encode()[:15])


def set_title(arguments: list[str], pid: int | None = None) -> None:
    """Set what ``ps`` shows as command line of this process, or of another that was forked from the same one.

    As far as there was room for the old one. Raises OSError.
    """
    start, end = _title_area()
    if end <= start:
        return
    title = b"\0".join(argument.encode(errors="surrogateescape") for argument in arguments)[: end - start - 1]
    # By a file, since each part of ctypes that is used takes memory of its own in every shim.
    memory = os.open(f"/proc/{pid or 'self'}/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(memory, title.ljust(end - start, b"\0"), start)
    finally:
        os.close(memory)


@cache
def _title_area() -> tuple[int, int]:
    """Where in memory the command line is. It stays there in all that are forked."""
    # The name may hold anything, but what follows its bracket is numbers.
    fields = files.read("/proc/self/stat").rpartition(b") ")[2].split()
    return int(fields[45]), int(fields[46])


def raise_oom_score() -> None:
    """Be killed for want of memory rather than the daemon, by one point."""
    with suppress(OSError):
        score = int(files.read("/proc/self/oom_score_adj"))
        files.order("/proc/self/oom_score_adj", b"%d" % min(score + 1, _MOST_OOM_SCORE))


def isolate_core() -> None:
    """Share no processor core with processes outside of this group at the same time. Older kernels cannot."""
    with suppress(OSError):
        _prctl(_PR_SCHED_CORE, _SCHED_CORE_CREATE, 0, _SCOPE_PROCESS_GROUP)


def join_cgroup(path: str, processes: Sequence[int]) -> None:
    """Move processes into a control group, in every hierarchy; it is made where it is not. Raises OSError."""
    tops = [_CGROUPS]
    if not os.path.exists(os.path.join(_CGROUPS, "cgroup.controllers")):
        tops = [entry.path for entry in os.scandir(_CGROUPS) if entry.is_dir(follow_symlinks=False)]
    for top in tops:
        group = os.path.join(top, path.lstrip("/"))
        os.makedirs(group, exist_ok=True)
        try:
            for process in processes:
                files.order(os.path.join(group, "cgroup.procs"), b"%d" % process)
        except OSError:
            # A new group of cpusets takes nobody until it has processors.
            if not os.path.exists(os.path.join(group, "cpuset.cpus")):
                raise


def forget_code() -> None:
    """Let go of the pages of programs and libraries that only loading has needed; the kernel has them again from the
    files when they are needed.
    """
    code: tuple[int, int] | None = None
    # Line by line: all of it at once would take more memory than there is to gain.
    with open("/proc/self/smaps", "rb") as file:
        for line in file:
            first, *fields = line.split()
            if not first.endswith(b":"):
                start, _, end = first.partition(b"-")
                code = (int(start, 16), int(end, 16)) if fields[0] in _FROM_FILES and len(fields) == 5 else None
            elif first == b"Anonymous:" and code is not None and fields[0] == b"0":
                # Nothing in it was written to, so that the file has it all.
                _libc.madvise(ctypes.c_void_p(code[0]), ctypes.c_size_t(code[1] - code[0]), _MADV_DONTNEED)


def close_standard_streams() -> None:
    """Make the three standard streams ``/dev/null``."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd, inheritable=True)
    if null > 2:
        os.close(null)
