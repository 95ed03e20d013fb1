# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from orlop.errors import InvalidArgument
from orlop_sdk.registry import Reference, familiar, normalise

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("docker.io/library/busybox:latest", ("docker.io", "library/busybox", "latest", "")),
        ("localhost:5000/a", ("localhost:5000", "a", "", "")),
        (f"gcr.io/a/b-c__d@{DIGEST}", ("gcr.io", "a/b-c__d", "", DIGEST)),
        (f"gcr.io/a/b:1.2-x@{DIGEST}", ("gcr.io", "a/b", "1.2-x", DIGEST)),
        ("[::1]:5000/a/b:1", ("[::1]:5000", "a/b", "1", "")),
    ],
)
def test_parse(text: str, parts: tuple[str, ...]) -> None:
    found = Reference.parse(text)
    assert (found.host, found.repository, found.tag, found.digest) == parts
    assert str(found) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "busybox",
        "docker.io/",
        "docker.io/A",
        "docker.io/a:",
        "docker.io/a:b c",
        "docker.io/a@",
        "docker.io/a@sha256:12",
        f"docker.io/a@{DIGEST}0",
        "docker.io/../a",
        "docker.io/a//b",
        "docker.io/a/b?x=1",
        "-x/a",
        "a b/c",
        "docker.io/" + "a" * 300,
        "docker.io/a:" + "t" * 129,
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1", "docker.io/library/busybox:1"),
        ("me/app", "docker.io/me/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:2", "localhost:5000/app:2"),
        ("registry.example/app", "registry.example/app:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}"),
    ],
)
def test_normalise(short: str, full: str) -> None:
    assert normalise(short) == full
    assert normalise(full) == full
    assert normalise(familiar(full)) == full


@pytest.mark.parametrize("text", ["", "a" * 64, "Busybox", "busy box", ":1", "UPPER/app:x y"])
def test_what_cannot_be_normalised(text: str) -> None:
    with pytest.raises(InvalidArgument):
        normalise(text)


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("docker.io/library/busybox:latest", "busybox"),
        ("docker.io/library/busybox:1", "busybox:1"),
        ("docker.io/me/app:latest", "me/app"),
        ("registry.example/app:latest", "registry.example/app"),
        ("docker.io/library/a/b:1", "library/a/b:1"),
        ("docker.io/a.b/c:1", "docker.io/a.b/c:1"),
        ("no reference", "no reference"),
    ],
)
def test_familiar(full: str, short: str) -> None:
    assert familiar(full) == short
