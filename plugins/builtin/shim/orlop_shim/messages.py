# SPDX-License-Identifier: Apache-2.0
"""The messages that a shim exchanges with daemons, and the options of runc-like runtimes."""

from __future__ import annotations

from orlop_sdk.hints import Final
from orlop_shim.wire import BOOL, BYTES, INT, INT32, TEXT, UINT32, Schema, Values, many, message, text_map

EMPTY: Final = Schema()
ANY: Final = Schema(type_url=(1, TEXT), value=(2, BYTES))
TIMESTAMP: Final = Schema(seconds=(1, INT), nanos=(2, INT32))
STATUS: Final = Schema(code=(1, INT32), message=(2, TEXT))
MOUNT: Final = Schema(type=(1, TEXT), source=(2, TEXT), target=(3, TEXT), options=(4, many(TEXT)))

# ttrpc

KEY_VALUE: Final = Schema(key=(1, TEXT), value=(2, TEXT))
REQUEST: Final = Schema(
    service=(1, TEXT),
    method=(2, TEXT),
    payload=(3, BYTES),
    timeout_nano=(4, INT),
    metadata=(5, many(message(KEY_VALUE))),
)
RESPONSE: Final = Schema(status=(1, message(STATUS)), payload=(2, BYTES))

# containerd.task.v2, and .v3, which is the same

#: Statuses of a process, ``containerd.v1.types.Status``.
CREATED, RUNNING, STOPPED, PAUSED, PAUSING = 1, 2, 3, 4, 5

PROCESS: Final = Schema(id=(1, TEXT), exec_id=(2, TEXT))
"""Every request that names a process and nothing else: State, Start, Delete, Wait, Pids, Pause, Resume, Stats..."""
CREATE: Final = Schema(
    id=(1, TEXT),
    bundle=(2, TEXT),
    rootfs=(3, many(message(MOUNT))),
    terminal=(4, BOOL),
    stdin=(5, TEXT),
    stdout=(6, TEXT),
    stderr=(7, TEXT),
    checkpoint=(8, TEXT),
    parent_checkpoint=(9, TEXT),
    options=(10, message(ANY)),
)
EXEC: Final = Schema(
    id=(1, TEXT),
    exec_id=(2, TEXT),
    terminal=(3, BOOL),
    stdin=(4, TEXT),
    stdout=(5, TEXT),
    stderr=(6, TEXT),
    spec=(7, message(ANY)),
)
RESIZE: Final = Schema(id=(1, TEXT), exec_id=(2, TEXT), width=(3, UINT32), height=(4, UINT32))
KILL: Final = Schema(id=(1, TEXT), exec_id=(2, TEXT), signal=(3, UINT32), all=(4, BOOL))
CLOSE_IO: Final = Schema(id=(1, TEXT), exec_id=(2, TEXT), stdin=(3, BOOL))
CHECKPOINT: Final = Schema(id=(1, TEXT), path=(2, TEXT), options=(3, message(ANY)))
UPDATE: Final = Schema(id=(1, TEXT), resources=(2, message(ANY)), annotations=(3, text_map()))
SHUTDOWN: Final = Schema(id=(1, TEXT), now=(2, BOOL))

PID: Final = Schema(pid=(1, UINT32))
"""The answer to Create and to Start."""
DELETED: Final = Schema(pid=(1, UINT32), exit_status=(2, UINT32), exited_at=(3, message(TIMESTAMP)))
WAITED: Final = Schema(exit_status=(1, UINT32), exited_at=(2, message(TIMESTAMP)))
STATE: Final = Schema(
    id=(1, TEXT),
    bundle=(2, TEXT),
    pid=(3, UINT32),
    status=(4, INT32),
    stdin=(5, TEXT),
    stdout=(6, TEXT),
    stderr=(7, TEXT),
    terminal=(8, BOOL),
    exit_status=(9, UINT32),
    exited_at=(10, message(TIMESTAMP)),
    exec_id=(11, TEXT),
)
PROCESS_INFO: Final = Schema(pid=(1, UINT32), info=(2, message(ANY)))
PIDS: Final = Schema(processes=(1, many(message(PROCESS_INFO))))
STATS: Final = Schema(stats=(1, message(ANY)))
CONNECTED: Final = Schema(shim_pid=(1, UINT32), task_pid=(2, UINT32), version=(3, TEXT))

# containerd.runc.v1

