# SPDX-License-Identifier: Apache-2.0
"""Resolving log URIs, and what the helper makes of its arguments."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from orlop import hooks
from orlop.errors import InvalidArgument, OrlopError
from orlop.interfaces.log import LOG_DRIVER, LogDriver
from orlop.values import Stdio
from orlop_jsonfile.driver import JsonFileDriver
from orlop_runtime.log_helper import find, pairs
from orlop_runtime.log_native import BinaryDriver, FifoDriver, FileDriver
from orlop_runtime.log_uri import LogUris
from orlop_sdk.serving.log import options_of

DRIVERS: dict[str, LogDriver] = {
    "binary": BinaryDriver(),
    "fifo": FifoDriver(),
    "file": FileDriver(),
    "json-file": JsonFileDriver(),
}


def resolve(uri: str, *, config: str = "", hook: object = None) -> str:
    manager = hooks.manager()
    if hook is not None:
        hooks.add(manager, hook, "test.hook", "here")
    uris = LogUris(DRIVERS, LOG_DRIVER.name, manager.hook, config)
    return uris.resolve(Stdio(stdout=uri), "ns", "c1").stdout


@pytest.mark.parametrize("uri", ["", "/run/fifo", "fifo:///run/fifo", "file:///var/log/c1", "binary:///bin/cat?a=b"])
def test_what_shims_know_passes_unchanged(uri: str) -> None:
    assert resolve(uri) == uri


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("file://relative", "file:///path"),
        ("fifo://relative/x", "fifo:///path"),
        ("file:///tmp", "is a directory"),
        ("binary:///nonexistent/logger", "there is no program"),
        ("binary:///etc/passwd", "not executable"),
        ("json-file://host/x", "json-file:///path"),
        ("syslog://host", "binary, binary-v2, fifo, file, json-file"),
    ],
)
def test_mistakes_show_at_once(uri: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        resolve(uri)


def test_other_schemes_go_through_the_helper() -> None:
    given = "json-file:///var/log/c1?max-size=10m&max-file=3"
    parts = urlsplit(resolve(given, config="/etc/orlop.toml"))
    assert parts.scheme == "binary"
    assert Path(parts.path).name == "orlop-log"
    assert parse_qs(parts.query) == {
        "driver": ["io.orlop.log.v1.json-file"],
        "uri": [given],
        "config": ["/etc/orlop.toml"],
    }


@pytest.mark.parametrize("uri", ["test:?a=b", "test:"])
def test_the_slashes_that_go_leaves_out_are_put_back(uri: str) -> None:
    class Demo(JsonFileDriver):
        schemes = ("test",)

        def shim_uri(self, uri: str) -> str | None:
            return None

    uris = LogUris({"test": Demo()}, LOG_DRIVER.name, hooks.manager().hook)
    found = uris.resolve(Stdio(stdout=uri), "ns", "c1").stdout
    assert parse_qs(urlsplit(found).query)["uri"] == [uri.replace(":", "://")]


def test_the_helper_learns_the_image() -> None:
    uris = LogUris(DRIVERS, LOG_DRIVER.name, hooks.manager().hook)
    found = uris.resolve(Stdio(stdout="json-file:///a"), "ns", "c1", "docker.io/library/demo:1").stdout
    assert parse_qs(urlsplit(found).query)["image"] == ["docker.io/library/demo:1"]


def test_stdin_is_left_alone_and_both_outputs_are_resolved() -> None:
    uris = LogUris(DRIVERS, LOG_DRIVER.name, hooks.manager().hook)
    given = Stdio("/run/in", "json-file:///a", "json-file:///b", terminal=False)
    found = uris.resolve(given, "ns", "c1")
    assert found.stdin == "/run/in"
    assert found.stdout.startswith("binary://")
    assert "b" in found.stderr.rpartition("%2F")[2]


def test_without_any_driver_pipes_work() -> None:
    uris = LogUris({}, LOG_DRIVER.name, hooks.manager().hook)
    assert uris.resolve(Stdio(stdout="/run/out"), "ns", "c1").stdout == "/run/out"
    with pytest.raises(InvalidArgument, match="there are: none"):
        uris.resolve(Stdio(stdout="file:///x"), "ns", "c1")


def test_a_hook_may_replace_a_uri() -> None:
    class Redirect:
        @hooks.hookimpl
        def orlop_log_uri(self, uri: str, namespace: str, container: str) -> str | None:
            return f"file:///var/log/{namespace}/{container}" if uri == "fifo:///x" else None

    assert resolve("fifo:///x", hook=Redirect()) == "file:///var/log/ns/c1"
    assert resolve("fifo:///y", hook=Redirect()) == "fifo:///y"


def test_the_helpers_arguments_come_in_any_order() -> None:
    assert pairs(["uri", "x:///y", "driver", "d"]) == {"driver": "d", "uri": "x:///y"}
    with pytest.raises(InvalidArgument):
        pairs(["uri"])
    assert options_of("x:///y?a=1&b=&a=2") == {"a": "2", "b": ""}


def test_the_helper_finds_an_installed_driver() -> None:
    driver = asyncio.run(find("io.orlop.log.v1.json-file", ""))
    assert driver.schemes == ("json-file",)


def test_the_helper_says_why_there_is_no_driver() -> None:
    with pytest.raises(OrlopError, match="nowhere"):
        asyncio.run(find("io.orlop.log.v1.nowhere", ""))
