# SPDX-License-Identifier: Apache-2.0
"""Who to be at a registry: given by the caller, or kept by Docker's ``config.json`` and its credential helpers.

::

    resolver = RegistryResolver(credentials=docker_config())
    resolver = RegistryResolver(credentials=fixed(Credential("me", "secret")))

Secrets never appear in representations, errors or logs of this package.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from orlop.blocking import run_blocking
from orlop.errors import Unauthenticated, Unavailable

#: The key under which Docker keeps what it uses for docker.io.
_DOCKER_HUB_KEY: Final = "https://index.docker.io/v1/"
_HUB_NAMES: Final = frozenset(("docker.io", "index.docker.io", "registry-1.docker.io"))
#: What helpers answer as user name when the secret is a refresh token.
_TOKEN_USER: Final = "<token>"  # noqa: S105  # a marker
_HELPER_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Credential:
    """A user name with a password, or, without a name, a refresh token; or a header to be sent as it is."""

    username: str = ""
    secret: str = field(default="", repr=False)
    header: str = field(default="", repr=False)
    """The whole value of ``Authorization``, for the registry itself; nothing else counts then."""

    @property
    def is_token(self) -> bool:
        """Whether the secret is a refresh token (OAuth2, also known as identity token)."""
        return not self.username and bool(self.secret)


#: Finds who to be at a registry host, or None for nobody.
Credentials = Callable[[str], Awaitable[Credential | None]]


async def anonymous(host: str) -> Credential | None:
    """Nobody, everywhere."""
    return None


def fixed(credential: Credential, *hosts: str) -> Credentials:
    """The same credential for the hosts named, or for every host when none is.

    A credential for every host goes to each mirror too: name hosts where these are not trusted alike.
    """

    async def find(host: str) -> Credential | None:
        return credential if not hosts or host in hosts else None

    return find


def docker_config(path: Path | None = None) -> Credentials:
    """What ``docker login`` stored: *path*, or ``config.json`` in ``DOCKER_CONFIG`` or ``~/.docker``.

    Helpers (``credHelpers``, ``credsStore``) are asked as Docker does. The file is read anew at each use; one that does
    not exist knows nobody.
    """
    folder = os.environ.get("DOCKER_CONFIG")
    file = path or (Path(folder) if folder else Path.home() / ".docker") / "config.json"

    async def find(host: str) -> Credential | None:
        return await run_blocking(_find, file, host)

    return find


def _find(file: Path, host: str) -> Credential | None:
    try:
        config = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Unauthenticated(f'credentials "{file}": not JSON') from error
    if not isinstance(config, dict):
        raise Unauthenticated(f'credentials "{file}": not a JSON object')
    key = _DOCKER_HUB_KEY if host in _HUB_NAMES else host
    helper = (config.get("credHelpers") or {}).get(key) or config.get("credsStore")
    if helper:
        found = _ask_helper(str(helper), key)
        if found is not None:
            return found
    for name, entry in (config.get("auths") or {}).items():
        if _same_host(name, host) and isinstance(entry, dict):
            return _entry(entry, file, name)
    return None


def _same_host(key: str, host: str) -> bool:
    name = key.partition("://")[2] or key
    name = name.partition("/")[0]
    return name == host or (name in _HUB_NAMES and host in _HUB_NAMES)


def _entry(entry: Mapping[str, Any], file: Path, name: str) -> Credential | None:
    if entry.get("identitytoken"):
        return Credential("", str(entry["identitytoken"]))
    if entry.get("auth"):
        try:
            username, colon, secret = base64.b64decode(str(entry["auth"])).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            username, colon, secret = "", "", ""
        if not colon:
            # The cause would quote part of the secret, so it is left out.
            raise Unauthenticated(f'credentials "{file}": auth of "{name}" is malformed; log in again')
        return Credential(username, secret.rstrip("\0"))
    if entry.get("username"):
        return Credential(str(entry["username"]), str(entry.get("password", "")))
    return None


def _ask_helper(helper: str, key: str) -> Credential | None:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=key.encode(), capture_output=True, timeout=_HELPER_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f'credential helper "{program}": cannot be used: {error}') from None
    if done.returncode:
        if b"credentials not found" in done.stdout:
            return None
        raise Unavailable(f'credential helper "{program}": failed with status {done.returncode}')
    try:
        answer = json.loads(done.stdout)
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise Unavailable(f'credential helper "{program}": answered something else than JSON credentials') from None
    return Credential("" if username == _TOKEN_USER else username, secret)
