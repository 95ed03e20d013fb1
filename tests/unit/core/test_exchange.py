# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orlop import context
from orlop.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from orlop.values import EPOCH, AnyMessage, Event, now
from orlop_core.events.exchange import Exchange
from orlop_sdk.api.events.container_pb2 import ContainerUpdate
from orlop_sdk.api.events.task_pb2 import TaskExit

NOTHING = AnyMessage("")


def task_exit(id: str, pid: int = 7) -> AnyMessage:
    return AnyMessage("containerd.events.TaskExit", TaskExit(container_id=id, pid=pid).SerializeToString())


async def take(stream: AsyncIterator[Event], count: int) -> list[Event]:
    return [await asyncio.wait_for(anext(stream), 5) for _ in range(count)]


async def test_every_subscriber_gets_every_event_in_order() -> None:
    exchange = Exchange()
    async with exchange.subscribe() as one, exchange.subscribe() as two:
        with context.scope(namespace="a"):
            for number in range(100):
                await exchange.publish(f"/things/t{number}", NOTHING)
        first, second = await take(one, 100), await take(two, 100)
    assert first == second
    assert [event.topic for event in first] == [f"/things/t{number}" for number in range(100)]
    assert {event.namespace for event in first} == {"a"}
    assert all(event.timestamp > EPOCH for event in first)


async def test_a_waiting_subscriber_wakes_up() -> None:
    exchange = Exchange()
    async with exchange.subscribe() as stream:
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await exchange.forward(Event("/a", NOTHING, "ns", now()))
        assert (await waiting).topic == "/a"


async def test_subscribers_get_nothing_from_before_or_after() -> None:
    exchange = Exchange()
    await exchange.forward(Event("/before", NOTHING, "ns", now()))
    async with exchange.subscribe() as stream:
        await exchange.forward(Event("/meanwhile", NOTHING, "ns", now()))
        assert [event.topic for event in await take(stream, 1)] == ["/meanwhile"]
    await exchange.forward(Event("/after", NOTHING, "ns", now()))
    async with exchange.subscribe() as stream:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.01)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["namespace==a"], ["/tasks/exit"]),
        (['topic~="^/containers"'], ["/containers/update"]),
        (["event.container_id==box"], ["/tasks/exit"]),
        (["event.pid==7"], ["/tasks/exit"]),
        (["event.pid"], ["/tasks/exit"]),
        (["event.labels.a.b==1"], ["/containers/update"]),
        (["event.labels.other"], []),
        (["event.missing"], []),
        (["event.container_id==box", "event.id==box"], ["/tasks/exit", "/containers/update"]),
        (["namespace==a,event.id==box"], []),
    ],
)
async def test_filters(wanted: list[str], expected: list[str]) -> None:
    exchange = Exchange()
    update = ContainerUpdate(id="box", labels={"a.b": "1"}).SerializeToString()
    async with exchange.subscribe(wanted) as stream, exchange.subscribe(['topic=="/end"']) as end:
        await exchange.forward(Event("/tasks/exit", task_exit("box"), "a", now()))
        await exchange.forward(
            Event("/containers/update", AnyMessage("containerd.events.ContainerUpdate", update), "b", now())
        )
        await exchange.forward(Event("/unknown", AnyMessage("example.Unknown", b"\xff"), "c", now()))
        await exchange.forward(Event("/damaged", AnyMessage("containerd.events.TaskExit", b"\xff"), "c", now()))
        await exchange.forward(Event("/end", NOTHING, "c", now()))
        await take(end, 1)
        assert [event.topic for event in await take(stream, len(expected))] == expected
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.01)


async def test_a_bad_filter_is_refused_at_once() -> None:
    with pytest.raises(InvalidArgument):
        Exchange().subscribe(["topic=="])


async def test_a_slow_subscriber_gets_what_was_queued_and_then_an_error() -> None:
    exchange = Exchange(limit=3)
    async with exchange.subscribe() as slow, exchange.subscribe() as quick:
        for number in range(5):
            await exchange.forward(Event(f"/e{number}", NOTHING, "ns", now()))
            await take(quick, 1)
        assert [event.topic for event in await take(slow, 3)] == ["/e0", "/e1", "/e2"]
        for _ in range(2):
            with pytest.raises(ResourceExhausted):
                await anext(slow)
        await exchange.forward(Event("/more", NOTHING, "ns", now()))
        assert [event.topic for event in await take(quick, 1)] == ["/more"]


@pytest.mark.parametrize("topic", ["", "/", "tasks/exit", "/tasks//exit", "/tasks/", "/tasks/a b", "/-"])
async def test_malformed_topics(topic: str) -> None:
    with context.scope(namespace="a"), pytest.raises(InvalidArgument):
        await Exchange().publish(topic, NOTHING)


async def test_publishing_needs_a_namespace_and_forwarding_an_envelope() -> None:
    exchange = Exchange()
    with pytest.raises(FailedPrecondition):
        await exchange.publish("/a", NOTHING)
    with pytest.raises(InvalidArgument):
        await exchange.forward(Event("/a", NOTHING, "", now()))
    with pytest.raises(InvalidArgument):
        await exchange.forward(Event("/a", NOTHING, "ns"))


async def recalled(exchange: Exchange, *wanted: str) -> list[str]:
    """The topics that a new subscriber gets although they were published before."""
    async with exchange.subscribe(wanted) as stream:
        await exchange.forward(Event("/end", NOTHING, "a", now()))
        found = []
        while (event := (await take(stream, 1))[0]).topic != "/end":
            found.append(event.topic)
        return found


async def test_who_comes_back_after_a_restart_hears_of_tasks_from_before_it() -> None:
    exchange = Exchange(recall=60.0)
    await exchange.forward(Event("/tasks/exit", task_exit("old"), "a", now()))
    await exchange.start()
    async with exchange.subscribe() as there:
        await exchange.forward(Event("/tasks/oom", task_exit("old"), "a", now()))
        await exchange.forward(Event("/tasks/exit", task_exit("old"), "b", now()))
        await exchange.forward(Event("/containers/update", NOTHING, "a", now()))
        assert await recalled(exchange) == ["/tasks/exit", "/tasks/oom", "/tasks/exit"]
        assert await recalled(exchange, "namespace==b", 'topic=="/end"') == ["/tasks/exit"]
        # Nobody gets anything twice.
        topics = [event.topic for event in await take(there, 6)]
        assert topics == ["/tasks/exit", "/tasks/oom", "/tasks/exit", "/containers/update", "/end", "/end"]
    await exchange.close()
    assert await recalled(exchange) == []


async def test_events_of_tasks_made_since_the_start_are_not_recalled() -> None:
    exchange = Exchange(recall=60.0)
    await exchange.start()
    for topic in ("/tasks/create", "/tasks/start", "/tasks/exit"):
        await exchange.forward(Event(topic, task_exit("new"), "a", now()))
    await exchange.forward(Event("/tasks/exit", task_exit("new"), "b", now()))
    assert await recalled(exchange) == ["/tasks/exit"]
    await exchange.close()


async def test_recall_ends_by_itself_and_keeps_the_newest() -> None:
    exchange = Exchange(limit=8, recall=0.05)
    for topic in ("/tasks/oom", "/tasks/paused", "/tasks/exit"):
        await exchange.forward(Event(topic, task_exit("old"), "a", now()))
    async with exchange.subscribe(['topic~="^/tasks/"']) as stream:
        assert [event.topic for event in await take(stream, 2)] == ["/tasks/paused", "/tasks/exit"]
    await exchange.start()
    for _ in range(500):
        if not await recalled(exchange):
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("what was kept is still there")
    await exchange.close()
