# SPDX-License-Identifier: Apache-2.0
"""Filters, as clients send them to list and to subscribe: containerd's language.

::

    filters = parse(['labels."env"==prod,name~="^web-"', "id==db"])
    filters.match(fields({"id": "db", "name": "x", "labels": {"env": "test"}}))  # True

A list of filters matches what any of them matches, and everything when it is empty. One filter is a list of selectors,
separated by commas, of which all have to match::

    selector = path                 present, and not empty
             | path == value        present and equal
             | path != value        not equal; absent counts as empty
             | path ~= value        a Go regular expression is found in it; absent counts as empty
    path     = segment { . segment }
    segment  = letters, digits, _   or "quoted"
    value    = anything up to a comma or space; not first: . , / | " and the operators' characters
             | "quoted", with Go's escapes; after ~= also /quoted/ and |quoted|

The classes are plain data, so that a store can translate a filter into a query of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

from orlop.errors import InvalidArgument
from orlop_sdk import goregexp

Adaptor = Callable[[tuple[str, ...]], str | None]
"""Gives the value at a path, or None when there is none."""

# What Go takes for a space; Python's own idea has four control characters more.
_SPACES: Final = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_SPACE: Final = re.compile(f"[{_SPACES}]*")
_NAME: Final = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR: Final = re.compile(r"[=!~]+")
_BARE: Final = re.compile(f"[^,\0{_SPACES}]+")
_NOT_FIRST: Final = frozenset('.,/|"=!~')
_QUOTES: Final = {'"': re.compile(r'"((?:[^"\\\n]|\\.)*)"'), "/": re.compile(r"/((?:[^/\\\n]|\\.)*)/")}
_QUOTES["|"] = re.compile(r"\|((?:[^|\\\n]|\\.)*)\|")
_ESCAPE: Final = re.compile(
    r"\\(?:([abfnrtv\\])|x([0-9A-Fa-f]{2})|([0-7]{3})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL
)
_TO_ESCAPE: Final = re.compile(r'["\\\x00-\x1f]')
_CONTROL: Final = dict(zip("abfnrtv\\", b"\a\b\f\n\r\t\v\\", strict=True))
_MAX_CODE: Final = 0x10FFFF
_SURROGATES: Final = range(0xD800, 0xE000)
_NO_CHARACTER: Final = 0xFFFD


class Operator(StrEnum):
    """How a selector compares."""

    PRESENT = ""
    EQUAL = "=="
    NOT_EQUAL = "!="
    MATCHES = "~="


@dataclass(frozen=True)
class Selector:
    """One condition on the value at one path."""

    path: tuple[str, ...]
    operator: Operator = Operator.PRESENT
    value: str = ""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The compiled regular expression of a `MATCHES` selector. Raises ValueError when it is malformed."""
        return goregexp.compile(self.value)

    def match(self, adaptor: Adaptor) -> bool:
        """Whether the value that *adaptor* gives meets the condition."""
        found = adaptor(self.path)
        match self.operator:
            case Operator.PRESENT:
                return found is not None
            case Operator.EQUAL:
                return found == self.value
            case Operator.NOT_EQUAL:
                return (found or "") != self.value
            case Operator.MATCHES:
                return self.pattern.search(found or "") is not None


@dataclass(frozen=True)
class Filter:
    """Conditions of which all have to be met; none at all is met by everything."""

    selectors: tuple[Selector, ...] = ()

    def match(self, adaptor: Adaptor) -> bool:
        """Whether every selector matches."""
        return all(selector.match(adaptor) for selector in self.selectors)


@dataclass(frozen=True)
class Filters:
    """Filters of which any has to match; no filter at all lets everything pass."""

    any_of: tuple[Filter, ...] = ()

    def match(self, adaptor: Adaptor) -> bool:
        """Whether any filter matches, or there is none."""
        return not self.any_of or any(each.match(adaptor) for each in self.any_of)


def parse(texts: Iterable[str]) -> Filters:
    """Parse a list of filters.

    Raises `InvalidArgument` with the text and the position for the first that is malformed, a malformed regular
    expression included.
    """
    return Filters(tuple(_Parser(text).run() for text in texts))


def quote(text: str) -> str:
    """*text* as a quoted value or path segment, for building a filter: ``f"name=={quote(name)}"``."""
    return '"' + _TO_ESCAPE.sub(lambda found: f"\\x{ord(found.group()):02x}", text) + '"'


