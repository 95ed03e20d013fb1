# SPDX-License-Identifier: Apache-2.0
"""``orlop-sdk check``: the conformance suite of a plugin's interface, run by pytest with an output of its own."""

from __future__ import annotations

import asyncio
import gzip
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from orlop.errors import InvalidArgument, NotFound
from orlop.interfaces.content import CONTENT
from orlop.interfaces.differ import DIFFER
from orlop.interfaces.log import LOG_DRIVER
from orlop.interfaces.snapshotter import SNAPSHOTTER
from orlop.interfaces.stream import STREAM_PROCESSOR, TAR, StreamProcessor
from orlop.plugin import PluginType
from orlop_sdk.serving.target import find_target, import_attribute
from orlop_sdk.testing import checked
from orlop_sdk.testing.stream import Sample
from orlop_sdk.testing.subject import PluginSubject, SocketSubject, Subject

_SUITES: Final[dict[str, type[Any]]] = {
    SNAPSHOTTER.name: checked.TestSnapshotter,
    CONTENT.name: checked.TestContent,
    DIFFER.name: checked.TestDiffer,
    STREAM_PROCESSOR.name: checked.TestStream,
    LOG_DRIVER.name: checked.TestLog,
}
_TYPES: Final[tuple[PluginType[Any], ...]] = (SNAPSHOTTER, CONTENT, DIFFER, STREAM_PROCESSOR, LOG_DRIVER)
_SOCKETS: Final = {"snapshot": SNAPSHOTTER.name, "content": CONTENT.name, "diff": DIFFER.name}
_ANSWERS: Final = {"yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What to check, and what the suite has to know of it."""

    target: str
    config: Path | None = None
    settings: tuple[str, ...] = ()
    words: str = ""
    stores: str = ""
    samples: tuple[str, ...] = ()
    uri: str = ""
    read: str = ""


def check(options: CheckOptions) -> int:
    """Run the suite, print how each check went, and return the exit status: 0 if all is well, 1 if not.

    Raises what `find_target` raises, and `InvalidArgument` for settings that the suite does not have.
    """
    subject, type_name = _subject(options)
    suite = _SUITES[type_name]
    _apply(suite, subject, options)
    with tempfile.TemporaryDirectory(prefix="orlop-check-") as place:
        asyncio.run(_try_out(subject, suite, Path(place)))
    print(f"{subject.name}: {suite.__bases__[-1].__name__}")
    report = _Report(subject)
    # What else is installed, and whatever pytest is configured to do in this folder, is none of the suite's business.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    with tempfile.TemporaryDirectory(prefix="orlop-check-") as place:
        report.places = Path(place)
        arguments = [f"{checked.__file__}::{suite.__name__}", "-c", os.devnull, "--rootdir", place]
        arguments += ["-p", "no:terminal", "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin"]
        arguments += ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
        arguments.append(f"--basetemp={place}/pytest")
        pytest.main([*arguments, "-k", options.words] if options.words else arguments, plugins=[report])
    return report.summary()


def _subject(options: CheckOptions) -> tuple[Subject, str]:
    kind, equals, address = options.target.partition("=")
    if equals:
        if kind not in _SOCKETS:
            raise InvalidArgument(f'"{options.target}": write {", ".join(f"{each}=SOCKET" for each in _SOCKETS)}')
        return SocketSubject(kind, address, options.stores), _SOCKETS[kind]
    target = find_target(options.target, *_TYPES)
    return PluginSubject(target, options.config), target.registration.type.name


def _apply(suite: type[Any], subject: Subject, options: CheckOptions) -> None:
    """Tell the suite what its subject can do."""
    if isinstance(subject, SocketSubject):
        suite.reopens = False  # a proxy that runs is not ours to start again
    elif isinstance(subject, PluginSubject) and hasattr(suite, "rebases"):
        suite.rebases = "rebase" in subject.target.registration.capabilities
    if suite is checked.TestStream:
        suite.samples = _samples(options)
    if suite is checked.TestLog:
        if not options.uri or not options.read:
            raise InvalidArgument(f"{subject.name}: a log driver needs --uri and --read; orlop-sdk check --help")
        import_attribute(options.read)  # raises what would fail each check
        suite.pattern, suite.reader = options.uri, options.read
    for setting in options.settings:
        name, _, answer = setting.partition("=")
        valid = sorted(key for key in dir(suite) if not key.startswith("_") and isinstance(getattr(suite, key), bool))
        if name not in valid or answer not in _ANSWERS:
            raise InvalidArgument(f"--set {setting}: write NAME=yes or NAME=no; names are {', '.join(valid)}")
        setattr(suite, name, _ANSWERS[answer])


async def _try_out(subject: Subject, suite: type[Any], place: Path) -> None:
    """Raise what would fail every check."""
    await subject.try_out(place)
    if suite is checked.TestStream:
        async with subject.opening(place) as open:
            processor: StreamProcessor = await open()
            for type in sorted({sample.media_type for sample in suite.samples}):
                if processor.claim(type) is None:
                    raise InvalidArgument(
                        f"{subject.name}: does not claim {type}; say with --sample TYPE=IN:OUT what it does claim"
                    )


def _samples(options: CheckOptions) -> list[Sample]:
    if not options.samples:
        return [Sample(f"{TAR}+gzip", TAR, gzip.compress(b"a sample", mtime=0), b"a sample")]
    samples = []
    for text in options.samples:
        media_type, _, files = text.partition("=")
        source, _, result = files.partition(":")
        if not result:
            raise InvalidArgument(f"--sample {text}: write MEDIA_TYPE=INPUT_FILE:OUTPUT_FILE")
        for file in (source, result):
            if not Path(file).is_file():
                raise NotFound(f"--sample {text}: no file {file}")
        samples.append(Sample(media_type, "", Path(source).read_bytes(), Path(result).read_bytes()))
    return samples


@dataclass
class _Report:
    """The pytest plugin: gives checks their subject, and prints what becomes of them."""

    subject: Subject
    places: Path = Path()
    outcomes: dict[str, int] = field(default_factory=lambda: {"ok": 0, "skipped": 0, "FAILED": 0})

    @pytest.fixture(name="subject")
    def give_subject(self) -> Subject:
        return self.subject

    @pytest.fixture(name="place")
    def give_place(self) -> Iterator[Path]:
        # Short paths: subjects may make sockets in there.
        with tempfile.TemporaryDirectory(dir=self.places) as place:
            yield Path(place)

    def pytest_configure(self, config: pytest.Config) -> None:
        config.option.tbstyle = "short"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        outcome = "FAILED" if report.failed else "skipped" if report.skipped else "ok"
        self.outcomes[outcome] += 1
        name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        reason = f" ({report.longrepr[2].removeprefix('Skipped: ')})" if isinstance(report.longrepr, tuple) else ""
        print(f"  {outcome:<8} {name}{reason}", flush=True)
        if report.failed:
            print("\n".join(f"    {line}" for line in report.longreprtext.splitlines()), flush=True)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.outcomes["FAILED"] += 1
            print(report.longreprtext)

    def summary(self) -> int:
        """Print the result, and give the exit status."""
        ok, skipped, failed = self.outcomes["ok"], self.outcomes["skipped"], self.outcomes["FAILED"]
        verdict = "conforms" if ok and not failed else "does not conform" if failed else "was not checked"
        print(f"{self.subject.name} {verdict}: {ok} ok, {skipped} skipped, {failed} failed")
        return 0 if ok and not failed else 1
