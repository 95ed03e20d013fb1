# SPDX-License-Identifier: Apache-2.0
"""Random plugins, changed at random while they run, compared with a model of what must run then."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from orlop.config import from_data
from orlop.errors import FailedPrecondition, InitError, NotFound, PluginInUse
from orlop.kernel import Kernel
from orlop.plugin import InitContext, PluginType, Registration, Requirement

LOWER = PluginType("org.example.lower.v1", object, group="org.example.lower.v1", many=True)
UPPER = PluginType("org.example.upper.v1", object, group="org.example.upper.v1", many=True)


@dataclass
class Node:
    """One plugin: a lower one needs earlier lower ones; an upper one any earlier ones, and perhaps any lower one."""

    number: int
    upper: bool
    needs: frozenset[int]
    """Whose instances it takes."""
    follows: frozenset[int]
    """Those that only have to come before it."""
    any_lower: bool

    @property
    def uri(self) -> str:
        return f"{(UPPER if self.upper else LOWER).name}.{self.number}"


@dataclass
class Instance:
    node: Node
    holds: list[Instance]
    started: bool = False
    closed: bool = False
    holders: list[Instance] = field(default_factory=list)

    async def start(self) -> None:
        assert not self.started
        assert not self.closed
        self.started = True

    async def close(self) -> None:
        assert not self.closed
        assert all(holder.closed for holder in self.holders), "closed before what needs it"
        await asyncio.sleep(0)
        self.closed = True


class Model:
    """What must be, in the words of the rules."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.off: set[int] = set()
        self.failed: set[int] = set()
        self.broken: set[int] = set()
        self.running: set[int] = set()

    def lowers(self) -> set[int]:
        return {number for number in self.running if not self.nodes[number].upper}

    def dependents(self, number: int) -> set[int]:
        gone = {number} & self.running
        while True:
            more = {
                other
                for other in self.running - gone
                if self.nodes[other].needs & gone or (self.nodes[other].any_lower and self.lowers() <= gone)
            }
            if not more:
                return gone - {number}
            gone |= more

    def stop(self, number: int) -> None:
        self.running -= {number, *self.dependents(number)}

    def settle(self) -> None:
        for number in sorted(self.nodes, key=lambda number: (self.nodes[number].upper, number)):
            node = self.nodes[number]
            satisfied = node.needs <= self.running and (not node.any_lower or self.lowers())
            if number in self.running or number in self.off or number in self.failed or not satisfied:
                continue
            (self.failed if number in self.broken else self.running).add(number)


