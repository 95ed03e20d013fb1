# SPDX-License-Identifier: Apache-2.0
"""Containers with restart labels, and what a daemon's restart monitor makes of them."""

from __future__ import annotations

import json
import os
import signal
import uuid

from tests.support.ctr import Ctr, columns, eventually
from tests.support.daemon import Daemon
from tests.support.image import Image, write_archive

IMAGE = "example.com/busy:1"
PREFIX = "containerd.io/restart"
INTERVAL = '[plugins."io.containerd.internal.v1.restart"]\ninterval = "300ms"\n'
PATIENCE = 60.0
"""Seconds within which a monitor has to do what it should."""
SLEEP = ("sleep", "1000")


class Side:
    """A daemon that looks every 300 ms, with a namespace of the test's own."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.ctr: Ctr = daemon.ctr(f"restart-{uuid.uuid4().hex[:10]}")
        self.ctr.ok("images", "import", str(write_archive(daemon.base / f"{self.ctr.namespace}.tar", {IMAGE: Image()})))

    def create(self, id: str, *command: str, **labels: str) -> None:
        """Make a container with restart labels, and nothing that runs."""
        flags = [f"--label={PREFIX}.{name.replace('_', '-')}={value}" for name, value in labels.items()]
        self.ctr.ok("containers", "create", *flags, IMAGE, id, *command)

    def label(self, id: str, **labels: str) -> None:
        """Change restart labels."""
        self.ctr.ok(
            "containers", "label", id, *(f"{PREFIX}.{name.replace('_', '-')}={value}" for name, value in labels.items())
        )

    def labels(self, id: str) -> dict[str, str]:
        """Its restart labels."""
        labels: dict[str, str] = json.loads(self.ctr.ok("containers", "info", id))["Labels"]
        return {name.removeprefix(f"{PREFIX}."): value for name, value in labels.items() if name.startswith(PREFIX)}

    def task(self, id: str) -> tuple[str, str]:
        """Pid and status of a task; both empty without one."""
        for row in columns(self.ctr.run("tasks", "ls")):
            if row[0] == id:
                return row[1], row[2]
        return "", ""

    def becomes(self, id: str, status: str) -> str:
        """Wait until a task has a status, and give its pid."""
        eventually(
            lambda: self.task(id)[1] == status,
            lambda: f"{id} is {self.task(id)} and not {status}\n{self.daemon.tail()}",
            PATIENCE,
        )
        return self.task(id)[0]

    def count(self, id: str) -> int:
        """How often it was started again."""
        return int(self.labels(id).get("count", 0))

    def starts_again(self, id: str, pid: str) -> str:
        """Wait until a task runs with another pid, and give that."""
        eventually(
            lambda: self.task(id)[1] == "RUNNING" and self.task(id)[0] != pid,
            lambda: f"{id} does not run again: {self.task(id)}\n{self.daemon.tail()}",
            PATIENCE,
        )
        return self.task(id)[0]

    def counts(self, id: str, times: int) -> None:
        """Wait until it was started so often."""
        eventually(lambda: self.count(id) >= times, lambda: f"{id} was started {self.count(id)} times", PATIENCE)

    def close(self) -> None:
        """Remove the tasks, once nobody brings them back."""
        for row in columns(self.ctr.run("containers", "ls")):
            self.ctr.run("containers", "label", row[0], f"{PREFIX}.status=")
        eventually(lambda: not self._remaining(), "tasks come back", PATIENCE)

    def _remaining(self) -> list[str]:
        self.ctr.remove_tasks()
        return self.ctr.run("tasks", "ls", "-q").out.split()


def kill(pid: str) -> None:
    """End a process without any warning."""
    os.kill(int(pid), signal.SIGKILL)
