# SPDX-License-Identifier: Apache-2.0
"""Whether the file is sound: its pages, and what the tables promise each other."""

from __future__ import annotations

import sqlite3
from typing import Final

#: What must find nothing, and what it means if it finds something.
_PROMISES: Final = {
    "SELECT kind || ' ' || name FROM node WHERE present AND ns != 0 AND ns NOT IN (SELECT id FROM node WHERE ns = 0)": (
        "belongs to no namespace"
    ),
    "SELECT 'edge ' || src || ' -> ' || dst FROM edge WHERE src NOT IN (SELECT id FROM node)"
    " OR dst NOT IN (SELECT id FROM node)": "has an end that does not exist",
    "SELECT 'condition ' || src || ' -> ' || dst FROM condition WHERE src NOT IN (SELECT id FROM node)"
    " OR dst NOT IN (SELECT id FROM node)": "has an end that does not exist",
    "SELECT 'edge ' || e.src || ' -> ' || e.dst FROM edge e"
    " JOIN node n ON n.id = CASE e.how WHEN 2 THEN e.dst ELSE e.src END"
    " WHERE NOT n.present": "belongs to something that does not exist",
    "SELECT 'label ' || key FROM label WHERE node IN (SELECT id FROM node WHERE NOT present)": (
        "is on something that does not exist"
    ),
    "SELECT 'snapshot ' || n.name FROM snapshot r JOIN node n ON n.id = r.node"
    " WHERE r.parent IS NOT NULL AND NOT EXISTS"
    " (SELECT 1 FROM edge e WHERE e.src = r.node AND e.how = 0 AND e.dst = r.parent)": "does not keep its parent",
}

_RECORDS: Final = {
    "image": "kind = 'images'",
    "container": "kind = 'containers'",
    "sandbox": "kind = 'sandboxes'",
    "content": "kind = 'content'",
    "ingest": "kind = 'ingests'",
    "lease": "kind = 'leases'",
    "snapshot": "kind LIKE 'snapshots/%'",
}


def check_database(db: sqlite3.Connection) -> list[str]:
    """Faults of the file, one line each. Reads all of it."""
    faults = [f"metadata file: {row[0]}" for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
    faults += [
        f"metadata file: {row[0]}: row {row[1]} refers to nothing" for row in db.execute("PRAGMA foreign_key_check")
    ]
    for query, meaning in _PROMISES.items():
        faults += [f"metadata file: {row[0]} {meaning}" for row in db.execute(query)]
    for table, kind in _RECORDS.items():
        without = db.execute(f"SELECT name FROM node WHERE {kind} AND present AND id NOT IN (SELECT node FROM {table})")
        faults += [f'metadata file: {table} "{row[0]}" has a name but no record' for row in without]
        nameless = db.execute(
            f"SELECT node FROM {table} WHERE node NOT IN (SELECT id FROM node WHERE {kind} AND present)"
        )
        faults += [f"metadata file: {table} {row[0]} has a record but no name" for row in nameless]
    return faults
