# SPDX-License-Identifier: Apache-2.0
"""The resolver, fetcher and pusher of OCI registries (OCI distribution-spec, and Docker's registry API before it).

::

    async with RegistryResolver(hosts=PlainHosts(plain_http=True)) as resolver:
        found = await resolver.resolve("localhost:5000/team/app:1.2")
        print(found.descriptor.digest)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final, Self

import httpx

from orlop.errors import (
    AlreadyExists,
    DataLoss,
    InvalidArgument,
    NotFound,
    OrlopError,
    OutOfRange,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from orlop.values import EMPTY, Descriptor
from orlop_sdk.registry.credentials import Credentials, anonymous
from orlop_sdk.registry.hosts import Capability, Hosts, PlainHosts, RegistryHost
from orlop_sdk.registry.interface import Body, Fetcher, Pusher, Resolved, Resolver
from orlop_sdk.registry.parts import Parts, RangesIgnored
from orlop_sdk.registry.reference import Reference, check_digest
from orlop_sdk.registry.transport import Call, Transport, pull_scope, push_scope, read_limited, status_error

log = logging.getLogger(__name__)

MANIFEST_TYPES: Final = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
)
ACCEPT: Final = ", ".join((*MANIFEST_TYPES, "*/*"))
#: The longest manifest there may be (bytes).
MANIFEST_LIMIT: Final = 4 << 20
#: Reconnects in a row that may bring no byte.
_FUTILE: Final = 3
_SCHEMA1: Final = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)


class RegistryResolver:
    """Resolves, fetches and pushes over HTTP. Use it in ``async with``, or call `close`. Belongs to one event loop.

    Each blob is fetched as one stream, unless *parts* says how to divide large ones.
    """

    def __init__(
        self,
        *,
        hosts: Hosts | None = None,
        credentials: Credentials = anonymous,
        headers: Mapping[str, str] = EMPTY,
        parts: Parts | None = None,
    ) -> None:
        self._hosts = hosts or PlainHosts()
        self._parts = parts
        self._transport = Transport(credentials, headers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. May be called twice."""
        await self._transport.close()

    async def resolve(self, reference: str) -> Resolved:
        parsed = Reference.parse(reference)
        if not parsed.object:
            raise InvalidArgument(f'reference "{reference}": neither tag nor digest; add :latest, for instance')
        capability = Capability.PULL if parsed.digest else Capability.RESOLVE
        hosts = await self._capable(parsed, capability)
        worst: OrlopError | None = None
        for host in hosts:
            lookup = _Lookup(self._transport, host, parsed, last=host is hosts[-1])
            try:
                return Resolved(reference, await lookup.descriptor())
            except _PASSED_ON as error:
                worst = _better(worst, error)
        assert worst is not None  # _capable gives one host at least
        raise worst

    async def fetcher(self, reference: str) -> Fetcher:
        parsed = Reference.parse(reference)
        return RegistryFetcher(self._transport, parsed, await self._capable(parsed, Capability.PULL), self._parts)

    async def pusher(self, reference: str) -> Pusher:
        parsed = Reference.parse(reference)
        hosts = await self._capable(parsed, Capability.PUSH)
        return RegistryPusher(self._transport, parsed, hosts[0])

    async def _capable(self, reference: Reference, capability: Capability) -> list[RegistryHost]:
        hosts = [host for host in await self._hosts(reference.host) if capability in host.capabilities]
        if not hosts:
            verb = str(capability.name).lower()
            raise NotFound(f'reference "{reference}": no host of "{reference.host}" may {verb}; see its hosts.toml')
        return hosts


#: What one host may answer while another one has the image.
_PASSED_ON: Final = (NotFound, Unavailable, Unauthenticated, PermissionDenied, InvalidArgument)


def _better(first: OrlopError | None, second: OrlopError) -> OrlopError:
    """The error that tells more: of several, anything but "not found"."""
    return second if first is None or isinstance(first, NotFound) else first


