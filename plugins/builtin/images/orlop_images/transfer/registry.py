# SPDX-License-Identifier: Apache-2.0
"""Registries as clients name them: how to reach one, and how to ask the client who to be there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from orlop.errors import InvalidArgument, OrlopError, PermissionDenied, Unauthenticated
from orlop.interfaces.streaming import Stream, StreamManager
from orlop.interfaces.transfer import IMAGE_VERIFIER
from orlop.values import Descriptor
from orlop_images.transfer import plugin
from orlop_images.transfer.plugin import TransferConfig
from orlop_sdk.api.types.transfer import registry_pb2
from orlop_sdk.convert.common import pack, time_from_wire, unpack
from orlop_sdk.registry.credentials import Credential, Credentials, anonymous
from orlop_sdk.registry.hosts import DirectoryHosts, Hosts, PlainHosts
from orlop_sdk.registry.interface import Fetcher, Pusher, Resolved, Resolver
from orlop_sdk.registry.parts import Parts
from orlop_sdk.registry.reference import Reference
from orlop_sdk.registry.resolver import RegistryResolver

log = logging.getLogger(__name__)

_SCHEMES: Final = ("", "https", "http")


@asynccontextmanager
async def opened(
    message: registry_pb2.OCIRegistry, config: TransferConfig, streams: StreamManager
) -> AsyncIterator[RegistryResolver]:
    """The resolver that a client described, with connections of its own; its streams end with the block."""
    Reference.parse(message.reference)
    wanted = message.resolver
    async with AsyncExitStack() as stack:
        credentials: Credentials = anonymous
        if wanted.auth_stream:
            stream = await streams.get(wanted.auth_stream)
            stack.push_async_callback(stream.close)
            credentials = AskedCredentials(stream, message.reference)
        if wanted.logs_stream:
            # Requests are not dumped; whoever waits for the dump is told that nothing comes.
            await (await streams.get(wanted.logs_stream)).close()
        resolver = RegistryResolver(
            hosts=_hosts(wanted, config.config_path),
            credentials=credentials,
            headers=dict(wanted.headers),
            parts=Parts(config.concurrent_layer_fetch_buffer, config.max_concurrent_downloads),
        )
        yield await stack.enter_async_context(resolver)


def _hosts(wanted: registry_pb2.RegistryResolver, config_path: str) -> Hosts:
    if wanted.default_scheme not in _SCHEMES:
        raise InvalidArgument(f'registry: default_scheme must be http or https, not "{wanted.default_scheme}"')
    plain = wanted.default_scheme == "http"
    paths = [Path(each) for each in (wanted.host_dir or config_path).split(":") if each]
    return DirectoryHosts(paths, plain_http=plain) if paths else PlainHosts(plain_http=plain)


class AskedCredentials:
    """Asks the client, one question at a time, and remembers the answers for the length of the transfer."""

    def __init__(self, stream: Stream, reference: str) -> None:
        self._stream = stream
        self._reference = reference
        self._known: dict[str, tuple[Credential | None, float]] = {}
        self._lock = asyncio.Lock()

    async def __call__(self, host: str) -> Credential | None:
        """Raises `Unauthenticated` when the client does not answer any more."""
        async with self._lock:
            credential, until = self._known.get(host, (None, 0.0))
            if until < time.time():
                credential, until = await self._ask(host)
                self._known[host] = credential, until
            return credential

    async def _ask(self, host: str) -> tuple[Credential | None, float]:
        try:
            await self._stream.send(pack(registry_pb2.AuthRequest(host=host, reference=self._reference)))
            message = await self._stream.receive()
        except OrlopError as error:
            raise Unauthenticated(f'registry "{host}": the client does not say who it is: {error}') from error
        if message is None:
            raise Unauthenticated(f'registry "{host}": the client does not say who it is')
        answer = unpack(message, registry_pb2.AuthResponse)
        until = time_from_wire(answer.expire_at).timestamp() if answer.HasField("expire_at") else float("inf")
        return _credential(answer), until


def _credential(answer: registry_pb2.AuthResponse) -> Credential | None:
    kinds = registry_pb2.AuthType
    if answer.authType == kinds.CREDENTIALS and (answer.username or answer.secret):
        return Credential(answer.username, answer.secret)
    if answer.authType == kinds.REFRESH and answer.secret:
        return Credential("", answer.secret)
    if answer.authType == kinds.HEADER and answer.secret:
        return Credential(header=answer.secret)
    return None


class VerifiedResolver:
    """A resolver whose answers all image verifiers have agreed to."""

    def __init__(self, resolver: Resolver, parts: plugin.Parts, agreed: Callable[[], None]) -> None:
        self._resolver = resolver
        self._parts = parts
        self._agreed = agreed

    async def resolve(self, reference: str) -> Resolved:
        resolved = await self._resolver.resolve(reference)
        await verify(self._parts, resolved.name, resolved.descriptor)
        self._agreed()
        return resolved

    async def fetcher(self, reference: str) -> Fetcher:
        return await self._resolver.fetcher(reference)

    async def pusher(self, reference: str) -> Pusher:
        return await self._resolver.pusher(reference)


async def verify(parts: plugin.Parts, name: str, descriptor: Descriptor) -> None:
    """Raise `PermissionDenied` unless every image verifier lets the image in. One that is out of order refuses."""
    for status in parts.plugins.statuses():
        if status.type == IMAGE_VERIFIER.name and status.state == "failed":
            raise PermissionDenied(f'image "{name}": blocked, for the image verifier {status.id} failed to start')
    for id, verifier in list(parts.verifiers.items()):
        what = f'image "{name}" ({descriptor.digest})'
        try:
            judgement = await verifier.verify(name, descriptor)
        except OrlopError as error:
            raise PermissionDenied(
                f"{what}: blocked, for the image verifier {id} gave no judgement: {error}"
            ) from error
        if not judgement.ok:
            log.warning("%s: blocked by the image verifier %s: %s", what, id, judgement.reason)
            raise PermissionDenied(f"{what}: blocked by the image verifier {id}: {judgement.reason}")


_resolver: type[Resolver] = VerifiedResolver
