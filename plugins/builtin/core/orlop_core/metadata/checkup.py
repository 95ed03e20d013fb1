# SPDX-License-Identifier: Apache-2.0
"""Checking and repairing the records: against each other, and against what the back ends have.

The order matters: first the file itself, then what its tables promise each other, then records whose things are lost,
then things without records. What stands last is not done while something before it is left, for a thing whose record
cannot be read looks like one that has none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from typing import Final

from orlop.errors import OrlopError
from orlop.interfaces.check import Checkup, Finding
from orlop_core.metadata import collection, faults, graph, links
from orlop_core.metadata.content import NamespacedContent
from orlop_core.metadata.database import Database, Transaction
from orlop_core.metadata.links import SNAPSHOTS
from orlop_core.metadata.snapshots import NamespacedSnapshotter

_NEEDED_BY: Final = """
WITH RECURSIVE up (id) AS (SELECT :node UNION SELECT e.src FROM edge e JOIN up ON e.dst = up.id WHERE e.how < 2)
SELECT n.name FROM node n JOIN up ON up.id = n.id WHERE n.kind = 'images' AND n.present ORDER BY n.name LIMIT 3
"""
_MISSING: Final = """
SELECT s.name, n.kind, n.name, {what} FROM {record} JOIN node n ON n.id = r.node JOIN node s ON s.id = n.ns
WHERE {when} AND NOT EXISTS
    (SELECT 1 FROM node t WHERE t.ns = n.ns AND t.kind = {kind} AND t.name = {name} AND t.present)
