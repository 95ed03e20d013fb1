# SPDX-License-Identifier: Apache-2.0
"""Image records."""

from __future__ import annotations

from typing import Any

from tests.differential.calls import Call, Scenario, call
from tests.differential.scenarios.common import DIGEST, LONG, TARGET, UNKNOWN, Rows, ingested, masks, table

GOOD = {"name": "img", "target": TARGET, "labels": {"a": "1"}}
WHOLE = GOOD | {
    "labels": {"a": "1", "b": "2", "dotted.key": "3"},
    "target": TARGET | {"annotations": {"n": "1", "m": "2", "dotted.key": "3"}},
}
CHANGE = {
    "name": "img",
    "labels": {"a": "9", "c": "3", "dotted.key": "8"},
    "target": {
        "media_type": "text/plain",
        "digest": DIGEST,
        "size": 8,
        "annotations": {"n": "9", "o": "3", "dotted.key": "8"},
    },
}
PATHS = (
    ["labels"],
    ["labels.a"],
    ["labels.b"],
    ["labels.c"],
    ["labels.nosuch"],
    ["labels.dotted.key"],
    ["labels."],
    ["target"],
    ["target.digest"],
    ["target.size"],
    ["target.mediatype"],
    ["target.annotations"],
    ["annotations"],
    ["annotations.n"],
    ["annotations.m"],
    ["annotations.o"],
    ["annotations.nosuch"],
    ["annotations.dotted.key"],
    ["annotations."],
    ["name"],
    ["created_at"],
    ["updated_at"],
    ["nosuch"],
    [""],
    ["Labels"],
    ["labels.a", "target"],
    ["target", "annotations.m"],
    ["target", "nosuch"],
    ["labels", "labels.b"],
)


def create(**changes: Any) -> Call:
    """A call that makes an image."""
    return call("Images.Create", image=GOOD | changes)


def target(**changes: Any) -> Call:
    """A call that makes an image with another target."""
    return create(target=TARGET | changes)


