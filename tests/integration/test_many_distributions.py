# SPDX-License-Identifier: Apache-2.0
"""Hundreds of installed distributions whose plugins are off: the daemon starts, knows them all, and imports none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.cli import Orlop
from tests.support.daemon import Daemon
from tests.support.distributions import SENTINELS, id_of, install, uri_of
from tests.support.environment import Environment

COUNT = 200
SPY = f"""\
import os
import pathlib

if "{SENTINELS}" in os.environ:
    (pathlib.Path(os.environ["{SENTINELS}"]) / __name__).touch()


class plugin:
    @staticmethod
    def new_schema_validator(*args, **options):
        return None, None, None
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Orlop, and beside it 200 distributions, and one that pydantic would import wherever it is used."""
    environment = Environment(tmp_path_factory.mktemp("environment") / "venv")
    install(environment.site, range(COUNT))
    info = environment.site / "spy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pydantic]\nspy = spy:plugin\n")
    (environment.site / "spy.py").write_text(SPY)
    return environment


@pytest.fixture
def sentinels(tmp_path: Path) -> Path:
    """Where modules leave a file each when they are imported."""
    path = tmp_path / "sentinels"
    path.mkdir()
    return path


@pytest.fixture
def top(request: pytest.FixtureRequest, environment: Environment, tmp_path: Path) -> str:
    """Config that disables half of them one by one, the others by globs; in locked mode the lock names all."""
    named = [f'"{uri_of(number)}"' for number in range(COUNT // 2)]
    globs = [f'"*.{id_of(number)[:-1]}?"' for number in range(COUNT // 2, COUNT, 10)]
    top = f"disabled_plugins = [{', '.join([*named, *globs])}]\n"
    if request.param == "locked":
        lock = tmp_path / "plugins.lock"
        done = environment.run(str(environment.path / "bin/orlop"), "compose", "lock", "--output", str(lock))
        assert done.returncode == 0, done.stderr
        top += f'plugin_trust = "locked"\nplugin_lock = "{lock}"\n'
    return top


@pytest.fixture
def daemon(environment: Environment, short_tmp: Path, sentinels: Path, top: str) -> Iterator[Daemon]:
    with Daemon(short_tmp, environment.orlopd, top=top, env={SENTINELS: str(sentinels)}) as daemon:
        yield daemon


@pytest.mark.parametrize("top", ["open", "locked"], indirect=True)
def test_none_of_them_is_imported_until_it_is_enabled(daemon: Daemon, sentinels: Path) -> None:
    orlop = Orlop(daemon.address, "many")
    found = {row["id"]: row for row in orlop.json("plugins", "ls") if row["id"].startswith("acme-")}
    assert {row["state"] for row in found.values()} == {"disabled"}
    assert set(found) == {id_of(number) for number in range(COUNT)}
    assert found[id_of(7)]["reason"] == f"disabled in {daemon.config}:4"
    assert found[id_of(7)]["origin"].startswith("acme-0007 1.0, entry point acme-0007 = acme_0007:plugin")
    assert sorted(sentinels.iterdir()) == []
    orlop.ok("plugins", "enable", uri_of(123))
    assert {path.name for path in sentinels.iterdir()} == {"acme_0123"}
    assert orlop.json("plugins", "why", uri_of(123))["state"] == "ok"


@pytest.mark.parametrize("top", ["locked"], indirect=True)
def test_one_that_changed_meanwhile_is_refused_when_it_is_enabled(
    daemon: Daemon, environment: Environment, sentinels: Path
) -> None:
    module = environment.site / "acme_0111.py"
    module.write_text(module.read_text() + "# changed\n")
    error = Orlop(daemon.address, "many").fails("plugins", "enable", uri_of(111))
    assert "acme_0111.py of distribution acme-0111 1.0 differs from the lock" in error
    assert sorted(sentinels.iterdir()) == []


def test_the_log_helper_imports_one_driver_and_nothing_else(
    environment: Environment, sentinels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SENTINELS, str(sentinels))
    helper = str(environment.path / "bin/orlop-log")
    done = environment.run(helper, "driver", "io.orlop.log.v1.none", "uri", "none://x")
    assert done.returncode == 1
    assert "io.orlop.log.v1.none" in done.stderr
    assert sorted(sentinels.iterdir()) == []
