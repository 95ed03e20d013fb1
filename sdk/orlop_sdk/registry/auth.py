# SPDX-License-Identifier: Apache-2.0
"""Authentication at a registry: basic, and bearer tokens of the OAuth2 kind that Docker's registries use.

An `Authorizer` keeps what one registry host taught it: the scheme, and tokens by scope until they run out::

    authorizer = Authorizer(host, credentials, send)
    headers = await authorizer.headers(frozenset({"repository:library/busybox:pull"}))
    if response.status_code == 401 and await authorizer.learn(response, scopes):
        ...  # ask again, with new headers
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import httpx

from orlop.errors import Unauthenticated, Unavailable
from orlop_sdk.registry.credentials import Credential, Credentials
from orlop_sdk.registry.hosts import RegistryHost, is_loopback

CLIENT_ID: Final = "orlop-client"
#: Seconds that a token lives whose service does not say (the token specification's default).
_DEFAULT_LIFE: Final = 60.0
#: Seconds before its end at which a token is no longer used.
_MARGIN: Final = 5.0
#: Answers to an OAuth2 request that mean the service knows the older form only.
_OLD_FORM: Final = frozenset((400, 401, 404, 405))

_PARAMETER: Final = re.compile(r'\s*,?\s*([A-Za-z0-9._~+-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME: Final = re.compile(r"\s*,?\s*([A-Za-z0-9._~+-]+)(?=\s|$|,)")

#: Sends a request to a token service.
Send = Callable[[httpx.Request], Awaitable[httpx.Response]]


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a server offers: scheme (lower case), and parameters."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(values: Sequence[str]) -> list[Challenge]:
    """The challenges in ``WWW-Authenticate`` headers, of which each may hold several (RFC 9110, 11.6.1)."""
    found: list[Challenge] = []
    for value in values:
        position = 0
        while match := _SCHEME.match(value, position):
            position = match.end()
            parameters: dict[str, str] = {}
            while pair := _PARAMETER.match(value, position):
                quoted = re.sub(r"\\(.)", r"\1", pair[2]) if pair[2] is not None else pair[3]
                parameters[pair[1].lower()] = quoted
                position = pair.end()
            found.append(Challenge(match[1].lower(), parameters))
    return found


def merge_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """The same rights with one scope for each thing: ``repository:a:pull`` is part of ``repository:a:pull,push``."""
    actions: dict[str, set[str]] = {}
    for scope in scopes:
        thing, _, wanted = scope.rpartition(":")
        actions.setdefault(thing, set()).update(wanted.split(","))
    return frozenset(f"{thing}:{','.join(sorted(wanted))}" for thing, wanted in actions.items())


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    expires: float


class Authorizer:
    """Authenticates requests to one registry host."""

    def __init__(self, host: RegistryHost, credentials: Credentials, send: Send) -> None:
        self._host = host
        self._credentials = credentials
        self._send = send
        self._challenge: Challenge | None = None
        self._header = ""
        self._tokens: dict[frozenset[str], _Token] = {}
        self._lock = asyncio.Lock()

    async def headers(self, scopes: frozenset[str]) -> dict[str, str]:
        """The headers that authenticate a request with these scopes, as far as the host's wishes are known."""
        challenge = self._challenge
        if self._header:
            return {"Authorization": self._header}
        if challenge is None:
            return {}
        if challenge.scheme == "basic":
            credential = await self._credential()
            return {"Authorization": _basic(credential)} if credential else {}
        async with self._lock:
            token = self._tokens.get(scopes)
            if token is None or token.expires < time.monotonic():
                token = await self._fetch(challenge, scopes)
                self._tokens[scopes] = token
        return {"Authorization": f"Bearer {token.value}"}

    async def learn(self, response: httpx.Response, scopes: frozenset[str]) -> bool:
        """Take the challenge of a refusal. True when asking again may succeed.

        Raises `Unauthenticated` when credentials are wanted and there are none.
        """
        challenges = parse_challenges(response.headers.get_list("www-authenticate"))
        by_scheme = {each.scheme: each for each in challenges}
        challenge = by_scheme.get("bearer") or by_scheme.get("basic")
        credential = await self._credential()
        if credential is not None and credential.header:
            if not self._is_safe(response):
                raise Unauthenticated(f'registry "{self._host.host}": wants a password over plain HTTP; refused')
            self._header = credential.header
            return bool(response.request.headers.get("authorization") != self._header)
        if challenge is None:
            return False
        if challenge.scheme == "basic":
            if credential is None:
                raise Unauthenticated(f'registry "{self._host.host}": credentials are required; log in first')
            if not self._is_safe(response):
                raise Unauthenticated(f'registry "{self._host.host}": wants a password over plain HTTP; refused')
        self._challenge = challenge
        token = self._tokens.get(scopes)
        # A request that was under way meanwhile may have had another token, or none yet.
        if token and response.request.headers.get("authorization") == f"Bearer {token.value}":
            del self._tokens[scopes]
        return True

    def _is_safe(self, response: httpx.Response) -> bool:
        return urlsplit(str(response.request.url)).scheme != "http" or self._plain_is_wanted()

    def _plain_is_wanted(self) -> bool:
        # Whoever configured plain HTTP for a host accepts what that means; a fallback to it is for this machine only.
        return self._host.base.startswith("http://") or is_loopback(self._host.host)

    async def _credential(self) -> Credential | None:
        found = await self._credentials(self._host.host)
        if found is None and self._host.registry == "docker.io" and self._host.host != "docker.io":
            found = await self._credentials("docker.io")
        return found

    async def _fetch(self, challenge: Challenge, scopes: frozenset[str]) -> _Token:
        realm = challenge.parameters.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise Unauthenticated(f'registry "{self._host.host}": names no usable token service')
        wanted = merge_scopes((*scopes, *challenge.parameters.get("scope", "").split()))
        credential = await self._credential()
        if credential and parts.scheme == "http" and not (self._plain_is_wanted() or is_loopback(parts.netloc)):
            raise Unauthenticated(f'registry "{self._host.host}": its token service is not encrypted; refused')
        service = challenge.parameters.get("service", "")
        if credential and credential.secret:
            response = await self._send(_oauth(realm, service, wanted, credential))
            if response.status_code in _OLD_FORM and not credential.is_token:
                response = await self._send(_get(realm, service, wanted, credential))
        else:
            response = await self._send(_get(realm, service, wanted, None))
        return self._token(parts.netloc, response)

    def _token(self, service: str, response: httpx.Response) -> _Token:
        what = f'token service "{service}"'
        if response.status_code >= 500 or response.status_code == 429:
            raise Unavailable(f"{what}: answered {response.status_code}; try again later")
        if response.status_code != 200:
            raise Unauthenticated(f"{what}: refused with {response.status_code}; check the credentials")
        try:
            answer = response.json()
            value = answer.get("access_token") or answer.get("token")
            life = float(answer.get("expires_in") or _DEFAULT_LIFE)
        except (ValueError, AttributeError, TypeError):
            raise Unavailable(f"{what}: answered something else than a token") from None
        if not isinstance(value, str) or not value:
            raise Unavailable(f"{what}: answered without a token")
        return _Token(value, time.monotonic() + max(life, _DEFAULT_LIFE) - _MARGIN)


def _basic(credential: Credential) -> str:
    return "Basic " + base64.b64encode(f"{credential.username}:{credential.secret}".encode()).decode()


def _oauth(realm: str, service: str, scopes: frozenset[str], credential: Credential) -> httpx.Request:
    form = {"client_id": CLIENT_ID, "service": service, "scope": " ".join(sorted(scopes)), "access_type": "offline"}
    if credential.is_token:
        form |= {"grant_type": "refresh_token", "refresh_token": credential.secret}
    else:
        form |= {"grant_type": "password", "username": credential.username, "password": credential.secret}
    return httpx.Request("POST", realm, data=form)


def _get(realm: str, service: str, scopes: frozenset[str], credential: Credential | None) -> httpx.Request:
    url = httpx.URL(realm)
    pairs = [("service", service)] if service else []
    pairs += [("scope", scope) for scope in sorted(scopes)]
    url = url.copy_with(params=[*url.params.multi_items(), *pairs])
    return httpx.Request("GET", url, headers={"Authorization": _basic(credential)} if credential else {})
