# SPDX-License-Identifier: Apache-2.0
"""The OCI runtime: runc, crun, and whatever else takes their command line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from orlop.errors import Unknown
from orlop_sdk.hints import Final, NamedTuple
from orlop_shim import files
from orlop_shim.children import Children, End
from orlop_shim.loop import Promise
from orlop_shim.program import find, prepared
from orlop_shim.runc_options import DEFAULT_BINARY
from orlop_shim.wire import Values

DEFAULT_ROOT: Final = "/run/containerd/runc"
# More of a runtime's log is not looked at for the reason of a failure.
_MOST_LOG: Final = 64 << 10
# Bytes on a disk below which a program is thought to have failed for want of them, if it does not say why it did.
_LITTLE_ROOM: Final = 64 << 10


class Settings(NamedTuple):
    """Which runtime, and how it is called."""

    binary: str = DEFAULT_BINARY
    root: str = ""
    """Where it keeps state; `DEFAULT_ROOT` with the namespace when empty."""
    systemd: bool = False

    @classmethod
    def of(cls, options: Values, namespace: str) -> Settings:
        """Those of ``containerd.runc.v1.Options``."""
        root = os.path.join(options["root"] or DEFAULT_ROOT, namespace)
        return cls(options["binary_name"] or DEFAULT_BINARY, root, options["systemd_cgroup"])


class Answer(NamedTuple):
    """How a command of the runtime ended, and what it printed."""

    status: int
    output: bytes


class Runtime:
    """Runs commands of the runtime for one container. *log_file* is where it writes why it failed."""

    def __init__(self, children: Children, settings: Settings, log_file: str) -> None:
        self._children = children
        self.settings: Final = settings
        self._log_file = log_file
        self._program = find(settings.binary)

    def argv(self, *arguments: str) -> list[str]:
        """A command line."""
        flags = ["--root", self.settings.root, "--log", self._log_file, "--log-format", "json"]
        if self.settings.systemd:
            flags.append("--systemd-cgroup")
        return [self._program, *flags, *arguments]

    async def run(self, *arguments: str, fds: Mapping[int, int] | None = None, stdin: bytes = b"") -> Answer:
        """Run a command. *fds* says what becomes its standard streams; without, it reads *stdin*, and its output is
        kept. Raises OSError when there is no such runtime.
        """
        if fds is not None:
            end: End = await self._start(arguments, fds)
            return Answer(end.status, b"")
        output = os.memfd_create("output")
        given = os.memfd_create("input") if stdin else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if stdin:
                files.write_all(given, stdin)
                os.lseek(given, 0, os.SEEK_SET)
            end = await self._start(arguments, {0: given, 1: output, 2: output})
            os.lseek(output, 0, os.SEEK_SET)
            return Answer(end.status, os.read(output, _MOST_LOG))
        finally:
            os.close(output)
            os.close(given)

    def _start(self, arguments: Sequence[str], fds: Mapping[int, int]) -> Promise:
        """Start a command; the promise of its end. Raises OSError when there is no such runtime."""
        program, environment = prepared(self._program)
        _, ended = self._children.spawn(self.argv(*arguments), fds, environment, program)
        return ended

    async def check(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run a command that has to succeed; gives its output. Raises `Unknown` with the runtime's reason."""
        mark = self.mark()
        try:
            done = await self.run(*arguments, stdin=stdin)
        except OSError as error:
            raise Unknown(self.missing(error)) from error
        if done.status != 0:
            raise Unknown(self.reason(mark, done))
        return done.output

    def missing(self, error: OSError) -> str:
        """Why the runtime could not be run at all."""
        return f'OCI runtime "{self.settings.binary}": {error.strerror}; install it, or set BinaryName'

    def mark(self) -> int:
        """The end of the runtime's log now."""
        with suppress(OSError):
            return os.stat(self._log_file).st_size
        return 0

    def reason(self, mark: int, done: Answer) -> str:
        """Why a command failed: the last error in the log since a mark, or what it printed."""
        name = os.path.basename(self.settings.binary)
        reason = ""
        for line in self._read_log(mark).splitlines():
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("level") in ("error", "fatal") and entry.get("msg"):
                    reason = str(entry["msg"])
        if not reason:
            reason = done.output.decode(errors="replace").strip()
        return reason.strip() or (
            f"{name} did not terminate successfully: exit status {done.status}{_want_of_room(self._log_file)}"
        )

    def _read_log(self, mark: int) -> bytes:
        return files.read_or_nothing(self._log_file)[mark:]


def _want_of_room(path: str) -> str:
    """What to add where a file has no reason in it, since it had no room for one."""
    with suppress(OSError):
        found = os.statvfs(os.path.dirname(path))
        if found.f_bavail * found.f_frsize < _LITTLE_ROOM:
            return f": no space left on device, not even for a reason in {path}"
    return ""


def create_flags(options: Values) -> Sequence[str]:
    """The flags that both ``create`` and ``restore`` take."""
    flags = []
    if options["no_pivot_root"]:
        flags.append("--no-pivot")
    if options["no_new_keyring"]:
        flags.append("--no-new-keyring")
    return flags


def checkpoint_flags(options: Values, image: str, work: str) -> list[str]:
    """The flags of ``runc checkpoint`` for ``containerd.runc.v1.CheckpointOptions``."""
    flags = ["--image-path", image, "--work-path", work]
    for name, flag in (
        ("open_tcp", "--tcp-established"),
        ("external_unix_sockets", "--ext-unix-sk"),
        ("terminal", "--shell-job"),
        ("file_locks", "--file-locks"),
    ):
        if options[name]:
            flags.append(flag)
    if not options["exit"]:
        flags.append("--leave-running")
    if options["cgroups_mode"]:
        flags += ["--manage-cgroups-mode", options["cgroups_mode"]]
    for namespace in options["empty_namespaces"]:
        flags += ["--empty-ns", namespace]
    return flags
