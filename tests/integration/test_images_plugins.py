# SPDX-License-Identifier: Apache-2.0
"""The images room's plugins as a kernel brings them up."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.unpacking import bind, file, raw

from orlop import context
from orlop.config import from_data
from orlop.errors import NotFound, Unimplemented
from orlop.hooks import hook, hookimpl
from orlop.interfaces.differ import DIFF_SERVICE
from orlop.interfaces.metadata import METADATA
from orlop.interfaces.stream import TAR
from orlop.kernel import Kernel
from orlop.plugin import InitContext, NoConfig
from orlop.values import Descriptor
from orlop_sdk.testing.differ import add, digest

ROT = "application/vnd.oci.image.layer.v1.tar+gzip+rot"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
SERVICE = "io.containerd.service.v1.diff-service"
TABLE = bytes.maketrans(bytes(range(256)), bytes((n + 128) % 256 for n in range(256)))
SCRIPT = """
import sys
table = bytes((n + 128) % 256 for n in range(256))
sys.stdout.buffer.write(sys.stdin.buffer.read().translate(table))
"""


def config(base: Path, **more: Any) -> Any:
    return from_data({"version": 4, "root": str(base / "root"), "state": str(base / "state"), **more})


class Chooser:
    """A hook that notes what it is asked, and chooses what it is told to."""

    def __init__(self, answer: str | None) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.answer = answer

    @hookimpl
    def orlop_stream_processor(self, media_type: str, candidates: list[str]) -> str | None:
        self.asked.append((media_type, candidates))
        return self.answer if self.answer in candidates else None


async def test_a_layer_goes_through_the_configured_program(short_tmp: Path) -> None:
    hooks = Chooser("rot")

    @hook("chooser")
    async def chooser(ctx: InitContext[NoConfig]) -> object:
        return hooks

    table = {"accepts": [ROT], "returns": GZIP, "path": sys.executable, "args": ["-c", SCRIPT]}
    tables = {"rot": table, "older": table | {"path": "/no/such/program"}}
    layer = raw([file("a", b"through the program")])
    target = short_tmp / "t"
    target.mkdir()
    streams = [f"io.orlop.stream-processor.v1.{id}" for id in ("gzip", "rot", "older")]
    only = [SERVICE, chooser.uri, *streams]
    async with Kernel(config(short_tmp, stream_processors=tables), only=only, plugins=[chooser]) as kernel:
        differ = kernel.get(DIFF_SERVICE, "diff-service")
        with context.scope(namespace="n"):
            blob = await add(kernel.get(METADATA).content, gzip.compress(layer).translate(TABLE), ROT)
            assert await differ.apply(blob, bind(target)) == Descriptor(TAR, digest(layer), len(layer))
            with pytest.raises(Unimplemented, match='no processor for media-type "x"'):
                await differ.apply(Descriptor("x", blob.digest, 1), bind(target))
    assert (target / "a").read_bytes() == b"through the program"
    assert [(media_type, set(ids)) for media_type, ids in hooks.asked] == [(ROT, {"rot", "older"}), (GZIP, {"gzip"})]


async def test_an_order_with_a_stranger_is_told(short_tmp: Path) -> None:
    tables = {SERVICE: {"default": ["walking", "erofs"]}}
    async with Kernel(config(short_tmp, plugins=tables), only=[SERVICE]) as kernel:
        differ = kernel.get(DIFF_SERVICE, "diff-service")
        with context.scope(namespace="n"), pytest.raises(NotFound, match='differ "erofs"'):
            await differ.apply(Descriptor("x", digest(b""), 0), bind(short_tmp))
