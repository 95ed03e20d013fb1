# SPDX-License-Identifier: Apache-2.0
"""A private journal: the real systemd-journald, in a mount namespace of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.support.ctr import eventually

JOURNALD = next((path for path in map(Path, ("/usr/lib/systemd/systemd-journald",)) if path.exists()), None)
PATIENCE = 30.0
# Nothing of the host's: neither its kernel's messages, nor its auditing, which an empty value leaves as it is.
CONFIG = """\
[Journal]
Storage=volatile
ReadKMsg=no
Audit=
ForwardToSyslog=no
ForwardToWall=no
ForwardToConsole=no
RateLimitIntervalSec=0
"""
# The namespace's /run is a directory that everybody sees by another name.
START = 'mount --bind "$1" /run && exec "$2"'


def usable() -> str:
    """Why there can be no private journal here; empty if there can."""
    if JOURNALD is None or shutil.which("journalctl") is None:
        return "needs systemd-journald and journalctl (Debian's package systemd)"
    if not Path("/etc/machine-id").is_file() or not Path("/etc/machine-id").read_text().strip():
        return "needs a machine id (run systemd-machine-id-setup)"
    return ""


class Journal:
    """Below *base*, which has to be short enough for sockets. *config* is for more lines of its config."""

    def __init__(self, base: Path, config: str = "") -> None:
        self._run = base / "run"
        self.socket = self._run / "systemd/journal/socket"
        self._config = CONFIG + config
        self._marks = 0

    def __enter__(self) -> Self:
        assert JOURNALD is not None
        config = self._run / "systemd/journald.conf.d"
        config.mkdir(parents=True)
        (config / "test.conf").write_text(self._config)
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", START, "sh", str(self._run), str(JOURNALD)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            eventually(self._answers, "journald does not come up", PATIENCE)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    @property
    def pid(self) -> int:
        """The process of the journal."""
        return self._process.pid

    def entries(self, **fields: str) -> list[dict[str, bytes]]:
        """All entries with these fields that were sent up to now, oldest first."""
        self._marks += 1
        mark = f"mark-{self._marks}"
        self._send(f"MESSAGE=mark\nTEST_MARK={mark}\n".encode())
        eventually(lambda: bool(self._read(TEST_MARK=mark)), "journald does not get to the end", PATIENCE)
        return list(export(self._read(**fields)))

    def has(self, **fields: str) -> bool:
        """Whether there is such an entry now."""
        return bool(self._read(**fields))

    def _read(self, **fields: str) -> bytes:
        wanted = [f"{name}={value}" for name, value in fields.items()]
        command = [
            "journalctl",
            "--quiet",
            "--all",
            "--directory",
            str(self._run / "log/journal"),
            "--output",
            "export",
        ]
        return subprocess.run([*command, *wanted], capture_output=True, check=False).stdout

    def _answers(self) -> bool:
        assert self._process.poll() is None, "journald has ended"
        try:
            self._send(b"MESSAGE=is anybody there\n")
        except OSError:
            return False
        return True

    def _send(self, entry: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(entry, str(self.socket))


def export(data: bytes) -> Iterator[dict[str, bytes]]:
    """The entries in the journal's export format."""
    entry: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        end = data.index(b"\n", at)
        name, separator, value = data[at:end].partition(b"=")
        at = end + 1
        if not name:
            yield entry
            entry = {}
            continue
        if not separator:
            size = int.from_bytes(data[at : at + 8], "little")
            value = data[at + 8 : at + 8 + size]
            at += 8 + size + 1
        entry[name.decode()] = value
    if entry:
        yield entry
