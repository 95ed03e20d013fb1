# SPDX-License-Identifier: Apache-2.0
"""``orlopd publish``: how a shim, or anyone, tells the daemon of an event.

The daemon is reached over ttrpc where ``TTRPC_ADDRESS`` says so and nothing else was asked for: that needs no grpc,
whose import alone takes longer than the rest.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from orlop.context import NAMESPACE_HEADER, TTRPC_NAMESPACE_HEADER
from orlop.errors import OrlopError
from orlop_services.daemon.paths import DEFAULT_ADDRESS

#: Seconds; a daemon that is gone must not keep a shim waiting.
TIMEOUT: Final = 5.0


def publish(arguments: argparse.Namespace) -> int:
    """Publish the event on standard input; the exit status is 1 when that fails."""
    if not arguments.topic or not arguments.namespace:
        return _fail("--topic and --namespace are both required")
    try:
        event = Any.FromString(sys.stdin.buffer.read())
    except DecodeError:
        return _fail("standard input: not a google.protobuf.Any")
    if not event.type_url:
        return _fail("standard input: an event without a type")
    ttrpc = os.environ.get("TTRPC_ADDRESS", "")
    address = arguments.address or DEFAULT_ADDRESS
    if ttrpc and (arguments.address is None or ttrpc.removeprefix("unix://") == f"{arguments.address}.ttrpc"):
        return _over_ttrpc(ttrpc, arguments.namespace, arguments.topic, event)
    return _over_grpc(address, arguments.namespace, arguments.topic, event)


def _over_ttrpc(address: str, namespace: str, topic: str, event: Any) -> int:
    import asyncio

    from google.protobuf.empty_pb2 import Empty

    from orlop_sdk.api.services.ttrpc.events.v1.events_pb2 import ForwardRequest
    from orlop_sdk.api.types.event_pb2 import Envelope
    from orlop_sdk.ttrpc.client import Client

    envelope = Envelope(namespace=namespace, topic=topic, event=event)
    envelope.timestamp.GetCurrentTime()

    async def forward() -> None:
        async with await Client.connect(address) as client:
            call = client.unary_unary(
                "/containerd.services.events.ttrpc.v1.Events/Forward",
                ForwardRequest.SerializeToString,
                Empty.FromString,
            )
            metadata = [(TTRPC_NAMESPACE_HEADER, namespace)]
            await call(ForwardRequest(envelope=envelope), timeout=TIMEOUT, metadata=metadata)

    try:
        asyncio.run(forward())
    except OrlopError as error:
        return _fail(str(error))
    return 0


def _over_grpc(address: str, namespace: str, topic: str, event: Any) -> int:
    import grpc
    from google.protobuf.empty_pb2 import Empty

    from orlop_sdk.api.services.events.v1.events_pb2 import PublishRequest

    target = address if "://" in address else f"unix://{address}"
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary(
            "/containerd.services.events.v1.Events/Publish",
            request_serializer=PublishRequest.SerializeToString,
            response_deserializer=Empty.FromString,
        )
        try:
            metadata = ((NAMESPACE_HEADER, namespace),)
            call(PublishRequest(topic=topic, event=event), timeout=TIMEOUT, metadata=metadata)
        except grpc.RpcError as error:
            return _fail(f'address "{address}": {error.details()}')
    return 0


def _fail(reason: str) -> int:
    sys.stderr.write(f"orlopd: publish: {reason}\n")
    return 1
