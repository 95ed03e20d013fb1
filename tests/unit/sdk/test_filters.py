# SPDX-License-Identifier: Apache-2.0
"""The filter language: what parses, to what, and what it matches."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidArgument
from orlop_sdk.filters import Filter, Filters, Operator, Selector, fields, parse, quote

IMAGE = fields(
    {
        "name": "docker.io/library/web:1",
        "parent": "",
        "target": {"digest": "sha256:abc", "mediatype": "application/x"},
        "labels": {"env": "prod", "a.b": "dotted", "empty": "", "lines": "one\ntwo\n"},
    }
)


def selector(text: str) -> Selector:
    ((only,),) = ([each.selectors for each in parse([text]).any_of],)
    return only[0]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("name", Selector(("name",))),
        ("name==a", Selector(("name",), Operator.EQUAL, "a")),
        (" name != a", Selector(("name",), Operator.NOT_EQUAL, "a")),
        ("name~=^a$", Selector(("name",), Operator.MATCHES, "^a$")),
        ("labels.a.b==c", Selector(("labels", "a", "b"), Operator.EQUAL, "c")),
        ('labels."a.b c"==c', Selector(("labels", "a.b c"), Operator.EQUAL, "c")),
        ('name=="a, b"', Selector(("name",), Operator.EQUAL, "a, b")),
        (r'name=="\x61\142\u0063\U00000064\n\\\""', Selector(("name",), Operator.EQUAL, 'abcd\n\\"')),
        (r'name=="\xc3\xa9"', Selector(("name",), Operator.EQUAL, "é")),
        (r"name~=/a\/b/", Selector(("name",), Operator.MATCHES, "a/b")),
        (r"name~=|a\|b|", Selector(("name",), Operator.MATCHES, "a|b")),
        ("name==a=b!", Selector(("name",), Operator.EQUAL, "a=b!")),
        ('name==""', Selector(("name",), Operator.EQUAL, "")),
    ],
)
def test_selector_is_read(text: str, want: Selector) -> None:
    assert selector(text) == want


def test_filter_is_data() -> None:
    assert parse(["a==1,b", "c"]) == Filters(
        (
            Filter((Selector(("a",), Operator.EQUAL, "1"), Selector(("b",)))),
            Filter((Selector(("c",)),)),
        )
    )


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("==a", 0),
        ("name=a", 4),
        ("name===a", 4),
        ("name!~a", 4),
        ("name ", 4),
        ("name a", 4),
        ("name==", 6),
        ("name==/a/", 6),
        ("name==,", 6),
        ('name=="a', 6),
        (r'name=="\q"', 6),
        (r'name=="\400"', 6),
        (r"name~=/\d/", 6),
        ("name==a b", 7),
        ("name==a,", 8),
        ("name..x", 5),
        ("name.", 5),
        ("é==a", 0),
        ("labels.a-b==c", 8),
        ("name~=(", 6),
        ("name~=(?=a)", 6),
    ],
)
def test_error_names_the_position(text: str, position: int) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(f"filter '{text}'") + f".*, at position {position}$"):
        parse([text])


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("name", True),
        ("parent", False),
        ("nothing", False),
        ("name==docker.io/library/web:1", True),
        ("name==web", False),
        ("name!=web", True),
        ("nothing!=a", True),
        ('nothing!=""', False),
        ('nothing==""', False),
        ("name~=web", True),
        ("name~=^web", False),
        ("nothing~=^$", True),
        ("target.digest==sha256:abc", True),
        ("target", False),
        ("labels.env==prod", True),
        ("labels.a.b==dotted", True),
        ('labels."a.b"==dotted', True),
        ("labels.empty", True),
        ('labels.empty==""', True),
        ("labels", False),
        ("labels.env==prod,name~=web", True),
        ("labels.env==prod,name~=db", False),
        ("labels.lines~=two$", False),
        ("labels.lines~=(?m)one$", True),
        ("name.ignored==docker.io/library/web:1", True),
    ],
)
def test_filter_matches(text: str, matches: bool) -> None:
    assert parse([text]).match(IMAGE) is matches


def test_any_filter_of_a_list_is_enough_and_no_filter_too() -> None:
    assert parse(["name==no", "labels.env==prod"]).match(IMAGE)
    assert not parse(["name==no", "labels.env==test"]).match(IMAGE)
    assert parse([]).match(IMAGE)


@given(st.text() | st.text(alphabet='ab.,=!~"/|\\ \n1_é(', max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse([text]).match(IMAGE)
    except InvalidArgument:
        return


@given(st.text(), st.text())
def test_quoted_text_is_that_text(key: str, value: str) -> None:
    adaptor = fields({"labels": {key: value}})
    assert parse([f"labels.{quote(key)}=={quote(value)}"]).match(adaptor)
    assert not parse([f"labels.{quote(key)}!={quote(value)}"]).match(adaptor)
    assert not parse([f"labels.{quote(key)}=={quote(value + 'x')}"]).match(adaptor)
