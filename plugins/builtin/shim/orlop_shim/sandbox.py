# SPDX-License-Identifier: Apache-2.0
"""The sandbox API: a shim as the place that a group of containers shares, without a process to keep it up.

The sandbox is the shim. It holds no namespaces of its own: the specs of its containers name those that they share. Its
figures are those of the control group that its spec names (``linux.cgroupsPath``), below which its containers lie.
"""

from __future__ import annotations

import json
import os
import signal
import time

from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from orlop_sdk.hints import Any, Final
from orlop_shim import cgroup, files
from orlop_shim import messages as pb
from orlop_shim.container import Surroundings
from orlop_shim.loop import Promise
from orlop_shim.rpc import Handler, Method
from orlop_shim.service import TaskService
from orlop_shim.wire import BOOL, TEXT, UINT32, Schema, Values, many, message, text_map, to_entries

_SERVICE: Final = "containerd.runtime.sandbox.v1.Sandbox"
READY: Final = "SANDBOX_READY"
NOT_READY: Final = "SANDBOX_NOTREADY"
# Seconds for processes that were killed to end, and how often to look.
_KILLED: Final = 10.0
_PAUSE: Final = 0.02

_CREATE: Final = Schema(
    sandbox_id=(1, TEXT),
    bundle_path=(2, TEXT),
    rootfs=(3, many(message(pb.MOUNT))),
    options=(4, message(pb.ANY)),
    netns_path=(5, TEXT),
    annotations=(6, text_map()),
)
_NAMED: Final = Schema(sandbox_id=(1, TEXT))
_STARTED: Final = Schema(pid=(1, UINT32), created_at=(2, message(pb.TIMESTAMP)), spec=(3, message(pb.ANY)))
_PLATFORM: Final = Schema(platform=(1, message(Schema(os=(1, TEXT), architecture=(2, TEXT), variant=(3, TEXT)))))
_STOP: Final = Schema(sandbox_id=(1, TEXT), timeout_secs=(2, UINT32))
_STATUS: Final = Schema(sandbox_id=(1, TEXT), verbose=(2, BOOL))
_STATE: Final = Schema(
    sandbox_id=(1, TEXT),
    pid=(2, UINT32),
    state=(3, TEXT),
    info=(4, text_map()),
    created_at=(5, message(pb.TIMESTAMP)),
    exited_at=(6, message(pb.TIMESTAMP)),
    extra=(7, message(pb.ANY)),
)
_METRICS: Final = Schema(
    metrics=(
        1,
        message(Schema(timestamp=(1, message(pb.TIMESTAMP)), id=(2, TEXT), data=(3, message(pb.ANY)))),
    )
)
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class SandboxService:
    """The sandbox of one shim, whose containers are those of *tasks*."""

    def __init__(self, around: Surroundings, tasks: TaskService) -> None:
        self._around = around
        self._tasks = tasks
        self._request: Values | None = None
        self._created_at = 0
        self._exited_at = 0
        self._ended = Promise()

    def methods(self) -> dict[str, Method]:
        """The methods, for `orlop_shim.rpc.Server`."""
        table: dict[str, tuple[Schema, Schema, Handler]] = {
            "CreateSandbox": (_CREATE, pb.EMPTY, self.create),
            "StartSandbox": (_NAMED, _STARTED, self.start),
            "Platform": (_NAMED, _PLATFORM, self.platform),
            "StopSandbox": (_STOP, pb.EMPTY, self.stop),
            "WaitSandbox": (_NAMED, pb.WAITED, self.wait),
            "SandboxStatus": (_STATUS, _STATE, self.status),
            "PingSandbox": (_NAMED, pb.EMPTY, self.ping),
            "ShutdownSandbox": (_NAMED, pb.EMPTY, self.shutdown),
            "SandboxMetrics": (_NAMED, _METRICS, self.metrics),
        }
        return {f"{_SERVICE}/{name}": Method(*parts) for name, parts in table.items()}

    def save(self) -> Values:
        """What `restore` takes."""
        return {"request": self._request, "created_at": self._created_at, "exited_at": self._exited_at}

    def restore(self, saved: Values) -> None:
        """Go on where another worker left."""
        self._request, self._created_at = saved["request"], saved["created_at"]
        if saved["exited_at"]:
            self._end(saved["exited_at"])

    async def create(self, request: Values) -> Values:
        if self._request is not None:
            raise AlreadyExists(f'sandbox "{self._request["sandbox_id"]}": is here already; a shim holds one')
        if not request["sandbox_id"] or not request["bundle_path"]:
            raise InvalidArgument("sandbox: needs an id and the path of a bundle")
        self._request = request
        self._tasks.kept = True
        return {}

    async def start(self, request: Values) -> Values:
        self._check(request)
        if self._created_at:
            raise FailedPrecondition(f'sandbox "{request["sandbox_id"]}": was started before')
        self._created_at = time.time_ns()
        return {"pid": self._around.pid, "created_at": pb.timestamp_ns(self._created_at)}

    async def platform(self, request: Values) -> Values:
        self._check(request)
        machine = os.uname().machine
        return {"platform": {"os": "linux", "architecture": _MACHINES.get(machine, machine)}}

    async def stop(self, request: Values) -> Values:
        self._check(request)
        self._tasks.closed = True
        if not self._exited_at:
            if request["timeout_secs"]:
                await self._end_containers(signal.SIGTERM, request["timeout_secs"])
            await self._end_containers(signal.SIGKILL, _KILLED)
            # Another call may have been faster.
            self._end(self._exited_at or time.time_ns())
        return {}

    async def wait(self, request: Values) -> Values:
        self._check(request)
        ended: Values = await self._around.loop.rest(self._ended)
        return ended

    async def status(self, request: Values) -> Values:
        known = self._check(request)
        runs = self._created_at and not self._exited_at
        info = {}
        if request["verbose"]:
            info = {
                "containers": json.dumps(sorted(self._tasks.ids)),
                "netns": known["netns_path"],
                "annotations": json.dumps({entry["key"]: entry["value"] for entry in known["annotations"]}),
            }
        return {
            "sandbox_id": request["sandbox_id"],
            "pid": self._around.pid if runs else 0,
            "state": READY if runs else NOT_READY,
            "info": to_entries(info),
            "created_at": pb.timestamp_ns(self._created_at) if self._created_at else None,
            "exited_at": pb.timestamp_ns(self._exited_at) if self._exited_at else None,
        }

    async def ping(self, request: Values) -> Values:
        self._check(request)
        return {}

    async def shutdown(self, request: Values) -> Values:
        """Forget it. The shim goes as soon as it has no containers."""
        await self.stop({"timeout_secs": 0, **request})
        self._request = None
        self._tasks.kept = False
        self._tasks.leave_when_idle()
        return {}

    async def metrics(self, request: Values) -> Values:
        from orlop_shim.stats import measure

        known = self._check(request)
        group = _group(os.path.join(known["bundle_path"], "config.json"))
        if group is None:
            raise NotFound(
                f'sandbox "{request["sandbox_id"]}": has no control group; name one in its spec '
                "(linux.cgroupsPath) and put its containers below it"
            )
        return {
            "metrics": {
                "timestamp": pb.timestamp_ns(time.time_ns()),
                "id": request["sandbox_id"],
                "data": measure(group),
            }
        }

    def _check(self, request: Values) -> Values:
        if self._request is None or self._request["sandbox_id"] != request["sandbox_id"]:
            raise NotFound(f'sandbox "{request["sandbox_id"]}": not found')
        return self._request

    def _end(self, at: int) -> None:
        self._exited_at = at
        self._ended.set({"exit_status": 0, "exited_at": pb.timestamp_ns(at)})

    async def _end_containers(self, number: int, seconds: float) -> None:
        """Signal all containers and wait for their ends; those that are just being created get their turn."""
        deadline = time.monotonic() + seconds
        signalled: set[str] = set()
        while (living := self._tasks.living()) and time.monotonic() < deadline:
            for container in living - signalled:
                if await self._tasks.signal(container, number):
                    signalled.add(container)
            await self._around.loop.sleep(_PAUSE)


def _group(config: str) -> cgroup.Cgroup | None:
    """The control group that a spec names, where there is one."""
    try:
        document: dict[str, Any] = json.loads(files.read(config))
    except (OSError, ValueError):
        return None
    path = (document.get("linux") or {}).get("cgroupsPath") or ""
    return cgroup.Cgroup.at(path) if path.startswith("/") else None
