# SPDX-License-Identifier: Apache-2.0
"""The tables, and how older files become current ones.

Everything that has a name is a row of ``node``: its namespace, its kind, its name. Kinds are spelled as lease
resources are: ``content``, ``ingests``, ``images``, ``snapshots/<snapshotter>``; further ``containers``, ``sandboxes``,
``leases``, ``namespaces``, and the labels of collectibles. A node with ``present = 0`` does not exist, but something
refers to it.

What refers to what is in ``edge``, kept up to date by every write, so garbage collection never looks at labels:

* how 0: the reference is part of the thing (parent, target, expected digest, leased resource, a container's snapshot)
* how 1: a ``gc.ref`` label of the source
* how 2: a ``gc.bref`` label of the *destination*

Times are microseconds since 1970.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from orlop.errors import FailedPrecondition

_V1: Final = """
CREATE TABLE migration (version INTEGER PRIMARY KEY, applied INTEGER NOT NULL);
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE node (
    id INTEGER PRIMARY KEY,
    ns INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    present INTEGER NOT NULL,
    root INTEGER NOT NULL DEFAULT 0,
    flat INTEGER NOT NULL DEFAULT 0,
    expires INTEGER,
    used INTEGER,
    UNIQUE (ns, kind, name)
);
CREATE INDEX node_blob ON node (name) WHERE kind = 'content';
CREATE INDEX node_absent ON node (id) WHERE present = 0;

CREATE TABLE label (
    node INTEGER NOT NULL REFERENCES node ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (node, key)
) WITHOUT ROWID;
CREATE INDEX label_value ON label (key, value);

CREATE TABLE edge (
    src INTEGER NOT NULL,
    how INTEGER NOT NULL,
    dst INTEGER NOT NULL,
    PRIMARY KEY (src, how, dst)
) WITHOUT ROWID;
CREATE INDEX edge_dst ON edge (dst, how);

CREATE TABLE condition (
    src INTEGER NOT NULL,
    dst INTEGER NOT NULL,
    younger INTEGER NOT NULL,
    age INTEGER NOT NULL,
    PRIMARY KEY (src, dst, younger, age)
) WITHOUT ROWID;
CREATE INDEX condition_dst ON condition (dst);

CREATE TABLE image (
    node INTEGER PRIMARY KEY REFERENCES node,
    media_type TEXT NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    annotations TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
);

CREATE TABLE container (
    node INTEGER PRIMARY KEY REFERENCES node,
    runtime TEXT NOT NULL,
    options_type TEXT,
    options BLOB,
    spec_type TEXT,
    spec BLOB,
    image TEXT NOT NULL,
    snapshotter TEXT NOT NULL,
    snapshot_key TEXT NOT NULL,
    sandbox TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
);

CREATE TABLE sandbox (
    node INTEGER PRIMARY KEY REFERENCES node,
    runtime TEXT NOT NULL,
    options_type TEXT,
    options BLOB,
    spec_type TEXT,
    spec BLOB,
    sandboxer TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
);

CREATE TABLE extension (
    node INTEGER NOT NULL REFERENCES node ON DELETE CASCADE,
    key TEXT NOT NULL,
    type TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (node, key)
) WITHOUT ROWID;

CREATE TABLE content (
    node INTEGER PRIMARY KEY REFERENCES node,
    size INTEGER NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
);

CREATE TABLE ingest (
    node INTEGER PRIMARY KEY REFERENCES node,
    backend TEXT NOT NULL UNIQUE,
    expected TEXT NOT NULL,
    size INTEGER NOT NULL,
    started INTEGER NOT NULL
);

CREATE TABLE snapshot (
    node INTEGER PRIMARY KEY REFERENCES node,
    backend TEXT NOT NULL,
    parent INTEGER REFERENCES snapshot,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
);
CREATE INDEX snapshot_parent ON snapshot (parent);
CREATE INDEX snapshot_backend ON snapshot (backend);

-- A commit that the snapshotter may or may not have done when the daemon was killed.
CREATE TABLE pending_commit (
    node INTEGER PRIMARY KEY REFERENCES snapshot,
    name TEXT NOT NULL,
    backend TEXT NOT NULL,
    parent INTEGER REFERENCES snapshot,
    labels TEXT NOT NULL,
    lease TEXT
);
CREATE INDEX pending_commit_parent ON pending_commit (parent);

CREATE TABLE lease (node INTEGER PRIMARY KEY REFERENCES node, created INTEGER NOT NULL);
"""

#: Scripts in order; the version of a file is the number of scripts it has been through.
MIGRATIONS: Final = (_V1,)


def migrate(connection: sqlite3.Connection, now: int) -> None:
    """Bring a file up to date, each step in a transaction. Raises `FailedPrecondition` for one of a newer daemon."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise FailedPrecondition(
            f"metadata: the file has version {version}, this daemon knows {len(MIGRATIONS)}; run the newer daemon"
        )
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        # executescript() commits by itself first, hence the transaction inside the script.
        record = f"INSERT INTO migration VALUES ({number}, {now}); PRAGMA user_version = {number};"  # ints
        connection.executescript(f"BEGIN EXCLUSIVE;\n{script}\n{record}\nCOMMIT;")
