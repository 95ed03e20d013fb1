# SPDX-License-Identifier: Apache-2.0
"""A daemon's mount manager over a channel. See `orlop.interfaces.mount.MountManager`."""

from __future__ import annotations

import builtins
from collections.abc import Sequence

from orlop.errors import InvalidArgument
from orlop.interfaces.mount import Activation, MountManager
from orlop.values import EMPTY, Labels, Mount
from orlop_sdk.api.services.mounts.v1 import mounts_pb2 as pb
from orlop_sdk.client.records import field_mask
from orlop_sdk.convert.common import mounts_to_wire
from orlop_sdk.convert.mounts import activation_from_wire, activation_to_wire
from orlop_sdk.rpc.channel import Channel
from orlop_sdk.rpc.stub import Stub


class RemoteMountManager:
    """The mounts of a daemon's host."""

    def __init__(self, channel: Channel) -> None:
        self._stub = Stub(channel, "containerd.services.mounts.v1.Mounts")

    async def activate(
        self,
        name: str,
        mounts: Sequence[Mount],
        *,
        labels: Labels = EMPTY,
        temporary: bool = False,
        allowed: Sequence[str] = (),
    ) -> Activation:
        """As the daemon's, which decides by itself what is *allowed*. Raises `InvalidArgument` when that is given."""
        if allowed:
            raise InvalidArgument(f'mount activation "{name}": a daemon cannot be told what else is allowed')
        request = pb.ActivateRequest(name=name, mounts=mounts_to_wire(mounts), labels=dict(labels), temporary=temporary)
        return activation_from_wire((await self._stub.Activate(request)).info)

    async def deactivate(self, name: str) -> None:
        await self._stub.Deactivate(pb.DeactivateRequest(name=name))

    async def info(self, name: str) -> Activation:
        return activation_from_wire((await self._stub.Info(pb.InfoRequest(name=name))).info)

    async def update(self, activation: Activation, fieldpaths: Sequence[str] = ()) -> Activation:
        request = pb.UpdateRequest(info=activation_to_wire(activation), update_mask=field_mask(fieldpaths))
        return activation_from_wire((await self._stub.Update(request)).info)

    async def list(self, filters: Sequence[str] = ()) -> builtins.list[Activation]:
        async with self._stub.List(pb.ListRequest(filters=filters)) as messages:
            return [activation_from_wire(message.info) async for message in messages]


_: type[MountManager] = RemoteMountManager
