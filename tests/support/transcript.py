# SPDX-License-Identifier: Apache-2.0
"""Records what ``ctr`` says, in a form that two daemons can be compared by.

What cannot be the same is replaced by its kind: times, addresses, directories, pids. Everything that identifies things
(names, digests, sizes, labels) stays. Errors are compared by class and by the things they name, since their wording is
each daemon's own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.ctr import Ctr, Result, eventually
from tests.support.daemon import Daemon

CLASSES = (
    "not found",
    "already exists",
    "failed precondition",
    "invalid argument",
    "not implemented",
    "unavailable",
    "permission denied",
    "out of range",
    "canceled",
)
# Some clients do not translate codes into those words.
CODES = {"NotFound": "not found", "InvalidArgument": "invalid argument", "Unimplemented": "not implemented"}
DISPLAY = r'level=error msg="(failed to get content info|active check failed)"'
GENERAL: tuple[tuple[str, str], ...] = (
    (r"\x1b\[[0-9;?]*[A-Za-z]", ""),
    (r"ERR[O]\[\d+\] resize pty.*", ""),  # a process that ended before its terminal was given its size
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(Z|[+-]\d\d:?\d\d))?( (UTC|[+-]\d{4}))?( m=\S+)?", "<time>"),
    (r"\b(About a|Less than a|\d+) (second|minute|hour)s?( ago)?\b", "<span>"),
    (r"\b\d+(\.\d+)?(ns|µs|ms|s)\b", "<span>"),
    (r"\d+\.\d+ [KMG]?i?B/s", "<speed>"),
)
# Several labels in one column: a map, whose order means nothing.
LABELS = r"(?<!\S)[^\s,\"]+=[^\s,\"]*(,[^\s,\"]+(=[^\s,\"]*)?)+(?!\S)"
Hide = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Difference:
    """Where the two daemons are allowed to differ, and why."""

    why: str
    pattern: str
    """Matched against every line of both transcripts."""
    replacement: str = ""


@dataclass(frozen=True)
class Said:
    """One line of an error, and the arguments of the call it answers, without the words of the command."""

    text: str
    args: frozenset[str]

    @property
    def names(self) -> set[str]:
        """The arguments that it mentions."""
        return {arg for arg in self.args if arg in self.text}


@dataclass
class Transcript:
    """What one daemon answered to a scenario, line by line."""

    daemon: str
    lines: list[str] = field(default_factory=list)
    errors: list[Said] = field(default_factory=list)
    """Error texts as they were, for the report and for the check of what they name."""


class EventLog:
    """What ``ctr events`` has printed so far."""

    def __init__(self, recorder: Recorder, file: Path) -> None:
        self._recorder = recorder
        self._file = file
        self._skip = 0

    def wait_subscribed(self) -> None:
        """Return once events arrive: the subscription is not there as soon as the program has started."""

        def seen() -> bool:
            self._recorder.quietly("namespaces", "label", self._recorder.namespace, "probe=1")
            return bool(self._lines())

        eventually(seen, "an event arrives")
        self._skip = len(self._lines())

    def lines(self, count: int) -> list[str]:
        """The first *count* events since then, as ``<topic> <payload>``, without those about the namespace."""
        eventually(lambda: len(self._own()) >= count, lambda: f"{count} events; there are {self._own()}")
        return self._own()

    def _own(self) -> list[str]:
        words = (line.split("<namespace> ", 1)[-1] for line in map(self._recorder.normal, self._lines()[self._skip :]))
        # Events about content are new in containerd 2; this ctr complains that it does not know them.
        return [line for line in words if not line.startswith("/namespaces/") and "events.Content" not in line]

    def _lines(self) -> list[str]:
        return [line for line in self._file.read_text().splitlines(keepends=True) if line.endswith("\n")]


class Recorder:
    """``ctr`` for one side of a comparison: every call is written down."""

    def __init__(self, daemon: Daemon, namespace: str, directory: Path, data: Mapping[str, Path]) -> None:
        self.daemon = daemon
        self.ctr: Ctr = daemon.ctr(namespace)
        self.namespace = namespace
        self.directory = directory
        self.data = data
        """Files that scenarios use, by name."""
        self.transcript = Transcript(daemon.name)
        self._started = False

    def __call__(
        self, *args: str, stdin: bytes | None = None, hide: Hide = (), out: bool = True, ordered: bool = True
    ) -> Result:
        """Make a call and record how it ended.

        *hide* replaces more; *out* says whether output matters, and *ordered* whether the order of its lines does.
        """
        self._started |= bool({"run", "start"} & set(args))
        result = self.ctr.run(*args, stdin=stdin)
        self.record(result, hide=hide, out=out, ordered=ordered)
        return result

    def loosely(self, why: str, *args: str) -> Result:
        """Make a call of which only success or failure is compared, since the daemons differ in the rest on purpose."""
        assert why
        self._started |= bool({"run", "start"} & set(args))
        result = self.ctr.run(*args)
        self.note(f"$ ctr {' '.join(result.args)}")
        self.note(f"= {result.code}")
        return result

    def quietly(self, *args: str, stdin: bytes | None = None) -> str:
        """Make a call that has to succeed and is not compared."""
        self._started |= bool({"run", "start"} & set(args))
        return self.ctr.ok(*args, stdin=stdin)

    def on_terminal(self, *args: str, keys: bytes = b"", hide: Hide = ()) -> Result:
        """As a call, on a terminal."""
        self._started = True
        result = self.ctr.on_terminal(*args, keys=keys)
        self.record(result, hide=hide)
        return result

    def record(self, result: Result, *, hide: Hide = (), out: bool = True, ordered: bool = True) -> None:
        """Write a call down."""
        self.note(f"$ ctr {' '.join(result.args)}", hide)
        lines = result.out.splitlines() if out else []
        for line in lines if ordered else sorted(lines):
            self.note(f"  {line}", hide)
        # A client may complain of its own progress display, also when it fails: that counts as output.
        for line in result.err.splitlines() if out or result.code else ():
            if out or not re.search(DISPLAY, line):
                self._error(line, result.args)
        self.note(f"= {result.code}")

    def note(self, line: str, hide: Hide = ()) -> None:
        """Write one line down."""
        line = self.normal(line, hide)
        if line:
            self.transcript.lines.append(line)

    def remark(self, text: str) -> None:
        """Keep an error's text for the report of a failure, where it helps to understand it."""
        self.transcript.errors.append(Said(self.normal(text), frozenset()))

    def normal(self, line: str, hide: Hide = ()) -> str:
        """A line without what differs between any two runs."""
        line = line.rsplit("\r", 1)[-1] if "\x1b" in line else line.replace("\r", "")
        for own, kind in (
            (str(self.daemon.address), "<address>"),
            (str(self.daemon.base), "<base>"),
            (str(self.directory), "<directory>"),
            (self.namespace, "<namespace>"),
        ):
            line = line.replace(own, kind)
        for pattern, kind in (*hide, *GENERAL):
            line = re.sub(pattern, kind, line)
        return re.sub(r"\s+", " ", re.sub(LABELS, in_order, line)).rstrip()

    @contextmanager
    def events(self) -> Iterator[EventLog]:
        """Follow the events of this side's namespace while the block runs."""
        file = self.directory / "events"
        with file.open("wb") as sink, self.ctr.background("events", f'namespace=="{self.namespace}"', out=sink):
            log = EventLog(self, file)
            log.wait_subscribed()
            yield log

    def finish(self) -> Transcript:
        """End what the scenario left running."""
        if self._started:
            self.ctr.remove_tasks()
        return self.transcript

    def _error(self, line: str, args: Sequence[str]) -> None:
        line = self.normal(line)
        if line.startswith("WARNING"):  # of the client, not of the daemon
            self.transcript.lines.append(f"! {line}")
            return
        self.transcript.errors.append(Said(line, frozenset(self.normal(arg) for arg in args[2:] if len(arg) > 1)))
        code = re.search(r"rpc error: code = (\w+) desc", line)
        found = [CODES.get(code[1], code[1])] if code else []
        found = found or [name for name in CLASSES if re.search(rf"{name}(: unknown)?\W*$", line)]
        self.transcript.lines.append(f"! {found[0] if found else 'error'}")


def in_order(labels: re.Match[str]) -> str:
    """The labels of one column, sorted."""
    return ",".join(sorted(labels[0].split(",")))


def compare(expected: Transcript, actual: Transcript, differences: Sequence[Difference]) -> str:
    """The differences that nothing explains, as text; empty when there are none."""

    def explained(lines: Sequence[str]) -> list[str]:
        result = []
        for line in lines:
            left = line
            for item in differences:
                left = re.sub(item.pattern, item.replacement, left)
            if left.strip():
                result.append(left)
        return result

    ours, theirs = explained(actual.lines), explained(expected.lines)
    if ours != theirs:
        diff = difflib.unified_diff(theirs, ours, expected.daemon, actual.daemon, lineterm="", n=4)
        said = [f"{side.daemon} said: {error.text}" for side in (expected, actual) for error in side.errors]
        return "\n".join([*diff, *said])
    return "\n".join(
        f"{actual.daemon} does not name {', '.join(missing)}: {own.text}\n{expected.daemon} said: {other.text}"
        for own, other in zip(actual.errors, expected.errors, strict=True)
        if (missing := sorted(other.names - own.names))
    )
