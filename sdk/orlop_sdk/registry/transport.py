# SPDX-License-Identifier: Apache-2.0
"""Requests to registries: connections, retries, redirects, authentication, and errors in our own terms.

::

    async with Transport() as transport:
        call = Call("GET", "/library/busybox/manifests/latest", scopes=pull_scope("library/busybox"))
        async with transport.request(host, call) as response:
            data = await response.aread()
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Self

import httpx

from orlop.blocking import run_blocking
from orlop.errors import (
    InvalidArgument,
    NotFound,
    OrlopError,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unknown,
)
from orlop.values import EMPTY
from orlop_sdk.registry.auth import Authorizer
from orlop_sdk.registry.credentials import Credentials, anonymous
from orlop_sdk.registry.hosts import RegistryHost, Tls
from orlop_sdk.registry.interface import Body

USER_AGENT: Final = "orlop/0.1"
ATTEMPTS: Final = 5
REDIRECTS: Final = 10
#: Seconds without a byte before a connection counts as dead.
IDLE: Final = 30.0
#: The longest a server may ask us to wait (seconds).
PATIENCE: Final = 30.0
_ERROR_BODY: Final = 16 << 10
_TOKEN_BODY: Final = 1 << 20
_REDIRECT: Final = frozenset((301, 302, 303, 307, 308))
_SERVER_TROUBLE: Final = frozenset((500, 502, 503, 504))

_STATUS_ERRORS: Final[dict[int, type[OrlopError]]] = {
    400: InvalidArgument,
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    410: NotFound,
    416: OutOfRange,
    413: ResourceExhausted,
    429: Unavailable,
    408: Unavailable,
}


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a registry's API. ``path`` is below ``/v2``, or a whole URL that the registry gave us."""

    method: str
    path: str
    scopes: frozenset[str] = frozenset()
    headers: Mapping[str, str] = EMPTY
    body: Body | None = field(default=None, repr=False)
    params: Mapping[str, str] = EMPTY
    last: bool = True
    """Whether no other host can be asked instead: only then is a host in trouble asked again."""


def pull_scope(repository: str) -> frozenset[str]:
    """What a token must allow to read from a repository."""
    return frozenset((f"repository:{repository}:pull",))


def push_scope(repository: str, *sources: str) -> frozenset[str]:
    """What a token must allow to write to a repository, and to mount from others."""
    return frozenset((f"repository:{repository}:pull,push", *(f"repository:{each}:pull" for each in sources)))


