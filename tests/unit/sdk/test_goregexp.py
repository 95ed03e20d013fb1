# SPDX-License-Identifier: Apache-2.0
"""Go's regular expressions: what they match, where Python's own would differ, and what Go refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_sdk import goregexp


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("a$", "a\n", False),
        ("(?m)a$", "a\nb", True),
        (r"a\z", "a", True),
        (r"^\d$", "\u0661", False),
        (r"^\w$", "é", False),
        (r"^\s$", "\v", False),
        (r"^\S$", "\v", True),
        (r"^[\S]$", "\v", True),
        (r"\bé", "é", False),
        (r"^\B$", "", True),
        ("^[[:alpha:]]+$", "aZ", True),
        ("^[[:^alpha:]]+$", "1é", True),
        ("^[^[:digit:]]+$", "a\n", True),
        ("a(?i)b", "aB", True),
        ("a(?i)b", "AB", False),
        ("(?i:a)b", "AB", False),
        ("x(?i)a|b", "B", True),
        ("(x(?i)a)b", "xAB", False),
        ("(?s)a.b", "a\nb", True),
        ("a.b", "a\nb", False),
        (r"^\Qa.b\E$", "a.b", True),
        (r"^\Qa.b\E$", "axb", False),
        ("^a{,2}$", "a{,2}", True),
        ("^a{1,2}$", "aa", True),
        (r"^\x61\x{62}\143$", "abc", True),
        ("^[]a]$", "]", True),
        ("^[a-]$", "-", True),
        ("^[a&&b]$", "&", True),
        ("(?P<n>a)(?<m>b)", "ab", True),
        ("a+?b", "aab", True),
        ("(?U)a+", "aa", True),
        ("", "anything", True),
    ],
)
def test_pattern_means_what_it_means_in_go(pattern: str, text: str, found: bool) -> None:
    assert (goregexp.compile(pattern).search(text) is not None) is found


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "[",
        "[a",
        "[z-a]",
        "[a-",
        "*",
        "a**",
        "a*+",
        "a{1001}",
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?>a)",
        "(?#a)",
        "(?P=n)",
        "(?x)a",
        "(?i-)a",
        r"(a)\1",
        r"\Z",
        r"\y",
        "\\",
        "[\\",
        r"[\y]",
        "[[:nothing:]]",
        r"\x{110000}",
        r"\pL",
    ],
)
def test_what_go_refuses_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="^regular expression"):
        goregexp.compile(pattern)


SYNTAX = st.text(alphabet="ab(?i:)[]^$.*+{}1,|\\dDwWsSbBQEzn-&~#\n")


@given(st.text() | SYNTAX, st.text())
def test_any_text_compiles_or_is_refused(pattern: str, text: str) -> None:
    try:
        compiled = goregexp.compile(pattern)
    except ValueError:
        return
    compiled.search(text[:20])


@given(st.text())
def test_escaped_text_finds_itself(text: str) -> None:
    escaped = "".join(f"\\x{{{ord(char):x}}}" for char in text)
    assert goregexp.compile(f"^{escaped}$").search(text)
