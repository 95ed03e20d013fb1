# SPDX-License-Identifier: Apache-2.0
"""The plugins of this room as a kernel finds them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orlop import context
from orlop.config import from_data
from orlop.interfaces.content import CONTENT
from orlop.interfaces.event import EVENT
from orlop.interfaces.metadata import GC, METADATA
from orlop.kernel import Kernel
from orlop.values import Descriptor, Image
from orlop_sdk.testing.content import put

ONLY = (
    "io.containerd.gc.v1.scheduler",
    "io.containerd.snapshotter.v1.native",
)


def config(root: Path) -> dict[str, object]:
    scheduler = {"startup_delay": "1ms", "schedule_delay": "0s", "mutation_threshold": 5}
    return {
        "version": 3,
        "root": str(root / "root"),
        "state": str(root / "state"),
        "plugins": {
            "io.containerd.gc.v1.scheduler": scheduler,
            "io.containerd.metadata.v1.bolt": {"content_sharing_policy": "isolated", "no_sync": True},
        },
    }


async def test_embedded(tmp_path: Path) -> None:
    for _ in range(2):
        async with Kernel(from_data(config(tmp_path)), only=ONLY) as kernel:
            metadata = kernel.get(METADATA)
            statuses = {status.uri: status for status in kernel.registry.statuses()}
            assert {status.state for status in statuses.values()} == {"ok"}
            assert statuses["io.containerd.metadata.v1.bolt"].exports == {
                "policy": "isolated",
                "path": str(tmp_path / "root/io.containerd.metadata.v1.bolt/meta.sqlite"),
            }
            assert statuses["io.containerd.gc.v1.scheduler"].exports["PauseThreshold"] == "0.02"
            assert list(metadata.snapshotters) == ["native"]
            with context.scope(namespace="default"):
                async with kernel.get(EVENT).subscribe() as events:
                    await metadata.leases.create("lease")
                    with context.scope(namespace="default", lease="lease"):
                        digest = await put(metadata.content, b"data")
                    await metadata.images.create(Image("image", Descriptor("m", digest, 4)))
                    topics = [(await asyncio.wait_for(anext(events), 5)).topic for _ in range(2)]
                    assert topics == ["/content/create", "/images/create"]
                await metadata.leases.delete("lease")
                assert (tmp_path / "root/io.containerd.content.v1.content/blobs/sha256" / digest[7:]).is_file()
                await metadata.images.delete("image", sync=True)
                assert [info async for info in kernel.get(CONTENT, "content").walk()] == []
                assert (await kernel.get(GC).collect_now()).removed == {}
            assert await metadata.check() == []
