# SPDX-License-Identifier: Apache-2.0
"""``orlop fsck``: check what a daemon keeps on disk, and repair it, while no daemon runs.

It brings up the stores in this process and asks each that can be asked (`orlop.interfaces.check`).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from orlop.config import Config, load
from orlop.errors import OrlopError
from orlop.interfaces.check import CHECK, Checkable, Checkup, Finding
from orlop.interfaces.content import CONTENT
from orlop.interfaces.introspection import CommandPlugin, command
from orlop.interfaces.metadata import METADATA
from orlop.interfaces.snapshotter import SNAPSHOTTER
from orlop.kernel import Kernel
from orlop.plugin import InitContext, PluginStatus
from orlop_cli.console import Console, Usage

#: Files that a running daemon holds locked, below its root; the last is containerd's own.
_LOCKS: Final = ("*/*.lock", "*/meta.db")
_STORES: Final = (CONTENT.name, SNAPSHOTTER.name, METADATA.name)
#: How long to wait for a file that a daemon opened since the locks were tried.
_PATIENCE: Final = {("timeouts", "io.containerd.timeout.bolt.open"): "1s"}


@dataclass
class Report:
    """What came of a check."""

    root: str
    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    not_checked: dict[str, str] = field(default_factory=dict)
    """Stores that could not be asked, each with the reason."""

    @property
    def left(self) -> list[Finding]:
        """What is still wrong."""
        return [finding for finding in self.findings if not finding.repaired and not finding.note]


class FsckCommand:
    """``fsck [--repair] [--quick] [--root DIR] [--config FILE]``."""

    @property
    def summary(self) -> str:
        return "check and repair what the daemon keeps on disk, while it is stopped"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-c", "--config", type=Path, help="the daemon's config file")
        parser.add_argument("--root", type=Path, help="the daemon's root directory; the config's if not given")
        parser.add_argument("--repair", action="store_true", help="mend what can be mended; else only look")
        parser.add_argument("--quick", action="store_true", help="do not read all content to compare digests")
        parser.epilog = (
            "exit status: 0 when all is well or was repaired, 1 when something is left, 2 when nothing could be checked"
        )

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        with tempfile.TemporaryDirectory(prefix="orlop-fsck-") as state:
            config = _config(arguments.config, arguments.root, state)
            root = Path(config.settings.root)
            _refuse_in_use(root)
            report = Report(str(root))
            console.run(_check(config, report, arguments.repair, arguments.quick, console))
        _print(report, console)
        return 1 if report.left else 0


def _config(file: Path | None, root: Path | None, state: str) -> Config:
    overrides: dict[Any, Any] = {("state",): state, **_PATIENCE}
    if root is not None:
        overrides["root",] = str(root.absolute())
    config = load(file, overrides)
    config.raise_faults()
    if not Path(config.settings.root).is_dir():
        raise Usage(f'root "{config.settings.root}": no such directory; name another with --root or --config')
    return config


def _refuse_in_use(root: Path) -> None:
    """Raise `Usage` when a daemon uses the directory: what it is about to write would look like damage."""
    for pattern in _LOCKS:
        for path in sorted(root.glob(pattern)):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Usage(f'root "{root}": a daemon is using it ("{path}" is locked); stop that first') from None
            finally:
                os.close(fd)


async def _check(config: Config, report: Report, repair: bool, quick: bool, console: Console) -> None:
    stores = _stores(config)
    async with Kernel(config.reread(), only=stores) as kernel:
        for status in _in_turn(kernel.plugins.statuses(), stores):
            instance = kernel.plugins.instance(status.uri)
            if status.state == "failed":
                problem = f"does not come up: {status.reason}"
                report.findings.append(Finding(status.uri, problem, "see to that, and check again"))
            elif status.state != "ok":
                report.not_checked[status.uri] = f"{status.state}: {status.reason}"
            elif not isinstance(instance, Checkable):
                report.not_checked[status.uri] = "it offers no check"
            else:
                progress = Progress(status.uri, console)
                checkup = Checkup(repair=repair, quick=quick, progress=progress.show)
                await _examine(status.uri, instance.check_up(checkup), report)
                progress.end()


async def _examine(uri: str, findings: AsyncIterator[Finding], report: Report) -> None:
    try:
        async with aclosing(findings) as found:  # type: ignore[type-var]  # an iterator without aclose() has no use here
            async for finding in found:
                report.findings.append(finding)
        report.checked.append(uri)
    except (OrlopError, OSError) as error:
        report.findings.append(Finding(uri, f"cannot be checked: {error}", "see to that, and check again"))


def _stores(config: Config) -> list[str]:
    """The plugins to ask: all stores, and whoever else said that it can be asked."""
    probe = Kernel(config)
    probe.select()
    return [
        uri
        for uri, entry in probe.registry.entries.items()
        if entry.candidate.type in _STORES
        or (entry.registration is not None and CHECK in entry.registration.capabilities)
    ]


def _in_turn(statuses: Sequence[PluginStatus], stores: Sequence[str]) -> list[PluginStatus]:
    """The stores in the order of the check: the metadata store is the last, for it looks at all others."""
    return sorted((each for each in statuses if each.uri in stores), key=lambda each: each.type == METADATA.name)


class Progress:
    """How far the check of one store is, on standard error: a line that counts on a terminal, else just its name."""

    def __init__(self, uri: str, console: Console) -> None:
        self._uri = uri
        self._live = sys.stderr.isatty() and console.format != "json"
        self._shown = -1
        if console.format != "json" and not self._live:
            console.remark(f"checking {uri}")

    def show(self, done: int, total: int) -> None:
        """Take news from the store."""
        percent = 100 * done // total if total else 100
        if self._live and percent != self._shown:
            self._shown = percent
            print(f"\rchecking {self._uri}: {percent} %", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """It is checked."""
        if self._live:
            print(f"\rchecking {self._uri}: done ", file=sys.stderr)


def _print(report: Report, console: Console) -> None:
    repaired = sum(finding.repaired for finding in report.findings)
    if console.format == "json":
        console.json(
            {
                "root": report.root,
                "findings": [asdict(finding) for finding in report.findings],
                "repaired": repaired,
                "left": len(report.left),
                "checked": report.checked,
                "not_checked": report.not_checked,
            }
        )
        return
    for finding in report.findings:
        kind = "repaired" if finding.repaired else "note" if finding.note else "fault"
        print(f"{kind}: {finding.subject} {finding.problem}")
        print(f"  {'done' if finding.repaired else 'remedy'}: {finding.remedy}")
    for uri, reason in report.not_checked.items():
        console.remark(f"not checked: {uri}: {reason}")
    count = len(report.findings)
    result = f"{count} finding{'' if count == 1 else 's'}, {repaired} repaired, {len(report.left)} left"
    console.remark(f"{report.root}: {result if count else 'nothing is wrong'}")


@command("fsck")
async def fsck(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop fsck``."""
    return FsckCommand()