class _Lookup:
    """Asks one host for what a reference stands for."""

    def __init__(self, transport: Transport, host: RegistryHost, reference: Reference, *, last: bool) -> None:
        self._transport = transport
        self._host = host
        self._reference = reference
        self._last = last

    async def descriptor(self) -> Descriptor:
        try:
            return await self._ask("manifests")
        except NotFound:
            if not self._reference.digest:
                raise
            return await self._ask("blobs")

    async def _ask(self, kind: str) -> Descriptor:
        async with self._transport.request(self._host, self._call("HEAD", kind)) as response:
            # 403 has no body that could explain it in a HEAD, and some registries know no HEAD at all.
            if response.status_code not in {403, 405}:
                await self._check(response)
                found = self._from_headers(response)
                if found is not None:
                    return found
        async with self._transport.request(self._host, self._call("GET", kind)) as response:
            await self._check(response)
            return await self._from_body(response)

    def _call(self, method: str, kind: str) -> Call:
        reference = self._reference
        return Call(
            method,
            f"/{reference.repository}/{kind}/{reference.object}",
            pull_scope(reference.repository),
            {"Accept": ACCEPT},
            last=self._last,
        )

    async def _check(self, response: httpx.Response) -> None:
        if response.status_code != 200:
            raise await status_error(f'image "{self._reference}"', self._host, response)

    def _from_headers(self, response: httpx.Response) -> Descriptor | None:
        media_type = _media_type(response)
        digest = self._reference.digest or response.headers.get("docker-content-digest", "")
        length = response.headers.get("content-length", "")
        if not digest or not length.isdecimal() or media_type in {"", "application/octet-stream", "application/json"}:
            return None
        check_digest(digest)
        self._refuse_schema1(media_type)
        return Descriptor(media_type, digest, int(length))

    async def _from_body(self, response: httpx.Response) -> Descriptor:
        data = await read_limited(response, MANIFEST_LIMIT)
        digest = self._reference.digest or "sha256:" + hashlib.sha256(data).hexdigest()
        algorithm, _, value = digest.partition(":")
        if algorithm not in hashlib.algorithms_available or hashlib.new(algorithm, data).hexdigest() != value:
            raise DataLoss(
                f'image "{self._reference}": registry "{self._host.host}" sent something with another digest'
            )
        media_type = _media_type(response)
        if media_type not in MANIFEST_TYPES:
            media_type = _declared_type(data) or media_type
        self._refuse_schema1(media_type)
        return Descriptor(media_type, digest, len(data))

    def _refuse_schema1(self, media_type: str) -> None:
        if media_type in _SCHEMA1 or media_type.startswith("text/"):
            raise Unimplemented(
                f'image "{self._reference}": is of the kind "{media_type}" (Docker schema 1), which is no longer '
                "supported; push it again with a current tool"
            )


