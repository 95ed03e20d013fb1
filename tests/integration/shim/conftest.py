# SPDX-License-Identifier: Apache-2.0
"""Containers in every combination of daemon, shim and OCI runtime, driven by the real ``ctr``."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from tests.conftest import SHORT_PARENT, SHORT_PREFIX, mount_points, remove_tree
from tests.support import oci
from tests.support.crun import NotUsable, crun_usable
from tests.support.ctr import Ctr, Result, eventually
from tests.support.daemon import CONTAINERD, ORLOPD, OUR_SHIM, RUNC_STATE, Daemon
from tests.support.runtime import cgroup_files, forget_namespace

SOCKETS = Path("/run/containerd/s")
# Has orlopd use containerd's shim.
TABLES = """
[plugins."io.containerd.shim.v1.orlop"]
runtimes = ["io.containerd.orlop.v1"]
"""
CASES = list(itertools.product(("orlopd", "containerd"), ("ours", "debian"), ("runc", "crun")))


@dataclass
class Case:
    """A daemon with a shim and an OCI runtime in place."""

    daemon: Daemon
    shim: str
    runtime: str
    namespace: str
    tree: Path

    RUNTIME: ClassVar[str] = "io.containerd.runc.v2"

    @property
    def ours(self) -> bool:
        """Whether the shim is Orlop's."""
        return self.shim == "ours"

    @property
    def ctr(self) -> Ctr:
        """``ctr`` in this case's namespace."""
        return self.daemon.ctr(self.namespace)

    def flags(self, *more: str) -> list[str]:
        """What ``ctr run`` needs to make a container here."""
        return ["--runtime", self.RUNTIME, "--runc-binary", self.runtime, *more, "--rootfs", str(self.tree)]

    def run(self, id: str, *args: str, flags: tuple[str, ...] = (), stdin: bytes | None = None) -> Result:
        """Run a container to its end."""
        return self.ctr.run("run", "--rm", *self.flags(*flags), id, *args, stdin=stdin, timeout=60)

    def start(self, id: str, *args: str, flags: tuple[str, ...] = ()) -> None:
        """Start a container and leave it running."""
        self.ctr.ok("run", "-d", *self.flags(*flags), id, *args, timeout=60)

    def status(self, id: str) -> str:
        """The status of a task, or nothing."""
        for line in self.ctr.ok("tasks", "ls").splitlines():
            words = line.split()
            if words and words[0] == id:
                return words[2]
        return ""

    def remove(self, id: str) -> None:
        """Kill and delete a container."""
        self.ctr.run("tasks", "kill", "--all", "--signal", "SIGKILL", id)
        eventually(lambda: self.status(id) in ("STOPPED", ""), f"{id} does not end")
        self.ctr.run("tasks", "rm", id)
        self.ctr.run("containers", "rm", id)

    def leftovers(self) -> list[str]:
        """Everything that containers left on the host."""
        found = [f"mount {point}" for point in mount_points(self.daemon.base)]
        found += [f"shim {pid}: {argv}" for pid, argv in self.daemon.shims().items()]
        state = RUNC_STATE / self.namespace
        found += [str(path) for path in state.glob("*")] if state.exists() else []
        found += [str(path) for path in cgroup_files(self.namespace, "*") if path.is_dir()]
        bundles = self.daemon.state / "io.containerd.runtime.v2.task" / self.namespace
        return found + ([str(path) for path in bundles.glob("*")] if bundles.exists() else [])

    def settle(self) -> None:
        """Fail unless nothing is left, after some patience."""
        eventually(lambda: not self.leftovers(), lambda: f"left behind: {self.leftovers()}", 15)


def make_case(stack: ExitStack, daemon: str, shim: str, runtime: str) -> Case:
    """Bring a case up; it goes down with the stack."""
    base = Path(tempfile.mkdtemp(prefix=SHORT_PREFIX, dir=SHORT_PARENT))
    stack.callback(remove_tree, base)
    try:
        stack.enter_context(crun_usable() if runtime == "crun" else nullcontext())
    except NotUsable as reason:
        pytest.skip(str(reason))
    env = {}
    if daemon == "containerd" and shim == "ours":
        (base / "bin").mkdir()
        for name in (Path(OUR_SHIM).name, "containerd-shim-runc-v2"):
            (base / "bin" / name).symlink_to(OUR_SHIM)
        env["PATH"] = f"{base}/bin{os.pathsep}{os.environ['PATH']}"
    oci.busybox_tree(base / "tree")
    tables = TABLES if daemon == "orlopd" and shim == "debian" else ""
    program = {"orlopd": ORLOPD, "containerd": CONTAINERD}[daemon]
    made = stack.enter_context(Daemon(base, program, tables=tables, env=env))
    return Case(made, shim, runtime, "", base / "tree")


@contextmanager
def fresh(case: Case) -> Iterator[Case]:
    """The same in a namespace of its own, which is left clean."""
    made = replace(case, namespace=f"shim-{uuid.uuid4().hex[:10]}")
    try:
        yield made
        made.settle()
    finally:
        made.ctr.remove_tasks()
        forget_namespace(made.namespace)


def check_host(runtime: str) -> None:
    """Skip where something is missing."""
    missing = [name for name in ("containerd", "ctr", "runc", "busybox", runtime) if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}")


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def place(request: pytest.FixtureRequest) -> Iterator[Case]:
    """Every combination in turn."""
    check_host(request.param[2])
    with ExitStack() as stack:
        yield make_case(stack, *request.param)


@pytest.fixture
def case(place: Case) -> Iterator[Case]:
    """A combination, for one test."""
    with fresh(place) as made:
        yield made


@pytest.fixture(scope="module", params=["orlopd", "containerd"])
def own_place(request: pytest.FixtureRequest) -> Iterator[Case]:
    """Our shim with runc under both daemons."""
    check_host("runc")
    with ExitStack() as stack:
        yield make_case(stack, request.param, "ours", "runc")


@pytest.fixture
def own(own_place: Case) -> Iterator[Case]:
    """Our shim, for one test."""
    with fresh(own_place) as made:
        yield made
