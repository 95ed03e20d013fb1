# SPDX-License-Identifier: Apache-2.0
"""Private daemons for tests: orlopd, or Debian's containerd, with everything below one directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.ctr import Ctr, environment

CONTAINERD = ("/usr/bin/containerd",)
ORLOPD = (str(Path(sys.executable).parent / "orlopd"),)
OUR_SHIM = str(Path(sys.executable).parent / "containerd-shim-orlop-v1")
# Set to "containerd", tests of behaviour that is containerd's too run on that: what fails then is a flaw of the test.
SUBJECT = {"orlopd": ORLOPD, "containerd": CONTAINERD}[os.environ.get("ORLOP_TEST_SUBJECT", "orlopd")]
READY = 30.0
"""Seconds within which a daemon has to answer."""
STOP = 20.0
"""Seconds within which a daemon has to end after SIGTERM."""
CGROUPS = Path("/sys/fs/cgroup")
RUNC_STATE = Path("/run/containerd/runc")
CONFIG = """\
version = 2
root = "{base}/root"
state = "{base}/state"
{top}
[grpc]
address = "{base}/s.sock"
[ttrpc]
address = "{base}/s.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "{base}/opt"
{tables}
"""
NO_CRI = 'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'


class Daemon:
    """One daemon in *base*, which has to be short enough for sockets.

    *top* and *tables* are put into the config file, before and after the first table. The CRI plugin is switched off
    unless *top* says something about disabled plugins, for it wants to own directories of the host. Namespaces in use
    are taken from `ctr`, so that `close` finds what their containers left on the host.
    """

    def __init__(
        self,
        base: Path,
        program: Sequence[str] = ORLOPD,
        *,
        top: str = "",
        tables: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.base = base
        self.program = tuple(program)
        self.root = base / "root"
        self.state = base / "state"
        self.address = base / "s.sock"
        self.config = base / "config.toml"
        self.log = base / "log"
        self.env = dict(env or {})
        self.process: subprocess.Popen[bytes] | None = None
        self._namespaces: set[str] = set()
        if "disabled_plugins" not in top:
            top = NO_CRI + top
        self.config.write_text(CONFIG.format(base=base, top=top, tables=tables))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The name of the program."""
        return Path(self.program[0]).name

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """The pid of the running daemon."""
        assert self.process is not None
        return self.process.pid

    def ctr(self, namespace: str) -> Ctr:
        """``ctr`` for this daemon."""
        self._namespaces.add(namespace)
        return Ctr(self.address, namespace)

    def launch(self, *args: str) -> None:
        """Start the process and do not wait for anything."""
        assert not self.running
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, "--config", str(self.config), *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment() | self.env,
                start_new_session=True,
            )

    def start(self) -> None:
        """Start, and return once it answers calls."""
        self.launch()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return once the daemon answers calls; fail with its log when it ended or does not."""
        deadline = time.monotonic() + READY
        while not (self._listening() and Ctr(self.address, "default").run("version").code == 0):
            assert self.running, f"{self.name} ended at start:\n{self.tail()}"
            assert time.monotonic() < deadline, f"{self.name} is not ready after {READY:g} s:\n{self.tail()}"
            time.sleep(0.05)

    def stop(self) -> int:
        """Stop it as an operator does, and give its exit status."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not stop within {STOP:g} s:\n{self.tail()}") from None

    def kill(self) -> None:
        """End it without any warning."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Stop and start again."""
        self.stop()
        self.start()

    def tail(self, lines: int = 60) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def shims(self) -> dict[int, list[str]]:
        """The argument lists of the shims that were started for this daemon, by pid."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # gone meanwhile
            if str(self.address) in argv and "shim" in argv[0]:
                found[int(entry.name)] = argv
        return found

    def close(self) -> None:
        """End the containers of all namespaces that tests asked for, stop, and clear what is left on the host."""
        try:
            if self.running:
                for namespace in self._namespaces:
                    Ctr(self.address, namespace).remove_tasks()
                self.stop()
        finally:
            self.purge()

    def purge(self) -> None:
        """Remove by force what containers left behind: for tests that failed, or that killed the daemon."""
        if self.running:
            self.kill()
        # The shims first: one that is ending may still run runc, which makes its directory anew.
        for pid in self.shims():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for namespace in self._namespaces:
            state = RUNC_STATE / namespace
            for entry in state.iterdir() if state.is_dir() else ():
                subprocess.run(
                    ["runc", "--root", str(state), "delete", "--force", entry.name], check=False, capture_output=True
                )
            shutil.rmtree(state, ignore_errors=True)
            # Empty by now; left, they would keep controllers of version 2 from being mounted elsewhere, as crun needs.
            for group in (CGROUPS / namespace, *CGROUPS.glob(f"*/{namespace}")):
                with contextlib.suppress(OSError):
                    group.rmdir()

    def _listening(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.address))
            except OSError:
                return False
        return True
