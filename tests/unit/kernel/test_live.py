# SPDX-License-Identifier: Apache-2.0
"""Plugins changed while others run: what happens, in which order, what is refused, and in which words."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orlop.config import load
from orlop.errors import (
    AlreadyExists,
    ConfigError,
    InitError,
    LoadError,
    NotFound,
    PluginInUse,
    Unavailable,
)
from orlop.hooks import HOOK, hookimpl
from orlop.interfaces.proxy import PROXY
from orlop.kernel import Kernel
from orlop.plugin import InitContext, PluginConfig, PluginStatus, PluginType, ProxyTarget, Registration, Requirement

THING = PluginType("org.example.thing.v1", object, group="org.example.thing.v1", many=True)
SINGLE = PluginType("org.example.single.v1", object, group="org.example.single.v1")
T = THING.name


class Config(PluginConfig):
    count: int = 1
    """How many."""


class Thing:
    def __init__(self, log: list[str], id: str, count: int = 0) -> None:
        self.log, self.id, self.count = log, id, count
        log.append(f"+{id}")

    async def start(self) -> None:
        self.log.append(f"!{self.id}")

    async def close(self) -> None:
        self.log.append(f"-{self.id}")


Needs = Sequence[PluginType[Any] | Requirement]


class Bench:
    """A kernel with things that write down what happens to them; only *id*s listed in ``broken`` do not come up."""

    def __init__(self, tmp_path: Path) -> None:
        self.log: list[str] = []
        self.broken: set[str] = set()
        self.file = tmp_path / "config.toml"
        self.head = f'version = 4\nroot = "{tmp_path}/r"\nstate = "{tmp_path}/s"\n'
        self.registrations: list[Registration[Any, Any]] = []
        self.kernel: Kernel

    def thing(
        self, id: str, needs: Needs = (), type: PluginType[Any] = THING, takes: Sequence[str] = ()
    ) -> Registration[Any, Any]:
        async def make(ctx: InitContext[Config]) -> Thing:
            if id in self.broken or ctx.config.count > 100:
                raise ValueError("it is broken")
            for other in takes:
                ctx.get(THING, other)
            return Thing(self.log, id, ctx.config.count)

        registration = type.plugin(id, config=Config, requires=needs)(make)
        self.registrations.append(registration)
        return registration

    async def start(self, text: str = "") -> Kernel:
        self.write(text)
        only = [registration.uri for registration in self.registrations]
        self.kernel = Kernel(load(self.file), plugins=list(self.registrations), only=[*only, f"{T}.far"])
        await self.kernel.start()
        self.log.clear()
        return self.kernel

    def write(self, text: str) -> None:
        self.file.write_text(self.head + text)

    def count(self, id: str) -> int:
        instance = self.kernel.get(THING, id)
        assert isinstance(instance, Thing)
        return instance.count

    def status(self, id: str) -> PluginStatus:
        return next(status for status in self.kernel.plugins.statuses() if status.id == id)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_dependents_go_first_name_the_operator_and_come_back(bench: Bench) -> None:
    bench.thing("a")
    bench.thing("b", [THING.exact("a")], takes=["a"])
    bench.thing("c", [THING.exact("b")], takes=["b"])
    bench.thing("free", [THING.exact("a", optional=True)])
    async with await bench.start() as kernel:
        with pytest.raises(PluginInUse) as caught:
            await kernel.plugins.disable(f"{T}.a", by="root")
        assert f"{T}.b needs it" in str(caught.value)
        assert f"{T}.c needs it" in str(caught.value)
        assert bench.log == []
        change = await kernel.plugins.disable(f"{T}.a", by="root", cascade=True)
        assert change.stopped == (f"{T}.c", f"{T}.b", f"{T}.a")
        assert bench.log == ["-c", "-b", "-a"]
        for id, via in (("b", ""), ("c", f" (by way of {T}.b)")):
            status = bench.status(id)
            assert (status.state, status.cause) == ("skipped", f"{T}.a")
            wanted = (
                rf"needs {T}.a, which is disabled by root at \d{{4}}-\d\d-\d\dT[\d:]+Z{re.escape(via)}: skip plugin"
            )
            assert re.fullmatch(wanted, status.reason), status.reason
        bench.log.clear()
        assert (await kernel.plugins.enable(f"{T}.a")).started == (f"{T}.a", f"{T}.b", f"{T}.c")
        assert bench.log == ["+a", "+b", "+c", "!a", "!b", "!c"]


async def test_who_follows_a_type_does_not_notice(bench: Bench) -> None:
    bench.thing("a")
    bench.thing("b")
    bench.thing("w", [THING], type=SINGLE)
    async with await bench.start() as kernel:
        view = kernel.all(THING)
        assert (await kernel.plugins.disable(f"{T}.a", by="me")).stopped == (f"{T}.a",)
        assert list(view) == ["b"]
        # The last one is another matter.
        with pytest.raises(PluginInUse, match=re.escape(f"{SINGLE.name}.w needs it")):
            await kernel.plugins.disable(f"{T}.b", by="me")
        assert (await kernel.plugins.reload(f"{T}.b", cascade=True)).restarted == (f"{T}.b", f"{SINGLE.name}.w")


async def test_data_in_use_is_protected_unless_forced(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    class Users:
        @hookimpl
        def orlop_plugin_users(self, uri: str) -> list[str] | Awaitable[list[str]]:
            return self.later() if uri == f"{T}.a" else []

        async def later(self) -> list[str]:
            return ['container "x/y"']

    class Confused:
        @hookimpl
        def orlop_plugin_users(self, uri: str) -> list[str]:
            if uri == f"{T}.b":
                raise ValueError("no idea")
            return []

    bench.thing("a")
    bench.thing("b")
    for id, hook in (("users", Users()), ("confused", Confused())):

        async def make(ctx: InitContext[Any], hook: object = hook) -> object:
            return hook

        bench.registrations.append(HOOK.plugin(id)(make))
    async with await bench.start() as kernel:
        for verb in (kernel.plugins.disable(f"{T}.a", by="me", cascade=True), kernel.plugins.reload(f"{T}.a")):
            with pytest.raises(PluginInUse, match='container "x/y" is affected'):
                await verb
        with pytest.raises(PluginInUse, match="could not be asked"):
            await kernel.plugins.disable(f"{T}.b", by="me")
        change = await kernel.plugins.disable(f"{T}.a", by="me", force=True)
        assert change.warnings == (f'{T}.a was stopped in spite of container "x/y"',)
        assert change.warnings[0] in caplog.messages
        bench.write(f'[plugins."{T}.b"]\ncount = 2\n')
        plan = await kernel.plugins.reload_config()
        assert list(plan.kept) == [f"{T}.b"]
        assert plan.restarted == ()
        assert (await kernel.plugins.reload_config(force=True)).restarted == (f"{T}.b",)


async def test_a_required_plugin_stays(bench: Bench) -> None:
    bench.thing("a")
    async with await bench.start(f'required_plugins = ["{T}.a"]\n') as kernel:
        with pytest.raises(PluginInUse, match=r"config.toml:4: required_plugins"):
            await kernel.plugins.disable(f"{T}.a", by="me")
        bench.write(f'required_plugins = ["{T}.a"]\ndisabled_plugins = ["{T}.a"]\n')
        with pytest.raises(ConfigError, match="is required, but disabled"):
            await kernel.plugins.reload_config()
        assert bench.log == []


async def test_reload_takes_what_the_files_say_and_nothing_from_faulty_ones(bench: Bench) -> None:
    bench.thing("a")
    async with await bench.start() as kernel:
        bench.write(f'[plugins."{T}.a"]\ncount = 2\n')
        assert (await kernel.plugins.reload(f"{T}.a")).restarted == (f"{T}.a",)
        assert bench.count("a") == 2
        bench.log.clear()
        bench.write(f'[plugins."{T}.a"]\ncount = "two"\n')
        with pytest.raises(ConfigError, match=r"config.toml:5: .*count = .two"):
            await kernel.plugins.reload(f"{T}.a")
        with pytest.raises(ConfigError, match="kount: unknown key"):
            await kernel.plugins.reload(f"{T}.a", {"kount": 3})
        assert bench.log == []
        await kernel.plugins.reload(f"{T}.a", {"count": 3})
        assert bench.count("a") == 3


async def test_the_old_config_comes_back_when_the_new_one_does_not_work(bench: Bench) -> None:
    bench.thing("a")
    bench.thing("b", [THING.exact("a")], takes=["a"])
    async with await bench.start() as kernel:
        with pytest.raises(InitError, match=r"ValueError: it is broken \(.+:\d+\); it runs with the old one again"):
            await kernel.plugins.reload(f"{T}.a", {"count": 1000}, cascade=True)
        assert bench.count("a") == 1
        assert bench.status("b").state == "ok"


async def test_enable_tries_again_what_failed(bench: Bench) -> None:
    bench.broken.add("a")
    bench.thing("a")
    bench.thing("b", [THING.exact("a")])
    async with await bench.start() as kernel:
        with pytest.raises(InitError, match="it is broken"):
            await kernel.plugins.enable(f"{T}.a")
        bench.broken.clear()
        assert (await kernel.plugins.enable(f"{T}.a")).started == (f"{T}.a", f"{T}.b")
        with pytest.raises(NotFound):
            await kernel.plugins.enable(f"{T}.zz")


async def test_of_two_rivals_the_other_comes_up_when_one_is_disabled(bench: Bench) -> None:
    bench.thing("a", type=SINGLE)
    bench.thing("b", type=SINGLE)
    async with await bench.start() as kernel:
        assert {status.state for status in kernel.plugins.statuses()} == {"failed"}
        assert (await kernel.plugins.disable(f"{SINGLE.name}.a", by="me")).started == (f"{SINGLE.name}.b",)
        with pytest.raises(InitError, match="only one plugin of type"):
            await kernel.plugins.enable(f"{SINGLE.name}.a")
        assert bench.status("b").state == "ok"


async def test_plugins_of_any_origin_are_added_and_removed(bench: Bench) -> None:
    class Kind:
        async def connect(self, name: str, target: ProxyTarget) -> Any:
            return Thing(bench.log, name)

    @PROXY.plugin("kind", exports={"target": T})
    async def kind(ctx: InitContext[Any]) -> Kind:
        return Kind()

    bench.thing("a")
    bench.registrations.append(kind)
    async with await bench.start() as kernel:
        await kernel.plugins.add(bench.thing("new", [THING.exact("a")], takes=["a"]), {"count": 5})
        assert bench.count("new") == 5
        with pytest.raises(AlreadyExists):
            await kernel.plugins.add(bench.registrations[0])
        assert (await kernel.plugins.add_proxy("far", {"type": "kind", "address": "/x"})).started == (f"{T}.far",)
        with pytest.raises(LoadError, match='unknown kind "nothing"'):
            await kernel.plugins.add_proxy("other", {"type": "nothing", "address": "/x"})
        with pytest.raises(ConfigError, match="address: missing"):
            await kernel.plugins.add_proxy("other", {"type": "kind"})
        with pytest.raises(LoadError, match="cannot be imported"):
            await kernel.plugins.add_module(f"{T}.mod", "no_such_module:x")
        bench.broken.add("bad")
        with pytest.raises(InitError, match="it is broken"):
            await kernel.plugins.add(bench.thing("bad"))
        with pytest.raises(PluginInUse, match="needs it"):
            await kernel.plugins.remove(f"{T}.a")
        for id in ("new", "far"):
            assert (await kernel.plugins.remove(f"{T}.{id}")).stopped == (f"{T}.{id}",)
        assert {status.id for status in kernel.plugins.statuses()} == {"a", "kind"}


async def test_what_a_missing_plugin_kept_down_comes_up_with_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.thing("b", [THING.exact("late")], takes=["late"])
    bench.thing("c", [THING.exact("b")])
    async with await bench.start() as kernel:
        caplog.clear()
        late = bench.thing("late")
        assert (await kernel.plugins.add(late)).started == (f"{T}.late", f"{T}.b", f"{T}.c")
        await kernel.plugins.remove(late.uri, cascade=True)
        assert bench.status("c").cause == f"{T}.late"
        assert [record.levelname for record in caplog.records if record.levelno >= logging.ERROR] == ["ERROR"]


async def test_a_plugin_that_closes_a_ring_is_refused_alone(bench: Bench) -> None:
    bench.thing("a", [THING.optional()])
    async with await bench.start() as kernel:
        with pytest.raises(InitError, match="requires itself"):
            await kernel.plugins.add(bench.thing("b", [THING.exact("a")]))
        assert bench.status("a").state == "ok"


async def test_the_config_is_followed_where_it_changed_and_live_changes_stay(bench: Bench) -> None:
    for id in ("a", "b", "c", "d", "e"):
        bench.thing(id)
    bench.thing("f", [THING.exact("b")], takes=["b"])
    async with await bench.start(f'disabled_plugins = ["{T}.d", "{T}.e"]\n') as kernel:
        await kernel.plugins.disable(f"{T}.c", by="me")
        await kernel.plugins.enable(f"{T}.e")
        bench.log.clear()
        bench.write(
            f'oom_score = 3\ndisabled_plugins = ["{T}.a", "{T}.e"]\n'
            f'[plugins."{T}.b"]\ncount = 2\n[plugins."{T}.c"]\ncount = 2\n'
        )
        plan = await kernel.plugins.reload_config(dry_run=True)
        assert bench.log == []
        assert (plan.started, plan.stopped, plan.restarted) == ((f"{T}.d",), (f"{T}.a",), (f"{T}.b", f"{T}.f"))
        assert plan.settings == ("oom_score",)
        change = await kernel.plugins.reload_config()
        assert (change.started, change.stopped, change.restarted) == (plan.started, plan.stopped, plan.restarted)
        assert [step for step in bench.log if step[0] == "-"] == ["-f", "-b", "-a"]
        assert "config.toml:5" in bench.status("a").reason
        assert "by me" in bench.status("c").reason
        assert bench.status("e").state == "ok"
        await kernel.plugins.enable(f"{T}.c")
        assert bench.count("c") == 2
        assert not any((await kernel.plugins.reload_config()).restarted)


async def test_a_change_is_whole_though_its_caller_leaves_and_none_comes_after_the_end(bench: Bench) -> None:
    bench.thing("a")
    kernel = await bench.start()
    task = asyncio.create_task(kernel.plugins.disable(f"{T}.a", by="me"))
    await asyncio.sleep(0)
    task.cancel()
    await kernel.close()
    assert bench.log == ["-a"]
    with pytest.raises(Unavailable):
        await kernel.plugins.enable(f"{T}.a")
    assert bench.log == ["-a"]


async def test_a_plugin_may_change_plugins_from_a_task_of_its_own(bench: Bench) -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def make(ctx: InitContext[Any]) -> object:
        tasks.append(asyncio.create_task(ctx.plugins.disable(f"{T}.a", by="a plugin")))
        return object()

    bench.thing("a")
    bench.registrations.append(THING.plugin("watch")(make))
    async with await bench.start() as kernel:
        await tasks[0]
        assert kernel.plugins.instance(f"{T}.a") is None
        assert bench.status("a").reason.startswith("disabled by a plugin at ")


async def test_one_that_hangs_while_closing_does_not_hold_up_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orlop.registry._CLOSING", 0.01)

    class Stuck:
        async def close(self) -> None:
            await asyncio.Event().wait()

    async def make(ctx: InitContext[Any]) -> object:
        return Stuck()

    bench.registrations.append(THING.plugin("stuck")(make))
    async with await bench.start() as kernel:
        async with asyncio.timeout(5):
            assert (await kernel.plugins.disable(f"{T}.stuck", by="me")).stopped == (f"{T}.stuck",)