class Machine(RuleBasedStateMachine):
    numbers: Bundle[int] = Bundle("numbers")

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.folder = tempfile.mkdtemp()
        self.loop = asyncio.new_event_loop()
        self.model = Model()
        self.every: dict[int, Node] = {}
        self.instances: list[Instance] = []
        data = {"root": f"{self.folder}/r", "state": f"{self.folder}/s"}
        # Nothing of what is installed; something has to be named.
        self.kernel = Kernel(from_data(data), only=["org.example.none"])
        self.kernel.catalogue.types.update({LOWER.name: LOWER, UPPER.name: UPPER})

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(target=numbers, data=st.data())
    def start(self, data: st.DataObject) -> Any:
        self.run(self.kernel.start())
        return multiple(*(self.new(number > 3, number == 6, data, 0) for number in range(7)))

    def teardown(self) -> None:
        self.run(self.kernel.close())
        assert all(instance.closed for instance in self.instances)
        self.loop.close()
        logging.disable(logging.NOTSET)
        shutil.rmtree(self.folder)

    def registration(self, node: Node) -> Registration[Any, Any]:
        async def make(ctx: InitContext[Any]) -> Instance:
            await asyncio.sleep(0)
            if node.number in self.model.broken:
                raise ValueError("it is broken")
            found: list[Any] = [ctx.get(*self.typed(other)) for other in sorted(node.needs)]
            assert all(not held.closed for held in found)
            instance = Instance(node, found)
            for held in found:
                held.holders.append(instance)
            self.instances.append(instance)
            return instance

        requires: list[Requirement] = [type.exact(id) for type, id in map(self.typed, sorted(node.needs))]
        requires += [type.exact(id, optional=True) for type, id in map(self.typed, sorted(node.follows))]
        requires += [LOWER.any()] if node.any_lower else []
        return (UPPER if node.upper else LOWER).plugin(str(node.number), requires=requires)(make)

    def typed(self, number: int) -> tuple[PluginType[Any], str]:
        return (UPPER if self.every[number].upper else LOWER), str(number)

    @rule(target=numbers, upper=st.booleans(), any_lower=st.booleans(), data=st.data(), luck=st.integers(0, 9))
    def add(self, upper: bool, any_lower: bool, data: st.DataObject, luck: int) -> int:
        return self.new(upper, any_lower, data, luck)

    def new(self, upper: bool, any_lower: bool, data: st.DataObject, luck: int) -> int:
        number, model = len(self.every), self.model
        # Mostly such that it comes up.
        allowed = [
            other
            for other, node in self.every.items()
            if (upper or not node.upper) and (other in model.running or luck == 9)
        ]
        some = st.frozensets(st.sampled_from(allowed), max_size=2) if allowed else st.just(frozenset[int]())
        needs = data.draw(some)
        node = Node(number, upper, needs, data.draw(some) - needs, upper and any_lower)
        self.every[number] = model.nodes[number] = node
        if luck == 8:
            model.broken.add(number)
        model.settle()
        comes_up = number in model.running
        self.expect(self.kernel.plugins.add(self.registration(node)), None if comes_up else InitError)
        if not comes_up:
            del model.nodes[number]
            model.failed.discard(number)
        return number

    def expect(self, work: Coroutine[Any, Any, Any], error: type[Exception] | None) -> None:
        if error is None:
            self.run(work)
        else:
            with pytest.raises(error):
                self.run(work)

    @rule(number=numbers, cascade=st.booleans(), force=st.booleans())
    def disable(self, number: int, cascade: bool, force: bool) -> None:
        verb = self.kernel.plugins.disable(self.every[number].uri, by="me", cascade=cascade, force=force)
        self.take_away(number, cascade or force, verb, self.model.off.add)

    @rule(number=numbers, cascade=st.booleans())
    def remove(self, number: int, cascade: bool) -> None:
        verb = self.kernel.plugins.remove(self.every[number].uri, cascade=cascade)
        self.take_away(number, cascade, verb, self.model.nodes.pop)

    def take_away(
        self, number: int, cascade: bool, verb: Coroutine[Any, Any, Any], mark: Callable[[int], object]
    ) -> None:
        model = self.model
        if number not in model.nodes:
            self.expect(verb, NotFound)
        elif model.dependents(number) and not cascade:
            self.expect(verb, PluginInUse)
        else:
            model.stop(number)
            model.failed.discard(number)
            model.off.discard(number)
            mark(number)
            model.settle()
            self.expect(verb, None)

    @rule(number=numbers)
    def enable(self, number: int) -> None:
        verb, model = self.kernel.plugins.enable(self.every[number].uri), self.model
        if number not in model.nodes:
            self.expect(verb, NotFound)
            return
        model.off.discard(number)
        model.failed.discard(number)
        model.settle()
        self.expect(verb, None if number in model.running else InitError)

    @rule()
    def mend_and_enable_all(self) -> None:
        self.model.broken.clear()
        for number in sorted(self.model.nodes, key=lambda number: (self.model.nodes[number].upper, number)):
            self.enable(number)

    @rule(number=numbers, cascade=st.booleans())
    def reload(self, number: int, cascade: bool) -> None:
        verb, model = self.kernel.plugins.reload(self.every[number].uri, {}, cascade=cascade), self.model
        if number not in model.nodes:
            self.expect(verb, NotFound)
        elif number in model.off:
            self.expect(verb, FailedPrecondition)
        elif model.dependents(number) and not cascade:
            self.expect(verb, PluginInUse)
        else:
            model.stop(number)
            model.failed.discard(number)
            model.settle()
            self.expect(verb, None if number in model.running else InitError)

    @rule(number=numbers, broken=st.booleans())
    def break_or_mend(self, number: int, broken: bool) -> None:
        (self.model.broken.add if broken else self.model.broken.discard)(number)

    @rule(first=numbers, second=numbers)
    def two_at_once(self, first: int, second: int) -> None:
        """One after the other, in the order of the calls."""
        plugins = self.kernel.plugins
        off, on = self.every[first].uri, self.every[second].uri

        async def both() -> None:
            await asyncio.gather(
                plugins.disable(off, by="me", cascade=True), plugins.enable(on), return_exceptions=True
            )

        self.run(both())
        model = self.model
        if first in model.nodes:
            model.stop(first)
            model.failed.discard(first)
            model.off.add(first)
            model.settle()
        if second in model.nodes and second not in model.running:
            model.off.discard(second)
            model.failed.discard(second)
            model.settle()

    @rule(number=numbers)
    def caller_goes_away(self, number: int) -> None:
        """The change happens all the same, and whole."""

        async def leave() -> None:
            task = asyncio.create_task(self.kernel.plugins.disable(self.every[number].uri, by="me", force=True))
            await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError, NotFound):
                await task
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            async with asyncio.timeout(5):
                await asyncio.gather(*rest, return_exceptions=True)

        self.run(leave())
        model = self.model
        if number in model.nodes:
            model.stop(number)
            model.failed.discard(number)
            model.off.add(number)
            model.settle()

    @invariant()
    def what_runs_is_what_must(self) -> None:
        model, statuses = self.model, {status.uri: status for status in self.kernel.plugins.statuses()}
        assert set(statuses) == {node.uri for node in model.nodes.values()}
        open_ones = [instance for instance in self.instances if not instance.closed]
        assert sorted(instance.node.number for instance in open_ones) == sorted(model.running)
        assert all(instance.started for instance in open_ones)
        roots = {self.every[number].uri for number in model.off | model.failed} | {LOWER.name}
        roots |= {node.uri for number, node in self.every.items() if number not in model.nodes}
        for number, node in model.nodes.items():
            status = statuses[node.uri]
            assert (status.state == "ok") == (number in model.running)
            assert (status.state == "disabled") == (number in model.off)
            if number in model.failed:
                assert (status.state, status.cause) == ("failed", node.uri)
                assert status.reason.startswith("ValueError: it is broken (")
            elif status.state != "ok":
                assert status.cause in roots
            else:
                assert (status.reason, status.cause) == ("", "")


TestLive = Machine.TestCase
TestLive.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
