# SPDX-License-Identifier: Apache-2.0
"""Filters mean to us what they mean to containerd: the same lists of containers, refused where it refuses.

Needs root and containerd.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyPb
from tests.support.daemon import CONTAINERD, Daemon

from orlop import context
from orlop.errors import InvalidArgument
from orlop_sdk import filters
from orlop_sdk.api.services.containers.v1.containers_pb2 import (
    Container,
    CreateContainerRequest,
    ListContainersRequest,
)
from orlop_sdk.rpc.stub import Stub

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("containerd"), reason="needs root and containerd (apt-get install containerd)"
)

REFUSED = "refused"

CONTAINERS = {
    "a": ("", {"x": "1", "a.b": "2", "a-b": "3"}),
    "b": ("image", {"é": "4", "nl": "\n"}),
    "c": ("", {"nl": "a\nb"}),
    "d": ("a", {"nl": "a\n", "x": "a b,c"}),
}

TABLE = [
    "",
    " ",
    "id",
    "id ",
    " id",
    "id ,id",
    "id , id",
    "id, id==a",
    "id==a",
    "id=a",
    "id===a",
    "id==a,",
    ",id==a",
    "id== a",
    " id == a ",
    "id ==a b",
    "id==/a/",
    "id~=/a/",
    r"id~=/\d/",
    r"id~=/a\/b/",
    r'id~="\\d"',
    r'id~="\d"',
    "id~=^a$",
    "id~=.",
    'labels."x"==1',
    "labels.a.b==2",
    "labels . a . b == 2",
    "labels. a.b==2",
    "labels.a-b==3",
    'labels."a-b"==3',
    "labels.x!=1",
    'labels.nope!=""',
    "labels.nope!=x",
    "labels.nope~=^$",
    'labels.nope==""',
    "labels",
    "labels!=x",
    "nofield!=x",
    "nofield",
    "image",
    'image==""',
    "image!=x",
    "id==a,labels.x",
    r'id=="\x61"',
    r'id=="\141"',
    r'id=="\u0061"',
    r'id=="\U00000061"',
    r'id=="\ud800"',
    r'id=="\777"',
    r'id=="\q"',
    r'id=="\'"',
    'id=="a',
    'id=="a\nb"',
    'id==a"',
    "id==a=b",
    "labels.é==1",
    'labels."é"==4',
    "id~=[[:alpha:]]",
    "id~=(?i)A",
    "id~=^(a|b)$",
    "id a",
    "id==a id==b",
    "id.",
    ".id",
    "id..x",
    '"id"==a',
    "id.foo==a",
    "runtime.name==r",
    "runtime==r",
    "runtime",
    "id!=a!",
    "id==!a",
    "id==a~",
    "id!=!",
    "id==a|b",
    "id==|a|",
    "id~=|a|",
    "id~=//",
    "id==",
    r'labels.nl=="\n"',
    'labels.x=="a b,c"',
    "id==a\u00a0b",
    "id==\x1fa",
    "id==a\0",
    'id=="a"b',
    '""==x',
    r"id~=|a\|b|",
    "labels.nl~=a$",
    "labels.nl~=(?m)a$",
]

PIECES = ["id", "labels", "image", "x", "nl", "a", "b", "1", ".", ",", "==", "!=", "~=", '"', "/", "|", "\\", " ", "é"]
PIECES += [
    '"a"',
    "/a/",
    "|a|",
    "id==a",
    "labels.x",
    "^",
    "$",
    "\n",
    "\t",
    "=",
    "~",
    "!",
    "_",
    "-",
    "\\n",
    "\\x61",
    "\\/",
]


def sample(count: int) -> list[str]:
    """Filters made of pieces of the language at random, the same ones in every run."""
    draw = random.Random(20)
    return ["".join(draw.choice(PIECES) for _ in range(draw.randint(1, 7))) for _ in range(count)]


def ours(text: str) -> str:
    try:
        parsed = filters.parse([text])
    except InvalidArgument:
        return REFUSED
    matching = []
    for name, (image, labels) in CONTAINERS.items():
        if parsed.match(filters.fields({"id": name, "image": image, "runtime": {"name": "r"}, "labels": labels})):
            matching.append(name)
    return ",".join(matching)


@pytest.fixture
def containerd(short_tmp: Path) -> Iterator[Daemon]:
    with Daemon(short_tmp, CONTAINERD) as daemon:
        yield daemon


async def test_filters_select_what_containerd_selects(containerd: Daemon) -> None:
    async with grpc.aio.insecure_channel(f"unix://{containerd.address}") as channel:
        stub = Stub(channel, "containerd.services.containers.v1.Containers")

        async def theirs(text: str) -> str:
            try:
                answer = await stub.List(ListContainersRequest(filters=[text]))
            except InvalidArgument:
                return REFUSED
            return ",".join(container.id for container in answer.containers)

        with context.scope(namespace="filters"):
            for name, (image, labels) in CONTAINERS.items():
                container = Container(
                    id=name,
                    image=image,
                    labels=labels,
                    runtime=Container.Runtime(name="r"),
                    spec=AnyPb(type_url="x", value=b"{}"),
                )
                await stub.Create(CreateContainerRequest(container=container))
            texts = TABLE + sample(2000)
            wanted = []
            for start in range(0, len(texts), 50):
                wanted += await asyncio.gather(*map(theirs, texts[start : start + 50]))
    different = [(text, want, ours(text)) for text, want in zip(texts, wanted, strict=True) if ours(text) != want]
    # It takes a malformed regular expression for one that nothing matches; we say what is wrong with it.
    unexpected = [row for row in different if not ("~=" in row[0] and row[1:] == ("", REFUSED))]
    assert not unexpected, "\n".join(f"{text!r}: containerd {want!r}, ours {have!r}" for text, want, have in unexpected)
