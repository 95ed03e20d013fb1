# SPDX-License-Identifier: Apache-2.0
"""The process of an isolated plugin: how it starts, what it is told and tells, how it dies, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orlop.config import from_data
from orlop.errors import Unavailable
from orlop.interfaces.isolation import ISOLATION, Isolator
from orlop.interfaces.snapshotter import SNAPSHOTTER, Snapshotter
from orlop.kernel import Kernel
from orlop.plugin import InitContext, NoConfig, PluginStatus, Registration
from orlop_proxy.isolation import IsolatedSnapshotter, ProcessIsolator
from orlop_proxy.supervisor import Patience

URI = f"{SNAPSHOTTER.name}.odd"
MODULE = """\
import asyncio, logging, os, signal, sys, time
from pathlib import Path

from orlop.errors import SkipPlugin
from orlop.errors import Unavailable
from orlop.interfaces.snapshotter import snapshotter
from orlop.interfaces.event import EVENT
from orlop.plugin import PluginConfig
from orlop_snapshots.native import NativeSnapshotter

class Config(PluginConfig):
    mood: str = ""

class Odd(NativeSnapshotter):
    async def mounts(self, key):
        if key == "busy":
            raise Unavailable('snapshot "busy": in use')
        if key == "wait":
            await asyncio.sleep(1000)
        if key == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().mounts(key)

    async def close(self):
        await super().close()
        (self.root / "closed").touch()

@snapshotter("odd", config=Config)
async def odd(ctx):
    mood = ctx.config.mood
    if mood == "skip":
        raise SkipPlugin("skip plugin: no mood")
    if mood == "fail":
        raise ValueError("bad mood")
    if mood == "exit":
        os._exit(7)
    if mood == "hang":
        time.sleep(1000)
    if mood == "once" and (ctx.root / "was-here").exists():
        os._exit(9)
    (ctx.root / "was-here").touch()
    print("printed, not logged")
    ctx.log.info("in the mood %s", mood)
    ctx.log.error("several\\nlines")
    ctx.export("mood", mood)
    ctx.export("version", ctx.properties["version"])
    return Odd(ctx.root)

@snapshotter("needy", requires=(EVENT,))
async def needy(ctx):
    return Odd(ctx.root)
