# SPDX-License-Identifier: Apache-2.0
"""Filters as SQL, as far as SQL reaches.

A query narrows what is read to what equalities on names, columns and labels leave, and then every row is matched once
more by the filter itself. So the language has one meaning, and a filter that SQL cannot express is only slower.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from orlop_core.metadata.database import Database
from orlop_sdk.filters import Filter, Operator, Selector, fields, parse

T = TypeVar("T")

#: Rows that are read at once.
PAGE: Final = 512


class Query:
    """Parsed filters over nodes with records, to narrow statements that join the two.

    Those statements need not ask whether a node is present, which its index does not tell: only present ones have a
    record.

    *name* is the field that is the node's name, *columns* are others kept in SQL, and *always* are those that are
    there even when they are empty.
    """

    def __init__(
        self,
        filters: Sequence[str],
        *,
        name: str,
        columns: Mapping[str, str] | None = None,
        always: Collection[str] = (),
    ) -> None:
        """Raises `InvalidArgument` for a malformed filter."""
        self._filters = parse(filters)
        self._always = always
        self._columns = {name: "n.name", **(columns or {})}
        self._where, self._parameters = self._narrow()

    async def all(
        self,
        database: Database,
        select: str,
        parameters: Sequence[object],
        make: Callable[[Any], T],
        describe: Callable[[T], Mapping[str, str | Mapping[str, str]]],
    ) -> list[T]:
        """What matches, in order of name, made of the rows of a statement over ``node n``.

        All of it happens in a thread: turning thousands of rows into records would keep the loop from everything else.
        """
        statement = f"{select} AND {self._where} ORDER BY n.name"

        def read(db: sqlite3.Connection) -> list[T]:
            rows = db.execute(statement, (*parameters, *self._parameters))
            return list(self.matching(map(make, rows), describe))

        return await database.read(read)

    async def pages(
        self, database: Database, select: str, parameters: Sequence[object], make: Callable[[Any], T]
    ) -> AsyncIterator[list[T]]:
        """What may match, by pages, in order of name: made of the rows of a statement over ``node n``.

        Its id and name come first in a row. Nobody holds more than a page, nor a transaction while a slow reader makes
        up its mind. What comes or goes meanwhile may be there or not.
        """
        if self._where == "1":
            statement, last = f"{select} AND n.name > ? ORDER BY n.name LIMIT {PAGE}", ""
            while True:
                records, last = await database.read(_fetch(statement, (*parameters, last), make))
                if records:
                    yield records
                if len(records) < PAGE:
                    return
        # An index tells which rows may match; the order is the name's, so their numbers have to be known first.
        statement = f"{select} AND {self._where} ORDER BY n.name"
        numbers = await database.read(
            lambda db: [row[0] for row in db.execute(statement, (*parameters, *self._parameters))]
        )
        # The plus keeps SQLite from going through the whole namespace for each page.
        statement = select.replace(" n.ns = ", " +n.ns = ")
        statement += " AND n.id IN (SELECT value FROM json_each(?)) ORDER BY n.name"
        for start in range(0, len(numbers), PAGE):
            page = json.dumps(numbers[start : start + PAGE])
            records, _ = await database.read(_fetch(statement, (*parameters, page), make))
            yield records

    def matching(
        self, records: Iterable[T], describe: Callable[[T], Mapping[str, str | Mapping[str, str]]]
    ) -> Iterable[T]:
        """Those of some records whose fields match; *describe* gives the fields."""
        if not self._filters.any_of:
            return records
        return (each for each in records if self._filters.match(fields(describe(each), always=self._always)))

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


def _fetch(
    statement: str, parameters: Sequence[object], make: Callable[[Any], T]
) -> Callable[[sqlite3.Connection], tuple[list[T], str]]:
    """A read of records, and of the last one's name."""

    def read(db: sqlite3.Connection) -> tuple[list[T], str]:
        rows = db.execute(statement, parameters).fetchall()
        return [make(row) for row in rows], rows[-1][1] if rows else ""

    return read
