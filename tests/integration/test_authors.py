# SPDX-License-Identifier: Apache-2.0
"""What authors are told: the mistakes of a first plugin, in the real daemon, which runs without them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.support.cli import Orlop
from tests.support.ctr import eventually
from tests.support.daemon import Daemon
from tests.support.distributions import id_of, install, uri_of

INIT = "io.orlop.timeout.plugin.init"
HEAD = """\
import asyncio, os, sys
from orlop import InitContext, PluginConfig
from orlop.errors import SkipPlugin
from orlop.hooks import hook, hookimpl
from orlop.interfaces.content import CONTENT
from orlop.interfaces.snapshotter import SNAPSHOTTER, snapshotter
"""
#: Id, code, and what is said of it, with the remedy where there is one. {file} is the module.
MISTAKES = {
    "library": ("import nosuch_library", "ModuleNotFoundError: No module named 'nosuch_library' ({file}:7)", ""),
    "syntax": ("def plugin(:", "cannot be imported: SyntaxError: invalid syntax (orlop_syntax.py, line 7)", ""),
    "leaves": ("sys.exit(3)", "cannot be imported: ImportError: SystemExit while importing: 3", ""),
    "empty": ("", "cannot be imported: AttributeError: module 'orlop_empty' has no attribute 'plugin'", ""),
    "bare": (
        "async def plugin(ctx): ...",
        "orlop_bare:plugin is a function, not a registration",
        "decorate the factory",
    ),
    "renamed": (
        '@snapshotter("name")\nasync def plugin(ctx): ...',
        "orlop_renamed:plugin registers io.containerd.snapshotter.v1.name",
        "entry point and id must agree",
    ),
    "raises": (
        '@snapshotter("raises")\nasync def plugin(ctx): return os.environ["NO_SUCH_VARIABLE"]',
        "KeyError: 'NO_SUCH_VARIABLE' ({file}:8)",
        "",
    ),
    "exits": ('@snapshotter("exits")\nasync def plugin(ctx): sys.exit(4)', "SystemExit: 4 ({file}:8)", ""),
    "sync": (
        '@snapshotter("sync")\ndef plugin(ctx): return object()',
        "its factory is no coroutine function",
        "write async def",
    ),
    "nothing": (
        '@snapshotter("nothing")\nasync def plugin(ctx): ...',
        "NoneType is no Snapshotter: the factory must return an instance",
        "",
    ),
    "short": (
        "class Short:\n"
        "    def stat(self, key): ...\n"
        "    async def close(self): ...\n"
        '@snapshotter("short")\nasync def plugin(ctx): return Short()',
        "Short is no Snapshotter: has no commit, has no mounts, has no prepare, has no remove, stat must be async, ",
        "",
    ),
    "undeclared": (
        '@snapshotter("undeclared")\nasync def plugin(ctx): return ctx.get(CONTENT)',
        "uses io.containerd.content.v1 without requiring it",
        "add it to requires=",
    ),
    "lonely": (
        '@snapshotter("lonely", requires=(SNAPSHOTTER.exact("nosuch"),))\nasync def plugin(ctx): ...',
        "needs io.containerd.snapshotter.v1.nosuch, which no installed distribution provides",
        "",
    ),
    "egg": (
        '@snapshotter("egg", requires=(SNAPSHOTTER.exact("hen"),))\nasync def plugin(ctx): ...',
        "(orlop-egg 1.0, entry point egg = orlop_egg:plugin) needs io.containerd.snapshotter.v1.hen (orlop-hen 1.0, ",
        "",
    ),
    "hen": (
        '@snapshotter("hen", requires=(SNAPSHOTTER.exact("egg"),))\nasync def plugin(ctx): ...',
        "requires itself: io.containerd.snapshotter.v1.",
        "",
    ),
    "hangs": (
        '@snapshotter("hangs")\nasync def plugin(ctx): await asyncio.Event().wait()',
        "did not come up within 10 s",
        f"see why, or raise {INIT}",
    ),
    "native": (
        '@snapshotter("native")\nasync def plugin(ctx): ...',
        "declared twice: by orlop-snapshots ",
        "uninstall",
    ),
    "hardware": (
        '@snapshotter("hardware")\nasync def plugin(ctx): raise SkipPlugin("no such disk; connect one")',
        "no such disk",
        "connect one",
    ),
}


def offer(site: Path, name: str, points: str, code: str) -> None:
    """Leave a distribution there as pip does."""
    info = site / f"orlop_{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: orlop-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    (site / f"orlop_{name}.py").write_text(HEAD + code + "\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one distribution for each mistake."""
    site = tmp_path_factory.mktemp("site")
    for name, (code, _, _) in MISTAKES.items():
        offer(site, name, f"[orlop.snapshotter.v1]\n{name} = orlop_{name}:plugin\n", code)
    offer(site, "astray", "[orlop.snapshotters.v1]\nastray = orlop_astray:plugin\n", "")
    return site


