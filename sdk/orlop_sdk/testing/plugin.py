# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of plugins, there wherever this SDK and pytest are installed.

::

    class TestDemo(SnapshotterSuite):
        @pytest.fixture
        async def open_snapshotter(self, orlop_opening: Opening) -> AsyncIterator[OpenSnapshotter]:
            async with orlop_opening("demo", SNAPSHOTTER) as open:
                yield open

==================  ===================================================================================================
``orlop_place``     a new directory, with a path short enough for sockets
``orlop_kernel``    makes kernels with one plugin and what it requires, all in that directory
``orlop_opening``   opens an installed plugin, or a proxy plugin that runs, as suites want it
``orlop_scope``     runs the test in a namespace of its own
==================  ===================================================================================================
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    from orlop.kernel import Kernel
    from orlop.plugin import PluginType
    from orlop_sdk.testing.subject import Open

MakeKernel: TypeAlias = "Callable[..., Kernel]"
"""``orlop_kernel(uri, {"key": value}, **config)``: a kernel for ``async with``."""
Opening: TypeAlias = "Callable[..., AbstractAsyncContextManager[Open]]"
"""``orlop_opening("demo", SNAPSHOTTER)``, or for a proxy plugin ``orlop_opening("snapshot=/run/demo.sock")``."""


@pytest.fixture
def orlop_place() -> Iterator[Path]:
    """A new directory, with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="orl", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
def orlop_kernel(orlop_place: Path) -> MakeKernel:
    """Makes kernels with one plugin and what it requires."""

    def make(uri: str, table: Mapping[str, Any] | None = None, /, **config: Any) -> Kernel:
        from orlop.config import from_data
        from orlop.kernel import Kernel

        places = {"root": str(orlop_place / "root"), "state": str(orlop_place / "state")}
        return Kernel(from_data({**places, "plugins": {uri: dict(table or {})}, **config}), only=[uri])

    return make


@pytest.fixture
def orlop_opening(orlop_place: Path) -> Opening:
    """Opens a plugin by its id, its URI, ``module:attribute``, or KIND=SOCKET: always in the same place."""

    def opening(name: str, *types: PluginType[Any]) -> AbstractAsyncContextManager[Open]:
        from orlop_sdk.serving.target import find_target
        from orlop_sdk.testing.subject import PluginSubject, SocketSubject

        kind, equals, address = name.partition("=")
        if equals:
            return SocketSubject(kind, address).opening(orlop_place)
        return PluginSubject(find_target(name, *types)).opening(orlop_place)

    return opening


@pytest.fixture
def orlop_scope() -> Iterator[str]:
    """Runs the test in a namespace of its own; its name."""
    from orlop import context

    with context.scope(namespace="test"):
        yield "test"
