# SPDX-License-Identifier: Apache-2.0
"""How runtimes are started: crun from a binary that nobody can write to, others as they are."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop_sdk.linux import syscalls as sc
from orlop_shim import program

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
CRUN = shutil.which("crun")


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    """What one test makes the process hold, no other sees."""
    yield
    for held in program._held.values():
        held.close()
    program._held.clear()


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """A program named crun, which is another one."""
    return Path(shutil.copy("/bin/echo", tmp_path / "crun"))


def run(path: str, *arguments: str) -> bytes:
    """Start what is prepared for a program, as the shim does; its output."""
    executed, environment = program.prepared(path)
    read, write = os.pipe2(os.O_CLOEXEC)
    dup = [(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_DUP2, write, 2)]
    pid = os.posix_spawn(executed, [executed, *arguments], environment or dict(os.environ), file_actions=dup)
    os.close(write)
    with open(read, "rb") as output:
        said = output.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, said
    return said


@needs_root
@pytest.mark.skipif(CRUN is None, reason="needs crun")
def test_crun_does_not_start_itself_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CRUN is not None
    counted = b"total startup time in dynamic loader"
    monkeypatch.setitem(program._environment, "LD_DEBUG", "statistics")
    assert run(CRUN, "--version").count(counted) == 1
    plain = subprocess.run(
        [CRUN, "--version"], env={**os.environ, "LD_DEBUG": "statistics"}, capture_output=True, check=True
    )
    assert plain.stderr.count(counted) == 2


@needs_root
def test_the_binary_cannot_be_written_to_nor_be_made_writable(binary: Path) -> None:
    executed, _ = program.prepared(str(binary))
    descriptor = int(executed.rpartition("/")[2])
    with pytest.raises(OSError, match="Read-only") as refused:
        os.open(executed, os.O_WRONLY)
    assert refused.value.errno == errno.EROFS
    with pytest.raises(OSError, match="Invalid argument"):
        sc.mount("", executed, "", sc.MS_REMOUNT | sc.MS_BIND)
    writable = sc._MountAttr(attr_clr=sc.MOUNT_ATTR_RDONLY)
    size = ctypes.c_size_t(ctypes.sizeof(writable))
    flags = ctypes.c_uint(sc.AT_EMPTY_PATH)
    path = ctypes.c_char_p(b"")
    assert sc._call(sc._SYS_MOUNT_SETATTR, ctypes.c_int(descriptor), path, flags, ctypes.byref(writable), size) < 0


@needs_root
def test_no_mount_is_left_or_seen(binary: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    executed, _ = program.prepared(str(binary))
    assert Path("/proc/self/mountinfo").read_text() == before
    binary.unlink()
    assert os.access(executed, os.R_OK)


@needs_root
def test_a_newer_binary_is_used_from_its_installation_on(binary: Path) -> None:
    assert run(str(binary), "/a/b") == b"/a/b\n"
    newer = binary.with_name("newer")
    shutil.copy("/usr/bin/basename", newer)
    newer.rename(binary)
    assert run(str(binary), "/a/b") == b"b\n"
    assert len(program._held) == 1


@needs_root
def test_what_is_held_in_advance_is_what_is_used(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(binary.parent))
    program.get_ready()
    held = program._held[str(binary)]
    assert program.prepared(program.find("crun"))[0] == f"/proc/self/fd/{held.descriptor}"
    monkeypatch.setenv("PATH", "/nonexistent")
    program.get_ready()
    assert list(program._held.values()) == [held]


@needs_root
def test_a_link_to_crun_is_crun(binary: Path) -> None:
    link = binary.with_name("runc")
    link.symlink_to(binary)
    assert program.prepared(str(link))[0].startswith("/proc/self/fd/")


def test_a_script_is_started_as_it_is(tmp_path: Path) -> None:
    script = tmp_path / "crun"
    script.write_text("#!/bin/sh\necho script\n")
    script.chmod(0o755)
    assert program.prepared(str(script)) == (str(script), None)
    assert run(str(script)) == b"script\n"


def test_other_runtimes_are_started_as_they_are(tmp_path: Path) -> None:
    path = shutil.copy("/bin/echo", tmp_path / "runsc")
    assert program.prepared(str(path)) == (str(path), None)


def test_a_missing_runtime_is_left_to_who_starts_it(tmp_path: Path) -> None:
    path = str(tmp_path / "crun")
    assert program.prepared(path) == (path, None)


@needs_root
def test_a_runtime_that_went_away_is_missing(binary: Path) -> None:
    program.prepared(str(binary))
    binary.unlink()
    with pytest.raises(FileNotFoundError):
        program.prepared(str(binary))
