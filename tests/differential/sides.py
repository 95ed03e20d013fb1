# SPDX-License-Identifier: Apache-2.0
"""Two daemons side by side: every step is played on both, and what they answer is compared at once."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass
from tests.differential.calls import (
    DIR,
    MARK,
    NS,
    TREE,
    Answer,
    Call,
    Follow,
    Make,
    Normal,
    Scenario,
    Step,
    filled,
    leaves,
    method,
)
from tests.differential.differences import DIFFERENCES, Difference
from tests.support.daemon import Daemon
from tests.support.oci import busybox_tree

from orlop_sdk.api.services.events.v1 import events_pb2

TIMEOUT = 30.0
"""Seconds that a call may take."""
ENDLESS = frozenset({"Health.Watch"})
"""Streams that never end, of which the first answer is compared."""
SETTLED = 5.0
"""Seconds that events of tasks have to arrive."""
LARGEST_MESSAGE = 16 << 20
SHORTEST_NAME = 2
"""Texts of a request that are shorter may be in an error's text by chance."""


@dataclass
class Tally:
    """What was played, for the report."""

    scenarios: set[str] = field(default_factory=set)
    steps: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    used: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)


TALLY = Tally()


class Subscription:
    """Events of all namespaces, or those that filters choose, as they arrive."""

    def __init__(self, side: Side, filters: Sequence[str], namespace: str) -> None:
        request = events_pb2.SubscribeRequest(filters=[*filters, f'topic=="{MARK}"'] if filters else [])
        path = "/containerd.services.events.v1.Events/Subscribe"
        envelope = GetMessageClass(method("Events.Subscribe").output_type)
        start: Callable[..., Any] = side.channel.unary_stream(
            path, request_serializer=None, response_deserializer=envelope.FromString
        )
        self._stream = start(request.SerializeToString())
        self._arrived = threading.Condition()
        self._side = side
        self._marks: set[str] = set()
        self._events: list[Any] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        # It begins some time after the call was made.
        for _ in range(400):
            if self._wait(side.mark(namespace), 0.05):
                break
            assert self._thread.is_alive(), f"{side.name} does not take the filters {filters}"
        else:
            raise AssertionError(f"{side.name}: no event arrives with {filters}")
        self.taken(namespace)

    def taken(self, namespace: str) -> list[Any]:
        """What has come for a namespace, and those whose names go on from its name; the rest is forgotten."""
        mark = self._side.mark(namespace)
        assert self._wait(mark, TIMEOUT), f"{self._side.name}: an event does not arrive"
        with self._arrived:
            found, self._events = self._events, []
        return [each for each in found if each.namespace == namespace or each.namespace.startswith(f"{namespace}-")]

    def close(self) -> None:
        """End the stream."""
        self._stream.cancel()
        self._thread.join(TIMEOUT)

    def _read(self) -> None:
        try:
            for envelope in self._stream:
                with self._arrived:
                    if envelope.topic == MARK:
                        self._marks.add(envelope.event.value.decode())
                    else:
                        self._events.append(envelope)
                    self._arrived.notify_all()
        except grpc.RpcError:
            return

    def _wait(self, mark: str, seconds: float) -> bool:
        with self._arrived:
            return self._arrived.wait_for(lambda: mark in self._marks, seconds)


