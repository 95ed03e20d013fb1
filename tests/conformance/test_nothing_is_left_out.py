# SPDX-License-Identifier: Apache-2.0
"""Every plugin of ours whose interface has a suite is put through it, and so are the real ones of containerd's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from orlop.discovery import discover
from orlop.interfaces.content import CONTENT
from orlop.interfaces.differ import DIFFER
from orlop.interfaces.log import LOG_DRIVER
from orlop.interfaces.runtime import SHIM
from orlop.interfaces.sandbox import SANDBOX_CONTROLLER
from orlop.interfaces.snapshotter import SNAPSHOTTER
from orlop.interfaces.stream import STREAM_PROCESSOR
from orlop.plugin import PluginType

ROOT = Path(__file__).resolve().parents[2]
HERE = Path("tests/conformance")
CHECKED: dict[PluginType[Any], dict[str, tuple[Path, str]]] = {
    CONTENT: {"content": (HERE / "test_content.py", "TestLocal")},
    DIFFER: {"walking": (HERE / "test_differs.py", "TestWalking")},
    SANDBOX_CONTROLLER: {"shim": (HERE / "test_sandbox_controllers.py", "TestShims")},
    # What launches shims is seen by what they do.
    SHIM: {
        "manager": (HERE / "test_shims.py", "TestDebian"),
        "orlop": (HERE / "test_shims.py", "TestOrlop"),
    },
    SNAPSHOTTER: {
        "native": (HERE / "test_snapshotters.py", "TestNative"),
        "overlayfs": (HERE / "test_snapshotters.py", "TestOverlayfs"),
    },
    STREAM_PROCESSOR: {
        "gzip": (HERE / "test_stream_processors.py", "TestGzip"),
        "tar": (HERE / "test_stream_processors.py", "TestSniffing"),
        "zstd": (HERE / "test_stream_processors.py", "TestZstd"),
        # They start a program of others', and the suite sees how programs are started.
        "io.containerd.ocicrypt.decoder.v1.tar": (HERE / "test_stream_processors.py", "TestProgram"),
        "io.containerd.ocicrypt.decoder.v1.tar.gzip": (HERE / "test_stream_processors.py", "TestProgram"),
    },
}
#: Shims do it themselves: there is nothing to run.
NATIVE_LOGS = {"binary", "fifo", "file"}
CONTAINERD = {
    HERE / "test_snapshotters.py": "TestContainerd",
    HERE / "test_differs.py": "TestContainerd",
    HERE / "test_shims.py": "TestDebian",
}


def ours(type: str) -> set[str]:
    """The ids of the plugins of that type that come with this repository."""
    candidates = discover().candidates.values()
    return {each.id for each in candidates if each.type == type and each.origin.startswith("orlop-")}


def test_each_of_our_plugins_has_its_suite() -> None:
    for type, checked in CHECKED.items():
        assert ours(type.name) == set(checked), type.name
        for file, name in checked.values():
            assert re.search(rf"^class {name}\(\w+Suite\):", (ROOT / file).read_text(), re.MULTILINE), name


def test_each_log_driver_that_runs_has_its_suite() -> None:
    for id in ours(LOG_DRIVER.name) - NATIVE_LOGS:
        tests = ROOT / "plugins/contrib" / id.replace("-", "") / "tests"
        texts = [path.read_text() for path in tests.glob("test_*.py")]
        assert any(re.search(r"^class \w+\(LogDriverSuite\):", text, re.MULTILINE) for text in texts), id


def test_the_real_ones_are_put_through_them_too() -> None:
    for file, name in CONTAINERD.items():
        assert re.search(rf"^class {name}\(\w+Suite\):", (ROOT / file).read_text(), re.MULTILINE), name
