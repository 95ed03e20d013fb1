# SPDX-License-Identifier: Apache-2.0
"""Where the output of containers goes, by the scheme of a URI. Real shims; needs root."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.runtime import PATIENCE, World, world

from orlop.hooks import manager
from orlop.interfaces.log import LOG_DRIVER, LogDriver
from orlop.values import Stdio
from orlop_jsonfile.driver import JsonFileDriver
from orlop_runtime.log_native import BinaryDriver, FifoDriver, FileDriver
from orlop_runtime.log_uri import LogUris

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("containerd-shim-runc-v2", "runc", "busybox"))),
    reason="needs root, containerd's runc shim, runc and busybox-static",
)

DRIVERS: dict[str, LogDriver] = {
    "binary": BinaryDriver(),
    "fifo": FifoDriver(),
    "file": FileDriver(),
    "json-file": JsonFileDriver(),
}


@pytest_asyncio.fixture
async def w(short_tmp: Path) -> AsyncIterator[World]:
    async with world(short_tmp) as made:
        yield made


async def log_to(w: World, uri: str, args: Sequence[str], *, terminal: bool = False, config: str = "") -> None:
    """Run a container that logs to a URI, to its end."""
    uris = LogUris(DRIVERS, LOG_DRIVER.name, manager().hook, config)
    stdio = uris.resolve(Stdio(stdout=uri, stderr="" if terminal else uri, terminal=terminal), w.namespace, "c1")
    task = await w.run("c1", args, stdio)
    async with asyncio.timeout(PATIENCE):
        await task.wait()
        await task.delete()


async def lines(path: Path, last: str) -> list[str]:
    """The lines of a file, once one of them has the text *last* in it: drivers end a moment after the container."""
    found: list[str] = []
    for _ in range(int(PATIENCE / 0.05)):
        with suppress(FileNotFoundError):
            found = path.read_text().splitlines()  # noqa: ASYNC240  # a small file
        if any(last in line for line in found):
            break
        await asyncio.sleep(0.05)
    return found


async def entries(path: Path, last: str) -> list[tuple[str, str]]:
    """Stream and text of the entries of a JSON log, once *last* is there."""
    return [(entry["stream"], entry["log"]) for entry in map(json.loads, await lines(path, last))]


async def test_a_file(w: World) -> None:
    path = w.base / "logs" / "c1.log"
    # containerd 1.6's shim closes the file of both streams when the first one ends: let both lines be there by then.
    await log_to(w, f"file://{path}", ["sh", "-c", "echo out; echo err >&2; sleep 1"])
    assert sorted(path.read_text().splitlines()) == ["err", "out"]


async def test_a_program(w: World) -> None:
    program = w.base / "logger"
    logged = w.base / "logged"
    # It is told to end when the container is deleted, and has to go on until its input ends.
    program.write_text(
        f"#!/bin/sh\ntrap : TERM\nexec 5>&-\n/bin/cat <&3 >{logged}\necho $CONTAINER_ID $1=$2 >>{logged}\n"
    )
    program.chmod(0o755)
    await log_to(w, f"binary://{program}?key=value", ["echo", "hello"])
    assert await lines(logged, "key") == ["hello", "c1 key=value"]


async def test_a_third_partys_scheme(w: World) -> None:
    path = w.base / "c1.json"
    await log_to(w, f"json-file://{path}?max-size=1m&max-file=2", ["sh", "-c", "echo err >&2; sleep 0.1; echo out"])
    assert sorted(await entries(path, '"out')) == [("stderr", "err\n"), ("stdout", "out\n")]


async def test_a_third_partys_scheme_with_a_terminal(w: World) -> None:
    path = w.base / "c1.json"
    await log_to(w, f"json-file://{path}", ["echo", "hello"], terminal=True)
    assert await entries(path, "hello") == [("stdout", "hello\r\n")]


async def test_the_drivers_section_of_the_config_counts(w: World) -> None:
    config = w.base / "config.toml"
    config.write_text('version = 3\n[plugins."io.orlop.log.v1.json-file"]\nmax_size = "1k"\nmax_file = 2\n')
    path = w.base / "c1.json"
    await log_to(w, f"json-file://{path}", ["seq", "1000", "1100"], config=str(config))
    assert await entries(path, '"1100')
    assert sorted(found.name for found in w.base.glob("c1.json*")) == ["c1.json", "c1.json.1"]
    assert path.stat().st_size <= 1024


async def test_a_driver_that_fails_says_so_in_the_daemons_log(w: World, caplog: pytest.LogCaptureFixture) -> None:
    config = w.base / "config.toml"
    config.write_text('version = 3\ndisabled_plugins = ["io.orlop.log.v1.json-file"]\n')
    await log_to(w, f"json-file://{w.base}/c1.json", ["sleep", "0.1"], config=str(config))
    for _ in range(int(PATIENCE / 0.05)):
        if "orlop-log" in caplog.text:
            break
        await asyncio.sleep(0.05)
    assert "disabled" in caplog.text
