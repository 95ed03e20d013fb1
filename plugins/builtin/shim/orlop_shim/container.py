# SPDX-License-Identifier: Apache-2.0
"""One container: its bundle, its processes, and what the OCI runtime has to do for it.

**On disk**, in the bundle, as containerd's shim has it: ``options.json`` and ``runtime`` for whoever cleans up
after us, ``log.json`` (the runtime's log), ``init.pid`` and ``<exec id>.pid``.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OrlopError, Unknown
from orlop_sdk.hints import Final
from orlop_shim import files, rootfs, runc_options
from orlop_shim.bag import Bag
from orlop_shim.cgroup import Cgroup
from orlop_shim.children import Children, End
from orlop_shim.console import ConsoleSocket
from orlop_shim.loop import Loop, Promise
from orlop_shim.messages import CHECKPOINT_OPTIONS, CREATED, PAUSED, RUNNING, STOPPED
from orlop_shim.oom import Inherited, OomWatch, inherited
from orlop_shim.process import Process
from orlop_shim.publisher import Publisher
from orlop_shim.runtime import Answer, Runtime, Settings, checkpoint_flags, create_flags
from orlop_shim.stdio import Place, Request, Streams
from orlop_shim.text_log import Log
from orlop_shim.wire import Values

PID_FILE: Final = "init.pid"
LOG_FILE: Final = "log.json"
_HIGHEST_SIGNAL: Final = 64
# Seconds for a process that is being killed to end.
_REAP: Final = 5.0
# Seconds after which a client surely knows that its container was created.
_INPUT_DELAY: Final = 1.0


class Surroundings:
    """What all containers of a shim share."""

    def __init__(self, loop: Loop, children: Children, publisher: Publisher, log: Log) -> None:
        self.loop: Final = loop
        self.children: Final = children
        self.publisher: Final = publisher
        self.namespace = ""
        #: The shim's pid.
        self.pid = 0
        self.log: Final = log


class Container:
    """A container; `create` makes it, `delete` ends it."""

    def __init__(self, around: Surroundings, request: Values) -> None:
        self._around = around
        self.id: Final[str] = request["id"]
        self.bundle: Final[str] = request["bundle"]
        self.options: Final = runc_options.read(request["options"])
        self._request = request
        self._rootfs = os.path.join(self.bundle, "rootfs")
        settings = Settings.of(self.options, around.namespace)
        self._runtime = Runtime(around.children, settings, os.path.join(self.bundle, LOG_FILE))
        self.init: Final = self._process("", request)
        self.execs: Final[dict[str, Process]] = {}
        self._requests: dict[str, Values] = {}
        self._shares_pids = False
        self.cgroup: Cgroup | None = None
        self._oom: OomWatch | None = None
        self.deleted = False

    # From here to there.

    async def create(self) -> None:
        """Mount the root file system and have the runtime create the container; undo it all on failure.

        Raises `Unknown` with the runtime's reason, and what mounts and streams raise.
        """
        runc_options.save(self.bundle, self.options)
        # Its end may come at any moment, and is published when this is.
        async with self.init.lock:
            try:
                rootfs.mount(self._request["rootfs"], self._rootfs)
                # In the next turn, when the runtime is at work.
                self._around.loop.soon(self._around.publisher.prepare)
                self._around.loop.soon(self._read_spec)
                if not self._request["checkpoint"]:
                    arguments = ["create", "--bundle", self.bundle, *create_flags(self.options)]
                    await self._bring_up(self.init, self._runtime, arguments, "create")
                    self._watch_memory()
            except BaseException:
                self._release()
                raise
            self._publish_create()
        # Clients may give input before the start, too.
        self._around.loop.later(_INPUT_DELAY, self.init.streams.connect_input)

    def _read_spec(self) -> None:
        self._shares_pids = _shares_pids(os.path.join(self.bundle, "config.json"))

    async def start(self) -> None:
        """Run what was created. Raises `Unknown` in another state, or with the runtime's reason."""
        init = self.init
        async with init.lock:
            if init.status != CREATED or init.end is not None:
                raise self._refusal("start a {} process")
            if self._request["checkpoint"]:
                await self._restore()
            else:
                await self._checked("start", "OCI runtime start failed", "start", self.id)
            init.status = RUNNING
            init.streams.connect_input()
            self._around.publisher.publish("/tasks/start", container_id=self.id, pid=init.pid)
            self._tell_want_of_memory()

    async def delete(self) -> End | None:
        """Remove the container. Raises `Unknown` while it runs."""
        init = self.init
        if init.status == CREATED and init.lives:
            await self._remove("--force")
            await self._around.loop.within(_REAP, init.exited)
        async with init.lock:
            if init.status not in (CREATED, STOPPED):
                raise self._refusal("delete a {} process")
            await init.streams.drain()
            if init.pid and not self.deleted:
                await self._remove()
            self._release()
        return init.end

    # From one worker to the next.

    @property
    def rests(self) -> bool:
        """Whether all that it has to do is wait."""
        return all(process.streams.rests for process in (self.init, *self.execs.values()))

    def save(self, bag: Bag) -> Values:
        """What `restore` takes, and its own request."""
        return {
            "request": self._request,
            "shares_pids": self._shares_pids,
            "deleted": self.deleted,
            "cgroup": self.cgroup.save() if self.cgroup is not None and self.cgroup.own else None,
            "oom": self._oom.save(bag) if self._oom is not None else None,
            "init": self.init.save(bag),
            "execs": [(self._requests[id], process.save(bag)) for id, process in self.execs.items()],
        }

    def restore(self, saved: Values, bag: Bag) -> None:
        """Be what another worker has saved; for one that was made with its request, and not created."""
        self._shares_pids, self.deleted = saved["shares_pids"], saved["deleted"]
        self._restore_process(self.init, saved["init"], bag)
        for request, item in saved["execs"]:
            self._restore_process(self._add(request), item, bag)
        if saved["cgroup"] is not None:
            self.cgroup = Cgroup.restored(saved["cgroup"])
            if saved["oom"] is not None:
                self._watch_group(self.cgroup, inherited(saved["oom"], bag))

    def _restore_process(self, process: Process, saved: Values, bag: Bag) -> None:
        process.restore(saved, bag)
        if process.lives:
            self._around.loop.begin(self._await_end(process, self._around.children.ended(process.pid)))

    async def _remove(self, *flags: str) -> None:
        try:
            await self._runtime.check("delete", *flags, self.id)
        except Unknown as error:
            # Somebody else may have deleted it, or we have just now.
            if "does not exist" not in str(error):
                raise

    def _release(self) -> None:
        self.deleted = True
        for process in (self.init, *self.execs.values()):
            process.streams.close()
            process.exited.fail(NotFound(f'process "{process.id}": was deleted'))
        if self._oom is not None:
            self._oom.close()
        rootfs.unmount(self._rootfs)

    # Other processes.

    def add(self, request: Values) -> None:
        """Take in another process, to be started later.

        Raises `AlreadyExists`, `InvalidArgument`, and `Unknown` in another state or for a spec that is no JSON.
        """
        exec_id = request["exec_id"]
        if not exec_id or "/" in exec_id or exec_id.startswith("."):
            raise InvalidArgument(f'exec id "{exec_id}": must not be empty, hold a slash or begin with a dot')
        if exec_id in self.execs:
            raise AlreadyExists(f'process "{exec_id}" of container "{self.id}": already exists')
        if not self.init.lives or self.init.status == PAUSED:
            raise self._refusal("exec in a {} state")
        try:
            json.loads(_spec(request))
        except ValueError as error:
            raise Unknown(f'process "{exec_id}" of container "{self.id}": its spec is no JSON: {error}') from error
        self._add(request)

    def _add(self, request: Values) -> Process:
        process = self.execs[request["exec_id"]] = self._process(request["exec_id"], request)
        self._requests[process.exec_id] = request
        return process

    async def start_exec(self, process: Process) -> None:
        """Start another process. Raises `FailedPrecondition`, `Unknown` with the runtime's reason."""
        async with process.lock:
            if process.status != CREATED:
                raise self._refusal("start a {} process", process)
            if not self.init.lives:
                raise FailedPrecondition(f"container {self.id} init process is not running")
            path = os.path.join(self.bundle, f".{process.exec_id}")
            # A log of its own, so that of two that fail at once each gets its own reason.
            runtime = Runtime(self._around.children, self._runtime.settings, f"{path}.log")
            try:
                files.write(f"{path}.json", _spec(self._requests[process.exec_id]))
                await self._bring_up(process, runtime, ["exec", "--process", f"{path}.json", "--detach"], "exec")
            except BaseException:
                process.streams.close()
                raise
            finally:
                # The last one is where a runtime prepares the file with the pid, and leaves it on a full disk.
                for name in (f"{path}.json", f"{path}.log", f"{path}.pid"):
                    with suppress(FileNotFoundError):
                        os.unlink(name)
            process.status = RUNNING
            process.streams.connect_input()
            self._around.publisher.publish(
                "/tasks/exec-started", container_id=self.id, exec_id=process.exec_id, pid=process.pid
            )

    async def delete_exec(self, process: Process) -> None:
        """Forget another process. Raises `Unknown` while it runs."""
        async with process.lock:
            if process.status not in (CREATED, STOPPED):
                raise self._refusal("delete a {} process", process)
            await process.streams.drain()
            process.streams.close()
            process.exited.fail(NotFound(f'process "{process.id}": was deleted'))
            self.execs.pop(process.exec_id, None)
            self._requests.pop(process.exec_id, None)
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.bundle, f"{process.exec_id}.pid"))

    def find(self, exec_id: str) -> Process:
        """A process. Raises `NotFound`."""
        process = self.execs.get(exec_id) if exec_id else self.init
        if process is None:
            raise NotFound(f'process "{exec_id}" of container "{self.id}": does not exist')
        return process

    # What happens to it.

    async def kill(self, process: Process, number: int, everyone: bool) -> None:
        """Send a signal. Raises `NotFound` after its end, `FailedPrecondition` before its start, `Unknown`."""
        if number > _HIGHEST_SIGNAL:
            raise Unknown(f"signal {number}: there is none of that number")
        if not process.pid:
            raise FailedPrecondition(f'process "{process.id}": is not created, or not started')
        if process.end is not None:
            raise NotFound(f'process "{process.id}": process already finished')
        if process is self.init and (everyone or self.init.status == PAUSED):
            # It knows how to reach processes that are frozen.
            flags = ["--all"] if everyone else []
            await self._runtime.check("kill", *flags, self.id, str(number))
        else:
            try:
                process.send(number)
            except ProcessLookupError as error:
                raise NotFound(f'process "{process.id}": process already finished') from error

    async def pause(self) -> None:
        """Freeze it. Raises `Unknown` unless it runs."""
        async with self.init.lock:
            if self.init.status != RUNNING:
                raise self._refusal("pause a {} container")
            await self._checked("pause", "OCI runtime pause failed", "pause", self.id)
            self.init.status = PAUSED
            self._around.publisher.publish("/tasks/paused", container_id=self.id)

    async def resume(self) -> None:
        """Thaw it. Raises `Unknown` unless it is paused."""
        async with self.init.lock:
            if self.init.status != PAUSED:
                raise self._refusal("resume a {} process")
            await self._checked("resume", "OCI runtime resume failed", "resume", self.id)
            self.init.status = RUNNING
            self._around.publisher.publish("/tasks/resumed", container_id=self.id)

    async def update(self, resources: bytes) -> None:
        """Set other limits, ``LinuxResources`` as JSON."""
        async with self.init.lock:
            await self._runtime.check("update", "--resources", "-", self.id, stdin=resources)

    async def checkpoint(self, path: str, options: Values | None) -> None:
        """Write a checkpoint. Raises `Unknown` with the runtime's reason, and where criu's log is."""
        chosen = CHECKPOINT_OPTIONS.decode(options["value"] if options else b"")
        async with self.init.lock:
            if self.init.status not in (RUNNING, PAUSED):
                raise self._refusal("checkpoint a {} container")
            work = chosen["work_path"] or os.path.join(self.bundle, "work", "criu-work")
            os.makedirs(work, mode=0o700, exist_ok=True)
            try:
                await self._runtime.check(
                    "checkpoint", *checkpoint_flags(chosen, chosen["image_path"] or path, work), self.id
                )
            except Unknown as error:
                raise Unknown(f"OCI runtime checkpoint failed: {error}; see {work}/dump.log") from error
            if not chosen["exit"]:
                self._around.publisher.publish("/tasks/checkpointed", container_id=self.id, checkpoint=path)

    def check_resizable(self, process: Process) -> None:
        """Raise `Unknown` for one that was added and has ended, as containerd's shim does; the first never minds."""
        if process is not self.init and process.status == STOPPED:
            raise self._refusal("resize a {} container", process)

    async def pids(self) -> Sequence[int]:
        """The processes inside; none when it has ended. Raises `Unknown` with the runtime's reason."""
        if not self.init.lives:
            return []
        if self.cgroup is not None and self.cgroup.own:
            return self.cgroup.pids()
        listed: list[int] = json.loads(await self._runtime.check("ps", "--format", "json", self.id))
        return listed

    # How it is done.

    def _refusal(self, what: str, process: Process | None = None) -> Unknown:
        """What cannot be done in this state; ``{}`` stands for it.

        In the words and of the class that clients know from containerd's shim, where it has no class of its own.
        """
        return Unknown(f"cannot {what.format(_word((process or self.init).status))}")

    def _publish_create(self) -> None:
        request = self._request
        self._around.publisher.publish(
            "/tasks/create",
            container_id=self.id,
            bundle=self.bundle,
            rootfs=request["rootfs"],
            io={name: request[name] for name in ("stdin", "stdout", "stderr", "terminal")},
            checkpoint=request["checkpoint"],
            pid=self.init.pid,
        )

    def _process(self, exec_id: str, request: Values) -> Process:
        wanted = Request(request["terminal"], request["stdin"], request["stdout"], request["stderr"])
        around = self._around
        place = Place(
            around.loop,
            around.children,
            around.log,
            around.namespace,
            self.id,
            self.options["io_uid"],
            self.options["io_gid"],
        )
        return Process(self.id, exec_id, wanted, Streams(place, wanted))

    async def _bring_up(self, process: Process, runtime: Runtime, arguments: list[str], verb: str) -> None:
        """Have the runtime make a process: streams or a terminal, its pid, and somebody to wait for it."""
        pid_file = os.path.join(self.bundle, f"{process.exec_id}.pid" if process.exec_id else PID_FILE)
        console = ConsoleSocket(self._around.loop) if process.request.terminal else None
        socket = ["--console-socket", console.path] if console else []
        command = [*arguments, "--pid-file", pid_file, *socket, self.id]
        with self._around.children.starting():
            try:
                await process.streams.open()
                mark = runtime.mark()
                try:
                    done = await runtime.run(*command, fds=process.streams.given or None)
                except OSError as error:
                    done = Answer(-1, runtime.missing(error).encode())
                process.streams.passed()
                if done.status != 0:
                    raise Unknown(f"OCI runtime {verb} failed: {runtime.reason(mark, done)}: unknown")
                process.streams.flow()
                process.begin(_read_pid(pid_file))
                self._around.loop.begin(self._await_end(process, self._around.children.ended(process.pid)))
                if console is not None:
                    await process.streams.attach(await console.master())
            except OrlopError:
                if process.pid and process is self.init:
                    await runtime.run("delete", "--force", self.id)
                elif process.pid:
                    with suppress(ProcessLookupError):
                        process.send(signal.SIGKILL)
                raise
            finally:
                if console is not None:
                    console.close()

    async def _restore(self) -> None:
        image = self._request["checkpoint"]
        work = self.options["criu_work_path"] or os.path.join(self.bundle, "work", "criu-work")
        os.makedirs(work, mode=0o700, exist_ok=True)
        arguments = ["restore", "--detach", "--bundle", self.bundle, "--image-path", image, "--work-path", work]
        await self._bring_up(self.init, self._runtime, [*arguments, *create_flags(self.options)], "restore")
        self._watch_memory()

    async def _await_end(self, process: Process, ended: Promise) -> None:
        """Publish the end of a process once its start is; the first process goes last."""
        end: End = await self._around.loop.rest(ended)
        process.end = end
        async with process.lock:
            if process is self.init:
                await self._end_others()
                # What it died of may still wait to be read.
                if self._oom is not None:
                    self._oom.look()
            process.finish(end)
            # What never was created, as far as clients know, does not end either.
            if not self.deleted:
                self._around.publisher.publish(
                    "/tasks/exit", container_id=self.id, id=process.id, pid=process.pid, **process.outcome()
                )

    async def _end_others(self) -> None:
        """What is left when the first process has ended: others in a shared PID namespace, and execs not yet reaped."""
        if self.init.status == PAUSED:
            await self._runtime.run("resume", self.id)
        if self._shares_pids:
            await self._runtime.run("kill", "--all", self.id, str(int(signal.SIGKILL)))
        for process in list(self.execs.values()):
            if process.pid:
                await self._around.loop.within(_REAP, process.exited)

    async def _checked(self, verb: str, what: str, *arguments: str) -> None:
        try:
            await self._runtime.check(*arguments)
        except Unknown as error:
            raise Unknown(f"{what}: {error}: unknown") from error

    def _watch_memory(self) -> None:
        """Before the first instruction of the container's own program, so that nothing it does is missed."""
        self.cgroup = Cgroup.of(self.init.pid)
        if self.cgroup is not None and self.cgroup.own:
            self._watch_group(self.cgroup)

    def _watch_group(self, group: Cgroup, known: Inherited | None = None) -> None:
        around = self._around
        self._oom = OomWatch(around.loop, group, around.log, self._tell_want_of_memory, known)

    def _tell_want_of_memory(self) -> None:
        # Nobody knows yet of one that is being started: `start` tells when they do.
        if self._oom is not None and self.init.status != CREATED:
            for _ in range(self._oom.take()):
                self._around.publisher.publish("/tasks/oom", container_id=self.id)


def _shares_pids(config: str) -> bool:
    """Whether processes of the container outlive its first one: they do without a PID namespace of its own."""
    try:
        linux = json.loads(files.read(config)).get("linux") or {}
    except (OSError, ValueError):
        # The runtime tells what is wrong with it, and there will be no container.
        return False
    return not any(item.get("type") == "pid" and not item.get("path") for item in linux.get("namespaces") or ())


def _spec(request: Values) -> bytes:
    spec: bytes = request["spec"]["value"] if request["spec"] else b""
    return spec


def _read_pid(path: str) -> int:
    try:
        return int(files.read(path))
    except (OSError, ValueError) as error:
        raise Unknown(f"{path}: the OCI runtime wrote no pid: {error}") from error


def _word(status: int) -> str:
    return {CREATED: "created", RUNNING: "running", STOPPED: "stopped", PAUSED: "paused"}.get(status, "unknown")
