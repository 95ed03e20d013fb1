# SPDX-License-Identifier: Apache-2.0
"""Which launcher takes a runtime, and what the runtime does without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.runtime import Recorder

from orlop import context
from orlop.errors import InvalidArgument, Unavailable, Unimplemented
from orlop.interfaces.runtime import ShimAddress, ShimLauncher, ShimRequest, TaskRequest
from orlop.values import AnyMessage, Exit, now
from orlop_runtime.runtime import TaskRuntime


class Launcher:
    """Takes runtimes with a prefix, and never gets one to run."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.launched: list[ShimRequest] = []
        self.cleaned: list[ShimRequest] = []

    def claims(self, runtime: str) -> bool:
        return runtime.startswith(self.prefix)

    async def launch(self, request: ShimRequest) -> ShimAddress:
        assert (request.bundle / "config.json").read_bytes() == b"{}"
        self.launched.append(request)
        raise Unavailable("not today")

    async def clean(self, request: ShimRequest) -> Exit:
        self.cleaned.append(request)
        return Exit(0, now())


def runtime(tmp_path: Path, **launchers: ShimLauncher) -> TaskRuntime:
    return TaskRuntime(tmp_path / "state", tmp_path / "root", launchers, Recorder())


async def test_the_general_launcher_is_asked_last(tmp_path: Path) -> None:
    general, mine, zebra = Launcher(""), Launcher("io.mine."), Launcher("io.")
    tasks = runtime(tmp_path, manager=general, mine=mine, zebra=zebra)
    assert tasks.launcher("io.mine.thing.v1") is mine
    assert tasks.launcher("io.other.thing.v1") is zebra
    assert tasks.launcher("/opt/shim") is general
    await tasks.close()


async def test_without_a_launcher_nothing_is_made(tmp_path: Path) -> None:
    tasks = runtime(tmp_path, mine=Launcher("io.mine."))
    with (
        context.scope(namespace="ns"),
        pytest.raises(InvalidArgument, match=r"no launcher takes it \(there are: mine\)"),
    ):
        await tasks.create("c1", TaskRequest("io.containerd.runc.v2", AnyMessage("spec", b"{}")))
    assert list((tmp_path).glob("*")) == []  # noqa: ASYNC240  # a small directory
    await tasks.close()


async def test_a_launcher_that_fails_leaves_nothing(tmp_path: Path) -> None:
    mine = Launcher("io.mine.")
    tasks = runtime(tmp_path, mine=mine)
    options = AnyMessage("mine.Options", b"\x01")
    with context.scope(namespace="ns"), pytest.raises(Unavailable, match="not today"):
        await tasks.create("c1", TaskRequest("io.mine.thing.v1", AnyMessage("spec", b"{}"), options=options))
    (launched,) = mine.launched
    assert (launched.id, launched.namespace, launched.runtime, launched.options) == (
        "c1",
        "ns",
        "io.mine.thing.v1",
        options,
    )
    assert mine.cleaned == mine.launched
    assert list((tmp_path / "state" / "ns").iterdir()) == []
    assert list((tmp_path / "root" / "ns").iterdir()) == []
    with pytest.raises(Unimplemented):
        await tasks.info("io.mine.thing.v1")
    await tasks.close()


@pytest.mark.parametrize("id", ["", "..", "a/b", ".hidden", "x" * 77])
async def test_ids_cannot_lead_elsewhere(tmp_path: Path, id: str) -> None:
    tasks = runtime(tmp_path, mine=Launcher(""))
    with context.scope(namespace="ns"), pytest.raises(InvalidArgument):
        await tasks.create(id, TaskRequest("any", AnyMessage("spec", b"{}")))
    await tasks.close()
