# SPDX-License-Identifier: Apache-2.0
"""Locked mode: only what the lock names, as it was when the lock was written."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop import trust
from orlop.config import from_data, load
from orlop.errors import ConfigError, LoadError
from orlop.hooks import HOOK
from orlop.kernel import Kernel
from orlop.plugin import PluginStatus
from orlop.trust import fingerprint, normalised

PLUGIN = """
from orlop.hooks import hook
from {name}.part import VALUE
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


def install(site: Path, name: str, id: str) -> Path:
    """What ``pip install --target`` leaves behind; returns the file that exists once the code was imported."""
    sentinel = site.parent / f"{name}.imported"
    files = {
        f"{name}/__init__.py": PLUGIN.format(name=name, id=id, sentinel=str(sentinel)),
        f"{name}/part.py": "VALUE = 1\n",
        f"{name}-1.2.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n",
        f"{name}-1.2.dist-info/entry_points.txt": f"[orlop.hook.v1]\n{id} = {name}:plugin\n",
    }
    for file, text in files.items():
        (site / file).parent.mkdir(exist_ok=True)
        (site / file).write_text(text)
    record = [*files, f"{name}-1.2.dist-info/RECORD", "../../bin/program", f"{name}/__pycache__/part.cpython-311.pyc"]
    (site / f"{name}-1.2.dist-info/RECORD").write_text("".join(f"{file},,\n" for file in record))
    return sentinel


def write_lock(path: Path, *sites: Path, skip: str = "") -> Path:
    """A lock over this interpreter's distributions of Orlop and all of *sites*."""
    lines = ["version = 1\n"]
    own = [item for item in importlib.metadata.distributions() if item.name.startswith("orlop-kernel")]
    for item in [*own, *importlib.metadata.distributions(path=[str(site) for site in sites])]:
        if item.name != skip:
            lines.append(f"[distributions.{normalised(item.name)}.files]\n")
            lines.extend(f"{json.dumps(name)} = {json.dumps(value)}\n" for name, value in fingerprint(item).items())
    path.write_text("".join(lines))
    return path


async def states(tmp_path: Path, site: Path, lock: Path, *ids: str) -> dict[str, PluginStatus]:
    data = {
        **{"root": str(tmp_path / "r"), "state": str(tmp_path / "s"), "plugin_dirs": [str(site)]},
        **{"plugin_trust": "locked", "plugin_lock": str(lock)},
    }
    async with Kernel(from_data(data), only=[f"{HOOK.name}.{id}" for id in ids]) as running:
        return {status.id: status for status in running.registry.statuses()}


async def test_what_is_locked_loads(tmp_path: Path, site: Path) -> None:
    sentinel = install(site, "orlop_one", "one")
    found = await states(tmp_path, site, write_lock(tmp_path / "lock", site), "one")
    assert found["one"].state == "ok", found["one"].reason
    assert sentinel.exists()


async def test_what_is_not_locked_is_refused_unimported(tmp_path: Path, site: Path) -> None:
    install(site, "orlop_one", "one")
    sentinel = install(site, "orlop_two", "two")
    lock = write_lock(tmp_path / "lock", site, skip="orlop_two")
    found = await states(tmp_path, site, lock, "one", "two")
    assert found["one"].state == "ok"
    assert found["two"].state == "failed"
    assert f"distribution orlop_two 1.2 is not in the lock {lock}" in found["two"].reason
    assert found["two"].origin == "orlop_two 1.2, entry point two = orlop_two:plugin"
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("orlop_one/part.py", "VALUE = 2\n", "orlop_one/part.py of distribution orlop_one 1.2 differs from the lock"),
        ("orlop_one/part.so", "", "orlop_one/part.so of distribution orlop_one 1.2 is not in the lock"),
        ("orlop_one/part.py", None, "orlop_one/part.py of distribution orlop_one 1.2 is missing against the lock"),
        (
            "orlop_one-1.2.dist-info/entry_points.txt",
            "[orlop.hook.v1]\none = orlop_one:plugin\nmore = os:system\n",
            "entry_points.txt of distribution orlop_one 1.2 differs from the lock",
        ),
    ],
)
async def test_a_change_is_refused_by_name_unimported(
    tmp_path: Path, site: Path, file: str, text: str | None, reason: str
) -> None:
    sentinel = install(site, "orlop_one", "one")
    lock = write_lock(tmp_path / "lock", site)
    if text is None:
        (site / file).unlink()
    else:
        (site / file).write_text(text)
    found = await states(tmp_path, site, lock, "one", "more")
    assert {status.state for status in found.values()} == {"failed"}
    assert reason in found["one"].reason
    assert not sentinel.exists()


async def test_a_second_distribution_of_a_locked_name_is_refused(tmp_path: Path, site: Path) -> None:
    install(site, "orlop_one", "one")
    lock = write_lock(tmp_path / "lock", site)
    double = site / "orlop_one-1.3.dist-info"
    double.mkdir()
    for name in ("METADATA", "RECORD"):
        (double / name).write_text((site / "orlop_one-1.2.dist-info" / name).read_text())
    (double / "entry_points.txt").write_text("[orlop.hook.v1]\nmore = os:system\n")
    found = await states(tmp_path, site, lock, "one", "more")
    assert found["one"].state == "ok"
    assert "entry_points.txt of distribution orlop_one 1.2 differs from the lock" in found["more"].reason


