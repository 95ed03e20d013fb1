# SPDX-License-Identifier: Apache-2.0
"""Filters as SQL, as far as SQL reaches.

A query narrows what is read to what equalities on names, columns and labels leave, and then every row is matched once
more by the filter itself. So the language has one meaning, and a filter that SQL cannot express is only slower.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from orlop_sdk.filters import Filter, Operator, Selector, fields, parse


class Query:
    """Parsed filters over nodes. *name* is the field that is the node's name, *columns* are others kept in SQL."""

    def __init__(self, filters: Sequence[str], *, name: str, columns: Mapping[str, str] | None = None) -> None:
        """Raises `InvalidArgument` for a malformed filter."""
        self._filters = parse(filters)
        self._columns = {name: "n.name", **(columns or {})}
        self._where, self._parameters = self._narrow()

    def rows(self, db: sqlite3.Connection, select: str, parameters: Sequence[object]) -> list[Any]:
        """The rows of a statement over ``node n`` that may match, in order of name."""
        statement = f"{select} AND n.present AND {self._where} ORDER BY n.name"
        return db.execute(statement, (*parameters, *self._parameters)).fetchall()

    def match(self, values: Mapping[str, str | Mapping[str, str]]) -> bool:
        """Whether a record with these fields matches."""
        return not self._filters.any_of or self._filters.match(fields(values))

    def _narrow(self) -> tuple[str, list[str]]:
        alternatives: list[str] = []
        parameters: list[str] = []
        for each in self._filters.any_of:
            terms = self._terms(each)
            if not terms:
                return "1", []
            alternatives.append(" AND ".join(term for term, _ in terms))
            parameters += [value for _, values in terms for value in values]
        return (f"({' OR '.join(f'({term})' for term in alternatives)})", parameters) if alternatives else ("1", [])

    def _terms(self, each: Filter) -> list[tuple[str, tuple[str, ...]]]:
        return [term for selector in each.selectors if (term := self._term(selector)) is not None]

    def _term(self, selector: Selector) -> tuple[str, tuple[str, ...]] | None:
        if selector.path[0] == "labels":
            key = ".".join(selector.path[1:])
            if selector.operator is Operator.PRESENT:
                return "n.id IN (SELECT node FROM label WHERE key = ?)", (key,)
            if selector.operator is Operator.EQUAL:
                return "n.id IN (SELECT node FROM label WHERE key = ? AND value = ?)", (key, selector.value)
            return None
        column = self._columns.get(".".join(selector.path))
        if column is None or selector.operator is not Operator.EQUAL:
            return None
        return f"{column} = ?", (selector.value,)
