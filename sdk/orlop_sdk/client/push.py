# SPDX-License-Identifier: Apache-2.0
"""Push an image: its blobs first, then its manifests from the bottom up, the tag at the very end.

::

    await push(services, "registry.example/team/app:1.2", image.target, PushOptions(resolver))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from orlop.errors import AlreadyExists, FailedPrecondition, NotFound
from orlop.values import Descriptor
from orlop_sdk.client.image import (
    Child,
    children,
    chunks,
    is_distributable,
    is_index,
    is_manifest,
    read_manifest,
)
from orlop_sdk.client.image_services import ImageServices
from orlop_sdk.client.platform import Everything, Matcher
from orlop_sdk.client.progress import Progress, ProgressCallback, ProgressKind, about, silent
from orlop_sdk.client.transfer import add_labels, check_concurrency, first_of, source_label, sources
from orlop_sdk.registry.interface import Pusher, Resolver
from orlop_sdk.registry.reference import Reference


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How to push."""

    resolver: Resolver
    platforms: Matcher = field(default_factory=Everything)
    """With anything but `Everything` only the best variant that matches is pushed, without the index above it."""
    uploads: int = 3
    """Blobs that are sent at a time."""
    restricted: bool = False
    """Send also layers that their licence forbids to distribute."""
    progress: ProgressCallback = silent


async def push(services: ImageServices, reference: str, target: Descriptor, options: PushOptions) -> Descriptor:
    """Push what *target* names under a full reference, and return what was pushed.

    Raises `FailedPrecondition` naming what is not in the content store, and what the pusher raises.
    """
    check_concurrency(options.uploads, "uploads")
    parsed = Reference.parse(reference)
    if not isinstance(options.platforms, Everything):
        target = (await read_manifest(services.content, target, options.platforms)).descriptor
    tagged = f"{parsed.locator}:{parsed.tag}@{target.digest}" if parsed.tag else f"{parsed.locator}@{target.digest}"
    pusher = await options.resolver.pusher(tagged)
    job = _Push(services, pusher, parsed, options)
    levels = await job.plan(target)
    for level in levels:
        await job.send(level)
    options.progress(Progress(ProgressKind.DONE, reference, descriptor=target))
    return target


class _Push:
    """Pushes one image."""

    def __init__(self, services: ImageServices, pusher: Pusher, reference: Reference, options: PushOptions) -> None:
        self._services = services
        self._pusher = pusher
        self._reference = reference
        self._options = options
        self._slots = asyncio.Semaphore(options.uploads)

    async def plan(self, target: Descriptor) -> list[list[Descriptor]]:
        """What to send, in steps: nothing refers to anything of a later step."""
        heights: dict[str, int] = {}
        found: dict[str, Descriptor] = {}
        missing: list[str] = []
        await self._visit(Child(target), heights, found, missing)
        if missing:
            names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise FailedPrecondition(
                f'image "{self._reference}": not all of it is here ({names}); pull all platforms, or name one to push'
            )
        levels: list[list[Descriptor]] = [[] for _ in range(max(heights.values()) + 1)]
        for digest, descriptor in found.items():
            levels[heights[digest]].append(descriptor)
        return levels

    async def _visit(
        self, child: Child, heights: dict[str, int], found: dict[str, Descriptor], missing: list[str]
    ) -> int:
        descriptor = child.descriptor
        if descriptor.digest in heights:
            return heights[descriptor.digest]
        if not is_distributable(descriptor.media_type) and not self._options.restricted:
            return -1
        try:
            await self._services.content.info(descriptor.digest)
            below = await children(self._services.content, descriptor)
        except NotFound:
            missing.append(descriptor.digest)
            return -1
        if below:
            expanded = tuple(each.descriptor for each in below)
            self._options.progress(
                Progress(ProgressKind.EXPANDED, descriptor.digest, 0, descriptor.size, descriptor, expanded)
            )
        height = 0
        for each in below:
            height = max(height, 1 + await self._visit(each, heights, found, missing))
        if is_manifest(descriptor.media_type) or is_index(descriptor.media_type):
            height = max(height, 1)
        heights[descriptor.digest] = height
        found[descriptor.digest] = descriptor
        return height

    async def send(self, level: list[Descriptor]) -> None:
        """Send all of one step."""
        try:
            async with asyncio.TaskGroup() as group:
                for descriptor in level:
                    group.create_task(self._send_one(descriptor))
        except BaseExceptionGroup as errors:
            raise first_of(errors) from errors

    async def _send_one(self, descriptor: Descriptor) -> None:
        content = self._services.content
        info = await content.info(descriptor.digest)
        host, repository = self._reference.host, self._reference.repository
        progress = self._options.progress

        async def body() -> AsyncIterator[bytes]:
            offset = 0
            async for chunk in chunks(content, descriptor):
                yield chunk
                offset += len(chunk)
                about(progress, ProgressKind.UPLOADING, descriptor, offset)

        async with self._slots:
            about(progress, ProgressKind.UPLOADING, descriptor, 0)
            try:
                await self._pusher.push(descriptor, body, sources=sources(info.labels, host, repository)[:3])
                about(progress, ProgressKind.UPLOADED, descriptor)
            except AlreadyExists:
                about(progress, ProgressKind.EXISTS, descriptor)
        await add_labels(content, descriptor.digest, source_label(host, repository))