"""
#: Whether what a manifest (:node) describes is unpacked: its config refers to a snapshot that is there.
_UNPACKED: Final = """
SELECT EXISTS (SELECT 1 FROM edge c JOIN edge s ON s.src = c.dst AND s.how = 1 JOIN node t ON t.id = s.dst
WHERE c.src = :node AND c.how = 1 AND t.kind LIKE 'snapshots/%' AND t.present)
"""
#: An index names the manifests of all platforms, and those that nobody asked for are never fetched.
_OTHER_PLATFORMS: Final = "containerd.io/gc.ref.content.m.%"


async def check_metadata(
    database: Database,
    content: NamespacedContent,
    snapshotters: Mapping[str, NamespacedSnapshotter],
    checkup: Checkup,
) -> AsyncIterator[Finding]:
    """All that is wrong with a metadata store: `orlop.interfaces.check.Checkable.check_up`."""
    left = 0
    async for finding in _check_file(database, checkup):
        left += not finding.repaired
        yield finding
    if left and checkup.repair:
        return
    for finding in await _check_promises(database, checkup):
        yield finding
    steps = len(snapshotters) + 2
    checkup.progress(1, steps)
    async for finding in _check_content(database, content, checkup):
        yield finding
    for number, (id, view) in enumerate(list(snapshotters.items()), 2):
        checkup.progress(number, steps)
        async for finding in _check_snapshots(database, id, view, checkup):
            yield finding
    for finding in await database.read(lambda db: list(_check_references(db, set(snapshotters)))):
        yield finding
    checkup.progress(steps, steps)


async def _check_file(database: Database, checkup: Checkup) -> AsyncIterator[Finding]:
    found = await database.read(faults.damage)
    if found and checkup.repair:
        await database.write(lambda tx: tx.db.execute("REINDEX") and None)
    left = await database.read(faults.damage) if found and checkup.repair else found
    for fault in found:
        mended = checkup.repair and fault not in left
        remedy = "make its indexes anew" if not left or mended else "restore the file from a backup"
        yield Finding(f'metadata file "{database.path}"', fault, remedy, repaired=mended)


async def _check_promises(database: Database, checkup: Checkup) -> list[Finding]:
    def look(db: sqlite3.Connection) -> list[Finding]:
        found = [
            Finding(subject, promise.problem, promise.remedy, repaired=checkup.repair)
            for promise, subject in faults.broken(db)
        ]
        return found + [
            Finding(subject, "is not kept as its labels say", "follow its labels", repaired=checkup.repair)
            for _, _, _, _, subject in _misread(db)
        ]

    def mend(tx: Transaction) -> list[Finding]:
        # What one statement leaves dangling, a later one removes.
        tx.db.execute("PRAGMA defer_foreign_keys = ON")
        found = []
        for promise in faults.PROMISES:
            # Asked again for each: what one repair forgets, others must forget as well, and that is worth no line.
            subjects = [subject for _, subject in faults.broken(tx.db, [promise])]
            for statement in promise.repair if subjects else ():
                tx.db.execute(statement)
            found += [Finding(subject, promise.problem, promise.remedy, repaired=True) for subject in subjects]
        tx.db.execute("UPDATE node SET root = 0, flat = 0, expires = NULL, used = NULL WHERE NOT present")
        for node, ns, kind, labels, subject in _misread(tx.db):
            graph.replace_labels(tx, node, ns, kind, labels)
            found.append(Finding(subject, "is not kept as its labels say", "follow its labels", repaired=True))
        collection.forget_names(tx.db)
        return found

    return await (database.write(mend) if checkup.repair else database.read(look))


def _misread(db: sqlite3.Connection) -> list[tuple[int, int, str, dict[str, str], str]]:
    """Nodes whose edges are not what their labels say: id, namespace, kind, labels, and what to call each."""
    rows = db.execute(
        f"SELECT n.id, n.ns, n.kind, n.name, {graph.LABELS} FROM node n WHERE n.present AND n.ns != 0 AND "
        "n.id IN (SELECT node FROM label WHERE key LIKE 'containerd.io/gc.%' UNION SELECT src FROM edge WHERE how = 1"
        " UNION SELECT dst FROM edge WHERE how = 2)"
    ).fetchall()
    found = []
    for node, ns, kind, name, text in rows:
        labels = dict(graph.parse_labels(text))
        meaning = links.read(kind, labels)
        references = set(
            db.execute(
                "SELECT t.kind, t.name FROM edge e JOIN node t ON t.id = e.dst WHERE e.src = ? AND e.how = 1", (node,)
            )
        )
        back_references = set(
            db.execute(
                "SELECT t.kind, t.name FROM edge e JOIN node t ON t.id = e.src WHERE e.dst = ? AND e.how = 2", (node,)
            )
        )
        if references != meaning.references or back_references != meaning.back_references:
            found.append((node, ns, kind, labels, f'{kind} "{name}"'))
    return found


async def _check_content(database: Database, content: NamespacedContent, checkup: Checkup) -> AsyncIterator[Finding]:
    async for ns, digest, problem in content.faults():
        needed = await database.read(partial(_needed_by, ns=ns, digest=digest))
        if checkup.repair:
            await content.forget(ns, digest)
        remedy = f"forget it; pull {' and '.join(needed)} again" if needed else "forget it"
        yield Finding(f'content "{digest}" in namespace "{ns}"', problem, remedy, repaired=checkup.repair)
    orphans = [name async for name in content.orphans()]
    empty: bool = await database.read(_is_empty)
    if orphans and empty:
        yield Finding(
            f'metadata file "{database.path}"',
            f"has no record of anything, but there are {len(orphans)} blobs and ingests",
            "find out who made them: a daemon on this directory removes them",
        )
        return
    if orphans and checkup.repair:
        content.dirty = True
        await content.sweep((), ())
    for name in orphans:
        yield Finding(name, "has no record", "remove it", repaired=checkup.repair, note=True)


async def _check_snapshots(
    database: Database, id: str, view: NamespacedSnapshotter, checkup: Checkup
) -> AsyncIterator[Finding]:
    try:
        untrue, orphans = await view.faults()
    except OrlopError as error:
        yield Finding(f"snapshotter {id}", f"cannot be asked: {error}", "see to it, and check again")
        return
    if lost := [fault.node for fault in untrue if fault.lost and checkup.repair]:
        await view.forget(lost)
    for fault in untrue:
        subject = f'snapshot "{fault.key}" of {id} in namespace "{fault.namespace}"'
        remedy = "forget it; pull the image again where it was one's layer" if fault.lost else "remove it"
        yield Finding(subject, fault.problem, remedy, repaired=fault.lost and checkup.repair)
    empty: bool = await database.read(_is_empty)
    if orphans and not empty:
        if checkup.repair:
            view.dirty = True
            await view.sweep(())
        for name in orphans:
            yield Finding(f'snapshot "{name}" in {id}', "has no record", "remove it", checkup.repair, note=True)


def _is_empty(db: sqlite3.Connection) -> bool:
    return not db.execute("SELECT EXISTS (SELECT 1 FROM node)").fetchone()[0]


def _needed_by(db: sqlite3.Connection, ns: str, digest: str) -> list[str]:
    node = graph.find(db, ns, links.CONTENT, digest)
    return [f'"{row[0]}"' for row in db.execute(_NEEDED_BY, {"node": node})]


def _check_references(db: sqlite3.Connection, snapshotters: Iterable[str]) -> Iterable[Finding]:
    """What refers to something that is not there, and nothing but the operator can help."""
    known = set(snapshotters)
    images = _MISSING.format(what="r.digest", record="image r", when="1", kind="'content'", name="r.digest")
    for ns, _, name, digest in db.execute(images):
        yield Finding(
            f'image "{name}" in namespace "{ns}"', f"has no target {digest}", "pull it again, or remove the image"
        )
    parts = _MISSING.format(
        what="r.value, r.key LIKE 'containerd.io/gc.ref.content.l.%'",
        record="label r",
        when="r.key LIKE 'containerd.io/gc.ref.content%' AND r.key NOT LIKE ? AND n.present",
        kind="'content'",
        name="r.value",
    )
    for ns, kind, name, digest, layer in db.execute(parts, (_OTHER_PLATFORMS,)).fetchall():
        needed = " and ".join(_needed_by(db, ns, name) if kind == links.CONTENT else ())
        remedy = f"pull {needed} again" if needed else "fetch it again, or drop the label"
        unpacked = bool(layer) and db.execute(_UNPACKED, {"node": graph.find(db, ns, kind, name)}).fetchone()[0]
        if unpacked:
            # A pull does not fetch a layer that is unpacked already; containers do not miss it.
            remedy = f"nothing, unless {needed or 'the image'} is to be pushed: remove it then, and pull it again"
        problem = f"refers to {digest}, which is not there"
        yield Finding(f'{kind} "{name}" in namespace "{ns}"', problem, remedy, note=bool(unpacked))
    containers = _MISSING.format(
        what="r.snapshotter || ' ' || r.snapshot_key",
        record="container r",
        when="r.snapshotter != '' AND r.snapshot_key != ''",
        kind="'snapshots/' || r.snapshotter",
        name="r.snapshot_key",
    )
    for ns, _, name, snapshot in db.execute(containers):
        id, _, key = snapshot.partition(" ")
        yield Finding(
            f'container "{name}" in namespace "{ns}"',
            f'has no snapshot "{key}" in {id}',
            "remove the container, and make it anew",
        )
    for (kind,) in db.execute("SELECT DISTINCT kind FROM node WHERE kind LIKE 'snapshots/%' AND present"):
        if (id := kind.removeprefix(SNAPSHOTS)) not in known:
            yield Finding(
                f"snapshotter {id}", "does not run, and has snapshots", "enable it, and check again", note=True
            )
