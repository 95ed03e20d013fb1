# SPDX-License-Identifier: Apache-2.0
"""Attach network namespaces with CNI plugins, as the CNI specification 1.0 has runtimes do it.

::

    network = cni.load(Path("/etc/cni/net.d"))
    result = network.attach("default-web", "/proc/4711/ns/net")
    ...
    cni.detach("default-web", network.name)

What was attached is remembered where libcni remembers it, and in its form, so that detaching takes neither the files as
they were nor the process that attached.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orlop.errors import FailedPrecondition, InvalidArgument, NotFound

CONFIGURATION: Final = Path("/etc/cni/net.d")
#: Where plugins are looked for, in this order: upstream's place, and that of distributions.
PROGRAMS: Final = (Path("/opt/cni/bin"), Path("/usr/lib/cni"), Path("/usr/libexec/cni"))
MEMORY: Final = Path("/var/lib/cni/results")
INTERFACE: Final = "eth0"
_ENDINGS: Final = (".conf", ".conflist", ".json")
# The specification's rule for names of networks and containers, which become names of files.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
#: Seconds that one plugin may take.
_PATIENCE: Final = 120.0

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Network:
    """A network: plugins that are called one after the other."""

    name: str
    version: str
    """Of the specification, as the file has it."""
    plugins: Sequence[Json]
    programs: Sequence[Path] = PROGRAMS
    memory: Path = MEMORY

    def attach(self, id: str, namespace: str, interface: str = INTERFACE) -> Json:
        """Give the network namespace at a path an interface; what the last plugin says of it.

        *id* names the container, for plugins and for `detach`. Raises `FailedPrecondition` when a plugin is missing or
        fails; what others have done by then is undone.
        """
        _check(id, "container")
        result: Json = {}
        try:
            for plugin in self.plugins:
                result = self._call("ADD", plugin, id, namespace, interface, result)
            self._remember(id, namespace, interface, result)
        except BaseException:
            # The reason counts, and not what comes of it.
            with suppress(FailedPrecondition):
                self._undo(id, namespace, interface, result)
            raise
        return result

    def _undo(self, id: str, namespace: str, interface: str, result: Json) -> None:
        """Let every plugin take back what it did, the last one first. The first failure is raised in the end."""
        failures = []
        for plugin in reversed(self.plugins):
            try:
                self._call("DEL", plugin, id, namespace, interface, result)
            except FailedPrecondition as error:
                failures.append(error)
        self._memory(id, interface).unlink(missing_ok=True)
        if failures:
            raise failures[0]

    def _call(self, command: str, plugin: Json, id: str, namespace: str, interface: str, result: Json) -> Json:
        wanted = {**plugin, "name": self.name, "cniVersion": self.version}
        if result:
            wanted["prevResult"] = result
        environment = {
            **os.environ,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": id,
            "CNI_NETNS": namespace,
            "CNI_IFNAME": interface,
            "CNI_PATH": ":".join(map(str, self.programs)),
        }
        about = f'network "{self.name}": CNI plugin "{plugin["type"]}"'
        try:
            done = subprocess.run(
                [self._program(str(plugin["type"]), about)],
                input=json.dumps(wanted).encode(),
                capture_output=True,
                env=environment,
                timeout=_PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FailedPrecondition(f"{about}: cannot be run: {error}") from error
        if done.returncode:
            raise FailedPrecondition(f"{about}: {command} failed: {_reason(done.stdout) or _text(done.stderr)}")
        return _object(done.stdout) or result

    def _program(self, type: str, about: str) -> str:
        for place in self.programs:
            if os.access(place / type, os.X_OK):
                return str(place / type)
        places = ", ".join(map(str, self.programs))
        raise FailedPrecondition(f"{about}: not in {places}; install it, or name its directory in CNI_PATH")

    def _remember(self, id: str, namespace: str, interface: str, result: Json) -> None:
        """Write the cache file of libcni, so that its tools can detach as well."""
        config = {"name": self.name, "cniVersion": self.version, "plugins": list(self.plugins)}
        entry = {
            "kind": "cniCacheV1",
            "containerId": id,
            "config": base64.b64encode(json.dumps(config).encode()).decode(),
            "ifName": interface,
            "networkName": self.name,
            "netns": namespace,
            "result": result,
        }
        path = self._memory(id, interface)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.write_text(json.dumps(entry))
            new.rename(path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise FailedPrecondition(f'network "{self.name}": cannot be noted in {path}: {error.strerror}') from error

    def _memory(self, id: str, interface: str) -> Path:
        return self.memory / f"{self.name}-{id}-{interface}"


def load(directory: Path = CONFIGURATION, programs: Sequence[Path] = PROGRAMS, memory: Path = MEMORY) -> Network:
    """The network of the first file in a directory, by name: ``.conf``, ``.conflist`` or ``.json``.

    Raises `NotFound` where there is none, `InvalidArgument` for a file that is no network.
    """
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix in _ENDINGS)
    except OSError:
        files = []
    if not files:
        raise NotFound(f"CNI networks: there is none in {directory}; put a .conflist there, or set NETCONFPATH")
    try:
        found = json.loads(files[0].read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f'CNI network "{files[0]}": cannot be read as JSON: {error}') from error
    return _network(found, f'CNI network "{files[0]}"', programs, memory)


def detach(
    id: str, name: str, interface: str = INTERFACE, programs: Sequence[Path] = PROGRAMS, memory: Path = MEMORY
) -> None:
    """Undo an `attach` to the network of that name. Nothing happens if it was undone before.

    The network namespace may be gone by then. Raises `FailedPrecondition` when a plugin fails, once: what is remembered
    is forgotten all the same, so that a plugin that is gone holds nobody up for ever.
    """
    _check(id, "container")
    _check(name, "network")
    path = memory / f"{name}-{id}-{interface}"
    try:
        entry = json.loads(path.read_bytes())
        config = json.loads(base64.b64decode(entry["config"]))
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FailedPrecondition(f'"{path}": is damaged: {error!r}; remove it, and what it stands for') from error
    network = _network(config, f'"{path}"', programs, memory)
    namespace = str(entry.get("netns") or "")
    # Plugins take an empty name for a namespace that is gone.
    network._undo(id, namespace if os.path.exists(namespace) else "", interface, entry.get("result") or {})


def _network(found: Any, about: str, programs: Sequence[Path], memory: Path) -> Network:
    found = found if isinstance(found, dict) else {}
    plugins = found.get("plugins", [found] if "type" in found else [])
    if not isinstance(plugins, list) or not plugins or not all(map(_is_plugin, plugins)):
        raise InvalidArgument(f'{about}: needs "plugins", a list of objects with a "type" each')
    name = str(found.get("name") or "")
    _check(name, f"{about}: network")
    return Network(name, str(found.get("cniVersion") or "0.2.0"), plugins, programs, memory)


def _is_plugin(value: Any) -> bool:
    # A type is looked up in directories, and must not lead out of them.
    type = value.get("type") if isinstance(value, Mapping) else None
    return isinstance(type, str) and bool(_NAME.fullmatch(type))


def _check(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f'{what} "{name}": bad name for CNI; use letters, digits, dots, dashes and underscores')


def _object(data: bytes) -> Json:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reason(data: bytes) -> str:
    error = _object(data)
    return ": ".join(str(error[key]) for key in ("msg", "details") if error.get(key))


def _text(data: bytes) -> str:
    return data.decode(errors="replace").strip() or "it does not say why"
