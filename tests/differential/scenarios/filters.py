# SPDX-License-Identifier: Apache-2.0
"""The language of filters, on lists of containers, and the fields that every service has."""

from __future__ import annotations

from tests.differential.calls import Call, Scenario, Step, call
from tests.differential.scenarios import containers, images, leases, snapshots
from tests.differential.scenarios.common import DIGEST, MANIFEST, OTHER, SPEC, UNKNOWN, ingested, table, written

LANGUAGE = (
    *("", "id", "id==a", "id!=a", "id~=a", "id==a,image==img", "id==a,image==none", "id==,image", "id=="),
    *("labels", "labels.x", "labels.x==1", "labels.x!=1", "labels.x~=^1$", "labels.nosuch", "labels.nosuch!=1"),
    *("labels.a.b==2", 'labels."a.b"==2', 'labels."a b"==3', 'labels.""', 'labels.""==x', "labels.a-b==4"),
    *('id=="a"', r'id=="\x61"', r'id=="\u0061"', r'id=="\141"', r'id=="\q"', 'id=="a', 'id==a"', "id=='a'"),
    *("id~=/a/", "id~=|a|", "id~=/a", "id~=[", 'id~="^[ab]$"', "id~=^(a|b)$", r"id~=/\w/", "id~=(?i)A", "id~=."),
    *("id==/a/", "id==|a|", "id!=/a/", "id===a", "id=a", "id!a", "id~a", "id<a", "id==a==b"),
    *(" id==a", "id==a ", "id == a", "id== a", "id ==a", "id==a ,image==img", "id==a, image==img", "id==a,", ",id==a"),
    *(",", " ", "==", "a b", "id.", ".id", "id..x", "id.x==a", '"id"==a', '"id', "nosuch", "nosuch==a", "nosuch!=a"),
    *("image", 'image==""', "image!=img", "runtime.name==r", "runtime", "runtime.nosuch", "ID==a", "é==a", "id==é"),
)
SEVERAL = {
    "either": ["id==a", "id==b"],
    "either, one of nothing": ["id==nosuch", "id==b"],
    "either, the same": ["id==a", "id==a"],
    "either, one of all": ["id==a", ""],
    "one of them bad": ["id==a", "=="],
    "none of them": ["id==x", "id==y"],
    "both, and either": ["id==a,image==img", "labels.x"],
}
FILLED = [
    containers.create(id="a", image="img", labels={"x": "1", "a.b": "2"}, runtime={"name": "r"}),
    containers.create(id="b", labels={"a b": "3", "a-b": "4", "x": "2"}),
    containers.create(id="c", image="other", labels={}, spec=SPEC, extensions={"e": OTHER}),
]
FIELDS: dict[str, tuple[list[Step], str, tuple[str, ...], dict[str, str]]] = {
    "images": (
        [
            images.create(name="one", labels={"a.b": "1"}),
            images.target(digest=DIGEST, media_type="text/plain", annotations={"n.m": "1"}),
        ],
        "Images.List",
        (
            *(
                "name==one",
                "name~=o",
                f"target.digest=={UNKNOWN}",
                f"target.digest!={UNKNOWN}",
                f"target.mediatype=={MANIFEST}",
            ),
            *('target.mediatype=="text/plain"', "target", "target.size==7", "target.nosuch", "labels.a.b==1", "labels"),
            *("annotations.n.m==1", "annotations", "target.annotations.n.m==1", "digest", "nosuch"),
        ),
        {},
    ),
    "content": (
        [ingested(labels={"a.b": "1"}), ingested(b"other", "o")],
        "Content.List",
        (
            f"digest=={DIGEST}",
            "digest~=^sha256",
            "labels.a.b==1",
            "labels.a.b!=1",
            "labels",
            "size==12",
            "size",
            "nosuch",
        ),
        {},
    ),
    "ingests": (
        [call("Content.Write", written("one/a")), call("Content.Write", written("two", b"second"))],
        "Content.ListStatuses",
        ('ref=="one/a"', "ref~=two", "ref", "ref!=two", "offset==12", "total", "nosuch==1", "ref.x==two"),
        {},
    ),
    "leases": (
        [leases.create("one", **{"a.b": "1"}), leases.create("two")],
        "Leases.List",
        ("id==one", "id~=o", "id!=one", "labels.a.b==1", "labels.a.b", "labels", "created_at", "nosuch"),
        {},
    ),
    "snapshots": (
        [*snapshots.BASE, snapshots.prepare("k", "base", **{"a.b": "1"}), snapshots.view("v", "base")],
        "Snapshots.List",
        (
            *("kind==active", "kind!=active", "kind~=^v", "kind", "kind==Active", "name==k", "name~=.", "parent==base"),
            *('parent!=""', "parent", "labels.a.b==1", "labels.own", "labels", "nosuch", "name==k,kind==active"),
        ),
        {"snapshotter": "native"},
    ),
    "plugins": (
        [],
        "Introspection.Plugins",
        ("type==nosuch", "id==nosuch", "nosuch==1", "type==io.containerd.content.v1,id==nosuch", "requires==1"),
        {},
    ),
}


def listed(method: str, text: str, more: dict[str, str]) -> Call:
    """A list with one filter."""
    return call(method, {"filters": [text]} | more)


SCENARIOS: list[Scenario] = [
    *table(
        "filter",
        {f"{text!r}": call("Containers.List", filters=[text]) for text in LANGUAGE},
        before=FILLED,
    ),
    *table("filters", {name: call("Containers.List", filters=some) for name, some in SEVERAL.items()}, before=FILLED),
    *(
        scenario
        for what, (before, method, texts, more) in FIELDS.items()
        for scenario in table(
            f"filter of {what}", {f"{text!r}": listed(method, text, more) for text in texts}, before=before
        )
    ),
]