LOOK = [call("Images.Get", name="img"), call("Images.List")]
CREATE: Rows = {
    "all fields": create(**WHOLE),
    "fewest fields": create(labels={}),
    "no name": create(name=""),
    "no request": call("Images.Create"),
    "name of any form": create(name="any name: at all/"),
    "name of one space": create(name=" "),
    "long name": create(name="n" * 5000),
    "name beyond ASCII": create(name="é"),
    "no target": create(target={}),
    "no digest": target(digest=""),
    "digest of nonsense": target(digest="nonsense"),
    "digest too short": target(digest="sha256:12"),
    "digest in capitals": target(digest=UNKNOWN.replace("12", "AB")),
    "digest that is no hex": target(digest=f"sha256:{'xy' * 32}"),
    "digest of sha512": target(digest=f"sha512:{'12' * 64}"),
    "digest of sha384": target(digest=f"sha384:{'12' * 48}"),
    "digest of an unknown algorithm": target(digest=f"md5:{'12' * 16}"),
    "digest with two colons": target(digest=f"sha256:{'12' * 16}:{'12' * 16}"),
    "size of zero": target(size=0),
    "negative size": target(size=-1),
    "largest size": target(size=(1 << 63) - 1),
    "no media type": target(media_type=""),
    "media type of any form": target(media_type="no media type"),
    "label too long": create(labels={"k": LONG}),
    "label just not too long": create(labels={"k": "x" * 4095}),
    "label without a value": create(labels={"k": ""}),
    "label without a key": create(labels={"": "v"}),
    "annotation of any length": target(annotations={"k": LONG}),
    "annotation without a value": target(annotations={"k": ""}),
    "twice": [create(), create(labels={})],
    "again after delete": [create(), call("Images.Delete", name="img"), create(labels={})],
    "times that the client sets": create(created_at={"seconds": 5}, updated_at={"seconds": 6}),
    "names that differ in case": [create(), create(name="IMG")],
    "target that is there": [ingested(), target(digest=DIGEST)],
}
UPDATE: Rows = {
    "no name": call("Images.Update", image={"target": TARGET}),
    "no request": call("Images.Update"),
    "not there": call("Images.Update", image={"name": "nosuch"}, update_mask={"paths": ["labels"]}),
    "not there, no mask": call("Images.Update", image=GOOD | {"name": "nosuch"}),
    "no mask": call("Images.Update", image=CHANGE),
    "no mask, no labels": call("Images.Update", image=WHOLE | {"labels": {}}),
    "no mask, no target": call("Images.Update", image=WHOLE | {"target": {}}),
    "no mask, bad digest": call("Images.Update", image=GOOD | {"target": TARGET | {"digest": "nonsense"}}),
    "no mask, size of zero": call("Images.Update", image=GOOD | {"target": TARGET | {"size": 0}}),
    "bad digest": call(
        "Images.Update",
        image=GOOD | {"target": TARGET | {"digest": "nonsense"}},
        update_mask={"paths": ["target"]},
    ),
    "no media type": call(
        "Images.Update", image=GOOD | {"target": TARGET | {"media_type": ""}}, update_mask={"paths": ["target"]}
    ),
    "label too long": call(
        "Images.Update", image={"name": "img", "labels": {"k": LONG}}, update_mask={"paths": ["labels.k"]}
    ),
    "label set to nothing": call(
        "Images.Update", image={"name": "img", "labels": {"a": ""}}, update_mask={"paths": ["labels.a"]}
    ),
    "remove the labels": call("Images.Update", image={"name": "img"}, update_mask={"paths": ["labels"]}),
    "remove the annotations": call("Images.Update", image={"name": "img"}, update_mask={"paths": ["annotations"]}),
}
DELETE: Rows = {
    "once": call("Images.Delete", name="img"),
    "twice": [call("Images.Delete", name="img")] * 2,
    "no name": call("Images.Delete"),
    "not there": call("Images.Delete", name="nosuch"),
    "and wait": call("Images.Delete", name="img", sync=True),
    "not there, and wait": call("Images.Delete", name="nosuch", sync=True),
    "in another namespace": call("Images.Delete", name="img", namespace="<ns>-b"),
    "with what it alone refers to": [
        ingested(),
        call("Images.Create", image={"name": "two", "target": TARGET | {"digest": DIGEST}}),
        call("Images.Delete", name="two", sync=True),
        call("Content.Info", digest=DIGEST),
    ],
    "with what another image refers to": [
        ingested(),
        call("Images.Create", image={"name": "two", "target": TARGET | {"digest": DIGEST}}),
        call("Images.Create", image={"name": "three", "target": TARGET | {"digest": DIGEST}}),
        call("Images.Delete", name="two", sync=True),
        call("Content.Info", digest=DIGEST),
    ],
    "with the target it has": call("Images.Delete", name="img", target=TARGET),
}
GET: Rows = {
    "not there": call("Images.Get", name="nosuch"),
    "no name": call("Images.Get"),
    "from another namespace": call("Images.Get", name="img", namespace="<ns>-b"),
    "list of another namespace": call("Images.List", namespace="<ns>-b"),
    "list in order": [*(create(name=name) for name in ("b", "B", "a:1", "a", "é", "~")), call("Images.List")],
    "list of 110": [*(create(name=f"n{number}") for number in range(110)), call("Images.List")],
}
SCENARIOS: list[Scenario] = [
    *table("create an image", CREATE, after=LOOK),
    *table("update an image", UPDATE, before=[create(**WHOLE)], after=LOOK),
    *table("update an image", masks("Images.Update", "image", CHANGE, *PATHS), before=[create(**WHOLE)], after=LOOK),
    *table("delete an image", DELETE, before=[create()], after=LOOK),
    *table("get an image", GET, before=[create()]),
]
