# SPDX-License-Identifier: Apache-2.0
"""Layers that are applied to directories, and made of them."""

from __future__ import annotations

from typing import Any

from tests.differential.calls import DIR, Call, Make, Scenario, call
from tests.differential.scenarios.common import BLOB, UNKNOWN, Rows, digest, ingested, table
from tests.support.image import LAYER_GZIP, LAYER_TAR, entry, symlink, tar

LAYER = tar(
    [entry("a/"), entry("a/file", b"text"), symlink("link", "a/file"), entry(".wh.gone"), entry("b", b"x" * 999)]
)
DOTS = tar([entry("../outside", b"no")])
STORED = ingested(LAYER, "layer")


def bind(path: str = "into") -> dict[str, Any]:
    """A mount of a directory of this side."""
    return {"type": "bind", "source": f"{DIR}/{path}", "options": ["rbind", "rw"]}


def apply(data: bytes = LAYER, media_type: str = LAYER_TAR, **more: Any) -> Call:
    """A call that applies a layer."""
    target = {"media_type": media_type, "digest": digest(data), "size": len(data)}
    return call("Diff.Apply", {"diff": target | more.pop("target", {}), "mounts": [bind()]} | more)


def compare(left: str = "left", right: str = "right", media_type: str = LAYER_TAR, **more: Any) -> Call:
    """A call that makes a layer."""
    return call("Diff.Diff", {"left": [bind(left)], "right": [bind(right)], "media_type": media_type} | more)


APPLY: Rows = {
    "a tar archive": [STORED, apply()],
    "twice": [STORED, apply(), apply()],
    "with payloads that nobody asked for": [STORED, apply(payloads={"nosuch": {"type_url": "t", "value": b"1"}})],
    "what is not there": apply(target={"digest": UNKNOWN}),
    "a digest of nonsense": apply(target={"digest": "nonsense"}),
    "without a digest": apply(target={"digest": ""}),
    "an unknown media type": [STORED, apply(media_type="text/plain")],
    "without a media type": [STORED, apply(media_type="")],
    "with another size": [STORED, apply(target={"size": 5})],
    "without a size": [STORED, apply(target={"size": 0})],
    "what is no archive": [ingested(), apply(BLOB)],
    "what is not compressed as it says": [STORED, apply(media_type=LAYER_GZIP)],
    "paths that lead out": [ingested(DOTS, "dots"), apply(DOTS)],
    "to a directory that is not there": [STORED, apply(mounts=[bind("nosuch")])],
    "to no mounts": [STORED, apply(mounts=[])],
    "to a mount of an unknown type": [STORED, apply(mounts=[bind() | {"type": "nosuch"}])],
    "from another namespace": [STORED, Call("Diff.Apply", apply().requests, "<ns>-b")],
}
DIFF: Rows = {
    "the same": compare("left", "left"),
    "two directories": compare(),
    "compressed": compare(media_type=LAYER_GZIP),
    "without a media type": compare(media_type=""),
    "an unknown media type": compare(media_type="text/plain"),
    "with labels": compare(labels={"a": "1"}),
    "with a ref": compare(ref="own"),
    "with a ref that is busy": [call("Content.Write", {"action": 1, "ref": "own", "data": b"x"}), compare(ref="own")],
    "a directory that is not there": compare("nosuch"),
    "under a lease": [
        call("Leases.Create", id="l"),
        Call("Diff.Diff", compare("left", "left").requests, lease="l"),
        call("Leases.ListResources", id="l"),
    ],
}
SCENARIOS: list[Scenario] = [
    *table("apply a layer", APPLY, before=[Make("into/gone", "was here")]),
    *table(
        "make a layer",
        DIFF,
        before=[Make("left/a", "1"), Make("right/a", "1"), Make("left/only", "x"), Make("right/new", "2")],
        after=[call("Content.ListStatuses")],
    ),
]
