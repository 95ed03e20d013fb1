# SPDX-License-Identifier: Apache-2.0
"""Verifier programs: how they are called, what their answers mean, and that none outlives its judgement."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from orlop.errors import FailedPrecondition, PermissionDenied
from orlop.interfaces.transfer import Judgement
from orlop.plugin import PluginStatus
from orlop.values import Descriptor
from orlop_images.verifier import BinDirConfig, BinDirVerifier

TARGET = Descriptor("application/vnd.oci.image.index.v1+json", "sha256:" + "a" * 64, 7, {"team": "web"})
NAME = "registry.example/team/app:1"
LOG = logging.getLogger("test")
Make = Callable[..., BinDirVerifier]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes verifiers over the directory ``bin``."""
    made: list[BinDirVerifier] = []

    def verifier(**config: object) -> BinDirVerifier:
        made.append(BinDirVerifier(BinDirConfig.model_validate({"bin_dir": tmp_path / "bin", **config}), LOG))
        return made[-1]

    yield verifier
    for each in made:
        await each.close()


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes programs into ``bin``."""

    def write(name: str, script: str) -> Path:
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    return write


async def test_without_programs_everything_comes_in(make: Make, tmp_path: Path) -> None:
    verifier = make()
    assert (await verifier.verify(NAME, TARGET)).ok
    (tmp_path / "bin").mkdir()
    assert (await verifier.verify(NAME, TARGET)).ok


async def test_what_a_program_gets(make: Make, program: Callable[[str, str], Path], tmp_path: Path) -> None:
    program("a", f'printf "%s\\n" "$@" > {tmp_path}/args; cat > {tmp_path}/stdin; echo " fine "; echo noise >&2')
    assert await make().verify(NAME, TARGET) == Judgement(True, "a => fine")
    assert (tmp_path / "args").read_text().splitlines() == [
        *("-name", NAME, "-digest", TARGET.digest),
        *("-stdin-media-type", "application/vnd.oci.descriptor.v1+json"),
    ]
    assert json.loads((tmp_path / "stdin").read_text()) == {
        "mediaType": TARGET.media_type,
        "digest": TARGET.digest,
        "size": 7,
        "annotations": {"team": "web"},
    }


async def test_all_must_agree_in_the_order_of_their_names(make: Make, program: Callable[[str, str], Path]) -> None:
    program("b", "echo two")
    program("a", "echo one")
    assert await make().verify(NAME, TARGET) == Judgement(True, "a => one, b => two")
    program("c", "echo unsigned; exit 3")
    program("d", "exit 4")
    judgement = await make().verify(NAME, TARGET)
    assert judgement == Judgement(False, "verifier c rejected image (exit code 3): unsigned")


@pytest.mark.parametrize(("most", "ok"), [(0, True), (1, True), (2, False), (-1, False)])
async def test_the_most_programs(
    make: Make, program: Callable[[str, str], Path], caplog: pytest.LogCaptureFixture, most: int, ok: bool
) -> None:
    program("a", "exit 0")
    program("b", "exit 1")
    assert (await make(max_verifiers=most).verify(NAME, TARGET)).ok is ok
    assert ("only" in caplog.text) is (0 <= most < 2)


async def test_long_output_is_cut_and_does_not_block(make: Make, program: Callable[[str, str], Path]) -> None:
    program("a", "head -c 1000000 /dev/zero | tr '\\0' x; head -c 1000000 /dev/zero >&2")
    judgement = await make().verify(NAME, TARGET)
    assert judgement == Judgement(True, "a => " + "x" * 32768 + "(truncated)")


async def test_a_program_that_takes_too_long(make: Make, program: Callable[[str, str], Path], tmp_path: Path) -> None:
    program("a", f"sleep 300 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/self; wait")
    with pytest.raises(FailedPrecondition, match="a: gave no judgement within 1s"):
        await make(per_verifier_timeout="1s").verify(NAME, TARGET)
    await gone(tmp_path / "self", tmp_path / "child")


async def test_nothing_outlives_a_judgement(make: Make, program: Callable[[str, str], Path], tmp_path: Path) -> None:
    program("a", f"sleep 300 > /dev/null 2>&1 & echo $! > {tmp_path}/child")
    assert (await make().verify(NAME, TARGET)).ok
    await gone(tmp_path / "child")


async def test_a_caller_who_leaves(make: Make, program: Callable[[str, str], Path], tmp_path: Path) -> None:
    program("a", f"echo $$ > {tmp_path}/self; exec sleep 300")
    asking = asyncio.create_task(make().verify(NAME, TARGET))
    await appeared(tmp_path / "self")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await gone(tmp_path / "self")


async def test_what_cannot_be_run_refuses(make: Make, program: Callable[[str, str], Path], tmp_path: Path) -> None:
    program("a", "kill -9 $$")
    with pytest.raises(FailedPrecondition, match="signal 9"):
        await make().verify(NAME, TARGET)
    program("a", "exit 0").chmod(0o644)
    with pytest.raises(FailedPrecondition, match="cannot be run"):
        await make().verify(NAME, TARGET)
    (tmp_path / "bin" / "a").unlink()
    (tmp_path / "bin" / "a").mkdir()
    with pytest.raises(FailedPrecondition, match="cannot be run"):
        await make().verify(NAME, TARGET)


async def test_no_descriptor_is_left(make: Make, program: Callable[[str, str], Path]) -> None:
    program("a", "exit 0")
    verifier = make()
    await verifier.verify(NAME, TARGET)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await verifier.verify(NAME, TARGET)
    assert len(os.listdir("/proc/self/fd")) == before


class _Plugins:
    def __init__(self, state: str) -> None:
        self.state = state

    def statuses(self) -> list[PluginStatus]:
        return [PluginStatus("io.containerd.image-verifier.v1", "strict", self.state)]


class _Says:
    def __init__(self, judgement: Judgement | Exception) -> None:
        self.judgement = judgement

    async def verify(self, name: str, descriptor: Descriptor) -> Judgement:
        if isinstance(self.judgement, Exception):
            raise self.judgement
        return self.judgement


@pytest.mark.parametrize(
    ("state", "answers", "refusal"),
    [
        ("ok", [Judgement(True), Judgement(True)], ""),
        ("ok", [], ""),
        ("ok", [Judgement(True), Judgement(False, "unsigned")], "blocked by the image verifier 1: unsigned"),
        ("ok", [FailedPrecondition("no key")], "the image verifier 0 gave no judgement: no key"),
        ("failed", [], "the image verifier strict failed to start"),
        ("disabled", [], ""),
    ],
)
async def test_what_verifiers_together_make_of_it(
    state: str, answers: list[Judgement | Exception], refusal: str
) -> None:
    from types import SimpleNamespace
    from typing import Any, cast

    from orlop_images.transfer.registry import verify

    verifiers = {str(number): _Says(each) for number, each in enumerate(answers)}
    parts = cast("Any", SimpleNamespace(plugins=_Plugins(state), verifiers=verifiers))
    if not refusal:
        await verify(parts, NAME, TARGET)
        return
    with pytest.raises(PermissionDenied, match=refusal):
        await verify(parts, NAME, TARGET)


async def appeared(file: Path) -> None:
    deadline = time.monotonic() + 30
    while not file.exists() or not file.read_text().strip():  # noqa: ASYNC240  # a moment
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def gone(*files: Path) -> None:
    """Wait until the processes whose numbers are in these files have ended."""
    deadline = time.monotonic() + 30
    for file in files:
        pid = int(file.read_text())
        while running(pid):
            assert time.monotonic() < deadline, file
            await asyncio.sleep(0.02)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False
