# SPDX-License-Identifier: Apache-2.0
r"""Regular expressions in Go's syntax (RE2), compiled to Python's `re`.

Clients write filters for Go's ``regexp`` package. Most patterns mean the same to both, but not all: ``$`` is the very
end of the text, ``\d``, ``\w`` and ``\b`` know ASCII only, flags may stand anywhere, classes may have names
(``[[:alpha:]]``), and there are neither look-arounds nor back-references. Each piece of a pattern is translated by
itself.
"""

from __future__ import annotations

import re
import string
from typing import Final

_PERL: Final = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\f\r "}
_NOT_PERL: Final = {"D": "0-9", "W": "0-9A-Za-z_", "S": r"\t\n\f\r "}
_POSIX: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_CONTROL: Final = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ANCHORS: Final = {"A": r"\A", "z": r"\Z", "b": r"(?a:\b)", "B": r"(?!(?a:\b))"}
_REPEAT: Final = re.compile(r"(?:[*+?]|\{(\d+)(?:,(\d*))?\})\??")
_GROUP: Final = re.compile(r"\((?:\?(?:P?<([A-Za-z0-9_]+)>|([imsU-]*)([:)])))?")
_CODE: Final = re.compile(r"x\{([0-9A-Fa-f]+)\}|x([0-9A-Fa-f]{2})|(0[0-7]{0,2}|[1-7][0-7]{1,2})")
_NAMED: Final = re.compile(r"\[:(\^?)(\w+):\]")
_MAX_REPEAT: Final = 1000
_MAX_CODE: Final = 0x10FFFF


def compile(pattern: str) -> re.Pattern[str]:
    r"""Compile a pattern of Go's.

    The result tells whether a text matches; which part of it does may differ, as the ungreedy flag has no effect.
    Raises ValueError, saying why, for what Go does not accept, and for Unicode classes (``\p{...}``), which `re` lacks.
    """
    translated = _Translator(pattern).run()
    try:
        return re.compile(translated)
    except (re.error, OverflowError) as error:
        raise ValueError(f'regular expression "{pattern}": {error}') from error


