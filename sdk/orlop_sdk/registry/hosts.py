# SPDX-License-Identifier: Apache-2.0
"""Which machines serve a registry: mirrors, certificates and headers from ``hosts.toml``.

::

    hosts = DirectoryHosts([Path("/etc/containerd/certs.d")])
    for host in await hosts("docker.io"):
        print(host.base, host.capabilities)

A directory per registry (``docker.io``, ``registry.example:5000`` or ``registry.example_5000_``, or ``_default`` for
all others) holds ``hosts.toml``, or else just certificates. It is read anew for each reference: edits need no restart.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from functools import reduce
from ipaddress import ip_address
from operator import or_
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import tomli

from orlop.blocking import run_blocking
from orlop.errors import ConfigError, InvalidArgument
from orlop.values import EMPTY

DOCKER_HUB: Final = "registry-1.docker.io"
DEFAULT_TIMEOUT: Final = 30.0
_KEYS: Final = frozenset(
    ("server", "capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout", "host")
)


class Capability(Flag):
    """What a host may be asked for."""

    PULL = auto()
    RESOLVE = auto()
    PUSH = auto()
    REFERRERS = auto()


ALL: Final = Capability.PULL | Capability.RESOLVE | Capability.PUSH | Capability.REFERRERS


@dataclass(frozen=True, slots=True)
class Tls:
    """How to verify a host, and how to identify to it: files, and pairs of certificate and key."""

    ca: tuple[Path, ...] = ()
    client: tuple[tuple[Path, Path | None], ...] = ()
    skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class RegistryHost:
    """One machine that serves a registry.

    ``registry`` is the host in the reference; ``base`` is the URL of the API, without a slash at its end.
    ``fallback`` allows plain HTTP when TLS is not spoken there. Headers may hold secrets, so they are not shown.
    """

    registry: str
    base: str
    capabilities: Capability = ALL
    headers: Mapping[str, str | Sequence[str]] = field(default=EMPTY, repr=False)
    tls: Tls = Tls()
    dial_timeout: float = DEFAULT_TIMEOUT
    fallback: bool = False

    @property
    def host(self) -> str:
        """Host and port of the machine."""
        return urlsplit(self.base).netloc


#: Finds the hosts of a registry, in the order to ask them.
Hosts = Callable[[str], Awaitable[list[RegistryHost]]]


def is_loopback(host: str) -> bool:
    """Whether *host*, with or without port, is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def default_host(registry: str, *, plain_http: bool = False, tls: Tls = Tls()) -> RegistryHost:
    """The registry itself: over TLS; this machine's over plain HTTP too where it does not speak TLS."""
    machine = DOCKER_HUB if registry == "docker.io" else registry
    scheme = "http" if plain_http else "https"
    return RegistryHost(registry, f"{scheme}://{machine}/v2", tls=tls, fallback=not plain_http and is_loopback(machine))


class PlainHosts:
    """Asks every registry itself; with ``plain_http`` never over TLS."""

    def __init__(self, *, plain_http: bool = False, tls: Tls = Tls()) -> None:
        self._plain_http = plain_http
        self._tls = tls

    async def __call__(self, registry: str) -> list[RegistryHost]:
        return [default_host(registry, plain_http=self._plain_http, tls=self._tls)]


class DirectoryHosts:
    """Reads ``hosts.toml`` and certificates from directories, the first that has some for a registry counting."""

    def __init__(self, paths: Sequence[Path], *, plain_http: bool = False) -> None:
        self._paths = tuple(paths)
        self._plain_http = plain_http

    async def __call__(self, registry: str) -> list[RegistryHost]:
        """Raises `ConfigError` with every fault of the file."""
        return await run_blocking(self._load, registry)

    def _load(self, registry: str) -> list[RegistryHost]:
        folder = self._find(registry)
        if folder is None:
            return [default_host(registry, plain_http=self._plain_http)]
        file = folder / "hosts.toml"
        if not file.is_file():
            return [default_host(registry, plain_http=self._plain_http, tls=_certificates(folder))]
        return parse_hosts(registry, file)

    def _find(self, registry: str) -> Path | None:
        host, colon, port = registry.rpartition(":")
        escaped = [f"{host}_{port}_"] if colon and port.isdecimal() else []
        for path in self._paths:
            for name in (*escaped, registry, "_default"):
                if (path / name).is_dir():
                    return path / name
        return None