def test_each_mistake_is_named_once_and_stays_alone(short_tmp: Path, site: Path) -> None:
    top, tables = f'plugin_dirs = ["{site}"]\n', f'[timeouts]\n"{INIT}" = "10s"\n'
    with Daemon(short_tmp, top=top, tables=tables) as daemon:
        orlop = Orlop(daemon.address, "default")
        found = {f"{row['type']}.{row['id']}": row for row in orlop.json("plugins", "ls")}
        told = json.loads(orlop.run("--format", "json", "plugins", "doctor").out)["findings"]
        findings = {each["plugin"]: each for each in told}
        lines = daemon.log.read_text().splitlines()
        for name, (_, said, remedy) in MISTAKES.items():
            uri, words = f"io.containerd.snapshotter.v1.{name}", said.format(file=site / f"orlop_{name}.py")
            assert found[uri]["state"] == ("skipped" if name == "hardware" else "failed")
            assert words in found[uri]["reason"]
            assert f"orlop-{name} 1.0, entry point {name} = orlop_{name}:plugin" in found[uri]["origin"]
            assert len([line for line in lines if f" plugin={uri}" in line]) == 1, name
            if name != "lonely":  # what it lacks is the cause
                assert words in findings[uri]["problem"]
                assert findings[uri]["remedy"].startswith(remedy)
        assert "  because: its factory is no coroutine function; write async def" in orlop.ok("plugins", "why", "sync")
        # Nobody else is worse for it.
        others = {uri: row for uri, row in found.items() if uri.rpartition(".")[2] not in MISTAKES}
        assert [uri for uri, row in others.items() if row["state"] == "failed"] == []
        assert daemon.ctr("authors").run("images", "ls").code == 0
        (stray,) = [line for line in lines if "orlop-astray" in line]
        assert 'no installed plugin type has it; write \\"orlop.snapshotter.v1\\"' in stray


#: A daemon that loses its patience sooner.
HASTY = "import sys, orlop_services.daemon.run as run; run._LATE = 1.0; from orlop_services.daemon import main; "
BLOCKS = {
    "import": "import time\ntime.sleep(1000)",
    "factory": '@snapshotter("blocks")\nasync def plugin(ctx):\n    import time\n    time.sleep(1000)',
}


@pytest.mark.parametrize("where", BLOCKS)
def test_the_line_that_blocks_a_start_is_in_the_log(short_tmp: Path, tmp_path: Path, where: str) -> None:
    offer(tmp_path, "blocks", "[orlop.snapshotter.v1]\nblocks = orlop_blocks:plugin\n", BLOCKS[where])
    program = (sys.executable, "-c", f"{HASTY}sys.exit(main())")
    daemon = Daemon(short_tmp, program, top=f'plugin_dirs = ["{tmp_path}"]\n')
    daemon.launch()
    try:
        line = len((HEAD + BLOCKS[where]).splitlines())
        told = f'File "{tmp_path}/orlop_blocks.py", line {line} in '
        eventually(lambda: told in daemon.log.read_text(), daemon.tail, 60)
    finally:
        daemon.purge()


def test_what_is_installed_meanwhile_comes_with_a_reload(short_tmp: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, range(1))
    with Daemon(short_tmp, top=f'plugin_dirs = ["{site}"]\n') as daemon:
        orlop = Orlop(daemon.address, "default")
        install(site, range(1, 2))
        assert "orlop config reload" in orlop.fails("plugins", "why", id_of(1))
        assert orlop.ok("config", "reload", "--dry-run") == f"would be started: {uri_of(1)}\n"
        assert orlop.ok("config", "reload") == f"started: {uri_of(1)}\n"
        assert orlop.json("plugins", "why", id_of(1))["state"] == "ok"
        ctr = daemon.ctr("authors")
        assert "ok" in ctr.ok("plugins", "ls", f"id=={id_of(1)}")
        for path in site.glob("acme_0001*.dist-info/*"):
            path.unlink()
        assert orlop.ok("config", "reload") == f"stopped: {uri_of(1)}\n"
        assert "the daemon has none" in orlop.fails("plugins", "why", id_of(1))