class _Translator:
    """One pass over a pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._out: list[str] = []
        self._flags = frozenset[str]()
        self._open: list[frozenset[str]] = []
        self._repeatable = False

    def run(self) -> str:
        """The translation of the whole pattern."""
        while self._at < len(self._pattern):
            self._piece()
        if self._open:
            raise self._error("missing closing )")
        return "".join(self._out)

    def _error(self, reason: str) -> ValueError:
        return ValueError(f'regular expression "{self._pattern}": {reason} at position {self._at}')

    def _piece(self) -> None:
        char = self._pattern[self._at]
        if char == "(":
            self._group()
        elif char == ")":
            self._close()
        elif char == "[":
            self._atom(self._class(), folds=True)
        elif char == "\\":
            self._escape()
        elif repeat := _REPEAT.match(self._pattern, self._at):
            self._repeat(repeat)
        else:
            self._at += 1
            self._plain(char)

    def _plain(self, char: str) -> None:
        if char == "|":
            self._out.append("|")
            self._repeatable = False
        elif char == ".":
            self._atom("(?s:.)" if "s" in self._flags else r"[^\n]")
        elif char == "^":
            self._atom("(?m:^)" if "m" in self._flags else r"(?:\A)")
        elif char == "$":
            self._atom("(?m:$)" if "m" in self._flags else r"(?:\Z)")
        else:
            self._atom(re.escape(char), folds=True)

    def _atom(self, text: str, *, folds: bool = False) -> None:
        # The case flag is set on each atom alone: in Go it may change in the middle of an alternative.
        self._out.append(f"(?i:{text})" if folds and "i" in self._flags else text)
        self._repeatable = True

    def _repeat(self, found: re.Match[str]) -> None:
        if not self._repeatable:
            raise self._error("nothing to repeat")
        if any(count and int(count) > _MAX_REPEAT for count in found.groups()):
            raise self._error(f"more than {_MAX_REPEAT} repetitions")
        self._out.append(found.group())
        self._at = found.end()
        self._repeatable = False

    def _group(self) -> None:
        found = _GROUP.match(self._pattern, self._at)
        if found is None or (found.group() == "(" and self._pattern.startswith("(?", self._at)):
            raise self._error("invalid or unsupported group")
        name, flags, end = found.groups()
        before = self._flags
        if flags is not None:
            self._flags = self._changed(flags)
        self._at = found.end()
        if end != ")":
            self._open.append(before)
            self._out.append(f"(?P<{name}>" if name else "(?:" if end else "(")
            self._repeatable = False

    def _changed(self, flags: str) -> frozenset[str]:
        on, _, off = flags.partition("-")
        if "-" in off or flags.endswith("-"):
            raise self._error("invalid flags")
        return (self._flags | set(on)) - set(off)

    def _close(self) -> None:
        if not self._open:
            raise self._error("unexpected )")
        self._flags = self._open.pop()
        self._out.append(")")
        self._at += 1
        self._repeatable = True

    def _escape(self) -> None:
        name = self._pattern[self._at + 1 : self._at + 2]
        if name == "Q":
            end = self._pattern.find("\\E", self._at)
            literal = self._pattern[self._at + 2 :] if end < 0 else self._pattern[self._at + 2 : end]
            self._at = len(self._pattern) if end < 0 else end + 2
            for char in literal:
                self._atom(re.escape(char), folds=True)
        elif name in _ANCHORS and name:
            self._at += 2
            self._atom(f"(?:{_ANCHORS[name]})")
        elif name in _PERL and name:
            self._at += 2
            self._atom(f"[{_PERL[name]}]")
        elif name in _NOT_PERL and name:
            self._at += 2
            self._atom(f"[^{_NOT_PERL[name]}]")
        else:
            self._atom(re.escape(self._character()), folds=True)

    def _character(self) -> str:
        """The character that an escape stands for, inside a class or outside."""
        name = self._pattern[self._at + 1 : self._at + 2]
        if name in _CONTROL and name:
            self._at += 2
            return _CONTROL[name]
        if name in string.punctuation and name:
            self._at += 2
            return name
        found = _CODE.match(self._pattern, self._at + 1)
        if found is None:
            raise self._error("invalid or unsupported escape")
        braced, two, octal = found.groups()
        code = int(octal, 8) if octal else int(braced or two, 16)
        if code > _MAX_CODE:
            raise self._error("character code out of range")
        self._at = found.end()
        return chr(code)

    def _class(self) -> str:
        start = self._at
        negated = self._pattern.startswith("[^", start)
        self._at += 2 if negated else 1
        parts: list[str] = []
        while self._at < len(self._pattern):
            if self._pattern[self._at] == "]" and parts:
                self._at += 1
                return f"[{'^' if negated else ''}{''.join(parts)}]"
            parts.append(self._set() or self._range())
        self._at = start
        raise self._error("missing closing ]")

    def _set(self) -> str:
        """A named set of characters at this place of a class, or nothing."""
        if found := _NAMED.match(self._pattern, self._at):
            if found[2] not in _POSIX:
                raise self._error(f'unknown class "{found.group()}"')
            self._at = found.end()
            return _inverse(_POSIX[found[2]]) if found[1] else _POSIX[found[2]]
        name = self._pattern[self._at + 1 : self._at + 2]
        if self._pattern[self._at] != "\\" or not name:
            return ""
        if name in _PERL:
            self._at += 2
            return _PERL[name]
        if name in _NOT_PERL:
            self._at += 2
            return _inverse(_NOT_PERL[name])
        return ""

    def _range(self) -> str:
        low = self._member()
        if not self._pattern.startswith("-", self._at) or self._pattern.startswith("-]", self._at):
            return re.escape(low)
        self._at += 1
        if self._at == len(self._pattern):
            raise self._error("missing closing ]")
        high = self._member()
        if high < low:
            raise self._error(f'range "{low}-{high}" is empty')
        return f"{re.escape(low)}-{re.escape(high)}"

    def _member(self) -> str:
        if self._pattern[self._at] == "\\":
            return self._character()
        self._at += 1
        return self._pattern[self._at - 1]


def _inverse(members: str) -> str:
    """What to put into a class for all characters that are not these."""
    inside = re.compile(f"[{members}]")
    # All sets are ASCII, so the rest of Unicode is always part of the inverse.
    return "".join(re.escape(chr(code)) for code in range(128) if not inside.match(chr(code))) + "\x80-\U0010ffff"