def fields(values: Mapping[str, str | Mapping[str, str]], *, always: Collection[str] = ()) -> Adaptor:
    """An adaptor over a mapping of field names to texts, or to mappings such as labels.

    An empty text counts as absent, except in the fields named by *always*. What follows the name of a mapping, joined
    by dots, is the key in it; what follows the name of a text is ignored.
    """

    def adaptor(path: tuple[str, ...]) -> str | None:
        value = values.get(path[0])
        if value is None or isinstance(value, str):
            return value or (value if path[0] in always else None)
        return value.get(".".join(path[1:]))

    return adaptor


class _Parser:
    """Reads one filter from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def run(self) -> Filter:
        if not self._text:
            return Filter()
        selectors = [self._selector()]
        while self._at < len(self._text):
            if self._text[self._at] != ",":
                raise self._error("expected a comma or the end; quote values that contain spaces")
            self._at += 1
            selectors.append(self._selector())
        return Filter(tuple(selectors))

    def _error(self, reason: str) -> InvalidArgument:
        return InvalidArgument(f"filter '{self._text}': {reason}, at position {self._at}")

    def _skip_space(self) -> None:
        if found := _SPACE.match(self._text, self._at):
            self._at = found.end()

    def _selector(self) -> Selector:
        path = [self._segment()]
        while self._text.startswith(".", self._at):
            self._at += 1
            path.append(self._segment())
        if self._at == len(self._text) or self._text[self._at] == ",":
            return Selector(tuple(path))
        start = self._at
        self._skip_space()
        found = _OPERATOR.match(self._text, self._at)
        if found is None:
            self._at = start
            raise self._error(
                'expected one of "==", "!=", "~="; quote segments of a path that contain other characters'
            )
        try:
            operator = Operator(found.group())
        except ValueError:
            raise self._error(f'unsupported operator "{found.group()}"; quote values that begin like one') from None
        self._at = found.end()
        self._skip_space()
        return self._compared(tuple(path), operator)

    def _compared(self, path: tuple[str, ...], operator: Operator) -> Selector:
        start = self._at
        selector = Selector(path, operator, self._value(operator))
        if operator is Operator.MATCHES:
            try:
                selector.pattern  # noqa: B018  # compiles it
            except ValueError as error:
                self._at = start
                raise self._error(str(error)) from error
        return selector

    def _segment(self) -> str:
        self._skip_space()
        if self._text.startswith('"', self._at):
            return self._quoted()
        found = _NAME.match(self._text, self._at)
        if found is None:
            raise self._error("expected a field, of letters, digits and _, or quoted")
        self._at = found.end()
        return found.group()

    def _value(self, operator: Operator) -> str:
        first = self._text[self._at : self._at + 1]
        if first == '"' or (first in _QUOTES and operator is Operator.MATCHES):
            return self._quoted()
        found = None if first in _NOT_FIRST else _BARE.match(self._text, self._at)
        if found is None:
            raise self._error('expected a value; put it in " when it is empty or begins with one of . , / | = ! ~')
        self._at = found.end()
        return found.group()

    def _quoted(self) -> str:
        quote = self._text[self._at]
        found = _QUOTES[quote].match(self._text, self._at)
        if found is None:
            raise self._error(f"the quoted text has no closing {quote}")
        result = bytearray()
        end = 0
        for escape in _ESCAPE.finditer(found[1]):
            result += found[1][end : escape.start()].encode() + self._escaped(escape, quote)
            end = escape.end()
        result += found[1][end:].encode()
        self._at = found.end()
        return result.decode(errors="surrogateescape")

    def _escaped(self, escape: re.Match[str], quote: str) -> bytes:
        control, two, octal, four, eight, other = escape.groups()
        if control:
            return bytes((_CONTROL[control],))
        if other == quote:
            return quote.encode()
        code = int(two or four or eight or "0", 16) if not octal else int(octal, 8)
        largest = 0xFF if two or octal else _MAX_CODE
        if other or code > largest:
            raise self._error(f"unknown escape {escape.group()}; a backslash is written \\\\")
        if two or octal:
            return bytes((code,))
        # Half a surrogate pair is no character; what stands for those is taken, as Go does.
        return chr(_NO_CHARACTER if code in _SURROGATES else code).encode()
