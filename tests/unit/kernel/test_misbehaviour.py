# SPDX-License-Identifier: Apache-2.0
"""Plugins that do what no plugin should: each is a failure that says what is wrong, and the others go on."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest

from orlop import registry
from orlop.config import from_data
from orlop.kernel import Kernel
from orlop.plugin import PluginType

INIT = "io.orlop.timeout.plugin.init"


class Greeter(Protocol):
    async def greet(self, name: str) -> str: ...


class Polite:
    async def greet(self, name: str) -> str:
        return f"hello {name}"


GREETER = PluginType("org.example.greeter.v1", Greeter, group="org.example.greeter.v1", many=True)


async def missing_key(ctx: Any) -> Any:
    return os.environ["ORLOP_NOWHERE"]


async def foreign_code(ctx: Any) -> Any:
    return Path("/nonexistent").joinpath(3)  # type: ignore[arg-type]


async def system_exit(ctx: Any) -> Any:
    sys.exit(4)


def no_coroutine(ctx: Any) -> Any:
    return Polite()


async def nothing(ctx: Any) -> Any:
    return None


async def the_class(ctx: Any) -> Any:
    return Polite


async def something_else(ctx: Any) -> Any:
    return object()


async def hangs(ctx: Any) -> Any:
    await asyncio.Event().wait()


async def times_out_by_itself(ctx: Any) -> Any:
    raise TimeoutError("the other side is silent")


async def fine(ctx: Any) -> Any:
    return Polite()


HERE = f"({__file__}:"
SAID = {
    missing_key: f"KeyError: 'ORLOP_NOWHERE' {HERE}",
    # The line of the plugin's, not the one in the library that it called.
    foreign_code: HERE,
    system_exit: "SystemExit: 4",
    no_coroutine: "its factory is no coroutine function; write async def",
    nothing: "NoneType is no Greeter: the factory must return an instance",
    the_class: "is no Greeter: the factory must return an instance",
    something_else: "object is no Greeter: has no greet",
    hangs: f"did not come up within 0.2 s; see why, or raise {INIT}",
    times_out_by_itself: "the other side is silent",
}


def kernel(tmp_path: Path, *factories: Any) -> Kernel:
    plugins: list[Any] = [GREETER.plugin(each.__name__.replace("_", "-"))(each) for each in factories]
    data = {"root": str(tmp_path / "r"), "state": str(tmp_path / "s"), "timeouts": {INIT: "200ms"}}
    return Kernel(from_data(data), plugins=plugins, only=[each.uri for each in plugins])


@pytest.mark.parametrize("factory", SAID)
async def test_it_fails_alone(tmp_path: Path, factory: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with kernel(tmp_path, factory, fine) as running:
        found = {status.id: status for status in running.registry.statuses()}
        assert set(running.all(GREETER)) == {"fine"}
    failed = found[factory.__name__.replace("_", "-")]
    assert failed.state == "failed"
    assert SAID[factory] in failed.reason
    assert [record.levelno for record in caplog.records if record.levelno >= logging.WARNING] == [logging.ERROR]


async def test_the_log_says_for_whom_everything_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_SLOW", 0.02)
    async with kernel(tmp_path, hangs, fine):
        pass
    waited = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert waited
    assert set(waited) == {"nothing goes on until these have come up: org.example.greeter.v1.hangs"}
