# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.sandbox.v1.Controller`` for clients: with records of the store, and events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from google.protobuf.message import Message

from orlop import context
from orlop.errors import NotFound, OrlopError, Unimplemented
from orlop.interfaces.event import EventExchange
from orlop.interfaces.metadata import MetadataStore
from orlop.interfaces.sandbox import SandboxController
from orlop.values import AnyMessage
from orlop_sdk.api.events.sandbox_pb2 import SandboxCreate, SandboxExit, SandboxStart
from orlop_sdk.api.services.sandbox.v1 import sandbox_pb2 as pb
from orlop_sdk.convert.common import time_to_wire
from orlop_sdk.convert.sandboxes import sandbox_to_wire
from orlop_sdk.serving.sandbox import SandboxControllerService

log = logging.getLogger("orlop.sandboxes")

#: Seconds between attempts to hear of a sandbox's end from a controller that does not answer.
_RETRY: Final = 1.0
_RETRY_AT_MOST: Final = 30.0


class SandboxControllersService(SandboxControllerService):
    """Runs sandboxes, and publishes what becomes of them: each end once, whether a client waits for it or not."""

    def __init__(
        self, controllers: Mapping[str, SandboxController], metadata: MetadataStore, events: EventExchange
    ) -> None:
        super().__init__(controllers)
        self._metadata = metadata
        self._events = events
        self._watches: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._resuming: asyncio.Task[None] | None = None

    def resume(self) -> None:
        """Watch, from now on, the sandboxes that there are from before this daemon started."""
        self._resuming = asyncio.create_task(self._resume())

    async def Create(self, request: pb.ControllerCreateRequest) -> pb.ControllerCreateResponse:
        if not request.HasField("sandbox"):
            # Clients of older versions send the id of a record that they stored.
            request.sandbox.CopyFrom(sandbox_to_wire(await self._metadata.sandboxes.get(request.sandbox_id)))
        answer = await super().Create(request)
        await self._publish("/sandboxes/create", SandboxCreate(sandbox_id=answer.sandbox_id))
        return answer

    async def Start(self, request: pb.ControllerStartRequest) -> pb.ControllerStartResponse:
        answer = await super().Start(request)
        await self._publish("/sandboxes/start", SandboxStart(sandbox_id=request.sandbox_id))
        self._watch(context.namespace(), request.sandbox_id, request.sandboxer)
        return answer

    async def close(self) -> None:
        """Stop watching, and as `Service.close`."""
        for task in (*self._watches.values(), *((self._resuming,) if self._resuming is not None else ())):
            task.cancel()
        await super().close()

    def _watch(self, namespace: str, id: str, sandboxer: str) -> None:
        key = (namespace, id)
        if key not in self._watches:
            with context.scope(namespace=namespace):
                task = self._watches[key] = asyncio.create_task(self._until_end(id, sandboxer))
            task.add_done_callback(lambda _: self._watches.pop(key, None))

    async def _until_end(self, id: str, sandboxer: str) -> None:
        pause, ended = _RETRY, None
        while ended is None:
            controller = self._controllers.get(sandboxer)
            try:
                if controller is not None:
                    ended = await controller.wait(id)
                    continue
            except (NotFound, Unimplemented):
                return
            except OrlopError as error:
                log.debug('sandbox "%s": its end is not known: %s', id, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _RETRY_AT_MOST)
        exited_at = time_to_wire(ended.exited_at)
        await self._publish(
            "/sandboxes/exit", SandboxExit(sandbox_id=id, exit_status=ended.status, exited_at=exited_at)
        )

    async def _resume(self) -> None:
        for namespace in await self._metadata.namespaces.list():
            with context.scope(namespace=namespace.name):
                for sandbox in await self._metadata.sandboxes.list():
                    if sandbox.sandboxer in self._controllers:
                        self._watch(namespace.name, sandbox.id, sandbox.sandboxer)

    async def _publish(self, topic: str, event: Message) -> None:
        await self._events.publish(topic, AnyMessage(event.DESCRIPTOR.full_name, event.SerializeToString()))