"""
QUICK = Patience(start=20, stop=1, first=0.05, most=0.2, stable=1000)


@ISOLATION.plugin("quick", exports={"types": SNAPSHOTTER.name})
async def quick(_ctx: InitContext[NoConfig]) -> Isolator:
    return ProcessIsolator(QUICK)


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "oddities.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def kernel(base: Path, mood: str = "", id: str = "odd", isolator: Registration[Any, Any] = quick) -> Kernel:
    table = {"isolated": "quick"} | ({"mood": mood} if mood else {})
    uri = f"{SNAPSHOTTER.name}.{id}"
    data = {
        "root": str(base / "r"),
        "state": str(base / "s"),
        "plugin_modules": {uri: f"oddities:{id}"},
        "plugins": {uri: table},
    }
    return Kernel(from_data(data), plugins=[isolator], only=[uri], properties={"version": "1.2.3"})


def status(running: Kernel) -> PluginStatus:
    (found,) = [each for each in running.registry.statuses() if each.type == SNAPSHOTTER.name]
    return found


def pid(snapshotter: Snapshotter) -> int:
    assert isinstance(snapshotter, IsolatedSnapshotter)
    found = snapshotter.supervisor.pid
    assert found is not None
    return found


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
async def running(short_tmp: Path) -> AsyncIterator[Kernel]:
    async with kernel(short_tmp, "good") as running:
        yield running


async def test_it_gets_its_config_and_tells_what_it_exports(running: Kernel) -> None:
    assert status(running).exports == {"mood": "good", "version": "1.2.3"}
    assert pid(running.get(SNAPSHOTTER, "odd")) != os.getpid()


async def test_its_log_has_the_plugins_name(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with kernel(short_tmp, "good"):
        pass
    mine = {record.getMessage(): record for record in caplog.records if getattr(record, "plugin", "") == URI}
    assert mine["in the mood good"].levelno == logging.INFO
    assert mine["several\nlines"].levelno == logging.ERROR
    assert mine["printed, not logged"].levelno == logging.WARNING
    assert {record.name for record in mine.values()} == {f"orlop.{URI}"}


@pytest.mark.parametrize(
    ("mood", "state", "reason"),
    [
        ("skip", "skipped", "skip plugin: no mood"),
        ("fail", "failed", "bad mood"),
        ("exit", "failed", "its process ended with status 7 before it was ready"),
    ],
)
async def test_what_keeps_it_from_starting_is_its_state(short_tmp: Path, mood: str, state: str, reason: str) -> None:
    async with kernel(short_tmp, mood) as running:
        assert status(running).state == state
        assert reason in status(running).reason


async def test_one_that_is_never_ready_is_given_up(short_tmp: Path) -> None:
    @ISOLATION.plugin("quick", exports={"types": SNAPSHOTTER.name})
    async def hasty(_ctx: InitContext[NoConfig]) -> Isolator:
        return ProcessIsolator(Patience(start=2, stop=1))

    async with kernel(short_tmp, "hang", isolator=hasty) as running:
        assert "was not ready within 2 seconds" in status(running).reason


async def test_what_it_needs_and_cannot_reach_is_told(short_tmp: Path) -> None:
    async with kernel(short_tmp, id="needy") as running:
        assert "cannot be isolated: it needs io.containerd.event.v1" in status(running).reason


async def test_a_death_is_told_to_callers_and_forgotten_when_it_is_back(running: Kernel) -> None:
    snapshotter = running.get(SNAPSHOTTER, "odd")
    await snapshotter.prepare("kept")
    waiting = asyncio.create_task(snapshotter.mounts("wait"))
    await asyncio.sleep(0.2)
    first = pid(snapshotter)
    with pytest.raises(Unavailable, match=f'^plugin "{URI}": its process was killed by signal 9'):
        await snapshotter.mounts("die")
    with pytest.raises(Unavailable, match="is being started again"):
        await waiting
    with pytest.raises(Unavailable, match="is being started again"):
        await snapshotter.stat("kept")
    with pytest.raises(Unavailable, match="is being started again"):
        [_ async for _ in snapshotter.walk()]
    await until_back(snapshotter)
    assert pid(snapshotter) != first
    assert [info.name async for info in snapshotter.walk()] == ["kept"]


async def test_what_the_plugin_calls_unavailable_stays_as_it_is(running: Kernel) -> None:
    with pytest.raises(Unavailable, match=r'^snapshot "busy": in use$'):
        await running.get(SNAPSHOTTER, "odd").mounts("busy")


async def test_one_that_cannot_come_back_is_tried_at_growing_intervals(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with kernel(short_tmp, "once") as running:
        snapshotter = running.get(SNAPSHOTTER, "odd")
        with pytest.raises(Unavailable):
            await snapshotter.mounts("die")

        def pauses() -> list[str]:
            said = [record.getMessage() for record in caplog.records]
            return [text.rpartition(" in ")[2] for text in said if "it is started again in" in text]

        for _ in range(600):
            if len(pauses()) >= 4:
                break
            await asyncio.sleep(0.05)
        assert pauses()[:4] == ["0.05 s", "0.1 s", "0.2 s", "0.2 s"]
        with pytest.raises(Unavailable, match="does not start: its process ended with status 9"):
            await snapshotter.stat("x")


async def test_closing_lets_the_plugin_close(short_tmp: Path) -> None:
    async with kernel(short_tmp, "good") as running:
        process = pid(running.get(SNAPSHOTTER, "odd"))
        snapshotter = running.get(SNAPSHOTTER, "odd")
    assert (short_tmp / "r" / URI / "closed").exists()
    assert not alive(process)
    assert not list((short_tmp / "s" / URI).iterdir())
    await snapshotter.close()
    with pytest.raises(Unavailable, match="it was closed"):
        await snapshotter.stat("x")


async def test_one_that_does_not_end_is_killed(short_tmp: Path) -> None:
    async with kernel(short_tmp, "good") as running:
        process = pid(running.get(SNAPSHOTTER, "odd"))
        os.kill(process, signal.SIGSTOP)
    assert not alive(process)


async def test_closing_while_it_is_down_starts_nothing(short_tmp: Path) -> None:
    async with kernel(short_tmp, "good") as running:
        snapshotter = running.get(SNAPSHOTTER, "odd")
        with pytest.raises(Unavailable):
            await snapshotter.mounts("die")
    assert isinstance(snapshotter, IsolatedSnapshotter)
    assert snapshotter.supervisor.pid is None


async def until_back(snapshotter: Snapshotter) -> None:
    for _ in range(400):
        try:
            await snapshotter.stat("kept")
        except Unavailable:
            await asyncio.sleep(0.05)
        else:
            return
    pytest.fail("it did not come back")
