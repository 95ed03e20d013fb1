# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any, cast

import pytest

from orlop.errors import DataLoss, NotFound, Unimplemented
from orlop.interfaces.differ import Differ
from orlop.values import Descriptor
from orlop_images.service import OrderedDiffer

LAYER = Descriptor("type", "sha256:0", 1)


class Answers:
    """A differ that gives or raises what it is told to, and notes how it was called."""

    def __init__(self, answer: Descriptor | Exception) -> None:
        self.answer = answer
        self.calls: list[dict[str, Any]] = []

    async def apply(self, descriptor: Descriptor, mounts: Any, **options: Any) -> Descriptor:
        return self._answer(options)

    async def compare(self, lower: Any, upper: Any, **options: Any) -> Descriptor:
        return self._answer(options)

    def _answer(self, options: dict[str, Any]) -> Descriptor:
        self.calls.append(options)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def ordered(*answers: Answers, sync: bool = False) -> OrderedDiffer:
    differs = {str(number): cast(Differ, item) for number, item in enumerate(answers)}
    return OrderedDiffer(differs, tuple(differs), sync)


async def test_the_next_is_asked_only_when_one_does_not_know() -> None:
    stranger, expert, last = Answers(Unimplemented("no")), Answers(LAYER), Answers(LAYER)
    differ = ordered(stranger, expert, last)
    assert await differ.apply(LAYER, ()) == LAYER
    assert await differ.compare((), ()) == LAYER
    assert [len(item.calls) for item in (stranger, expert, last)] == [2, 2, 0]


async def test_other_errors_are_the_answer() -> None:
    differ = ordered(Answers(DataLoss("broken")), Answers(LAYER))
    with pytest.raises(DataLoss):
        await differ.apply(LAYER, ())
    with pytest.raises(DataLoss):
        await differ.compare((), ())


async def test_nobody_knows() -> None:
    with pytest.raises(Unimplemented, match="second"):
        await ordered(Answers(Unimplemented("first")), Answers(Unimplemented("second"))).apply(LAYER, ())
    with pytest.raises(Unimplemented, match="no differ"):
        await ordered().apply(LAYER, ())


async def test_the_config_can_ask_for_flushing() -> None:
    for configured, asked, flushed in ((False, False, False), (True, False, True), (False, True, True)):
        answers = Answers(LAYER)
        await ordered(answers, sync=configured).apply(LAYER, (), sync=asked)
        assert answers.calls[0]["sync"] is flushed


async def test_a_differ_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFound, match='differ "erofs": not loaded'):
        await OrderedDiffer({}, ("erofs",)).apply(LAYER, ())
