# SPDX-License-Identifier: Apache-2.0
"""Every method of the daemon's gRPC and ttrpc services gets messages that no sane client sends.

Whatever comes, the client gets a status that says whose fault it was, and no traceback; the daemon logs no exception
that it did not expect, lives, and uses no more than before. The examples are the same in each run; the long one
(``make stress``) draws fresh ones.
"""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.ctr import eventually
from tests.support.daemon import ORLOPD, Daemon
from tests.support.fuzzing import TRACES, Fuzzer, GrpcSender, Outcome, TtrpcSender
from tests.support.image import Image, digest, write_archive
from tests.support.place import short_directory

from orlop_sdk.api.index import MODULES
from orlop_sdk.api.services.containers.v1 import containers_pb2
from orlop_sdk.api.services.content.v1 import content_pb2
from orlop_sdk.api.services.images.v1 import images_pb2
from orlop_sdk.api.services.leases.v1 import leases_pb2
from orlop_sdk.api.services.snapshots.v1 import snapshots_pb2
from orlop_sdk.api.services.tasks.v1 import tasks_pb2
from orlop_sdk.rpc import descriptors
from orlop_services.services.health import HEALTH

IMAGE: Final = "example.com/busy:1"
NAMESPACE: Final = "fuzz"
RUNNING: Final = "running"
BLOB: Final = b'{"a blob": "of the test"}'
#: What exists, for fields that name something to find it now and then.
NAMES: Final = (NAMESPACE, IMAGE, RUNNING, "idle", "lease", "ingest", "snapshot", "overlayfs", "native", "content")
#: What fields with these names should say for a call to get far.
HINTS: Final[dict[str, Sequence[str]]] = {
    "container_id": (RUNNING, RUNNING, "idle"),
    "exec_id": ("", "", "exec"),
    "id": (RUNNING, "idle", "lease", "fresh"),
    "key": ("snapshot", "fresh", "labels.a"),
    "name": (IMAGE, NAMESPACE, "fresh", "snapshot"),
    "namespace": (NAMESPACE,),
    "parent": ("", "committed"),
    "ref": ("ingest", "fresh"),
    "snapshotter": ("overlayfs", "native"),
    "topic": ("/a/b", "/tasks/exit"),
    "type": (
        "content",
        "snapshots/overlayfs",
        "images",
        "ingests",
        "bind",
        "overlay",
        "format/overlay",
        "erofs",
        "loop",
    ),
}
#: Examples for each method.
FEW, MANY = 12, 500
#: More than all pools of the daemon together may have; a leak would be one for each of thousands of calls.
THREADS: Final = 128
CODES: Final = {int(code.value[0]): code.name for code in grpc.StatusCode}
FAULTS: Final = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})
#: Seconds for calls that answer at once, on a host that is busy with other things.
PATIENCE: Final = 30.0
#: Methods that wait, by design, for what may never come, and how long this test does.
WAITING: Final = {
    "/containerd.services.events.v1.Events/Subscribe": 0.1,
    "/containerd.services.tasks.v1.Tasks/Wait": 0.1,
    "/grpc.health.v1.Health/Watch": 0.1,
}
#: Codes that look like faults of the daemon and are none, by method. What shims and OCI runtimes say about the state of
#: a process, or about a spec that only they read, has no class of its own; containerd hands it on as UNKNOWN as well.
EXCUSED: Final = {
    f"/containerd.services.tasks.v1.Tasks/{method}": frozenset({"UNKNOWN"})
    for method in ("Start", "Delete", "DeleteProcess", "Kill", "Exec", "Pause", "Resume", "Checkpoint", "Update")
}
#: Plugins that these tests can do without; the others stay, as the daemon has no other way to be asked how it is.
SPARE: Final = (
    "io.containerd.internal.v1.opt",
    "io.containerd.gc.v1.scheduler",
    "io.containerd.snapshotter.v1.no",
    "x",
)
FORCED: Final[dict[str, Sequence[str]]] = {
    **{f"orlop.plugins.v1.{name}Request.uri": SPARE for name in ("Enable", "Disable", "Reload", "Add", "Remove")},
    # Nobody listens there, and nothing leaves this host.
    "containerd.types.transfer.OCIRegistry.reference": (
        "",
        "127.0.0.1:1/x:1",
        "localhost:1/a/b@sha256:0",
        "::",
        "\x00",
    ),
    "orlop.plugins.v1.AddRequest.target": ("", "none", "none:x", "json:loads", "a:b:c", "\x00", "../x:y"),
}


def described(*prefixes: str) -> list[ServiceDescriptor]:
    """The services whose full name begins so."""
    found = []
    for name, module in MODULES.items():
        services = importlib.import_module(module).DESCRIPTOR.services_by_name.values()
        found += [each for each in services if each.full_name == name and name.startswith(prefixes)]
    return found


