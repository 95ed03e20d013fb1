# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import gzip
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest
from tests.support.unpacking import processors

from orlop.errors import InvalidArgument, NotFound, PermissionDenied, Unimplemented, Unknown
from orlop.interfaces.proxy import PROXY
from orlop.interfaces.stream import STREAM_PROCESSOR, TAR, StreamProcessor
from orlop.plugin import ProxyTarget
from orlop.values import AnyMessage
from orlop_images import binary, media, streams
from orlop_images.binary import ProgramKind
from orlop_images.process import Workers
from orlop_images.streams import Chain, chain, split_codecs
from orlop_sdk.testing.stream import convert, read

ENCRYPTED = f"{media.OCI_GZIP}+encrypted"


class Claims:
    """Claims what a table says."""

    def __init__(self, table: dict[str, str]) -> None:
        self.table = table

    def claim(self, media_type: str) -> str | None:
        return self.table.get(media_type)

    async def open(self, source: int, media_type: str, payload: AnyMessage | None = None) -> Any:
        raise AssertionError("is never opened")


def no_opinion(media_type: str, candidates: list[str]) -> str | None:
    return None


@pytest.fixture
def built_in() -> dict[str, StreamProcessor]:
    return processors(Workers("never-started"))


async def program(table: dict[str, Any]) -> Any:
    return await ProgramKind().connect("p", ProxyTarget("", {"accepts": ["a"], "returns": "b", **table}))


@pytest.fixture
async def script(tmp_path: Path) -> AsyncIterator[Any]:
    """Makes processors of Python scripts."""
    made: list[Any] = []

    async def make(text: str, **table: Any) -> Any:
        path = tmp_path / f"script{len(made)}.py"
        path.write_text(text)
        made.append(await program({"path": sys.executable, "args": ["-I", "-S", str(path)], **table}))
        return made[-1]

    yield make
    for item in made:
        await item.close()


@pytest.mark.parametrize(
    ("media_type", "ids"),
    [
        (TAR, []),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", []),
        (media.OCI_GZIP, ["gzip"]),
        (media.DOCKER_GZIP, ["gzip"]),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", ["gzip"]),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", ["gzip"]),
        (media.OCI_ZSTD, ["zstd"]),
        (media.DOCKER_ZSTD, ["zstd"]),
        (media.DOCKER, ["tar"]),
    ],
)
def test_built_in_processors_cover_layers(
    built_in: dict[str, StreamProcessor], media_type: str, ids: list[str]
) -> None:
    steps = chain(media_type, built_in, no_opinion)
    assert [step.id for step in steps] == ids
    assert split_codecs(steps)[0] == []


@pytest.mark.parametrize("media_type", ["", "text/plain", ENCRYPTED, "application/vnd.oci.image.manifest.v1+json"])
def test_other_types_have_no_processor(built_in: dict[str, StreamProcessor], media_type: str) -> None:
    with pytest.raises(Unimplemented, match=f'no processor for media-type "{media_type}"'.replace("+", r"\+")):
        chain(media_type, built_in, no_opinion)


def test_a_chain_that_never_ends_is_unimplemented() -> None:
    with pytest.raises(Unimplemented):
        chain("a", {"circle": Claims({"a": "b", "b": "a"})}, no_opinion)


def test_later_processors_win_unless_a_hook_chooses(built_in: dict[str, StreamProcessor]) -> None:
    everything = {**built_in, "mine": Claims({media.OCI_GZIP: TAR})}
    assert [step.id for step in chain(media.OCI_GZIP, everything, no_opinion)] == ["mine"]
    asked = []

    def choose(media_type: str, candidates: list[str]) -> str:
        asked.append((media_type, candidates))
        return "gzip"

    assert [step.id for step in chain(media.OCI_GZIP, everything, choose)] == ["gzip"]
    assert asked == [(media.OCI_GZIP, ["mine", "gzip"])]
    with pytest.raises(InvalidArgument, match="does not claim"):
        chain(media.OCI_GZIP, everything, lambda _, __: "zstd")


def test_workers_take_the_codecs_at_the_end(built_in: dict[str, StreamProcessor]) -> None:
    everything = {**built_in, "decrypt": Claims({ENCRYPTED: media.OCI_GZIP})}
    opened, codecs = split_codecs(chain(ENCRYPTED, everything, no_opinion))
    assert [step.id for step in opened] == ["decrypt"]
    assert codecs == ["orlop_images.codecs:gunzip"]


