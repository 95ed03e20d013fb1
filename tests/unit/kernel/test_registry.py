# SPDX-License-Identifier: Apache-2.0
"""The registry: order, states with one root cause, and taking down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pytest

from orlop.config import from_data
from orlop.errors import ConfigError, InitError, NotFound, RequirementError, SkipPlugin
from orlop.hooks import HOOK, hookimpl
from orlop.kernel import Kernel
from orlop.plugin import InitContext, PluginConfig, PluginStatus, PluginType, Registration, Requirement


@runtime_checkable
class Greeter(Protocol):
    """An interface of a third party."""

    async def greet(self, name: str) -> str:
        """Say hello."""
        ...


GREETER = PluginType("org.example.greeter.v1", Greeter, group="org.example.greeter.v1", many=True)
SINGLE = PluginType("org.example.single.v1", Greeter, group="org.example.single.v1")


class Polite:
    def __init__(self, log: list[str] | None = None, id: str = "") -> None:
        self._log = log
        self._id = id

    async def greet(self, name: str) -> str:
        return f"hello {name}"

    async def close(self) -> None:
        if self._log is not None:
            self._log.append(f"close {self._id}")


AnyRegistration = Registration[Any, Any]
Needs = Sequence[PluginType[Any] | Requirement]


def plugin(
    id: str,
    requires: Needs = (),
    body: Callable[[InitContext[Any]], Awaitable[Any]] | None = None,
    type: PluginType[Any] = GREETER,
    **options: Any,
) -> AnyRegistration:
    async def polite(ctx: InitContext[Any]) -> Any:
        return Polite()

    return type.plugin(id, requires=requires, **options)(body or polite)


def kernel(tmp_path: Path, *plugins: AnyRegistration, **config: Any) -> Kernel:
    data = {"root": str(tmp_path / "root"), "state": str(tmp_path / "state"), **config}
    return Kernel(from_data(data), plugins=plugins, only=[item.uri for item in plugins])


def states(kernel: Kernel) -> dict[str, PluginStatus]:
    return {status.uri: status for status in kernel.registry.statuses()}


async def test_dependencies_come_first_and_close_last(tmp_path: Path) -> None:
    log: list[str] = []

    def logging_plugin(id: str, requires: Needs = ()) -> AnyRegistration:
        async def init(ctx: InitContext[Any]) -> Any:
            log.append(f"init {id}")
            return Polite(log, id)

        return plugin(id, requires, init)

    parts = [
        logging_plugin("c", [GREETER.exact("b")]),
        logging_plugin("a"),
        logging_plugin("b", [GREETER.exact("a")]),
    ]
    async with kernel(tmp_path, *parts) as running:
        assert [status.state for status in running.registry.statuses()] == ["ok"] * 3
    assert log == ["init a", "init b", "init c", "close c", "close b", "close a"]


async def test_independent_plugins_initialise_at_the_same_time(tmp_path: Path) -> None:
    barrier = asyncio.Barrier(2)

    async def init(ctx: InitContext[Any]) -> Any:
        async with asyncio.timeout(5):
            await barrier.wait()
        return Polite()

    async with kernel(tmp_path, plugin("a", (), init), plugin("b", (), init)) as running:
        assert set(running.all(GREETER)) == {"a", "b"}


async def test_one_failure_is_one_error_and_everyone_names_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(ctx: InitContext[Any]) -> Any:
        raise OSError(5, "the disk is on fire")

    chain = [plugin(f"p{n}", [GREETER.exact(f"p{n - 1}")]) for n in range(1, 5)]
    with caplog.at_level(logging.INFO, logger="orlop"):
        async with kernel(tmp_path, plugin("p0", (), broken), *chain) as running:
            found = states(running)
    root = "org.example.greeter.v1.p0"
    assert found[root].state == "failed"
    assert "the disk is on fire" in found[root].reason
    for n in range(1, 5):
        status = found[f"org.example.greeter.v1.p{n}"]
        assert (status.state, status.cause) == ("failed", root)
        assert f"needs {root}, which failed: [Errno 5] the disk is on fire" in status.reason
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


async def test_dependents_of_a_disabled_plugin_are_skipped_and_say_where_it_was_disabled(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        f'version = 3\nroot = "{tmp_path}/r"\nstate = "{tmp_path}/s"\n'
        'disabled_plugins = [\n  "org.example.greeter.v1.a",\n]\n'
    )
    from orlop.config import load

    parts = [plugin("a"), plugin("b", [GREETER.exact("a")])]
    async with Kernel(load(file), plugins=parts, only=[part.uri for part in parts]) as running:
        found = states(running)
    assert found["org.example.greeter.v1.a"].state == "disabled"
    needing = found["org.example.greeter.v1.b"]
    assert needing.state == "skipped"
    assert f"needs org.example.greeter.v1.a, which is disabled in {file}:4" in needing.reason
    assert "skip plugin" in needing.reason


async def test_a_skipped_plugin_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def skip(ctx: InitContext[Any]) -> Any:
        raise SkipPlugin("no overlay in /proc/filesystems; modprobe overlay")

    with caplog.at_level(logging.INFO, logger="orlop"):
        async with kernel(tmp_path, plugin("a", (), skip)) as running:
            (status,) = running.registry.statuses()
    assert status.state == "skipped"
    assert "skip plugin" in status.reason
    assert all(record.levelno < logging.ERROR for record in caplog.records)


async def test_a_ring_is_shown_as_a_chain_and_others_still_run(tmp_path: Path) -> None:
    parts = [
        plugin("a", [GREETER.exact("b")]),
        plugin("b", [GREETER.exact("c")]),
        plugin("c", [GREETER.exact("a")]),
        plugin("free"),
    ]
    async with kernel(tmp_path, *parts) as running:
        found = states(running)
    assert found["org.example.greeter.v1.free"].state == "ok"
    reason = found["org.example.greeter.v1.a"].reason
    assert reason.count(" needs ") == 3
    assert "the embedding program" in reason


async def test_what_nobody_provides_is_named_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = [plugin("a", [SINGLE]), plugin("b", [SINGLE]), plugin("c", [GREETER.exact("a")])]
    async with kernel(tmp_path, *parts) as running:
        statuses = running.registry.statuses()
    assert {(status.state, status.cause) for status in statuses} == {("failed", "org.example.single.v1")}
    assert all("needs org.example.single.v1, which no installed" in status.reason for status in statuses)
    errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["no installed distribution provides org.example.single.v1, which org.example.greeter.v1.a needs"]


async def test_two_of_a_single_type_are_refused(tmp_path: Path) -> None:
    async with kernel(tmp_path, plugin("a", type=SINGLE), plugin("b", type=SINGLE)) as running:
        found = states(running)
    for status in found.values():
        assert status.state == "failed"
        assert "org.example.single.v1.a" in status.reason
        assert "org.example.single.v1.b" in status.reason


async def test_an_instance_that_is_not_its_interface_is_blamed_on_its_author(tmp_path: Path) -> None:
    class Sync:
        def greet(self, name: str) -> str:
            return name

    class Short:
        async def greet(self) -> str:
            return ""

    async def sync(ctx: InitContext[Any]) -> Any:
        return Sync()

    async def short(ctx: InitContext[Any]) -> Any:
        return Short()

    async def empty(ctx: InitContext[Any]) -> Any:
        return object()

    parts = [plugin("sync", (), sync), plugin("short", (), short), plugin("empty", (), empty)]
    async with kernel(tmp_path, *parts) as running:
        found = states(running)
    assert "greet must be async" in found["org.example.greeter.v1.sync"].reason
    assert "greet takes no parameter name" in found["org.example.greeter.v1.short"].reason
    assert "has no greet" in found["org.example.greeter.v1.empty"].reason


async def test_undeclared_use_is_refused(tmp_path: Path) -> None:
    async def sneaky(ctx: InitContext[Any]) -> Any:
        ctx.get(GREETER, "a")
        return Polite()

    async with kernel(tmp_path, plugin("a"), plugin("b", (), sneaky)) as running:
        found = states(running)
    assert "without requiring it" in found["org.example.greeter.v1.b"].reason


async def test_required_plugins_must_work_and_the_rest_is_closed(tmp_path: Path) -> None:
    log: list[str] = []

    async def fine(ctx: InitContext[Any]) -> Any:
        return Polite(log, "a")

    async def broken(ctx: InitContext[Any]) -> Any:
        raise ValueError("bad luck")

    parts = [plugin("a", (), fine), plugin("b", (), broken)]
    running = kernel(tmp_path, *parts, required_plugins=["org.example.greeter.v1.b", "org.example.greeter.v1.zz"])
    with pytest.raises(InitError) as caught:
        await running.start()
    assert "org.example.greeter.v1.b is required, but failed: ValueError: bad luck (" in str(caught.value)
    assert "org.example.greeter.v1.zz is required, but not installed" in str(caught.value)
    assert log == ["close a"]


async def test_foreign_platforms_are_skipped(tmp_path: Path) -> None:
    async with kernel(tmp_path, plugin("a", platforms=["plan9/mips"])) as running:
        (status,) = running.registry.statuses()
    assert status.state == "skipped"
    assert "runs on plan9/mips" in status.reason


async def test_get_and_all_follow_the_states(tmp_path: Path) -> None:
    views: list[Any] = []

    async def watcher(ctx: InitContext[Any]) -> Any:
        views.append(ctx.all(GREETER))
        with pytest.raises(RequirementError, match="several: a, b"):
            ctx.get(GREETER)
        return Polite()

    parts = [plugin("a"), plugin("b"), plugin("w", [GREETER], watcher, type=SINGLE)]
    running = kernel(tmp_path, *parts)
    await running.start()
    assert sorted(views[0]) == ["a", "b"]
    assert await running.get(GREETER, "a").greet("you") == "hello you"
    with pytest.raises(NotFound):
        running.get(GREETER, "zz")
    await running.close()
    await running.close()
    assert list(views[0]) == []


async def test_parts_are_started_after_everyone_had_a_turn(tmp_path: Path) -> None:
    log: list[str] = []

    class Active(Polite):
        async def start(self) -> None:
            log.append("start")

    async def active(ctx: InitContext[Any]) -> Any:
        log.append("init")
        return Active()

    parts = [plugin("a", (), active), plugin("b", [GREETER.exact("a")], active)]
    async with kernel(tmp_path, *parts):
        assert log == ["init", "init", "start", "start"]


async def test_config_is_typed_and_faults_stop_before_any_factory(tmp_path: Path) -> None:
    class Config(PluginConfig):
        count: int = 3

    seen: list[int] = []

    async def init(ctx: InitContext[Config]) -> Any:
        seen.append(ctx.config.count)
        return Polite()

    registration = GREETER.plugin("a", config=Config)(init)
    uri = registration.uri
    async with kernel(tmp_path, registration, plugins={uri: {"count": 7}}):
        assert seen == [7]
    with pytest.raises(ConfigError, match="count"):
        await kernel(tmp_path, registration, plugins={uri: {"count": "many"}}).start()
    assert seen == [7]


async def test_hooks_watch_states_and_bad_hooks_are_refused(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    class Watcher:
        @hookimpl
        def orlop_plugin_state(self, status: PluginStatus) -> None:
            seen.append((status.id, status.state))

    class Misspelt:
        @hookimpl
        def orlop_plugin_stat(self) -> None:
            """Never called."""

    async def watcher(ctx: InitContext[Any]) -> Any:
        return Watcher()

    async def misspelt(ctx: InitContext[Any]) -> Any:
        return Misspelt()

    parts = [
        HOOK.plugin("watch")(watcher),
        HOOK.plugin("bad")(misspelt),
        plugin("later", [HOOK.exact("watch")]),
    ]
    async with kernel(tmp_path, *parts) as running:
        found = states(running)
    assert ("later", "ok") in seen
    assert "orlop_plugin_stat does not exist" in found["io.orlop.hook.v1.bad"].reason


async def test_directories_are_made_on_first_use(tmp_path: Path) -> None:
    async def user(ctx: InitContext[Any]) -> Any:
        assert ctx.root.stat().st_mode & 0o777 == 0o700
        assert ctx.state.name == ctx.uri
        return Polite()

    async with kernel(tmp_path, plugin("a", (), user), plugin("b")) as running:
        assert states(running)["org.example.greeter.v1.a"].state == "ok"
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["org.example.greeter.v1.a"]
