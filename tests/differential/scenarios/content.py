# SPDX-License-Identifier: Apache-2.0
"""Blobs and ingests."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.differential.calls import NS, Call, Scenario, call
from tests.differential.scenarios.common import (
    BLOB,
    DIGEST,
    LONG,
    ROOT,
    UNKNOWN,
    Rows,
    commit,
    digest,
    ingested,
    masks,
    table,
    written,
)

SIZE = len(BLOB)
BIG = b"0123456789abcdef" * 150_000
"""More than two messages of a read."""
INFO = call("Content.Info", digest=DIGEST)
STATUS = call("Content.Status", ref="r")
STATUSES = call("Content.ListStatuses")
LOOK = [STATUSES, STATUS, INFO]


def write(*requests: dict[str, Any], lease: str = "", namespace: str = NS) -> Call:
    """A call that writes."""
    return call("Content.Write", *requests, lease=lease, namespace=namespace)


STAT = {"action": 0, "ref": "r"}
FIRST = write(written("r"))
WRITE: Rows = {
    "no message": write(),
    "nothing but a ref": write(STAT),
    "no ref": write({"action": 0}),
    "no ref, with data": write(written("")),
    "ref of any form": write(written("a ref: of any/form")),
    "ref beyond ASCII": write(written("é")),
    "long ref": write(written("r" * 3000)),
    "data": FIRST,
    "no data": write(written("r", b"")),
    "data in pieces": write(written("r", b"hello"), written("r", b", blob\n", offset=5)),
    "data in pieces, no offsets": write(written("r", b"hello"), written("r", b", blob\n")),
    "ref in the first message only": write(written("r", b"hello"), {"action": 1, "data": b", blob\n", "offset": 5}),
    "another ref in the second message": write(written("r", b"hello"), written("s", b", blob\n", offset=5)),
    "offset past the end": write(written("r", offset=5)),
    "offset past what is stored": [FIRST, write(written("r", offset=99))],
    "offset before what is stored": [FIRST, write(written("r", offset=5))],
    "offset of the end": [FIRST, write(written("r", offset=SIZE))],
    "offset of zero again": [FIRST, write(written("r", b"again"))],
    "offset of zero again, no data": [FIRST, write(written("r", b""))],
    "negative offset": write(written("r", offset=-1)),
    "offset of a status": [FIRST, write(STAT | {"offset": 5})],
    "resumed by a status": [FIRST, write(STAT), write(STAT, written("r", b"more", offset=SIZE))],
    "total": write(written("r", total=24)),
    "total too small": write(written("r", total=3)),
    "total negative": write(written("r", total=-5)),
    "total of a later call": [write(written("r", total=24)), write(STAT | {"total": 48})],
    "total of a later message": write(written("r", total=24), written("r", total=48, offset=SIZE)),
    "expected digest of nonsense": write(written("r", expected="nonsense")),
    "expected digest of a later message, nonsense": write(written("r"), STAT | {"expected": "nonsense"}),
    "expected digest that is not there": write(written("r", expected=UNKNOWN)),
    "expected digest that is there": [ingested(), write(written("r", expected=DIGEST))],
    "expected digest that is there, status": [ingested(), write(STAT | {"expected": DIGEST})],
    "expected digest that is there, said later": [ingested(), write(written("r"), STAT | {"expected": DIGEST})],
    "expected digest that is there, said in a later call": [
        ingested(),
        FIRST,
        write(STAT | {"expected": DIGEST, "offset": SIZE}),
    ],
    "expected digest of another namespace": [
        write(written("s"), commit("s", labels=ROOT), namespace="<ns>-b"),
        write(STAT | {"expected": DIGEST}),
    ],
    "expected digest of another namespace, another size": [
        write(written("s"), commit("s", labels=ROOT), namespace="<ns>-b"),
        write(STAT | {"expected": DIGEST, "total": 99}),
    ],
    "expected digest of another namespace, committed": [
        write(written("s"), commit("s", labels=ROOT | {"theirs": "1"}), namespace="<ns>-b"),
        write(
            STAT | {"expected": DIGEST, "total": SIZE},
            {"action": 2, "offset": SIZE, "expected": DIGEST, "labels": {"own": "1"}},
        ),
    ],
    "expected digest of another namespace, written over": [
        write(written("s"), commit("s", labels=ROOT), namespace="<ns>-b"),
        write(STAT | {"expected": DIGEST}, written("r", b"other")),
    ],
    "unknown action": write({"action": 7, "ref": "r"}),
    "unknown action later": write(STAT, {"action": 7, "ref": "r"}),
    "two refs at a time": [FIRST, write(written("s", b"second"))],
    "the same ref in two namespaces": [FIRST, write(written("r", b"other"), namespace="<ns>-b")],
}
COMMIT: Rows = {
    "at once": write(written("r"), commit("r")),
    "in one message": write(commit("r", data=BLOB) | {"offset": 0, "data": BLOB}),
    "in one message, nothing said": write({"action": 2, "ref": "r", "data": BLOB}),
    "later": [FIRST, write(commit("r"))],
    "later, no offset": [FIRST, write({"action": 2, "ref": "r"})],
    "later, status first": [FIRST, write(STAT, commit("r"))],
    "nothing written": write({"action": 2, "ref": "r"}),
    "nothing written, digest of nothing": write(commit("r", b"")),
    "nothing written, size given": write({"action": 2, "ref": "r", "total": 5}),
    "offset too small": [FIRST, write(commit("r", offset=5))],
    "offset too large": [FIRST, write(commit("r", offset=50))],
    "with more data": [FIRST, write({"action": 2, "ref": "r", "offset": SIZE, "data": b"more"})],
    "with more data, no offset": [FIRST, write({"action": 2, "ref": "r", "data": b"more"})],
    "total too small": [FIRST, write(commit("r", total=5))],
    "total too large": [FIRST, write(commit("r", total=50))],
    "total negative": [FIRST, write(commit("r", total=-1))],
    "total of the first message too large": [write(written("r", total=50), commit("r", total=0))],
    "total of an earlier call too large": [write(written("r", total=50)), write(commit("r", total=0))],
    "wrong digest": [FIRST, write(commit("r", expected=UNKNOWN))],
    "wrong digest, then the right one": [FIRST, write(commit("r", expected=UNKNOWN)), write(commit("r"))],
    "wrong total, then the right one": [FIRST, write(commit("r", total=5)), write(commit("r"))],
    "no digest": [FIRST, write(commit("r", expected=""))],
    "no total": [FIRST, write(commit("r", total=0))],
    "digest of nonsense": [FIRST, write(commit("r", expected="nonsense"))],
    "digest of sha512": [FIRST, write(commit("r", expected=f"sha512:{hashlib.sha512(BLOB).hexdigest()}"))],
    "labels": [FIRST, write(commit("r", labels={"a": "1", "b": "2"}))],
    "label of the first message": write(written("r", labels={"a": "1"}), commit("r")),
    "label without a value": [FIRST, write(commit("r", labels={"a": ""}))],
    "label too long": [FIRST, write(commit("r", labels={"k": LONG}))],
    "what is there": [ingested(), write(written("r"), commit("r"))],
    "what is there, no digest said": [ingested(), write(written("r"), {"action": 2, "ref": "r", "offset": SIZE})],
    "what is there, with labels": [ingested(labels={"a": "1"}), write(written("r"), commit("r", labels={"b": "2"}))],
    "what another namespace has": [
        write(written("r"), commit("r", labels=ROOT), namespace="<ns>-b"),
        write(written("r"), commit("r")),
    ],
    "messages after it": write(written("r"), commit("r"), written("r", b"more")),
    "twice": [write(written("r"), commit("r")), write(commit("r"))],
    "under a lease": [
        call("Leases.Create", id="l"),
        write(written("r"), commit("r"), lease="l"),
        call("Leases.ListResources", id="l"),
    ],
    "under a lease, what is there": [
        ingested(),
        call("Leases.Create", id="l"),
        write(written("r", expected=DIGEST), lease="l"),
        call("Leases.ListResources", id="l"),
    ],
    "an ingest under a lease": [
        call("Leases.Create", id="l"),
        write(written("r"), lease="l"),
        call("Leases.ListResources", id="l"),
        call("Content.Abort", {"ref": "r"}, lease="l"),
        call("Leases.ListResources", id="l"),
    ],
    "under a lease that is not there": write(written("r"), commit("r"), lease="nosuch"),
    "an ingest in the list of statuses": [FIRST, STATUSES, write(commit("r")), STATUSES],
}
ABORT: Rows = {
    "not there": call("Content.Abort", ref="nosuch"),
    "no ref": call("Content.Abort"),
    "an ingest": [FIRST, call("Content.Abort", ref="r")],
    "an ingest twice": [FIRST, call("Content.Abort", ref="r"), call("Content.Abort", ref="r")],
    "and begin again": [FIRST, call("Content.Abort", ref="r"), write(STAT)],
    "one of two": [FIRST, write(written("s", b"second")), call("Content.Abort", ref="s")],
    "in another namespace": [FIRST, call("Content.Abort", ref="r", namespace="<ns>-b")],
    "what was committed": [write(written("r"), commit("r")), call("Content.Abort", ref="r")],
}
STATUSES_OF: Rows = {
    "none": STATUSES,
    "of one ref": [FIRST, write(written("s", b"second")), call("Content.ListStatuses", filters=["ref==s"])],
    "of refs like": [FIRST, write(written("s", b"second")), call("Content.ListStatuses", filters=["ref~=^r"])],
    "bad filter": call("Content.ListStatuses", filters=["=="]),
    "unknown field": [FIRST, call("Content.ListStatuses", filters=["nosuch==r"])],
    "with totals": [write(written("r", total=99)), STATUSES],
    "with digests": [write(written("r", expected=UNKNOWN)), STATUSES],
    "of no ref": call("Content.Status"),
    "from another namespace": [FIRST, call("Content.Status", ref="r", namespace="<ns>-b")],
    "in order": [*(write(written(name, b"x")) for name in ("b", "B", "a", "a-", "a.")), STATUSES],
}
BAD = {
    "not there": UNKNOWN,
    "of nonsense": "nonsense",
    "too short": "sha256:12",
    "empty": "",
    "in capitals": UNKNOWN.replace("12", "AB"),
    "of an unknown algorithm": f"md5:{'12' * 16}",
    "without hex": "sha256:",
    "without algorithm": f":{'12' * 32}",
}
READ: Rows = {
    f"offset {offset}, size {size}": call("Content.Read", digest=DIGEST, offset=offset, size=size)
    for offset, size in (
        *((0, 0), (0, 1), (3, 4), (3, 0), (11, 1), (11, 0), (11, 5), (12, 0), (12, 1), (0, 12), (0, 13), (0, 1 << 40)),
        *((13, 0), (13, 1), (99, 0), (-1, 0), (-1, 5), (0, -1), (3, -1), (-13, 0), (1 << 62, 0)),
    )
}
READ_BIG: Rows = {
    f"offset {offset}, size {size}": call("Content.Read", digest=digest(BIG), offset=offset, size=size)
    for offset, size in ((0, 0), (1 << 20, 0), (5, 1 << 20), (2_399_999, 0), (2_400_000, 0), (0, (1 << 20) + 1))
}
LABELS = {"a": "1", "b": "2", "dotted.key": "3"}
CHANGE = {"digest": DIGEST, "size": 99, "labels": {"a": "9", "c": "3", "dotted.key": "8"}}
PATHS = (
    ["labels"],
    ["labels.a"],
    ["labels.b"],
    ["labels.c"],
    ["labels.nosuch"],
    ["labels.dotted.key"],
    ["labels."],
    ["size"],
    ["digest"],
    ["created_at"],
    ["nosuch"],
    [""],
    ["labels.a", "labels.b"],
    ["labels.a", "nosuch"],
)
UPDATE: Rows = {
    "no mask": call("Content.Update", info=CHANGE),
    "no mask, no labels": call("Content.Update", info={"digest": DIGEST}),
    "no request": call("Content.Update"),
    "label too long": call(
        "Content.Update", info={"digest": DIGEST, "labels": {"k": LONG}}, update_mask={"paths": ["labels.k"]}
    ),
    "label too long, no mask": call("Content.Update", info={"digest": DIGEST, "labels": {"k": LONG}}),
    "label set to nothing": call(
        "Content.Update", info={"digest": DIGEST, "labels": {"a": ""}}, update_mask={"paths": ["labels.a"]}
    ),
    "remove the labels": call("Content.Update", info={"digest": DIGEST}, update_mask={"paths": ["labels"]}),
    "from another namespace": call("Content.Update", info=CHANGE, namespace="<ns>-b"),
}
DELETE: Rows = {
    "once": call("Content.Delete", digest=DIGEST),
    "twice": [call("Content.Delete", digest=DIGEST)] * 2,
    "and write again": [call("Content.Delete", digest=DIGEST), ingested()],
    "and read": [call("Content.Delete", digest=DIGEST), call("Content.Read", digest=DIGEST)],
    "in another namespace": call("Content.Delete", digest=DIGEST, namespace="<ns>-b"),
    "one of two": [ingested(b"other", "o"), call("Content.Delete", digest=digest(b"other"))],
}
LIST: Rows = {
    "none": call("Content.List"),
    "two": [ingested(), ingested(b"other", "o"), call("Content.List")],
    "with a label": [ingested(labels={"a": "1"}), ingested(b"other", "o"), call("Content.List", filters=["labels.a"])],
    "of a digest": [ingested(), ingested(b"other", "o"), call("Content.List", filters=[f"digest=={DIGEST}"])],
    "bad filter": [ingested(), call("Content.List", filters=["=="])],
    "of a size": [ingested(), call("Content.List", filters=["size==12"])],
    "of an unknown field": [ingested(), call("Content.List", filters=["nosuch"])],
    "110": [*(ingested(f"{number}".encode(), f"r{number}") for number in range(110)), call("Content.List")],
}
SCENARIOS: list[Scenario] = [
    *table("write content", WRITE, after=LOOK),
    *table("commit content", COMMIT, after=LOOK),
    *table("abort an ingest", ABORT, after=LOOK),
    *table("statuses of ingests", STATUSES_OF),
    *table("read content", READ, before=[ingested()]),
    *table("read much content", READ_BIG, before=[ingested(BIG)]),
    *table("read content, digest", {name: call("Content.Read", digest=bad) for name, bad in BAD.items()}),
    *table("info of content, digest", {name: call("Content.Info", digest=bad) for name, bad in BAD.items()}),
    *table("delete content, digest", {name: call("Content.Delete", digest=bad) for name, bad in BAD.items()}),
    *table(
        "update content, digest",
        {name: call("Content.Update", info={"digest": bad, "labels": {"a": "1"}}) for name, bad in BAD.items()},
    ),
    *table("update content", UPDATE, before=[ingested(labels=LABELS)], after=[INFO]),
    *table(
        "update content",
        masks("Content.Update", "info", CHANGE, *PATHS),
        before=[ingested(labels=LABELS)],
        after=[INFO],
    ),
    *table("delete content", DELETE, before=[ingested()], after=[INFO, call("Content.List")]),
    *table("list content", LIST),
]