async def test_how_it_was_installed_does_not_matter(tmp_path: Path, site: Path) -> None:
    install(site, "orlop_one", "one")
    lock = write_lock(tmp_path / "lock", site)
    (site / "orlop_one" / "__pycache__").mkdir()
    (site / "orlop_one" / "__pycache__" / "part.cpython-311.pyc").write_bytes(b"")
    (site / "orlop_one-1.2.dist-info" / "INSTALLER").write_text("someone\n")
    assert (await states(tmp_path, site, lock, "one"))["one"].state == "ok"


async def test_an_editable_tree_is_locked_as_a_whole(tmp_path: Path, site: Path) -> None:
    install(site, "orlop_one", "one")
    tree = tmp_path / "source tree"
    tree.mkdir()
    (site / "orlop_one").rename(tree / "orlop_one")
    info = site / "orlop_one-1.2.dist-info"
    (info / "direct_url.json").write_text(json.dumps({"url": tree.as_uri(), "dir_info": {"editable": True}}))
    sys.path.append(str(tree))
    lock = write_lock(tmp_path / "lock", site)
    assert (await states(tmp_path, site, lock, "one"))["one"].state == "ok"
    (tree / "orlop_one" / "part.py").write_text("VALUE = 3\n")
    status = (await states(tmp_path, site, lock, "one"))["one"]
    assert f"{tree}/orlop_one/part.py of distribution orlop_one 1.2 differs" in status.reason


async def test_a_stranger_cannot_take_a_trusted_plugin_down(
    tmp_path: Path, site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "orlop_two", "one")
    lock = write_lock(tmp_path / "lock", site)
    sentinel = install(site, "orlop_one", "one")
    status = (await states(tmp_path, site, lock, "one"))["one"]
    assert status.state == "ok"
    assert status.origin.startswith("orlop_two")
    assert "distribution orlop_one 1.2 is not in the lock" in caplog.text
    assert not sentinel.exists()


@pytest.mark.parametrize("text", [None, "not TOML", "version = 7\n"])
async def test_without_a_usable_lock_nothing_loads(tmp_path: Path, site: Path, text: str | None) -> None:
    sentinel = install(site, "orlop_one", "one")
    if text is not None:
        (tmp_path / "plugins.lock").write_text(text)
    config = tmp_path / "config.toml"
    # A fault elsewhere must not bring the open mode back.
    config.write_text(
        f'version = 3\noom_score = "x"\nplugin_trust = "locked"\nplugin_lock = "plugins.lock"\n'
        f'plugin_dirs = ["{site}"]\n'
    )
    with pytest.raises(ConfigError) as caught:
        await Kernel(load(config)).start()
    assert any(
        f'{config}:4: plugin_lock = "{tmp_path}/plugins.lock": ' in fault and "orlop compose lock" in fault
        for fault in caught.value.faults
    )
    assert not sentinel.exists()


async def test_modules_named_in_the_config_are_refused(tmp_path: Path, site: Path) -> None:
    install(site, "orlop_one", "one")
    data = {
        **{"root": str(tmp_path / "r"), "state": str(tmp_path / "s"), "plugin_dirs": [str(site)]},
        **{"plugin_trust": "locked", "plugin_lock": str(write_lock(tmp_path / "lock", site))},
        "plugin_modules": {f"{HOOK.name}.one": "orlop_one:plugin"},
    }
    with pytest.raises(ConfigError, match="may not be used with plugin_trust"):
        await Kernel(from_data(data)).start()


def test_a_composed_build_brings_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = tmp_path / "orlop_build" / "config.toml"
    vendor.parent.mkdir()
    (vendor.parent / "__init__.py").touch()
    vendor.write_text('version = 3\nroot = "/vendor"\nplugin_lock = "plugins.lock"\n')
    mine = tmp_path / "mine.toml"
    mine.write_text('version = 3\nroot = "/mine"\n')
    monkeypatch.syspath_prepend(tmp_path)
    config = load(mine)
    assert config.settings.root == "/mine"
    assert config.settings.plugin_lock == str(vendor.with_name("plugins.lock"))
    assert config.origin("plugin_lock").file == str(vendor)
    assert config.files == (mine, vendor)


async def test_what_is_disabled_is_not_compared(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are not even read: a thousand disabled plugins cost next to nothing."""
    install(site, "orlop_one", "one")
    install(site, "orlop_two", "two")
    lock = write_lock(tmp_path / "lock", site)
    compared: list[str] = []
    real = trust.fingerprint

    def watched(distribution: importlib.metadata.Distribution) -> dict[str, str]:
        compared.append(distribution.name)
        return real(distribution)

    monkeypatch.setattr(trust, "fingerprint", watched)
    data = {
        **{"root": str(tmp_path / "r"), "state": str(tmp_path / "s"), "plugin_dirs": [str(site)]},
        **{"plugin_trust": "locked", "plugin_lock": str(lock), "disabled_plugins": [f"{HOOK.name}.two"]},
    }
    async with Kernel(from_data(data), only=[f"{HOOK.name}.{id}" for id in ("one", "two")]) as running:
        assert {"orlop_one", "orlop_two"} & set(compared) == {"orlop_one"}
        (site / "orlop_two" / "part.py").write_text("VALUE = 2\n")
        with pytest.raises(LoadError, match="orlop_two/part.py of distribution orlop_two 1.2 differs from the lock"):
            await running.plugins.enable(f"{HOOK.name}.two")
