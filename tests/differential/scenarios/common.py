# SPDX-License-Identifier: Apache-2.0
"""What tables of scenarios are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from tests.differential.calls import Call, Scenario, Step, call

SPEC = {"type_url": "types.containerd.io/opencontainers/runtime-spec/1/Spec", "value": b"{}"}
OTHER = {"type_url": "example.com/other", "value": b"\x01\x02"}
RUNTIME = {"name": "io.containerd.runc.v2"}
BLOB = b"hello, blob\n"
LONG = "x" * 4096
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ROOT = {"containerd.io/gc.root": "1"}
Steps = Step | Sequence[Step]
Rows = dict[str, Steps]
"""A table: a name for each row, and its steps."""


def digest(data: bytes) -> str:
    """The digest of a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


DIGEST = digest(BLOB)
UNKNOWN = f"sha256:{'12' * 32}"
TARGET = {"media_type": MANIFEST, "digest": UNKNOWN, "size": 7}


def steps(some: Steps) -> tuple[Step, ...]:
    """One step or several, as several."""
    return tuple(some) if isinstance(some, Sequence) else (some,)


def table(
    prefix: str, rows: Mapping[str, Steps], *, before: Sequence[Step] = (), after: Sequence[Step] = ()
) -> list[Scenario]:
    """A scenario for each row, which all begin and end alike."""
    return [Scenario(f"{prefix}: {name}", (*before, *steps(row), *after)) for name, row in rows.items()]


def masks(method: str, field: str, change: Mapping[str, Any], *paths: Sequence[str]) -> dict[str, Call]:
    """Rows that make the same update under one mask each."""
    return {
        f"mask {','.join(mask) or 'none'!r}": call(method, {field: change, "update_mask": {"paths": list(mask)}})
        for mask in paths
    }


def written(ref: str, data: bytes = BLOB, **more: Any) -> dict[str, Any]:
    """A request that writes a blob's bytes."""
    return {"action": 1, "ref": ref, "data": data} | more


def commit(ref: str, data: bytes = BLOB, **more: Any) -> dict[str, Any]:
    """A request that commits them."""
    return {"action": 2, "ref": ref, "offset": len(data), "total": len(data), "expected": digest(data)} | more


def ingested(data: bytes = BLOB, ref: str = "given", *, lease: str = "", **more: Any) -> Call:
    """A call that stores a blob."""
    return call("Content.Write", written(ref, data), commit(ref, data, **more), lease=lease)
