# SPDX-License-Identifier: Apache-2.0
"""``isolated`` in a plugin's table: another plugin makes the instance, and nobody else sees the key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pytest

from orlop.config import from_data
from orlop.errors import ConfigError, SkipPlugin
from orlop.interfaces.isolation import ISOLATION, Isolator
from orlop.kernel import Kernel
from orlop.plugin import InitContext, NoConfig, PluginConfig, PluginStatus, PluginType, Registration


@runtime_checkable
class Thing(Protocol):
    """Says what it is."""

    def what(self) -> str: ...


THING = PluginType("test.thing.v1", Thing, group="test.thing.v1", many=True)
URI = "test.thing.v1.one"
OTHER = PluginType("test.other.v1", Thing, group="test.other.v1", many=True)


class Plain:
    def __init__(self, text: str) -> None:
        self.text = text

    def what(self) -> str:
        return self.text


class Config(PluginConfig):
    size: int = 1
    """How large."""


@THING.plugin("one", config=Config, requires=(OTHER,))
async def one(ctx: InitContext[Config]) -> Thing:
    return Plain(f"here, {ctx.config.size}")


@OTHER.plugin("other")
async def other(_ctx: InitContext[NoConfig]) -> Thing:
    return Plain("other")


class Elsewhere:
    """An isolator that makes instances here, and tells that it did."""

    async def isolate(self, plugin: Registration[Any, Any], ctx: InitContext[Any], settings: Mapping[str, Any]) -> Any:
        if ctx.config.size == 13:
            raise SkipPlugin("skip plugin: not with 13")
        ctx.export("where", "elsewhere")
        inner = await plugin.factory(ctx)
        return Plain(f"elsewhere: {inner.what()}, {ctx.get(OTHER).what()}, {settings['plugins'][plugin.uri]}")


@ISOLATION.plugin("box", exports={"types": f"x,{THING.name}"})
async def box(_ctx: InitContext[NoConfig]) -> Isolator:
    return Elsewhere()


def kernel(tmp_path: Path, table: Mapping[str, Any], uri: str = URI, **more: Any) -> Kernel:
    data = {"root": str(tmp_path / "r"), "state": str(tmp_path / "s"), "plugins": {uri: table}, **more}
    return Kernel(from_data(data), plugins=[one, other, box], only=[URI, "test.other.v1.other"])


def status_of(running: Kernel) -> PluginStatus:
    (found,) = [each for each in running.registry.statuses() if each.uri == URI]
    return found


async def test_the_isolator_makes_the_instance(tmp_path: Path) -> None:
    table = {"isolated": "box", "size": 3}
    async with kernel(tmp_path, table) as running:
        assert running.get(THING, "one").what() == f"elsewhere: here, 3, other, {table}"
        assert status_of(running).exports == {"where": "elsewhere"}
        assert f"{ISOLATION.name}.box" in status_of(running).requires


async def test_false_is_as_absent(tmp_path: Path) -> None:
    async with kernel(tmp_path, {"isolated": False, "size": 3}) as running:
        assert running.get(THING, "one").what() == "here, 3"
        assert not running.registry.config_warnings


@pytest.mark.parametrize(("how", "named"), [(True, "process"), ("other", "other"), (7, "7")])
def test_an_isolator_that_is_none_for_the_type_is_a_fault(tmp_path: Path, how: object, named: str) -> None:
    with pytest.raises(ConfigError, match=f'isolated: there is no isolator "{named}" for it; drop the key'):
        kernel(tmp_path, {"isolated": how}).select()


def test_types_that_no_isolator_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'plugins.test.other.v1.other: isolated: there is no isolator "box"'):
        kernel(tmp_path, {"isolated": "box"}, "test.other.v1.other").select()


def test_other_faults_of_the_table_are_told_as_ever(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='size = "x": should be a valid integer'):
        kernel(tmp_path, {"isolated": "box", "size": "x"}).select()


async def test_what_it_raises_is_the_plugins_state(tmp_path: Path) -> None:
    async with kernel(tmp_path, {"isolated": "box", "size": 13}) as running:
        assert (status_of(running).state, status_of(running).reason) == ("skipped", "skip plugin: not with 13")


async def test_with_the_isolator_off_the_plugin_is_too(tmp_path: Path) -> None:
    async with kernel(tmp_path, {"isolated": "box"}, disabled_plugins=[f"{ISOLATION.name}.box"]) as running:
        assert status_of(running).state == "skipped"
        assert f"needs {ISOLATION.name}.box, which is disabled" in status_of(running).reason


async def test_a_disabled_plugin_is_not_isolated(tmp_path: Path) -> None:
    async with kernel(tmp_path, {"isolated": "box"}, disabled_plugins=[URI]) as running:
        assert status_of(running).state == "disabled"