def parse_hosts(registry: str, file: Path) -> list[RegistryHost]:
    """The hosts in a ``hosts.toml``: those of its tables in their order, and the server at last.

    Raises `ConfigError` with every fault, each with file and key.
    """
    try:
        data = tomli.loads(file.read_text())
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: {error}"]) from error
    faults: list[str] = []
    found: list[RegistryHost] = []
    tables = data.pop("host", {})
    for name, table in tables.items() if isinstance(tables, dict) else ():
        _collect(found, faults, _Table(registry, file, f'host."{name}"', name, table))
    server = data.pop("server", "")
    default = default_host(registry)
    _collect(found, faults, _Table(registry, file, "server", server or default.base, data, known_path=not server))
    if faults:
        raise ConfigError(faults)
    return found


@dataclass(frozen=True, slots=True)
class _Table:
    registry: str
    file: Path
    place: str
    url: str
    table: Mapping[str, Any]
    known_path: bool = False

    def host(self) -> RegistryHost:
        for key in self.table:
            if key not in _KEYS - {"server", "host"}:
                raise InvalidArgument(f"unknown key {key!r}")
        return RegistryHost(
            registry=self.registry,
            base=self._base(),
            capabilities=_capabilities(self.table.get("capabilities")),
            headers=_headers(self.table.get("header", {})),
            tls=self._tls(),
            dial_timeout=_seconds(self.table.get("dial_timeout", DEFAULT_TIMEOUT)),
            fallback=self.known_path and is_loopback(self.registry),
        )

    def _base(self) -> str:
        url = self.url if "://" in self.url else f"https://{self.url}"
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise InvalidArgument(f'"{self.url}" is no http or https address')
        machine = DOCKER_HUB if parts.netloc == "docker.io" else parts.netloc
        path = parts.path.rstrip("/")
        if not self.table.get("override_path", False) and not path.endswith("/v2"):
            path = f"{path}/v2"
        return f"{parts.scheme}://{machine}{path}"

    def _tls(self) -> Tls:
        ca = tuple(self.file.parent / each for each in _strings(self.table.get("ca", []), "ca"))
        client = self.table.get("client", [])
        items = [client] if isinstance(client, str) else client
        pairs: list[tuple[Path, Path | None]] = []
        for item in items if isinstance(items, list) else [None]:
            pair = [item] if isinstance(item, str) else item
            if not isinstance(pair, list) or not all(isinstance(each, str) for each in pair) or len(pair) not in {1, 2}:
                raise InvalidArgument("client must be a path, a list of paths, or a list of [certificate, key]")
            cert, key = pair[0], pair[1] if len(pair) == 2 else ""
            pairs.append((self.file.parent / cert, self.file.parent / key if key else None))
        return Tls(ca, tuple(pairs), bool(self.table.get("skip_verify", False)))


def _collect(found: list[RegistryHost], faults: list[str], table: _Table) -> None:
    try:
        found.append(table.host())
    except InvalidArgument as error:
        faults.append(f"{table.file}: {table.place}: {error}")


def _strings(value: object, key: str) -> list[str]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise InvalidArgument(f"{key} must be a string or a list of strings")
    return items


def _capabilities(value: object) -> Capability:
    if value is None:
        return ALL
    names = _strings(value, "capabilities")
    known = {each.name.lower(): each for each in Capability if each.name}
    for name in names:
        if name not in known:
            raise InvalidArgument(f"unknown capability {name!r}; there are {', '.join(known)}")
    return reduce(or_, (known[name] for name in names), Capability(0))


def _headers(value: object) -> dict[str, Sequence[str]]:
    if not isinstance(value, dict):
        raise InvalidArgument("header must be a table")
    return {str(key): tuple(_strings(item, f"header.{key}")) for key, item in value.items()}


def _seconds(value: object) -> float:
    units = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    if isinstance(value, float):
        return value
    if isinstance(value, str) and re.fullmatch(r"(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|ms|s|m|h))+", value):
        return sum(float(number) * units[unit] for number, unit in re.findall(r"([0-9.]+)(ns|us|ms|s|m|h)", value))
    raise InvalidArgument(f'dial_timeout must be a duration such as "30s", not {value!r}')


def _certificates(folder: Path) -> Tls:
    """Docker's convention: ``*.crt`` are authorities, ``NAME.cert`` goes with ``NAME.key``."""
    ca = tuple(sorted(folder.glob("*.crt")))
    pairs = tuple((cert, cert.with_suffix(".key")) for cert in sorted(folder.glob("*.cert")))
    for _, key in pairs:
        if not key.is_file():
            raise ConfigError([f"{key}: missing; every .cert needs the .key of the same name beside it"])
    return Tls(ca, pairs)
