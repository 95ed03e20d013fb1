# SPDX-License-Identifier: Apache-2.0
"""The bare loop, and what moves and sends on it."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orlop_sdk.ttrpc import frames
from orlop_shim.loop import READ, Lock, Loop, Promise
from orlop_shim.messages import EVENTS, FORWARD, REQUEST
from orlop_shim.publisher import QUEUE, Publisher
from orlop_shim.pump import Pump
from orlop_shim.relief import Losses
from orlop_shim.text_log import Log


def run(loop: Loop, work: Coroutine[Promise, None, Any]) -> Any:
    """Run a loop until a coroutine ends, but not for ever."""
    done = loop.spawn(work)
    done.then(loop.stop)
    loop.later(20, loop.stop)
    loop.run()
    assert done.done, "took too long"
    return done.result()


def test_coroutines_wait_for_promises_and_each_other() -> None:
    loop = Loop()
    lock = Lock()
    order: list[int] = []

    async def one(number: int) -> None:
        async with lock:
            order.append(number)
            await loop.sleep(0.01)
            order.append(number)

    async def work() -> None:
        for promise in [loop.spawn(one(number)) for number in range(3)]:
            await promise

    run(loop, work())
    assert order == [0, 0, 1, 1, 2, 2]


def test_time_runs_out_without_harm() -> None:
    loop = Loop()
    late = Promise()

    async def work() -> list[bool]:
        soon = loop.sleep(0.01)
        return [await loop.within(0.02, late), await loop.within(5, soon)]

    assert run(loop, work()) == [False, True]
    late.set()


def test_errors_reach_who_waits() -> None:
    loop = Loop()

    async def failing() -> None:
        await loop.sleep(0)
        raise ValueError("no")

    async def work() -> str:
        try:
            await loop.spawn(failing())
        except ValueError as error:
            return str(error)
        return ""

    assert run(loop, work()) == "no"


def test_a_pump_copies_to_a_file_and_a_pipe(tmp_path: Path) -> None:
    for append in (True, False):
        loop = Loop()
        read, write = os.pipe2(os.O_CLOEXEC)
        path = tmp_path / f"out{append}"
        if append:
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            taken = -1
        else:
            taken, target = os.pipe2(os.O_CLOEXEC)
        os.write(write, b"x" * 30000)
        os.close(write)
        pump = Pump(loop, read, target)

        async def work(pump: Pump = pump) -> None:
            await pump.done

        run(loop, work())
        assert (path.read_bytes() if append else os.read(taken, 1 << 16)) == b"x" * 30000
        if taken >= 0:
            os.close(taken)


def test_a_pump_drops_what_a_full_disk_refuses(tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk: the write that reaches it takes a part, the next one fails."""
    loop = Loop()
    failures: list[BaseException] = []
    loop.on_error = failures.append
    read, write = os.pipe2(os.O_CLOEXEC)
    path = tmp_path / "out"
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    losses = Losses(Log(), "it")
    pump = Pump(loop, read, target, losses)

    async def work() -> None:
        os.write(write, b"x" * 30000)
        await loop.sleep(0.1)
        os.write(write, b"y" * 30000)
        os.close(write)
        await pump.done

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, hard))
    try:
        run(loop, work())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"x" * 10000
    assert losses.count == 50000
    assert failures == []


def test_a_pump_leaves_a_turn_to_others(tmp_path: Path) -> None:
    loop = Loop()
    read, write = os.pipe2(os.O_CLOEXEC)
    much = fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 1 << 20)
    path = tmp_path / "out"
    os.write(write, b"x" * much)
    os.close(write)
    pump = Pump(loop, read, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    sizes: list[int] = []
    loop.soon(lambda: sizes.append(path.stat().st_size))

    async def work() -> None:
        await pump.done

    run(loop, work())
    assert 0 < sizes[0] < much
    assert path.stat().st_size == much


def test_a_pump_brings_what_a_target_took_late() -> None:
    """The source has said all it has to say, and stays open. Sockets, since there is no splicing without a pipe."""
    loop = Loop()
    ours, source = socket.socketpair()
    target, theirs = socket.socketpair()
    target.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    theirs.setblocking(False)
    pump = Pump(loop, source.detach(), target.detach())
    got: list[bytes] = []

    async def work() -> None:
        ours.sendall(b"x" * 30000)
        # Time to take all that the target takes; with less of it there is less to see, but nothing wrong.
        await loop.sleep(0.1)
        for _ in range(1000):
            with suppress(BlockingIOError):
                got.append(theirs.recv(1 << 16))
            if sum(map(len, got)) == 30000:
                return
            await loop.sleep(0.01)

    with ours, theirs:
        run(loop, work())
        pump.stop()
    assert b"".join(got) == b"x" * 30000


def test_a_callback_that_fails_is_told_and_not_called_again() -> None:
    loop = Loop()
    told: list[BaseException] = []
    loop.on_error = told.append
    read, write = os.pipe2(os.O_CLOEXEC)

    def fail(_: int) -> None:
        raise RuntimeError("handler")

    def late() -> None:
        raise RuntimeError("timer")

    async def work() -> None:
        await loop.sleep(0.1)

    loop.watch(read, READ, fail)
    loop.later(0.01, late)
    os.write(write, b"x")
    run(loop, work())
    assert sorted(map(str, told)) == ["handler", "timer"]
    os.close(read)
    os.close(write)


def test_a_plain_file_is_not_watched(tmp_path: Path) -> None:
    loop = Loop()
    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(PermissionError):
            loop.watch(file.fileno(), READ, print)
        loop.unwatch(file.fileno())


def receive(listener: socket.socket, count: int) -> list[str]:
    """Answer so many calls on one connection; gives the topics that arrived."""
    sock, _ = listener.accept()
    decoder = frames.Decoder()
    topics: list[str] = []
    with sock:
        while len(topics) < count:
            for frame in decoder.feed(sock.recv(1 << 16)):
                request = REQUEST.decode(frame.data)
                topics.append(FORWARD.decode(request["payload"])["envelope"]["topic"])
                sock.sendall(frames.encode(frame.stream, frames.RESPONSE))
    return topics


def test_events_wait_for_a_daemon_that_is_away(short_tmp: Path) -> None:
    from threading import Thread

    path = str(short_tmp / "t")
    loop = Loop()
    publisher = Publisher(loop, Log())
    publisher.open(f"unix://{path}", "ns")
    topics = list(EVENTS)
    for topic in topics:
        publisher.publish(topic, container_id="c1")
    found: list[str] = []

    async def work() -> None:
        await loop.sleep(0.1)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            thread = Thread(target=lambda: found.extend(receive(listener, len(topics))))
            thread.start()
            await publisher.empty()
            thread.join()
        publisher.close()

    run(loop, work())
    assert found == topics


def test_the_oldest_event_is_dropped_when_too_many_wait(short_tmp: Path) -> None:
    publisher = Publisher(Loop(), Log())
    publisher.open(str(short_tmp / "nobody"), "ns")
    for number in range(QUEUE + 5):
        publisher.publish("/tasks/oom", container_id=str(number))
    assert len(publisher._queue) == QUEUE