class Transport:
    """Connections to registry hosts, and what was learned about each. Belongs to one event loop."""

    def __init__(self, credentials: Credentials = anonymous, headers: Mapping[str, str] = EMPTY) -> None:
        self._credentials = credentials
        self._headers = dict(headers)
        self._clients: dict[tuple[Tls, float], httpx.AsyncClient] = {}
        self._authorizers: dict[str, Authorizer] = {}
        self._plain: set[str] = set()
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. May be called twice; a later request opens new ones."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    @asynccontextmanager
    async def request(self, host: RegistryHost, call: Call) -> AsyncIterator[httpx.Response]:
        """The response to a call, its body unread; 401 only when there is nothing left to try.

        Raises `Unavailable` when the host cannot be reached, `Unauthenticated` for want of credentials.
        """
        response = await self._persist(host, call)
        try:
            yield response
        except httpx.TransportError as error:
            raise _unreachable(host, error) from error
        finally:
            await response.aclose()

    async def _persist(self, host: RegistryHost, call: Call) -> httpx.Response:
        client = await self._client(host)
        challenged = 0
        trouble = False
        for attempt in range(ATTEMPTS):
            try:
                response = await self._redirected(client, host, call)
            except httpx.TransportError as error:
                if self._may_fall_back(host, error):
                    self._plain.add(host.base)
                elif trouble or not call.last or attempt + 1 == ATTEMPTS:
                    raise _unreachable(host, error) from error
                else:
                    trouble = True
                    await asyncio.sleep(0.05)
                continue
            status = response.status_code
            if status == 401 and challenged < 2:
                challenged += 1
                again = await self._learn(host, response, call)
            elif status in {408, 429}:
                again = attempt + 1 < ATTEMPTS
            else:
                again = status in _SERVER_TROUBLE and call.last and not trouble
                trouble = status in _SERVER_TROUBLE
            if not again:
                return response
            await response.aclose()
            if status != 401:
                await asyncio.sleep(_pause(response, attempt))
        raise Unavailable(f'registry "{host.host}": gave no usable answer in {ATTEMPTS} attempts')

    async def _learn(self, host: RegistryHost, response: httpx.Response, call: Call) -> bool:
        try:
            return await self._authorizer(host).learn(response, call.scopes)
        except BaseException:
            await response.aclose()
            raise

    async def _redirected(self, client: httpx.AsyncClient, host: RegistryHost, call: Call) -> httpx.Response:
        base = host.base
        if base in self._plain:
            base = base.replace("https://", "http://", 1)
        url = httpx.URL(call.path if "://" in call.path else base + call.path)
        if params := self._params(host, call, url):
            url = url.copy_merge_params(params)
        home = httpx.URL(base)
        for _ in range(REDIRECTS):
            headers = httpx.Headers({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
            if _same_origin(url, home):
                headers.update(self._headers)
                for key, value in host.headers.items():
                    headers[key] = value if isinstance(value, str) else ", ".join(value)
                headers.update(await self._authorizer(host).headers(call.scopes))
            headers.update(call.headers)
            content = call.body() if call.body else None
            request = client.build_request(call.method, url, headers=headers, content=content)
            response = await client.send(request, stream=True)
            if response.status_code not in _REDIRECT or "location" not in response.headers or call.body:
                return response
            await response.aclose()
            url = url.join(response.headers["location"])
            if url.scheme not in {"http", "https"}:
                raise Unavailable(f'registry "{host.host}": redirects to a {url.scheme!r} address; refused')
        raise Unavailable(f'registry "{host.host}": more than {REDIRECTS} redirects')

    def _params(self, host: RegistryHost, call: Call, url: httpx.URL) -> dict[str, str]:
        params = dict(call.params)
        proxied = host.host != host.registry and (host.registry, host.host) != ("docker.io", "registry-1.docker.io")
        if proxied and "://" not in call.path:
            params["ns"] = host.registry
        return params

    def _may_fall_back(self, host: RegistryHost, error: httpx.TransportError) -> bool:
        # A server that does not speak TLS answers our greeting with HTTP or hangs up.
        silent = isinstance(error, (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError))
        return host.fallback and host.base.startswith("https://") and host.base not in self._plain and silent

    def _authorizer(self, host: RegistryHost) -> Authorizer:
        if host.base not in self._authorizers:

            async def send(request: httpx.Request) -> httpx.Response:
                request.headers["User-Agent"] = USER_AGENT
                return await self._send_to_token_service(host, request)

            self._authorizers[host.base] = Authorizer(host, self._credentials, send)
        return self._authorizers[host.base]

    async def _send_to_token_service(self, host: RegistryHost, request: httpx.Request) -> httpx.Response:
        client = await self._client(host)
        try:
            # Never redirected: the request may hold a password.
            response = await client.send(request, stream=True, follow_redirects=False)
            try:
                data = await read_limited(response, _TOKEN_BODY)
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            raise Unavailable(f'token service "{request.url.host}": {_reason(error)}') from error
        return httpx.Response(response.status_code, content=data, request=request)

    async def _client(self, host: RegistryHost) -> httpx.AsyncClient:
        key = (host.tls, host.dial_timeout)
        async with self._lock:
            if key not in self._clients:
                # Also for hosts without TLS: they may redirect to others.
                verify = await run_blocking(_context, host.tls)
                _hide_signatures()
                self._clients[key] = httpx.AsyncClient(
                    verify=verify,
                    timeout=httpx.Timeout(IDLE, connect=host.dial_timeout, pool=None),
                    limits=httpx.Limits(max_connections=32, max_keepalive_connections=10, keepalive_expiry=30),
                )
            return self._clients[key]


async def read_limited(response: httpx.Response, limit: int) -> bytes:
    """The whole body. Raises `ResourceExhausted` when it is longer than *limit* bytes."""
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > limit:
            raise ResourceExhausted(f'"{response.request.url.host}": answer is longer than {limit} bytes')
    return bytes(data)


async def status_error(what: str, host: RegistryHost, response: httpx.Response) -> OrlopError:
    """Our error for a refusal; the text has what the registry says about it."""
    status = response.status_code
    kind = _STATUS_ERRORS.get(status, Unavailable if status >= 500 else Unknown)
    return kind(f'{what}: registry "{host.host}" answered {status}{await _told(response)}')


async def _told(response: httpx.Response) -> str:
    try:
        data = json.loads(await read_limited(response, _ERROR_BODY))
        entries = data["errors"]
        texts = [str(each.get("message") or each.get("code") or "") for each in entries]
    except (ResourceExhausted, httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return ""  # the status has to do
    return f": {'; '.join(filter(None, texts))[:512]}" if any(texts) else ""


def _same_origin(first: httpx.URL, second: httpx.URL) -> bool:
    return (first.scheme, first.host, first.port) == (second.scheme, second.host, second.port)


def _pause(response: httpx.Response, attempt: int) -> float:
    text = response.headers.get("retry-after", "")
    wanted = float(text) if text.isdecimal() else 0.1 * 2**attempt * random.uniform(0.5, 1)  # noqa: S311  # no secret
    return min(wanted, PATIENCE)


def _reason(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__


def _unreachable(host: RegistryHost, error: httpx.TransportError) -> Unavailable:
    return Unavailable(f'registry "{host.host}": cannot be reached: {_reason(error)}')


@cache
def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        for ca in tls.ca:
            context.load_verify_locations(ca)
        for cert, key in tls.client:
            context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(each) for each in (*tls.ca, *(cert for cert, _ in tls.client)))
        raise InvalidArgument(f"certificates {files}: cannot be used: {error}") from error
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


_SIGNED: Final = re.compile(r"(?i)(https?://[^\s?\"]+\?)[^\s\"]*(?:sig|token|x-amz|policy|key)[^\s\"]*")


class _SignatureFilter(logging.Filter):
    """Keeps the queries of signed addresses out of httpx's log lines: they are as good as a password."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                _SIGNED.sub(r"\1...", str(each)) if isinstance(each, httpx.URL) else each for each in record.args
            )
        return True


_filter: Final = _SignatureFilter()


def _hide_signatures() -> None:
    logging.getLogger("httpx").addFilter(_filter)