#: The wire format has more services: those of the kubelet and of NRI, and those that shims serve, not the daemon.
SERVICES: Final = [
    *described("containerd.services.", "orlop."),
    HEALTH,
    *reflection_pb2.DESCRIPTOR.services_by_name.values(),
]
METHODS: Final = {
    f"{service.full_name}/{method.name}": method
    for service in SERVICES
    for method in service.methods
    if ".ttrpc." not in service.full_name
}
TTRPC_METHODS: Final = {
    f"{service.full_name}/{method.name}": method
    for service in described("containerd.services.events.ttrpc.")
    for method in service.methods
}


class Subject:
    """A daemon in which something of every kind exists, and what is expected of it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.grpc = GrpcSender(str(daemon.address))
        self.ttrpc = TtrpcSender(f"{daemon.address}.ttrpc")
        self._ctr = daemon.ctr(NAMESPACE)
        self._archive = write_archive(daemon.base / "busy.tar", {IMAGE: Image()})
        try:
            self.restore()
        except BaseException:
            self.close()
            raise
        digests = [digest(BLOB), *self._digests()]
        self.fuzzer = Fuzzer([*NAMES, *digests], HINTS | {"digest": digests, "expected": digests}, FORCED)

    def restore(self) -> None:
        """Make what was deleted or changed anew."""
        self._ask("tasks.v1.Tasks/Resume", tasks_pb2.ResumeTaskRequest(container_id=RUNNING))
        # Both the record and the process have to be there.
        if CODES[self._ask("images.v1.Images/Get", images_pb2.GetImageRequest(name=IMAGE)).code] != "OK" or not all(
            CODES[self._ask(method, tasks_pb2.GetRequest(container_id=RUNNING)).code] == "OK"
            for method in ("tasks.v1.Tasks/ListPids", "containers.v1.Containers/Get")
        ):
            self._run()
        self._ask("leases.v1.Leases/Create", leases_pb2.CreateRequest(id="lease"))
        idle = containers_pb2.Container(id="idle", runtime={"name": "io.containerd.runc.v2"}, image=IMAGE)
        self._ask("containers.v1.Containers/Create", containers_pb2.CreateContainerRequest(container=idle))
        self._ask(
            "snapshots.v1.Snapshots/Prepare",
            snapshots_pb2.PrepareSnapshotRequest(snapshotter="overlayfs", key="snapshot"),
        )
        write = content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT, ref="blob", data=BLOB, expected=digest(BLOB), total=len(BLOB)
        )
        self._ask("content.v1.Content/Write", write, ("containerd-lease", "lease"))
        part = content_pb2.WriteContentRequest(action=content_pb2.WRITE, ref="ingest", data=b"half", total=8)
        self._ask("content.v1.Content/Write", part, ("containerd-lease", "lease"))

    def end_task(self) -> None:
        """Remove the running task. Not by `ctr`, which looks for the container's record first, and that may be gone."""
        self._ask("tasks.v1.Tasks/Resume", tasks_pb2.ResumeTaskRequest(container_id=RUNNING))
        self._ask("tasks.v1.Tasks/Kill", tasks_pb2.KillRequest(container_id=RUNNING, signal=9, all=True))
        delete = tasks_pb2.DeleteTaskRequest(container_id=RUNNING)
        eventually(
            lambda: CODES[self._ask("tasks.v1.Tasks/Delete", delete).code] in ("OK", "NOT_FOUND"),
            "the task that was killed is gone",
        )

    def _run(self) -> None:
        self.end_task()
        self._ctr.run("containers", "rm", RUNNING)
        self._ctr.run("snapshots", "rm", RUNNING)
        self._ctr.ok("images", "import", str(self._archive))
        self._ctr.ok("run", "-d", "--null-io", IMAGE, RUNNING, "sleep", "10000")

    def is_served(self, service: str) -> bool:
        """Whether the daemon has a service."""
        outcome = self.grpc.call(f"/{service}/None", [b""], PATIENCE)
        assert outcome.text.startswith(("unknown service", "unknown method")), outcome
        return outcome.text.startswith("unknown method")

    def check(self, path: str, outcome: Outcome) -> None:
        """That an answer is one which a client can do something with."""
        code = CODES[outcome.code]
        said = f"{path}: {code}: {outcome.text}"
        assert not TRACES.search(outcome.text), said
        assert code not in FAULTS - EXCUSED.get(path, frozenset()), said
        assert code != "UNAVAILABLE" or "connect" not in outcome.text.lower(), said
        assert code != "DEADLINE_EXCEEDED" or path in WAITING, said
        assert code == "OK" or outcome.text or path in WAITING, said

    def check_log(self, since: int) -> int:
        """That no exception was logged after that many bytes; gives how many there are now."""
        log = self.daemon.log.read_bytes()
        new = log[since:].decode(errors="replace")
        assert "Traceback" not in new, new[-6000:]
        assert self.daemon.running
        return len(log)

    def figures(self) -> dict[str, int]:
        """Descriptors, threads, KiB and asyncio tasks of the daemon once it is idle."""
        # What clients gave up takes a moment to end.
        time.sleep(1)
        pid = self.daemon.pid
        dump = self.daemon.base / f"orlopd.{pid}.stacks.log"
        dump.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR1)
        eventually(dump.exists, "the daemon wrote its stacks")
        eventually(lambda: "<Task " in dump.read_text(), "the stacks are whole")
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return {
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": int(status["Threads"]),
            "memory": int(status["VmRSS"].split()[0]),
            "tasks": dump.read_text().count("<Task "),
        }

    def close(self) -> None:
        """Hang up."""
        self.grpc.close()
        self.ttrpc.close()

    def _ask(self, method: str, request: Message, *metadata: tuple[str, str]) -> Outcome:
        return self.grpc.call(
            f"/containerd.services.{method}",
            [request.SerializeToString()],
            PATIENCE,
            [("containerd-namespace", NAMESPACE), *metadata],
        )

    def _digests(self) -> list[str]:
        return [line.split()[0] for line in self._ctr.ok("content", "ls").splitlines()[1:]]


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    with short_directory() as base, Daemon(base, ORLOPD, env={"TMPDIR": str(base)}) as daemon:
        made = Subject(daemon)
        try:
            yield made
        finally:
            made.end_task()
            made.close()


