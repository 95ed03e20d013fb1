# SPDX-License-Identifier: Apache-2.0
"""One function as a stream processor: the plugin, and the program that containerd starts."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orlop.errors import DataLoss, InvalidArgument, Unknown
from orlop.interfaces.stream import TAR, StreamProcessor
from orlop.values import AnyMessage
from orlop_sdk.serving.converter import Converter
from orlop_sdk.testing.stream import Sample, StreamProcessorSuite, convert, read, running

TYPE = "application/x-upper"
MODULE = """\
import os, signal, sys, time
from orlop.errors import DataLoss
from orlop_sdk.serving.stream import main_for

def upper(stream):
    print("this must not get into the layer")
    while data := stream.source.read(1 << 16):
        if b"DAMAGE" in data:
            raise DataLoss("stream: damaged")
        stream.sink.write(data.upper())

def tell(stream):
    stream.sink.write(f"{stream.media_type} {stream.payload}".encode())

def crash(stream):
    raise ValueError("not what I expected")

def die(stream):
    os.kill(os.getpid(), signal.SIGKILL)

main = main_for(upper)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with functions, in a directory that only this process knows."""
    (tmp_path / "converting.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "converting"


class TestSuite(StreamProcessorSuite):
    samples = (Sample(TYPE, TAR, b"all work", b"ALL WORK"),)
    damaged = ((TYPE, b"some DAMAGE"),)

    @pytest.fixture
    def processor(self, module: str) -> StreamProcessor:
        return Converter(f"{module}:upper", {TYPE: TAR})


async def test_it_is_told_the_type_and_the_payload(module: str, tmp_path: Path) -> None:
    processor = Converter(f"{module}:tell", {TYPE: TAR})
    assert await convert(processor, TYPE, b"") == b"application/x-upper None"
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as source:
        stream = await processor.open(source.fileno(), TYPE, AnyMessage("type/url", b"key"))
        assert await read(stream) == b"application/x-upper AnyMessage(type_url='type/url', value=b'key')"
        await stream.wait()
        await stream.close()


async def test_errors_keep_their_class_and_others_are_told(module: str) -> None:
    with pytest.raises(DataLoss, match="stream: damaged$"):
        await convert(Converter(f"{module}:upper", {TYPE: TAR}), TYPE, b"DAMAGE")
    with pytest.raises(Unknown, match="ValueError: not what I expected"):
        await convert(Converter(f"{module}:crash", {TYPE: TAR}), TYPE, b"")
    with pytest.raises(Unknown, match="signal 9"):
        await convert(Converter(f"{module}:die", {TYPE: TAR}), TYPE, b"")
    with pytest.raises(Unknown, match="no_such_module"):
        await convert(Converter("no_such_module:convert", {TYPE: TAR}), TYPE, b"")


async def test_a_foreign_type_is_refused(module: str) -> None:
    with pytest.raises(InvalidArgument, match="not one of this processor"):
        await Converter(f"{module}:upper", {TYPE: TAR}).open(0, "application/x-other")


async def test_cancelled_while_it_starts_it_leaves_nothing(module: str) -> None:
    descriptors = set(os.listdir("/proc/self/fd"))
    processor = Converter(f"{module}:upper", {TYPE: TAR})
    end, other = os.pipe()
    task = asyncio.create_task(processor.open(end, TYPE))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.close(end)
    os.close(other)
    assert set(os.listdir("/proc/self/fd")) - descriptors == set()


async def test_an_early_end_of_its_reader_is_no_hang(module: str) -> None:
    end, other = os.pipe()
    try:
        async with running(Converter(f"{module}:upper", {TYPE: TAR}), end, TYPE) as stream:
            os.write(other, b"some")
            assert stream.fileno() >= 0
    finally:
        os.close(end)
        os.close(other)


def test_it_is_a_program_by_containerds_protocol(module: str, tmp_path: Path) -> None:
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from {module} import main; sys.exit(main())"
    environment = os.environ | {"STREAM_PROCESSOR_MEDIATYPE": TYPE}

    def call(data: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-c", script], input=data, capture_output=True, env=environment, check=False, timeout=30
        )

    done = call(b"all work")
    assert (done.returncode, done.stdout) == (0, b"ALL WORK"), done.stderr
    done = call(b"DAMAGE")
    assert done.returncode != 0
    assert done.stderr.decode().splitlines()[-1] == "stream: damaged"