class Side:
    """One of the two daemons."""

    def __init__(self, daemon: Daemon, letter: str, directory: Path) -> None:
        self.name = daemon.name
        self.daemon = daemon
        self.letter = letter
        self.directory = directory
        self._marks = count()
        options = [("grpc.max_receive_message_length", LARGEST_MESSAGE), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(f"unix:{daemon.address}", options)
        self._events = Subscription(self, (), "comparison")
        self._bound: dict[str, Callable[..., Any]] = {}

    def close(self) -> None:
        """End what was opened."""
        self._events.close()
        self.channel.close()

    def mark(self, namespace: str) -> str:
        """Publish an event that tells how far subscribers have come; gives what is in it."""
        text = f"{next(self._marks)}"
        request = events_pb2.PublishRequest(topic=MARK)
        request.event.type_url, request.event.value = "mark", text.encode()
        publish: Callable[..., Any] = self.channel.unary_unary("/containerd.services.events.v1.Events/Publish")
        publish(request.SerializeToString(), metadata=[("containerd-namespace", namespace)], timeout=TIMEOUT)
        return text

    def events(self, namespace: str) -> list[Any]:
        """What was published in a namespace since this was asked last."""
        return self._events.taken(namespace)

    def play(self, call: Call, names: Mapping[str, str], normal: Normal) -> Answer:
        """Make a call and say how it ended."""
        namespace = filled(call.namespace, names)
        headers = [("containerd-namespace", namespace)] if namespace else []
        headers += [("containerd-lease", call.lease)] if call.lease else []
        answer = Answer()
        try:
            for message in self._answers(call, names, headers):
                prefix = f"{len(answer.messages)}." if method(call.method).server_streaming else ""
                answer.messages.append(message)
                answer.fields |= normal.fields(message, prefix)
        except grpc.RpcError as error:
            answer.code, answer.text = error.code().name, normal.text(error.details() or "")
        return answer

    def _answers(self, call: Call, names: Mapping[str, str], headers: Sequence[tuple[str, str]]) -> Iterator[Any]:
        descriptor = method(call.method)
        make = GetMessageClass(descriptor.input_type)
        sent = [make(**filled(fields, names)).SerializeToString() for fields in call.requests]
        sent = sent if call.raw is None else [call.raw]
        bound = self._bound.get(call.method) or self._bind(call.method)
        running = bound(
            iter(sent) if descriptor.client_streaming else sent[0],
            metadata=headers,
            timeout=TIMEOUT,
        )
        if call.method in ENDLESS:
            yield next(running)
            running.cancel()
        elif descriptor.server_streaming:
            yield from running
        else:
            yield running

    def _bind(self, name: str) -> Callable[..., Any]:
        descriptor = method(name)
        kinds = [descriptor.client_streaming, descriptor.server_streaming]
        make = getattr(self.channel, "_".join("stream" if kind else "unary" for kind in kinds))
        answer = GetMessageClass(descriptor.output_type)
        bound: Callable[..., Any] = make(
            f"/{descriptor.containing_service.full_name}/{descriptor.name}",
            request_serializer=None,
            response_deserializer=answer.FromString,
        )
        self._bound[name] = bound
        return bound


class Play:
    """One scenario, or one generated sequence, on both sides."""

    def __init__(self, sides: Sequence[Side], number: int, kind: str, name: str) -> None:
        self.kind = kind
        self.number = number
        self._differences = [item for item in DIFFERENCES if re.fullmatch(item.scenario, name)]
        self._sides = sides
        self._log: list[str] = []
        self._patience = 0.0
        self._found: list[list[Any]] = [[] for _ in sides]
        self._follows: list[tuple[tuple[str, ...], list[Subscription]]] = []
        self._names: list[dict[str, str]] = []
        self._normal: list[Normal] = []
        for side in sides:
            # runc keeps state by namespace for all daemons of a host, so that they need one each.
            namespace = f"diff-{side.letter}-{number}"
            directory = side.directory / str(number)
            directory.mkdir()
            own = {NS: namespace, DIR: str(directory), TREE: str(side.directory.parent / "tree")}
            self._names.append(own)
            base = str(side.daemon.base)
            self._normal.append(Normal({own[DIR]: DIR, own[TREE]: TREE, namespace: NS, base: "<base>"}))

    def step(self, step: Step) -> Answer:
        """Play one step; an AssertionError tells what differs. Gives the subject's answer."""
        TALLY.steps[self.kind] += 1
        if isinstance(step, Make):
            for names in self._names:
                file = Path(names[DIR]) / step.path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(step.text)
            return Answer()
        if isinstance(step, Follow):
            opened = [
                Subscription(side, [filled(item, names) for item in step.filters], names[NS])
                for side, names in zip(self._sides, self._names, strict=True)
            ]
            self._follows.append((step.filters, opened))
            return Answer()
        TALLY.methods[step.method] += 1
        if step.method == "Tasks.Create":
            self._patience = SETTLED
            for side, names in zip(self._sides, self._names, strict=True):
                side.daemon.ctr(names[NS])  # so that what it leaves on the host is found at the end
        self._log.append(step.described)
        standard, subject = (
            side.play(step, names, normal)
            for side, names, normal in zip(self._sides, self._names, self._normal, strict=True)
        )
        self._judge(step, standard, subject)
        return subject

    def events(self) -> None:
        """Compare the events of the namespace since this was asked last, in their order.

        Those of tasks come from shims, which send them when they can.
        """
        deadline = time.monotonic() + self._patience
        while True:
            for listed, side, own in zip(self._found, self._sides, self._names, strict=True):
                listed.extend(side.events(own[NS]))
            try:
                self._compare_events("events", self._found)
                break
            except AssertionError:
                if time.monotonic() >= deadline:
                    raise
                TALLY.failed[self.kind] -= 1  # it is too early to tell
            time.sleep(0.1)
        self._found = [[] for _ in self._sides]

    def finish(self) -> None:
        """Compare what was published meanwhile, and what subscriptions of the scenario got of it."""
        self.events()
        for filters, opened in self._follows:
            pairs = zip(opened, self._names, strict=True)
            self._compare_events(f"events with {filters}", [each.taken(names[NS]) for each, names in pairs])

    def close(self) -> None:
        """End the subscriptions of the scenario."""
        for _, opened in self._follows:
            for each in opened:
                each.close()

    def _compare_events(self, what: str, found: Sequence[Sequence[Any]]) -> None:
        told = []
        for listed, normal in zip(found, self._normal, strict=True):
            lines = []
            for envelope in listed:
                fields = normal.fields(envelope)
                lines.append(" ".join(f"{path}={value}" for path, value in fields.items()))
            told.append(lines)
        ours = self._without_extras(told[1], told[0])
        theirs = self._without_missing(told[0], Counter(ours))
        if theirs != ours:
            self._fail("\n  ".join([f"{what}:", f"{self._sides[0].name}:", *theirs, f"{self._sides[1].name}:", *ours]))

    def _without_missing(self, lines: Sequence[str], known: Counter[str]) -> list[str]:
        """The standard's events without what the subject is meant to leave out."""
        kept = []
        for line in lines:
            if known[line]:
                known[line] -= 1
            elif self._allowed(
                item for item in self._differences if bool(item.missing_event and re.search(item.missing_event, line))
            ):
                continue
            kept.append(line)
        return kept

    def _without_extras(self, lines: Sequence[str], standard: Sequence[str]) -> list[str]:
        """The subject's events without what it is meant to say more than the standard.

        Of several that are equal, the one that comes where the standard has something else is one too many.
        """
        texts = [self._without_fields(line) for line in lines]
        surplus = Counter(texts) - Counter(standard)
        kept: list[str] = []
        at = 0
        for text in texts:
            if text in standard[at : at + 1]:
                at += 1
            elif surplus[text] and self._allowed(
                item for item in self._differences if bool(item.extra_event and re.search(item.extra_event, text))
            ):
                surplus[text] -= 1
                continue
            elif text in standard[at:]:
                at = standard.index(text, at) + 1
            kept.append(text)
        return kept

    def _without_fields(self, line: str) -> str:
        """An event of the subject's without fields that it is meant to have more than the standard."""
        for item in self._differences:
            if item.event_field and (shorter := re.sub(item.event_field, "", line)) != line:
                TALLY.used[item.name] += 1
                line = shorter
        return line

    def _judge(self, call: Call, standard: Answer, subject: Answer) -> None:
        if standard.code != subject.code:
            if self._allowed(item for item in self._differences if item.explains_code(call.method, standard, subject)):
                return
            self._fail(f"{standard.code} or {subject.code}", standard, subject)
        self._drop_repeated(call, standard, subject)
        if standard.fields != subject.fields:
            paths = {*standard.fields, *subject.fields}
            wrong = []
            for path in sorted(path for path in paths if standard.fields.get(path) != subject.fields.get(path)):
                pair = (standard.fields.get(path), subject.fields.get(path))
                if not self._allowed(
                    item for item in self._differences if item.explains_field(call.method, path, pair)
                ):
                    wrong.append(f"{path}: {pair[0]!r} or {pair[1]!r}")
            if wrong:
                self._fail("\n".join(wrong), standard, subject)
        if subject.code != "OK" and (missing := self._unnamed(call, standard, subject)):
            if not self._allowed(item for item in self._differences if item.explains_text(call.method, standard)):
                self._fail(f"the error does not name {missing}", standard, subject)

    def _drop_repeated(self, call: Call, standard: Answer, subject: Answer) -> None:
        """Forget the last answer of the standard where it is the one before once more."""
        last = len(standard.messages) - 1
        if last < 1 or last != len(subject.messages) or standard.messages[last] != standard.messages[last - 1]:
            return
        if self._allowed(item for item in self._differences if item.explains_repetition(call.method)):
            for path in [path for path in standard.fields if path.startswith(f"{last}.")]:
                del standard.fields[path]

    def _unnamed(self, call: Call, standard: Answer, subject: Answer) -> list[str]:
        """What the standard's error says of the request, and the subject's does not."""
        sent = {text for request in call.requests for text in leaves(request)}
        normal = {filled(text, {self._names[1][NS]: NS}) for text in sent if len(text) >= SHORTEST_NAME}
        return sorted(text for text in normal if names(standard.text, text) and text not in subject.text)

    def _allowed(self, explained: Iterable[Difference]) -> bool:
        """Whether there is any; it is counted."""
        for item in explained:
            TALLY.used[item.name] += 1
            return True
        return False

    def _fail(self, what: str, standard: Answer | None = None, subject: Answer | None = None) -> None:
        TALLY.failed[self.kind] += 1
        said = [
            f"{side.name}: {answer.code} {answer.text}".rstrip()
            for side, answer in zip(self._sides, (standard, subject), strict=True)
            if answer is not None and answer.text
        ]
        raise AssertionError("\n".join([*self._log[-40:], "", what, *said]))


def names(text: str, name: str) -> bool:
    """Whether a text has a name in it, and not merely as a part of some word."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


class Both:
    """The standard and the subject."""

    def __init__(self, standard: Daemon, subject: Daemon, directory: Path) -> None:
        for letter in "co":
            (directory / letter).mkdir()
        self.sides = (Side(standard, "c", directory / "c"), Side(subject, "o", directory / "o"))
        self._numbers = count(1)
        busybox_tree(directory / "tree")

    def close(self) -> None:
        """End what was opened."""
        for side in self.sides:
            side.close()

    def begin(self, kind: str, name: str) -> Play:
        """Begin a sequence in a fresh namespace."""
        return Play(self.sides, next(self._numbers), kind, name)

    def play(self, scenario: Scenario) -> None:
        """Play a scenario; an AssertionError tells what differs."""
        play = self.begin("written", scenario.name)
        try:
            for step in scenario.steps:
                play.step(step)
            play.finish()
        finally:
            play.close()
        TALLY.scenarios.add(scenario.name)
