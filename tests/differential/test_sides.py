# SPDX-License-Identifier: Apache-2.0
"""The comparison notices what differs: each test makes one side different by a call that the other does not get."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.differential.calls import NS, Call, Follow, Normal, call
from tests.differential.scenarios.common import DIGEST, RUNTIME, SPEC, ingested
from tests.differential.sides import Both, Play

CONTAINER = {"id": "c1", "runtime": RUNTIME, "spec": SPEC}


@pytest.fixture
def play(both: Both) -> Iterator[Play]:
    play = both.begin("made different", "made different")
    yield play
    play.close()


def on_one_side(both: Both, play: Play, *calls: Call) -> None:
    """Make calls of the subject alone."""
    names = {NS: f"diff-o-{play.number}"}
    for each in calls:
        assert both.sides[1].play(each, names, Normal({})).code == "OK"


def test_another_code(both: Both, play: Play) -> None:
    on_one_side(both, play, call("Containers.Create", container=CONTAINER))
    with pytest.raises(AssertionError, match="NOT_FOUND or OK"):
        play.step(call("Containers.Get", id="c1"))


def test_another_field(both: Both, play: Play) -> None:
    play.step(call("Containers.Create", container=CONTAINER | {"labels": {"a": "1"}}))
    update = {"container": {"id": "c1", "labels": {"a": "2"}}, "update_mask": {"paths": ["labels.a"]}}
    on_one_side(both, play, call("Containers.Update", update))
    with pytest.raises(AssertionError, match=r"container\.labels\[a\]: '1' or '2'"):
        play.step(call("Containers.Get", id="c1"))


def test_a_time_that_moved(both: Both, play: Play) -> None:
    play.step(call("Containers.Create", container=CONTAINER))
    on_one_side(both, play, call("Containers.Update", container={"id": "c1"}, update_mask={"paths": ["labels"]}))
    with pytest.raises(AssertionError, match=r"container\.updated_at: '<same>' or '<later>'"):
        play.step(call("Containers.Get", id="c1"))


def test_more_in_a_list(both: Both, play: Play) -> None:
    on_one_side(both, play, call("Leases.Create", id="l"))
    with pytest.raises(AssertionError, match=r"leases\[0\]\.id: None or 'l'"):
        play.step(call("Leases.List"))


def test_another_end_of_a_stream(both: Both, play: Play) -> None:
    on_one_side(both, play, ingested())
    with pytest.raises(AssertionError, match="NOT_FOUND or OK"):
        play.step(call("Content.Read", digest=DIGEST))


def test_another_event(both: Both, play: Play) -> None:
    on_one_side(both, play, call("Events.Publish", topic="/a", event={"type_url": "t"}))
    with pytest.raises(AssertionError, match="topic=/a "):
        play.events()


def test_another_order_of_events(both: Both, play: Play) -> None:
    first, second = (call("Events.Publish", topic=topic, event={"type_url": "t"}) for topic in ("/a", "/b"))
    names = {NS: f"diff-c-{play.number}"}
    for each in (second, first):
        assert both.sides[0].play(each, names, Normal({})).code == "OK"
    on_one_side(both, play, first, second)
    with pytest.raises(AssertionError, match="topic=/b "):
        play.events()


def test_what_a_subscription_gets(both: Both, play: Play) -> None:
    play.step(Follow(('topic=="/b"',)))
    on_one_side(both, play, call("Events.Publish", topic="/b", event={"type_url": "t"}))
    with pytest.raises(AssertionError, match="topic=/b "):
        play.finish()