class RegistryFetcher:
    """Reads from one repository, of the first host that has what is asked for."""

    def __init__(
        self, transport: Transport, reference: Reference, hosts: Sequence[RegistryHost], parts: Parts | None = None
    ) -> None:
        self._transport = transport
        self._reference = reference
        self._hosts = hosts
        self._parts = parts

    async def fetch(self, descriptor: Descriptor, *, offset: int = 0) -> AsyncIterator[bytes]:
        position = offset
        parts = self._parts if descriptor.media_type not in MANIFEST_TYPES else None
        if parts is not None and parts.split(descriptor.size - offset):
            section = partial(self._section, descriptor, in_parts=True)
            try:
                async with aclosing(parts.fetch(offset, descriptor.size, section)) as chunks:
                    async for chunk in chunks:
                        position += len(chunk)
                        yield chunk
            except RangesIgnored as error:
                log.debug("%s: fetched as one stream", error)
        async with aclosing(self._section(descriptor, position, descriptor.size)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _section(
        self, descriptor: Descriptor, start: int, end: int, *, in_parts: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from *start* to *end*, however often the connection breaks; all after *start* unless *in_parts*."""
        position = start
        futile = 0
        while position < end:
            before = position
            try:
                async with aclosing(self._any_host(descriptor, position, end if in_parts else None)) as chunks:
                    async for chunk in chunks:
                        position += len(chunk)
                        if position > end:
                            raise DataLoss(
                                f'content "{descriptor.digest}": registry sent more than {descriptor.size} bytes'
                            )
                        yield chunk
                if position < end:
                    raise Unavailable(f'content "{descriptor.digest}": ended at {position} of {descriptor.size} bytes')
            except Unavailable:
                futile = futile + 1 if position == before else 1
                if futile > _FUTILE or position == start == before:
                    raise
                await asyncio.sleep(0.05 * 2**futile)

    async def _any_host(self, descriptor: Descriptor, offset: int, end: int | None) -> AsyncGenerator[bytes, None]:
        worst: OrlopError | None = None
        for host in self._hosts:
            started = False
            try:
                async with aclosing(self._one_host(descriptor, offset, end, host)) as chunks:
                    async for chunk in chunks:
                        started = True
                        yield chunk
                return
            except _PASSED_ON as error:
                if started:
                    raise
                worst = _better(worst, error)
        assert worst is not None  # there is one host at least
        raise worst

    async def _one_host(
        self, descriptor: Descriptor, offset: int, end: int | None, host: RegistryHost
    ) -> AsyncGenerator[bytes, None]:
        kinds = ("manifests", "blobs") if descriptor.media_type in MANIFEST_TYPES else ("blobs", "manifests")
        repository = self._reference.repository
        for kind in kinds:
            headers = {"Accept": f"{descriptor.media_type}, */*"}
            if offset or end is not None:
                headers["Range"] = f"bytes={offset}-{'' if end is None else end - 1}"
            path = f"/{repository}/{kind}/{descriptor.digest}"
            call = Call("GET", path, pull_scope(repository), headers, last=host is self._hosts[-1])
            async with self._transport.request(host, call) as response:
                if response.status_code == 404 and kind == kinds[0]:
                    continue
                if response.status_code not in {200, 206}:
                    raise await status_error(f'content "{descriptor.digest}"', host, response)
                if end is not None and response.status_code == 200:
                    raise RangesIgnored(f'content "{descriptor.digest}": registry "{host.host}" knows no ranges')
                async with aclosing(_body(response, offset)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return


async def _body(response: httpx.Response, offset: int) -> AsyncGenerator[bytes, None]:
    """The body from *offset*, whether or not the server heeded the range."""
    skip = offset
    if response.status_code == 206:
        sent = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
        if not sent.isdecimal() or int(sent) > offset:
            raise OutOfRange(f"range from {offset} was answered with {response.headers.get('content-range')!r}")
        skip = offset - int(sent)
    async for chunk in response.aiter_bytes():
        if skip >= len(chunk):
            skip -= len(chunk)
            continue
        yield chunk[skip:]
        skip = 0


class RegistryPusher:
    """Writes to one repository of one host."""

    def __init__(self, transport: Transport, reference: Reference, host: RegistryHost) -> None:
        self._transport = transport
        self._reference = reference
        self._host = host
        self._scopes = push_scope(reference.repository)

    async def push(self, descriptor: Descriptor, body: Body, *, sources: Sequence[str] = ()) -> None:
        if descriptor.media_type in MANIFEST_TYPES:
            await self._push_manifest(descriptor, body)
        else:
            await self._push_blob(descriptor, body, sources)

    async def _push_manifest(self, descriptor: Descriptor, body: Body) -> None:
        # Of an index's manifests only the top gets the tag; a digest in the reference says which one that is.
        tag = self._reference.tag if descriptor.digest == self._reference.digest or not self._reference.digest else ""
        path = f"/{self._reference.repository}/manifests/{tag or descriptor.digest}"
        if await self._exists(path, descriptor):
            raise AlreadyExists(f'manifest "{descriptor.digest}": is there already')
        headers = {"Content-Type": descriptor.media_type, "Content-Length": str(descriptor.size)}
        call = Call("PUT", path, self._scopes, headers, body)
        async with self._transport.request(self._host, call) as response:
            if response.status_code not in {200, 201, 202}:
                raise await status_error(f'manifest "{descriptor.digest}"', self._host, response)
            _check_stored(descriptor, response)

    async def _push_blob(self, descriptor: Descriptor, body: Body, sources: Sequence[str]) -> None:
        repository = self._reference.repository
        if await self._exists(f"/{repository}/blobs/{descriptor.digest}", descriptor):
            raise AlreadyExists(f'content "{descriptor.digest}": is there already')
        location = await self._begin(descriptor, sources)
        if location is None:
            return
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(descriptor.size)}
        call = Call("PUT", location, self._scopes, headers, body, params={"digest": descriptor.digest})
        async with self._transport.request(self._host, call) as response:
            if response.status_code not in {200, 201, 202, 204}:
                raise await status_error(f'content "{descriptor.digest}"', self._host, response)
            _check_stored(descriptor, response)

    async def _exists(self, path: str, descriptor: Descriptor) -> bool:
        call = Call("HEAD", path, self._scopes, {"Accept": f"{descriptor.media_type}, */*"})
        async with self._transport.request(self._host, call) as response:
            if response.status_code == 404:
                return False
            if response.status_code != 200:
                raise await status_error(f'content "{descriptor.digest}"', self._host, response)
            # Below a tag may be another manifest.
            return bool(response.headers.get("docker-content-digest", descriptor.digest) == descriptor.digest)

    async def _begin(self, descriptor: Descriptor, sources: Sequence[str]) -> str | None:
        """Start an upload and return where to send it; None when the registry took the blob from another repository."""
        repository = self._reference.repository
        path = f"/{repository}/blobs/uploads/"
        for source in sources:
            params = {"mount": descriptor.digest, "from": source}
            call = Call("POST", path, push_scope(repository, source), {"Content-Length": "0"}, params=params)
            async with self._transport.request(self._host, call) as response:
                if response.status_code == 201:
                    return None
                if response.status_code == 202:
                    return _location(response)
        async with self._transport.request(
            self._host, Call("POST", path, self._scopes, {"Content-Length": "0"})
        ) as response:
            if response.status_code == 201:
                return None
            if response.status_code != 202:
                raise await status_error(f'content "{descriptor.digest}"', self._host, response)
            return _location(response)


def _location(response: httpx.Response) -> str:
    location = response.headers.get("location", "")
    if not location:
        raise Unavailable(f'registry "{response.request.url.host}": began an upload without saying where')
    return str(response.request.url.join(location))


def _check_stored(descriptor: Descriptor, response: httpx.Response) -> None:
    stored = response.headers.get("docker-content-digest", descriptor.digest)
    if stored != descriptor.digest:
        raise DataLoss(f'content "{descriptor.digest}": the registry stored it as "{stored}"')


def _media_type(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip()


def _declared_type(data: bytes) -> str:
    try:
        manifest = json.loads(data)
    except ValueError:
        return ""
    if not isinstance(manifest, dict):
        return ""
    if manifest.get("schemaVersion") == 1:
        return _SCHEMA1[0]
    if manifest.get("mediaType"):
        return str(manifest["mediaType"])
    return MANIFEST_TYPES[3] if "manifests" in manifest else MANIFEST_TYPES[2] if "layers" in manifest else ""


_resolver: type[Resolver] = RegistryResolver
_fetcher: type[Fetcher] = RegistryFetcher
_pusher: type[Pusher] = RegistryPusher
