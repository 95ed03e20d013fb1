# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from orlop.errors import InvalidArgument
from orlop.values import Descriptor, Platform
from orlop_sdk.client.archive_read import normal_name
from orlop_sdk.client.image import (
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Child,
    chain_ids,
    child_labels,
    diff_ids,
    is_distributable,
    is_layer,
    parse_children,
    parse_descriptor,
    parse_json,
    parse_platform,
)
from orlop_sdk.client.transfer import ingest_ref, sources

A, B, C = ("sha256:" + letter * 64 for letter in "abc")


def entry(media_type: str = OCI_LAYER, digest: str = A, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": 1, **more}


def test_chain_ids() -> None:
    """The chain of two is the digest of both, joined by a space."""
    assert chain_ids([]) == []
    assert chain_ids([A]) == [A]
    assert chain_ids([A, B])[1] == "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c"
    first, second, third = chain_ids([A, B, C])
    assert first == A
    assert len({first, second, third}) == 3
    assert chain_ids([A, B]) == [first, second]


def test_labels_that_keep_children() -> None:
    config, layer = Descriptor(OCI_CONFIG, A, 1), Descriptor(OCI_LAYER, B, 1)
    manifest, odd = Descriptor(OCI_MANIFEST, C, 1), Descriptor("application/x", C, 1)
    assert child_labels(map(Child, (config, layer, layer))) == {
        "containerd.io/gc.ref.content.config": A,
        "containerd.io/gc.ref.content.l.0": B,
        "containerd.io/gc.ref.content.l.1": B,
    }
    assert child_labels(map(Child, (manifest, odd, manifest))) == {
        "containerd.io/gc.ref.content.m.0": C,
        "containerd.io/gc.ref.content.0": C,
        "containerd.io/gc.ref.content.m.1": C,
    }


def test_children() -> None:
    manifest = {"config": entry(OCI_CONFIG), "layers": [entry(digest=B)]}
    assert [each.descriptor.digest for each in parse_children(manifest, DOCKER_MANIFEST)] == [A, B]
    index = {"manifests": [entry(OCI_MANIFEST, platform={"os": "linux", "architecture": "x86_64"})]}
    assert parse_children(index, OCI_INDEX)[0].platform == Platform("linux", "amd64")
    assert parse_children({"layers": 7}, "application/x") == []


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        ({"config": entry(), "layers": [], "manifests": []}, OCI_MANIFEST),
        ({"manifests": [], "layers": []}, OCI_INDEX),
        ({"layers": []}, OCI_MANIFEST),
        ({"config": entry(), "layers": {}}, OCI_MANIFEST),
        ({"manifests": [7]}, OCI_INDEX),
        ({"manifests": "x"}, OCI_INDEX),
    ],
)
def test_documents_that_deceive_or_are_broken(document: dict[str, Any], media_type: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_children(document, media_type)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        entry() | {"size": -1},
        entry() | {"size": "1"},
        entry() | {"size": True},
        entry() | {"size": 1 << 63},
        entry() | {"digest": "sha256:../../x"},
        entry() | {"digest": "md5:" + "a" * 32},
        entry() | {"mediaType": 1},
        entry() | {"annotations": []},
    ],
)
def test_broken_descriptors(value: object) -> None:
    with pytest.raises(InvalidArgument):
        parse_descriptor(value)


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"{", b"[" * 100_000, b"\xff"])
def test_broken_json(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        parse_json(data, "x")


def test_diff_ids() -> None:
    assert diff_ids({}) == []
    assert diff_ids({"rootfs": {"diff_ids": [A]}}) == [A]
    for bad in ("x", [7], ["x"]):
        with pytest.raises(InvalidArgument):
            diff_ids({"rootfs": {"diff_ids": bad}})


def test_platforms_of_documents() -> None:
    assert parse_platform(None) is None
    assert parse_platform({"os": "linux"}) is None
    assert parse_platform({"architecture": "arm64"}) == Platform("linux", "arm64")
    windows = {"os": "windows", "architecture": "amd64", "os.version": "10", "os.features": ["win32k"]}
    assert parse_platform(windows) == Platform("windows", "amd64", "", "10", ("win32k",))


def test_kinds_of_layers() -> None:
    for media_type in (OCI_LAYER, f"{OCI_LAYER}+gzip", f"{OCI_LAYER}+zstd+encrypted", DOCKER_LAYER_GZIP):
        assert is_layer(media_type)
        assert is_distributable(media_type)
    assert not is_layer(OCI_CONFIG)
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    restricted = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    for media_type in (foreign, restricted):
        assert is_layer(media_type)
        assert not is_distributable(media_type)


def test_refs_of_ingests() -> None:
    kinds = {OCI_MANIFEST: "manifest", OCI_INDEX: "index", OCI_LAYER: "layer", OCI_CONFIG: "config", "x/y": "unknown"}
    for media_type, kind in kinds.items():
        assert ingest_ref(Descriptor(media_type, A, 1)) == f"{kind}-{A}"


def test_nearest_repository_first() -> None:
    labels = {"containerd.io/distribution.source.a.example": "x/y,team/other,team/app/base,team/app"}
    assert sources(labels, "a.example", "team/app") == ["team/app/base", "team/other", "x/y"]
    assert sources(labels, "b.example", "team/app") == []


@pytest.mark.parametrize(
    ("name", "normal"), [("./a//b/", "a/b"), ("/a", "a"), ("a/../b", "b"), ("a/./b/../../c", "c"), ("", "")]
)
def test_names_in_archives(name: str, normal: str) -> None:
    assert normal_name(name) == normal


@pytest.mark.parametrize("name", ["..", "../a", "a/../../b", "/.."])
def test_names_that_lead_out(name: str) -> None:
    with pytest.raises(InvalidArgument):
        normal_name(name)