OPTIONS: Final = Schema(
    no_pivot_root=(1, BOOL),
    no_new_keyring=(2, BOOL),
    shim_cgroup=(3, TEXT),
    io_uid=(4, UINT32),
    io_gid=(5, UINT32),
    binary_name=(6, TEXT),
    root=(7, TEXT),
    systemd_cgroup=(9, BOOL),
    criu_image_path=(10, TEXT),
    criu_work_path=(11, TEXT),
)
CHECKPOINT_OPTIONS: Final = Schema(
    exit=(1, BOOL),
    open_tcp=(2, BOOL),
    external_unix_sockets=(3, BOOL),
    terminal=(4, BOOL),
    file_locks=(5, BOOL),
    empty_namespaces=(6, many(TEXT)),
    cgroups_mode=(7, TEXT),
    image_path=(8, TEXT),
    work_path=(9, TEXT),
)
PROCESS_DETAILS: Final = Schema(exec_id=(1, TEXT))

# containerd.runtime.bootstrap.v1, and what -info answers

EXTENSION: Final = Schema(value=(1, message(ANY)))
BOOTSTRAP: Final = Schema(
    instance_id=(1, TEXT),
    namespace=(2, TEXT),
    log_level=(3, INT32),
    containerd_version=(4, TEXT),
    containerd_ttrpc_address=(5, TEXT),
    containerd_grpc_address=(6, TEXT),
    containerd_binary=(7, TEXT),
    extensions=(8, many(message(EXTENSION))),
    socket_dir=(9, TEXT),
)
BOOTSTRAP_RESULT: Final = Schema(version=(1, INT32), address=(2, TEXT), protocol=(3, TEXT))
RUNTIME_VERSION: Final = Schema(version=(1, TEXT), revision=(2, TEXT))
RUNTIME_INFO: Final = Schema(
    name=(1, TEXT),
    version=(2, message(RUNTIME_VERSION)),
    options=(3, message(ANY)),
    features=(4, message(ANY)),
    annotations=(5, text_map()),
)

# containerd.events

ENVELOPE: Final = Schema(
    timestamp=(1, message(TIMESTAMP)), namespace=(2, TEXT), topic=(3, TEXT), event=(4, message(ANY))
)
FORWARD: Final = Schema(envelope=(1, message(ENVELOPE)))
TASK_IO: Final = Schema(stdin=(1, TEXT), stdout=(2, TEXT), stderr=(3, TEXT), terminal=(4, BOOL))

#: Topic -> name and fields of its message.
EVENTS: Final[dict[str, tuple[str, Schema]]] = {
    "/tasks/create": (
        "TaskCreate",
        Schema(
            container_id=(1, TEXT),
            bundle=(2, TEXT),
            rootfs=(3, many(message(MOUNT))),
            io=(4, message(TASK_IO)),
            checkpoint=(5, TEXT),
            pid=(6, UINT32),
        ),
    ),
    "/tasks/start": ("TaskStart", Schema(container_id=(1, TEXT), pid=(2, UINT32))),
    "/tasks/delete": (
        "TaskDelete",
        Schema(
            container_id=(1, TEXT),
            pid=(2, UINT32),
            exit_status=(3, UINT32),
            exited_at=(4, message(TIMESTAMP)),
            id=(5, TEXT),
        ),
    ),
    "/tasks/exit": (
        "TaskExit",
        Schema(
            container_id=(1, TEXT),
            id=(2, TEXT),
            pid=(3, UINT32),
            exit_status=(4, UINT32),
            exited_at=(5, message(TIMESTAMP)),
        ),
    ),
    "/tasks/oom": ("TaskOOM", Schema(container_id=(1, TEXT))),
    "/tasks/exec-added": ("TaskExecAdded", Schema(container_id=(1, TEXT), exec_id=(2, TEXT))),
    "/tasks/exec-started": ("TaskExecStarted", Schema(container_id=(1, TEXT), exec_id=(2, TEXT), pid=(3, UINT32))),
    "/tasks/paused": ("TaskPaused", Schema(container_id=(1, TEXT))),
    "/tasks/resumed": ("TaskResumed", Schema(container_id=(1, TEXT))),
    "/tasks/checkpointed": ("TaskCheckpointed", Schema(container_id=(1, TEXT), checkpoint=(2, TEXT))),
}


def timestamp(seconds: float | int, nanos: int = 0) -> Values:
    """A `TIMESTAMP`."""
    return {"seconds": int(seconds), "nanos": nanos}


def timestamp_ns(moment: int) -> Values:
    """A `TIMESTAMP` of nanoseconds since 1970."""
    return timestamp(*divmod(moment, 1_000_000_000))


def any_of(name: str, value: bytes) -> Values:
    """An `ANY` that holds a message of that full name."""
    return {"type_url": name, "value": value}
