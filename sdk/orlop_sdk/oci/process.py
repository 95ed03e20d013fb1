# SPDX-License-Identifier: Apache-2.0
"""Options about the process: what runs, with which environment, limits and powers.

::

    options = [with_args("sh", "-c", "id"), with_env({"LANG": "C"}), with_cwd("/tmp"), with_capabilities(drop=["ALL"])]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orlop.errors import InvalidArgument
from orlop_sdk.oci.default import DEFAULT_PATH
from orlop_sdk.oci.spec import Option, Spec, SpecContext, section
from orlop_sdk.oci.user import with_image_user

#: All capabilities in the order of their numbers.
CAPABILITIES: Final = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
        "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
        "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
        "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)
_SETS: Final = ("bounding", "effective", "permitted")


def with_args(*args: str) -> Option:
    """Run this command instead of the image's. Nothing is passed through a shell."""

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "process")["args"] = list(args)

    return option


def with_env(env: Mapping[str, str] | Iterable[str]) -> Option:
    """Set variables: a mapping, or ``NAME=value`` strings, of which a bare ``NAME`` removes that variable."""

    def option(spec: Spec, context: SpecContext) -> None:
        items = [f"{key}={value}" for key, value in env.items()] if isinstance(env, Mapping) else list(env)
        process = section(spec, "process")
        process["env"] = merge_env(process.get("env", ()), items)

    return option


def merge_env(base: Iterable[str], changes: Iterable[str]) -> list[str]:
    """*base* with *changes*: what is set anew keeps its place, what is new comes last, a bare name removes."""
    merged = {item.partition("=")[0]: item for item in base}
    for item in changes:
        name, equals, _ = item.partition("=")
        if not name:
            raise InvalidArgument(f'environment "{item}": has no name before "="')
        if equals:
            merged[name] = item
        else:
            merged.pop(name, None)
    return list(merged.values())


def with_image_config(args: Sequence[str] = ()) -> Option:
    """What the image says: command, environment, directory, user. *args* replace its ``Cmd``, not its ``Entrypoint``.

    Raises `InvalidArgument` when neither says what to run.
    """

    async def option(spec: Spec, context: SpecContext) -> None:
        config: Mapping[str, Any] = context.image.get("config") or {}
        process = section(spec, "process")
        process["env"] = merge_env(config.get("Env") or [DEFAULT_PATH], process.get("env", ()))
        command = [*(config.get("Entrypoint") or ()), *(args or config.get("Cmd") or ())]
        if not command:
            raise InvalidArgument(f'container "{context.id}": the image has no command; give arguments')
        process["args"] = command
        process["cwd"] = config.get("WorkingDir") or "/"
        outcome = with_image_user(config.get("User") or "")(spec, context)
        if outcome is not None:
            await outcome

    return option


def with_tty(width: int = 0, height: int = 0) -> Option:
    """Give it a terminal, of this size if that is known."""

    def option(spec: Spec, context: SpecContext) -> None:
        process = section(spec, "process")
        process["terminal"] = True
        process["env"] = merge_env(process.get("env", ()), ["TERM=xterm"])
        if width and height:
            process["consoleSize"] = {"height": height, "width": width}

    return option


def with_cwd(path: str) -> Option:
    """Start in this directory, an absolute path."""
    if not path.startswith("/"):
        raise InvalidArgument(f'working directory "{path}": must be an absolute path')

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "process")["cwd"] = path

    return option


def with_capabilities(*, add: Iterable[str] = (), drop: Iterable[str] = ()) -> Option:
    """Give and take capabilities, with or without ``CAP_``; ``ALL`` is all that this host's kernel lets us give.

    What is dropped is dropped first, so ``drop=["ALL"], add=["CHOWN"]`` leaves one. Raises `InvalidArgument` for a name
    that does not exist.
    """
    taken, given = _expand(drop), _expand(add)

    def option(spec: Spec, context: SpecContext) -> None:
        capabilities = section(spec, "process", "capabilities")
        for name in _SETS:
            kept = [each for each in capabilities.get(name, ()) if each not in taken]
            capabilities[name] = list(dict.fromkeys((*kept, *given)))

    return option


def with_only_capabilities(capabilities: Iterable[str]) -> Option:
    """Exactly these."""
    wanted = _expand(capabilities)

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "process")["capabilities"] = {name: list(wanted) for name in _SETS}

    return option


def with_ambient_capabilities(capabilities: Iterable[str]) -> Option:
    """These, also for a user other than root: inheritable and ambient, which takes the other sets as well."""
    wanted = _expand(capabilities)

    def option(spec: Spec, context: SpecContext) -> None:
        sets = section(spec, "process", "capabilities")
        for name in (*_SETS, "inheritable", "ambient"):
            sets[name] = list(dict.fromkeys((*sets.get(name, ()), *wanted)))

    return option


def current_capabilities() -> tuple[str, ...]:
    """The capabilities that this process has, and so can give."""
    status = Path("/proc/self/status").read_text()
    mask = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
    return tuple(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)


def _expand(names: Iterable[str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        full = name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}"
        if full == "CAP_ALL":
            found += current_capabilities()
        elif full in CAPABILITIES:
            found.append(full)
        else:
            raise InvalidArgument(f'capability "{name}": does not exist')
    return tuple(found)


def with_new_privileges() -> Option:
    """Let programs gain privileges by being executed (set-uid)."""

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "process").pop("noNewPrivileges", None)

    return option


def with_rlimit(name: str, soft: int, hard: int) -> Option:
    """A resource limit such as ``RLIMIT_NOFILE`` (setrlimit(2)), instead of one that is there."""

    def option(spec: Spec, context: SpecContext) -> None:
        process = section(spec, "process")
        others = [each for each in process.get("rlimits", ()) if each["type"] != name]
        process["rlimits"] = [*others, {"type": name, "hard": hard, "soft": soft}]

    return option


def with_oom_score_adj(value: int) -> Option:
    """How likely the kernel is to kill it when memory is short: -1000 to 1000, more is likelier."""

    def option(spec: Spec, context: SpecContext) -> None:
        section(spec, "process")["oomScoreAdj"] = value

    return option
