# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.version.v1.Version``."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from orlop_sdk.api.services.version.v1 import version_pb2 as pb
from orlop_sdk.rpc.service import Service


class VersionService(Service):
    """Which program this is."""

    service = "containerd.services.version.v1.Version"

    def __init__(self, version: str, revision: str) -> None:
        self._answer = pb.VersionResponse(version=version, revision=revision)

    async def Version(self, _request: Empty) -> pb.VersionResponse:
        return self._answer
