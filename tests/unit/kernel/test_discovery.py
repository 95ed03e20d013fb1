# SPDX-License-Identifier: Apache-2.0
"""Discovery over real distributions, broken ones included."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.config import from_data
from orlop.errors import LoadError
from orlop.kernel import Kernel

PLUGIN = """
from orlop.hooks import hook
open({sentinel!r}, "a").close()

@hook({id!r})
async def plugin(ctx):
    return object()
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    path, modules = list(sys.path), set(sys.modules)
    site = tmp_path / "site"
    site.mkdir()
    yield site
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def install(site: Path, name: str, entry: str, code: str) -> None:
    """What ``pip install --target`` leaves behind."""
    (site / f"{name}.py").write_text(code)
    info = site / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[orlop.hook.v1]\n{entry}\n")


def kernel(tmp_path: Path, site: Path, *ids: str, **config: object) -> Kernel:
    data = {"root": str(tmp_path / "r"), "state": str(tmp_path / "s"), "plugin_dirs": [str(site)], **config}
    return Kernel(from_data(data), only=[f"io.orlop.hook.v1.{id}" for id in ids])


async def test_a_distribution_in_a_directory_is_found_and_named(tmp_path: Path, site: Path) -> None:
    install(site, "orlop_one", "one = orlop_one:plugin", PLUGIN.format(id="one", sentinel=str(tmp_path / "x")))
    async with kernel(tmp_path, site, "one") as running:
        (status,) = running.registry.statuses()
    assert status.state == "ok"
    assert status.origin == "orlop_one 1.2, entry point one = orlop_one:plugin"
    assert (tmp_path / "x").exists()


async def test_disabled_code_is_never_imported(tmp_path: Path, site: Path) -> None:
    install(site, "orlop_two", "two = orlop_two:plugin", PLUGIN.format(id="two", sentinel=str(tmp_path / "x")))
    async with kernel(tmp_path, site, "two", disabled_plugins=["io.orlop.hook.v1.tw*"]) as running:
        (status,) = running.registry.statuses()
    assert status.state == "disabled"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("\nimport no_such_module", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module' ("),
        ("\nimport no_such_module", "/site/orlop_bad.py:2)"),
        ("plugin = (", "cannot be imported: SyntaxError: '(' was never closed (orlop_bad.py, line 1)"),
        ("raise SystemExit(3)", "cannot be imported"),
        ("plugin = 3", "is a int, not a registration"),
        (PLUGIN.format(id="other", sentinel="/dev/null"), "entry point and id must agree"),
        ("", "cannot be imported"),
    ],
)
async def test_broken_distributions_are_failures_with_a_name(
    tmp_path: Path, site: Path, code: str, reason: str
) -> None:
    install(site, "orlop_bad", "bad = orlop_bad:plugin", code)
    async with kernel(tmp_path, site, "bad") as running:
        (status,) = running.registry.statuses()
    assert status.state == "failed"
    assert reason in status.reason
    assert status.origin.startswith("orlop_bad 1.2")


async def test_an_entry_point_that_names_nothing_is_a_failure_too(tmp_path: Path, site: Path) -> None:
    install(site, "orlop_bad", "bad = orlop_bad:plugin:more", PLUGIN.format(id="bad", sentinel="/dev/null"))
    async with kernel(tmp_path, site, "bad") as running:
        (status,) = running.registry.statuses()
    assert status.state == "failed"
    assert "cannot be imported: write module:attribute" in status.reason


async def test_two_distributions_with_one_id_are_both_refused(
    tmp_path: Path, site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("orlop_left", "orlop_right"):
        install(site, name, f"same = {name}:plugin", PLUGIN.format(id="same", sentinel="/dev/null"))
    async with kernel(tmp_path, site, "same") as running:
        (status,) = running.registry.statuses()
    assert status.state == "failed"
    assert "orlop_left" in status.reason
    assert "orlop_right" in status.reason
    assert "plugin_modules" in status.reason
    assert [record.name for record in caplog.records if "declared twice" in record.getMessage()] == ["orlop.registry"]


@pytest.mark.parametrize(
    ("group", "hint"),
    [
        ("orlop.hooks.v1", '; write "orlop.hook.v1"'),
        ("orlop.stream-processor.v1", '; write "orlop.stream_processor.v1"'),
        ("orlop.unheard_of_things.v9", "no installed plugin type has it"),
    ],
)
async def test_groups_that_no_type_has_are_told(
    tmp_path: Path, site: Path, group: str, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "orlop_astray", "x = orlop_astray:plugin", "")
    points = site / "orlop_astray-1.2.dist-info/entry_points.txt"
    points.write_text(points.read_text().replace("orlop.hook.v1", group))
    async with kernel(tmp_path, site, "x"):
        pass
    (told,) = [record.getMessage() for record in caplog.records if "orlop_astray" in record.getMessage()]
    assert told.startswith(f'entry-point group "{group}" (orlop_astray 1.2, entry point x = orlop_astray:plugin): ')
    assert told.endswith(hint)


async def test_plugin_modules_choose_between_them(tmp_path: Path, site: Path) -> None:
    for name in ("orlop_left", "orlop_right"):
        install(site, name, f"same = {name}:plugin", PLUGIN.format(id="same", sentinel=str(tmp_path / name)))
    chosen = {"io.orlop.hook.v1.same": "orlop_right:plugin"}
    async with kernel(tmp_path, site, "same", plugin_modules=chosen) as running:
        (status,) = running.registry.statuses()
    assert status.state == "ok"
    assert [name for name in os.listdir(tmp_path) if name.startswith("orlop_")] == ["orlop_right"]


async def test_a_type_can_come_from_a_third_party(tmp_path: Path, site: Path) -> None:
    (site / "orlop_kind.py").write_text(
        "from orlop.plugin import PluginType\n"
        "KIND = PluginType('org.example.kind.v1', object, group='org.example.kind.v1', many=True)\n"
        "@KIND.plugin('x')\nasync def x(ctx):\n    return object()\n"
    )
    info = site / "orlop_kind-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: orlop_kind\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[orlop.plugin_type.v1]\nkind = orlop_kind:KIND\n[org.example.kind.v1]\nx = orlop_kind:x\n"
    )
    data = {"root": str(tmp_path / "r"), "state": str(tmp_path / "s"), "plugin_dirs": [str(site)]}
    async with Kernel(from_data(data), only=["org.example.kind.v1.x"]) as running:
        (status,) = running.registry.statuses()
    assert status.state == "ok"


async def test_an_unknown_uri_is_told_apart() -> None:
    from orlop.discovery import discover

    with pytest.raises(LoadError, match="no known plugin type"):
        discover().split("nonsense")
