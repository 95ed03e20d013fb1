# SPDX-License-Identifier: Apache-2.0
"""Mailboxes, bytes over streams of messages, and the streaming service with its manager, all in one process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from orlop.errors import Cancelled, InvalidArgument, Unavailable
from orlop.interfaces.streaming import Stream
from orlop.values import AnyMessage
from orlop_sdk.api.types.transfer.streaming_pb2 import Data, WindowUpdate
from orlop_sdk.bytestream import CHUNK, WINDOW, receive_bytes, send_bytes
from orlop_sdk.convert.common import pack, unpack
from orlop_sdk.mailbox import Mailbox

WAIT = 30.0


class End:
    """One end of a stream whose ends are in this process."""

    def __init__(self, incoming: Mailbox[AnyMessage], outgoing: Mailbox[AnyMessage]) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.sent: list[int] = []

    async def send(self, message: AnyMessage) -> None:
        self.sent.append(len(message.value))
        await self.outgoing.put(message)

    async def receive(self) -> AnyMessage | None:
        return await self.incoming.get()

    async def close(self) -> None:
        self.outgoing.end()
        self.incoming.end()


def ends() -> tuple[End, End]:
    one: Mailbox[AnyMessage] = Mailbox()
    other: Mailbox[AnyMessage] = Mailbox()
    return End(one, other), End(other, one)


async def test_a_mailbox_hands_over_one_at_a_time() -> None:
    box: Mailbox[int] = Mailbox()
    putting = asyncio.create_task(box.put(1))
    await asyncio.sleep(0)
    assert not putting.done()
    assert await box.get() == 1
    await putting
    last = asyncio.create_task(box.put(2))
    await asyncio.sleep(0)
    box.end(Cancelled("gone"))
    await last  # it can still be taken
    with pytest.raises(Unavailable):
        await box.put(3)
    assert await box.get() == 2
    for _ in range(2):
        with pytest.raises(Cancelled):
            await box.get()


async def test_a_mailbox_ends_and_is_iterated_over() -> None:
    box: Mailbox[int] = Mailbox()

    async def fill() -> None:
        for number in range(5):
            await box.put(number)
        box.end()

    filling = asyncio.create_task(fill())
    assert [each async for each in box] == [0, 1, 2, 3, 4]
    await filling
    assert await box.get() is None
    waiting = asyncio.create_task(box.get())
    assert await waiting is None


async def test_who_waits_for_a_mailbox_may_leave() -> None:
    box: Mailbox[int] = Mailbox()
    waiting = asyncio.create_task(box.get())
    await asyncio.sleep(0)
    waiting.cancel()
    putting = asyncio.create_task(box.put(1))
    assert await box.get() == 1
    await putting
    await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize("seed", range(5))
async def test_bytes_arrive_whole_within_the_window(seed: int) -> None:
    chance = random.Random(seed)
    chunks = [chance.randbytes(chance.choice([0, 1, 5, CHUNK, CHUNK + 1, 3 * WINDOW])) for _ in range(20)]
    here, there = ends()

    async def source() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def send() -> int:
        sent = await send_bytes(here, source())
        await here.close()
        return sent

    async with asyncio.timeout(WAIT):
        sending = asyncio.create_task(send())
        received = [chunk async for chunk in receive_bytes(there)]
        assert b"".join(received) == b"".join(chunks)
        assert await sending == sum(map(len, chunks))
    assert max(map(len, received)) <= CHUNK
    # What was granted: the first window, and one for each that was used up.
    assert len(there.sent) <= sum(map(len, chunks)) // WINDOW + 2


async def test_a_sender_waits_for_room() -> None:
    here, there = ends()

    async def source() -> AsyncIterator[bytes]:
        yield bytes(100)

    sending = asyncio.create_task(send_bytes(here, source()))
    await asyncio.sleep(0.05)
    assert here.sent == []
    await there.send(pack(WindowUpdate(update=30)))
    message = await there.receive()
    assert message is not None
    assert len(unpack(message, Data).data) == 30
    await asyncio.sleep(0.05)
    assert not sending.done()
    await there.send(pack(WindowUpdate(update=-5)))
    await there.send(pack(WindowUpdate(update=1000)))
    message = await there.receive()
    assert message is not None
    assert len(unpack(message, Data).data) == 70
    assert await sending == 100


async def test_a_receiver_that_ends_early() -> None:
    here, there = ends()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(CHUNK)

    sending = asyncio.create_task(send_bytes(here, endless()))
    received = receive_bytes(there)
    assert len(await anext(received)) == CHUNK
    await there.close()
    await received.aclose()
    async with asyncio.timeout(WAIT):
        with pytest.raises(Unavailable):
            await sending


@pytest.mark.parametrize("message", [AnyMessage("google.protobuf.Empty"), AnyMessage("x"), AnyMessage("", b"\xff")])
async def test_messages_that_are_no_bytes(message: AnyMessage) -> None:
    for wrong in (message, AnyMessage(Data.DESCRIPTOR.full_name, b"\xff")):
        here, there = ends()
        receiving = asyncio.ensure_future(anext(receive_bytes(there)))
        assert (await here.receive()) == pack(WindowUpdate(update=WINDOW))
        sending = asyncio.create_task(here.send(wrong))
        with pytest.raises(InvalidArgument):
            await receiving
        await sending

    here, there = ends()

    async def source() -> AsyncIterator[bytes]:
        yield b"data"

    sending2 = asyncio.create_task(send_bytes(here, source()))
    await there.send(message)
    with pytest.raises(InvalidArgument):
        await sending2


_: type[Stream] = End