def fuzz(subject: Subject, method: MethodDescriptor, examples: int, *, fresh: bool) -> None:
    """Call one method many times."""
    path = descriptors.path(method)
    timeout = WAITING.get(path, PATIENCE)
    sender = subject.ttrpc if path.removeprefix("/") in TTRPC_METHODS else subject.grpc
    payloads = subject.fuzzer.payloads(method.input_type)
    namespaces = st.sampled_from([NAMESPACE] * 9 + ["other", "", "../x", "a b", "x" * 100])

    @settings(
        max_examples=examples,
        derandomize=not fresh,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(st.lists(payloads, min_size=1, max_size=4 if method.client_streaming else 1), namespaces, st.booleans())
    def run(sent: list[bytes], namespace: str, leased: bool) -> None:
        metadata = [("containerd-namespace", namespace), *([("containerd-lease", "lease")] if leased else [])]
        subject.check(path, sender.call(path, sent, timeout, metadata))

    before = len(subject.daemon.log.read_bytes())
    run()
    subject.check_log(before)


@pytest.mark.parametrize("name", METHODS)
def test_grpc_methods_answer_nonsense_with_a_status(subject: Subject, name: str) -> None:
    if not subject.is_served(name.partition("/")[0]):
        pytest.skip("no plugin of this build serves it")
    fuzz(subject, METHODS[name], FEW, fresh=False)
    subject.restore()


@pytest.mark.parametrize("name", TTRPC_METHODS)
def test_ttrpc_methods_answer_nonsense_with_a_status(subject: Subject, name: str) -> None:
    fuzz(subject, TTRPC_METHODS[name], FEW, fresh=False)


def everything(subject: Subject, examples: int) -> None:
    """Call every method that many times."""
    for name, method in (METHODS | TTRPC_METHODS).items():
        if name in TTRPC_METHODS or subject.is_served(name.partition("/")[0]):
            fuzz(subject, method, examples, fresh=True)
    subject.restore()


def check_flat(subject: Subject, examples: int) -> None:
    """That calls leave nothing behind in the daemon."""
    # Once to fill every pool and cache; then nothing may grow any more.
    everything(subject, max(2, examples // 5))
    before = subject.figures()
    everything(subject, examples)
    after = subject.figures()
    assert after["descriptors"] <= before["descriptors"] + 8, (before, after)
    # Pools begin a thread when calls happen to meet, which on a loaded machine is late; but they are bounded.
    assert after["threads"] <= THREADS, (before, after)
    assert after["tasks"] <= before["tasks"] + 8, (before, after)
    assert after["memory"] <= before["memory"] + 24 * 1024, (before, after)


def test_nonsense_leaves_nothing_behind(subject: Subject) -> None:
    check_flat(subject, 3)


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_much_nonsense_leaves_nothing_behind(request: pytest.FixtureRequest, subject: Subject) -> None:
    if "stress" not in str(request.config.option.markexpr):
        pytest.skip("takes minutes; ask for it with make stress")
    check_flat(subject, MANY)
