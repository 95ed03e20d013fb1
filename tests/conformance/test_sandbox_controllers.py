# SPDX-License-Identifier: Apache-2.0
"""The suite for sandbox controllers: on shims, on one that is nothing but a table, and on that one over a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.runtime import RUNC, make_launcher
from tests.support.sandboxes import Rooms

from orlop.interfaces.sandbox import SandboxController
from orlop_proxy.remote import ProxySandboxController
from orlop_runtime.runtime import GENERAL
from orlop_runtime.sandbox import SandboxPlaces, ShimSandboxes
from orlop_sdk.serving.proxy import Parts, serve
from orlop_sdk.testing.sandbox import SandboxControllerSuite
from orlop_shim.launcher import OrlopLauncher


class TestTable(SandboxControllerSuite):
    @pytest.fixture
    def controller(self) -> SandboxController:
        return Rooms()


class TestServed(SandboxControllerSuite):
    @pytest.fixture
    async def controller(self, short_tmp: Path) -> AsyncIterator[SandboxController]:
        async with serve(str(short_tmp / "s"), Parts(sandbox=Rooms())):
            proxy = ProxySandboxController(str(short_tmp / "s"), "far")
            yield proxy
            await proxy.close()


class TestShims(SandboxControllerSuite):
    runtime = RUNC
    # They are those of a control group that only containers make.
    measures = False

    @pytest.fixture
    async def controller(self, short_tmp: Path) -> AsyncIterator[SandboxController]:
        launcher = make_launcher(short_tmp, own=True)
        made = ShimSandboxes(SandboxPlaces(short_tmp / "state", short_tmp / "root"), {"orlop": launcher}, GENERAL)
        yield made
        await made.close()
        assert isinstance(launcher, OrlopLauncher)
        await launcher.close()
        assert left(short_tmp) == []


def left(place: Path) -> list[Path]:
    return [*place.glob("state/*/*"), *place.glob("root/*/*")]