async def test_program_gets_its_surroundings(script: Any) -> None:
    processor = await script(
        "import os, sys\n"
        "sys.stdout.write(os.environ['STREAM_PROCESSOR_MEDIATYPE'] + os.environ['MINE'] + os.environ['SESSION'])\n"
        "sys.stdout.write(str(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:3]))\n",
        env=["MINE=yes=really", "SESSION=x"],
    )
    assert await convert(processor, "a", b"") == b"ayes=reallyx[0, 1, 2]"


async def test_program_reads_its_payload_from_descriptor_3(script: Any) -> None:
    processor = await script("import os; os.write(1, os.read(3, 100))")
    stream = await processor.open(0, "a", AnyMessage("type.example/Keys", b"\x01\x02"))
    try:
        assert await read(stream) == b"\x0a\x11type.example/Keys\x12\x02\x01\x02"
        await stream.wait()
    finally:
        await stream.close()


async def test_program_without_payload_has_no_descriptor_3(script: Any) -> None:
    processor = await script("import os\ntry:\n    os.fstat(3)\nexcept OSError:\n    print('closed')")
    assert await convert(processor, "a", b"") == b"closed\n"


async def test_program_that_fails_is_quoted(script: Any) -> None:
    processor = await script("import sys; sys.exit('no key for this layer')")
    with pytest.raises(Unknown, match='stream processor "p": no key for this layer'):
        await convert(processor, "a", b"x")


async def test_program_that_is_killed_is_told(script: Any) -> None:
    processor = await script("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(Unknown, match="signal 9"):
        await convert(processor, "a", b"x")


async def test_closing_ends_what_the_program_started(script: Any) -> None:
    processor = await script(
        "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\nprint(child.pid, flush=True)\nchild.wait()"
    )
    stream = await processor.open(0, "a")
    pid = int(os.read(stream.fileno(), 100))
    await stream.close()
    for _ in range(500):
        if state(pid) in ("gone", "Z"):
            return
        await asyncio.sleep(0.01)
    pytest.fail("it still runs")


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


async def test_missing_program_is_told_with_its_remedy() -> None:
    processor = await program({"path": "/no/such/program"})
    with pytest.raises(NotFound, match=r"/no/such/program.*install it, or mend \[stream_processors.p\]"):
        await processor.open(0, "a")
    await processor.close()


async def test_program_that_may_not_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no program")
    processor = await program({"path": str(tmp_path / "data")})
    with pytest.raises(PermissionDenied):
        await processor.open(0, "a")
    await processor.close()


async def test_tables_are_checked() -> None:
    with pytest.raises(InvalidArgument, match=r"\[stream_processors.p\]: returns: .*; path: "):
        await ProgramKind().connect("p", ProxyTarget("", {"accepts": ["a"]}))
    with pytest.raises(InvalidArgument, match="pathh"):
        await program({"path": "x", "pathh": "y"})


async def test_programs_are_chained_without_the_daemon(script: Any) -> None:
    first = await script("import sys; sys.stdout.write(sys.stdin.read().upper())")
    second = await script("import sys; sys.stdout.write(sys.stdin.read()[::-1])")
    steps = [streams.Step("1", first, "a"), streams.Step("2", second, "a")]
    with TemporaryFile() as source:
        source.write(b"abc" * 100_000)
        source.seek(0)
        async with Chain(steps, {}) as running:
            last = await running.open(source.fileno())
            assert await asyncio.to_thread(whole, last) == b"CBA" * 100_000
            await running.wait()


def whole(fd: int) -> bytes:
    with open(os.dup(fd), "rb") as file:
        return file.read()


async def test_built_in_processor_runs_alone() -> None:
    workers = Workers("test")
    data = os.urandom(300_000)
    try:
        processor = processors(workers)["gzip"]
        assert await convert(processor, media.OCI_GZIP, gzip.compress(data)) == data
        with pytest.raises(InvalidArgument):
            await processor.open(0, "a")
    finally:
        workers.close()


def test_registrations() -> None:
    assert {streams.tar.type, streams.gzip.type, streams.zstd.type} == {STREAM_PROCESSOR}
    assert binary.stream_programs.type is PROXY
    assert binary.stream_programs.exports["target"] == STREAM_PROCESSOR.name
