# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest

from orlop.errors import InvalidArgument
from orlop.values import Platform
from orlop_sdk.client.platform import AnyOf, Everything, Only, default, matcher, normalise, parse, render


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/x86_64", Platform("linux", "amd64")),
        ("Linux/AMD64/v1", Platform("linux", "amd64")),
        ("linux/amd64/v3", Platform("linux", "amd64", "v3")),
        ("linux/aarch64", Platform("linux", "arm64")),
        ("linux/arm64/v8", Platform("linux", "arm64")),
        ("linux/arm64/8", Platform("linux", "arm64")),
        ("linux/arm64/v9.2", Platform("linux", "arm64", "v9.2")),
        ("linux/arm", Platform("linux", "arm", "v7")),
        ("linux/armhf", Platform("linux", "arm", "v7")),
        ("linux/armel", Platform("linux", "arm", "v6")),
        ("linux/i386", Platform("linux", "386")),
        ("macos/arm64", Platform("darwin", "arm64")),
        ("windows(10.0.17763)/amd64", Platform("windows", "amd64", os_version="10.0.17763")),
        ("linux(+erofs)/amd64", Platform("linux", "amd64", os_features=("erofs",))),
    ],
)
def test_parse(text: str, platform: Platform) -> None:
    assert parse(text) == platform
    assert parse(render(platform)) == platform
    assert normalise(platform) == platform


def test_parse_takes_the_rest_from_the_host() -> None:
    host = default()
    assert parse("linux") == Platform("linux", host.architecture, host.variant)
    assert parse("s390x") == Platform(host.os, "s390x")
    assert host.os == os.uname().sysname.lower()


@pytest.mark.parametrize("text", ["", "/", "what", "linux/amd64/v1/x", "linux/am d64", "linux//v1"])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)


@pytest.mark.parametrize(
    ("host", "best_first"),
    [
        ("linux/amd64", ["linux/amd64", "linux/386"]),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
        ("linux/arm/v7", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm/v6", ["linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm64", ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6"]),
        ("linux/arm64/v8.2", ["linux/arm64/v8.2", "linux/arm64/v8.1", "linux/arm64", "linux/arm/v7"]),
        ("linux/arm64/v9", ["linux/arm64/v9", "linux/arm64/v8.5", "linux/arm64", "linux/arm/v7"]),
        ("linux/arm64/v9.1", ["linux/arm64/v9.1", "linux/arm64/v9", "linux/arm64/v8.6", "linux/arm64/v8.5"]),
        ("linux/s390x", ["linux/s390x"]),
    ],
)
def test_order(host: str, best_first: list[str]) -> None:
    wanted = Only(parse(host))
    ranks = [wanted.rank(parse(each)) for each in best_first]
    assert None not in ranks
    assert ranks == sorted(set(ranks), key=lambda rank: rank or 0)


@pytest.mark.parametrize(
    ("host", "other"),
    [
        ("linux/amd64", "linux/amd64/v2"),
        ("linux/amd64", "windows/amd64"),
        ("linux/arm/v6", "linux/arm/v7"),
        ("linux/arm/v7", "linux/arm64"),
        ("linux/arm64", "linux/arm64/v8.1"),
        ("linux/arm64/v9", "linux/arm64/v8.6"),
        ("linux/arm64/vX", "linux/arm64"),
        ("linux/amd64", "linux(+erofs)/amd64"),
    ],
)
def test_what_a_host_cannot_run(host: str, other: str) -> None:
    assert Only(parse(host)).rank(parse(other)) is None


def test_other_matchers() -> None:
    assert Only(parse("linux/amd64"), strict=True).rank(parse("linux/386")) is None
    assert Only(parse("linux(+erofs)/amd64")).rank(parse("linux(+erofs)/amd64")) == 0
    assert Everything().rank(parse("plan9/mips")) == 0
    either = AnyOf(Only(parse("linux/arm64")), Only(parse("linux/amd64")))
    assert (either.rank(parse("linux/arm64")) or 0) < (either.rank(parse("linux/amd64")) or 0)
    assert either.rank(parse("linux/s390x")) is None
    assert isinstance(matcher("all"), Everything)
    assert matcher(["linux/arm64", parse("linux/amd64")]).rank(parse("linux/amd64")) is not None
    assert matcher(None).rank(default()) == 0
