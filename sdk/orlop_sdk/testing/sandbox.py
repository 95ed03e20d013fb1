# SPDX-License-Identifier: Apache-2.0
"""The conformance suite for sandbox controllers.

Subclass it in a test file, and say how to make yours and what its sandboxes are made of::

    class TestDemo(SandboxControllerSuite):
        runtime = "io.containerd.demo.v1"

        @pytest.fixture
        def controller(self) -> SandboxController:
            return DemoController()

Every check runs in a namespace of its own, and leaves no sandbox behind if yours works.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

from orlop import context
from orlop.errors import AlreadyExists, NotFound, Unimplemented
from orlop.interfaces.sandbox import SandboxController, SandboxRequest
from orlop.values import EPOCH, AnyMessage, RuntimeInfo, Sandbox

#: Seconds within which a sandbox that was stopped has to have ended, for whoever waits.
PATIENCE = 60.0
READY = "SANDBOX_READY"
NOT_READY = "SANDBOX_NOTREADY"


class SandboxControllerSuite:
    """What every sandbox controller has to do."""

    runtime: ClassVar[str] = "io.containerd.demo.v1"
    """The runtime of the records."""
    spec: ClassVar[AnyMessage | None] = None
    """The spec of the records, for controllers that need one."""
    measures: ClassVar[bool] = True
    """Whether `SandboxController.metrics` has figures without more ado."""

    @pytest.fixture(autouse=True)
    def namespace(self) -> Iterator[str]:
        """The namespace of the check."""
        name = f"check-{uuid.uuid4().hex[:12]}"
        with context.scope(namespace=name):
            yield name

    @pytest.fixture
    def controller(self) -> SandboxController:
        """Yours."""
        raise NotImplementedError

    def record(self, id: str) -> Sandbox:
        """The record of a sandbox."""
        return Sandbox(id, RuntimeInfo(self.runtime), self.spec)

    @asynccontextmanager
    async def made(self, controller: SandboxController, id: str = "one", *, start: bool = True) -> AsyncIterator[None]:
        """A sandbox for as long as the body runs."""
        await controller.create(self.record(id), SandboxRequest())
        try:
            if start:
                await controller.start(id)
            yield
        finally:
            await controller.shutdown(id)

    async def test_it_runs_until_it_is_stopped(self, controller: SandboxController) -> None:
        await controller.create(self.record("one"), SandboxRequest())
        started = await controller.start("one")
        assert started.id == "one"
        status = await controller.status("one")
        assert (status.id, status.state, status.exited_at) == ("one", READY, EPOCH)
        assert (status.pid, status.created_at) == (started.pid, started.created_at)
        assert status.created_at != EPOCH
        await controller.stop("one")
        after = await controller.status("one")
        assert after.state == NOT_READY
        assert after.exited_at != EPOCH
        assert after.exited_at >= started.created_at
        await controller.shutdown("one")
        with pytest.raises(NotFound):
            await controller.status("one")

    async def test_all_who_wait_hear_of_the_end(self, controller: SandboxController) -> None:
        async with self.made(controller):
            waiting = [asyncio.create_task(controller.wait("one")) for _ in range(3)]
            await asyncio.sleep(0.1)
            assert not any(task.done() for task in waiting)
            waiting[0].cancel()
            await controller.stop("one")
            async with asyncio.timeout(PATIENCE):
                first, second = await asyncio.gather(*waiting[1:])
                late = await controller.wait("one")
            assert first == second == late

    async def test_stop_and_shutdown_may_come_twice(self, controller: SandboxController) -> None:
        async with self.made(controller):
            await controller.stop("one", timeout=1)
            await controller.stop("one")
        await controller.shutdown("one")

    async def test_shutdown_ends_what_runs(self, controller: SandboxController) -> None:
        async with self.made(controller):
            waiting = asyncio.create_task(controller.wait("one"))
            await asyncio.sleep(0.1)
            await controller.shutdown("one")
            async with asyncio.timeout(PATIENCE):
                await waiting

    async def test_an_id_is_taken_until_the_shutdown(self, controller: SandboxController) -> None:
        async with self.made(controller):
            with pytest.raises(AlreadyExists):
                await controller.create(self.record("one"), SandboxRequest())
            await controller.stop("one")
            with pytest.raises(AlreadyExists):
                await controller.create(self.record("one"), SandboxRequest())
        async with self.made(controller):
            assert (await controller.status("one")).state == READY

    async def test_one_that_was_not_started_can_be_shut_down(self, controller: SandboxController) -> None:
        async with self.made(controller, start=False):
            assert (await controller.status("one")).exited_at == EPOCH
        with pytest.raises(NotFound):
            await controller.status("one")

    async def test_namespaces_do_not_see_each_other(self, controller: SandboxController) -> None:
        async with self.made(controller):
            with context.scope(namespace=f"other-{uuid.uuid4().hex[:12]}"):
                with pytest.raises(NotFound):
                    await controller.status("one")
                async with self.made(controller):
                    assert (await controller.status("one")).state == READY
            assert (await controller.status("one")).state == READY

    async def test_several_run_at_once(self, controller: SandboxController) -> None:
        ids = [f"s{number}" for number in range(4)]
        await asyncio.gather(*(controller.create(self.record(id), SandboxRequest()) for id in ids))
        await asyncio.gather(*(controller.start(id) for id in ids))
        await controller.stop("s0")
        assert [(await controller.status(id)).state for id in ids] == [NOT_READY, READY, READY, READY]
        await asyncio.gather(*(controller.shutdown(id) for id in ids))

    async def test_what_is_not_there_is_not_found(self, controller: SandboxController) -> None:
        for call in (
            controller.start("none"),
            controller.platform("none"),
            controller.stop("none"),
            controller.wait("none"),
            controller.status("none"),
            controller.metrics("none"),
            controller.update("none", self.record("none"), ["labels"]),
        ):
            with pytest.raises(NotFound):
                await call
        await controller.shutdown("none")

    async def test_it_tells_its_platform_and_figures(self, controller: SandboxController) -> None:
        async with self.made(controller):
            platform = await controller.platform("one")
            assert platform.os
            assert platform.architecture
            if self.measures:
                metric = await controller.metrics("one")
                assert metric.id == "one"
                assert metric.timestamp != EPOCH
                assert metric.data is not None

    async def test_it_follows_a_changed_record_or_says_that_it_cannot(self, controller: SandboxController) -> None:
        async with self.made(controller):
            try:
                await controller.update("one", self.record("one"), ["labels"])
            except Unimplemented as error:
                assert str(error), "with words"  # noqa: PT017 - both ways are right
            assert (await controller.status("one")).state == READY
