# SPDX-License-Identifier: Apache-2.0
"""Streams with this test in the place of a shim."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.values import Stdio
from orlop_sdk.client.fifo import InputPump, OutputPump, read_descriptor
from orlop_sdk.client.stdio import OutputStream, Streams, capture, log, null, pipes


async def nothing(*_: object) -> None:
    """A call to a daemon that is not there."""


def in_thread(function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
    return asyncio.ensure_future(asyncio.to_thread(function, *args))


def write_file(path: str, *pieces: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        for piece in pieces:
            file.write(piece)


def read_file(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall() or b""


async def test_output_and_input() -> None:
    streams = capture(input=b"question")
    stdio = await streams.open("c")
    asked = in_thread(read_file, stdio.stdin)
    writes = [in_thread(write_file, path, b"an", b"swer") for path in (stdio.stdout, stdio.stderr)]
    await streams.started(nothing, nothing)
    assert await asked == b"question"
    await asyncio.gather(*writes)
    await streams.drain(5)
    assert (streams.stdout, streams.stderr) == (b"answer", b"answer")
    await streams.close()
    await streams.close()
    assert not Path(stdio.stdout).parent.exists()


async def test_a_process_that_never_opens_its_streams() -> None:
    streams = capture(input=b"question")
    stdio = await streams.open("c")
    await streams.started(nothing, nothing)
    await streams.drain(0.05)
    await streams.close()
    assert not Path(stdio.stdout).parent.exists()


async def test_close_before_start_frees_everything() -> None:
    await asyncio.to_thread(os.getpid)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        streams = pipes()
        await streams.open("c")
        await streams.close()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_opening_a_fifo_waits_for_its_first_writer(tmp_path: Path) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    stream = OutputStream()
    pump = OutputPump(path, stream)
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0.05)
    assert not reading.done()
    await in_thread(write_file, path, b"late")
    await pump.ended()
    assert await reading == b"late"


async def test_a_stream_that_nobody_reads_holds_the_writer_up(tmp_path: Path) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    stream = OutputStream()
    pump = OutputPump(path, stream)
    data = bytes(3 << 20)
    writing = in_thread(write_file, path, data)
    await asyncio.sleep(0.2)
    assert not writing.done()
    await stream.unbind()
    await writing
    await pump.ended()
    assert await stream.read() == data


async def test_lines() -> None:
    stream = OutputStream()
    for piece in (b"one\ntw", b"o\n", b"thr", b"ee"):
        await stream.write(piece)
    await stream.close()
    assert [await stream.readline() for _ in range(4)] == [b"one\n", b"two\n", b"three", b""]


async def test_input_without_a_reader_any_more(tmp_path: Path) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    pump = InputPump(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    await pump.write(b"x")
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        await pump.write(b"y")
    pump.close()
    pump.close()


async def test_much_input_to_a_slow_reader(tmp_path: Path) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    pump = InputPump(path)
    data = os.urandom(1 << 20)
    reading = in_thread(read_file, path)
    await pump.write(data)
    pump.close()
    assert await reading == data


async def test_once_only() -> None:
    streams = null()
    assert await streams.open("c") == Stdio()
    with pytest.raises(FailedPrecondition):
        await streams.open("c")
    assert isinstance(streams, Streams)


async def test_log() -> None:
    assert await log("/var/log/x").open("c") == Stdio(stdout="file:///var/log/x", stderr="file:///var/log/x")
    assert (await log("binary:///bin/logger?x=y").open("c")).stdout == "binary:///bin/logger?x=y"
    with pytest.raises(InvalidArgument):
        log("var/log")


async def test_reading_files_and_pipes(tmp_path: Path) -> None:
    file = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    os.write(file, b"in a file")
    os.lseek(file, 0, os.SEEK_SET)
    assert b"".join([chunk async for chunk in read_descriptor(file)]) == b"in a file"
    os.close(file)
    reader, writer = os.pipe()
    os.write(writer, b"in a pipe")
    os.close(writer)
    assert b"".join([chunk async for chunk in read_descriptor(reader)]) == b"in a pipe"
    os.close(reader)


SHIM = """
import asyncio, os, sys, threading
from orlop_sdk.client.stdio import inherit, terminal

async def nothing(*size):
    if size:
        os.write(2, b"size %d %d\\n" % size)

def shim(stdio):
    data = b""
    with open(stdio.stdin, "rb", buffering=0) as source:
        data = source.read(3) if stdio.terminal else source.readall()
    for path in filter(None, (stdio.stdout, stdio.stderr)):
        with open(path, "wb", buffering=0) as sink:
            sink.write(b"echo " + data)

async def main():
    streams = terminal() if sys.argv[1] == "terminal" else inherit()
    stdio = await streams.open("c")
    thread = threading.Thread(target=shim, args=(stdio,))
    thread.start()
    await streams.started(nothing, nothing)
    await asyncio.to_thread(thread.join)
    await streams.drain(5)
    await streams.close()

asyncio.run(main())
"""


def test_inherited_streams() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHIM, "inherit"], input=b"words", capture_output=True, check=True, timeout=30
    )
    assert (done.stdout, done.stderr) == (b"echo words", b"echo words")


def test_a_terminal() -> None:
    """Keys reach the container raw, its size is told, and the terminal is as before in the end."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    before = termios.tcgetattr(slave)
    reader, errors = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", SHIM, "terminal"], stdin=slave, stdout=slave, stderr=errors, start_new_session=True
    )
    os.close(errors)
    assert os.read(reader, 100) == b"size 99 33\n"  # raw by now
    os.write(master, b"a\x03\r")
    process.wait(30)
    assert process.returncode == 0
    assert os.read(master, 100) == b"echo a\x03\r"
    assert termios.tcgetattr(slave) == before
    for fd in (master, slave, reader):
        os.close(fd)


def test_no_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHIM, "terminal"], input=b"", capture_output=True, check=False, timeout=30
    )
    assert b"FailedPrecondition" in done.stderr
    assert done.returncode == 1
