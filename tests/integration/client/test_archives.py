# SPDX-License-Identifier: Apache-2.0
"""Archives in and out: OCI layouts, what Docker saves, compressed and damaged ones."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.integration.client.conftest import BUSYBOX
from tests.support.image import Image, busybox_layer, digest, entry, layout_files, many_layers, symlink, tar

from orlop.errors import DataLoss, InvalidArgument, NotFound, OrlopError, ResourceExhausted
from orlop_sdk.client import Client, Progress, ProgressKind
from orlop_sdk.client.archive_import import ImportOptions

NAME = "example.com/app:1"


def contents(path: Path) -> bytes:
    return path.read_bytes()


def names_in(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir()]


def archive_of(files: dict[str, bytes]) -> bytes:
    return tar(entry(name, data) for name, data in sorted(files.items()))


async def test_import_export_import(client: Client, busybox: str, tmp_path: Path) -> None:
    first, second = tmp_path / "1.tar", tmp_path / "2.tar"
    await client.export_images(first, busybox)
    before = await client.images.get(busybox)
    await client.remove_image(busybox, sync=True)
    assert [info async for info in client.content.walk()] == []
    (image,) = await client.import_images(first)
    assert (image.name, image.target.digest) == (busybox, before.target.digest)
    assert (await client.check_image(busybox)).complete
    await client.export_images(second, busybox)
    assert contents(first) == contents(second)
    with tarfile.open(first) as archive:
        (legacy,) = json.load(archive.extractfile("manifest.json") or io.BytesIO())
    assert legacy["RepoTags"] == [BUSYBOX]


async def test_everything_stays_until_the_image_is_removed(client: Client, busybox: str) -> None:
    lease = await client.leases.create()
    await client.leases.delete(lease.id, sync=True)
    status = await client.check_image(busybox)
    assert status.complete
    assert len(status.present) == 3
    assert status.size == sum([info.size async for info in client.content.walk()])


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_compressed_archives(client: Client, archive: Path, compression: str) -> None:
    data = COMPRESSIONS[compression](contents(archive))
    (image,) = await client.import_images(io.BytesIO(data))
    assert image.name == BUSYBOX


async def test_zstd_archives(client: Client, archive: Path) -> None:
    zstd = pytest.importorskip("backports.zstd")
    await client.import_images(io.BytesIO(zstd.compress(contents(archive))))


async def test_a_stream_of_bytes(client: Client, archive: Path) -> None:
    data = contents(archive)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            await asyncio.sleep(0)
            yield data[start : start + 100_000]

    told: list[Progress] = []
    (image,) = await client.import_images(pieces(), progress=told.append)
    assert image.name == BUSYBOX
    assert told[-1].kind is ProgressKind.IMPORTED


def docker_save(layout: str) -> bytes:
    """What ``docker save`` wrote before version 25, with layers as ``<id>/layer.tar``, some of them links."""
    layers = [busybox_layer(), tar([entry("hello", b"1")]), busybox_layer()]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }
    raw = json.dumps(config).encode()
    name = hashlib.sha256(raw).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": ["busybox:9"], "Layers": [f"{n}/layer.tar" for n in "abc"]}]
    entries = [
        entry("a/"),
        entry("a/VERSION", b"1.0"),
        entry("a/layer.tar", layers[0]),
        entry("b/layer.tar", gzip.compress(layers[1]) if layout == "gzip" else layers[1]),
        symlink("c/layer.tar", "../a/layer.tar"),
        entry(name, raw),
        entry("manifest.json", json.dumps(manifest).encode()),
    ]
    return tar(entries)


@pytest.mark.parametrize("layout", ["plain", "gzip"])
async def test_docker_archives(client: Client, layout: str) -> None:
    (image,) = await client.import_images(io.BytesIO(docker_save(layout)), snapshotter=None)
    assert image.name == "docker.io/library/busybox:9"
    assert (await client.run(image.name, "cat", "/hello")).check().stdout == b"1"


async def test_names(client: Client) -> None:
    files = layout_files({"7": Image()})
    data = archive_of(files)
    with pytest.raises(InvalidArgument, match="has a name"):
        await client.import_images(io.BytesIO(data))
    options = ImportOptions(name="example.com/app", digests=True)
    images = await client.import_images(io.BytesIO(data), options=options)
    target = images[0].target.digest
    assert [image.name for image in images] == ["example.com/app:7", f"example.com/app@{target}"]


async def test_many_layers_unpack(client: Client) -> None:
    data = archive_of(layout_files({NAME: many_layers(6)}))
    await client.import_images(io.BytesIO(data), snapshotter=None)
    result = (await client.run(NAME, "sh", "-c", "cat /data/last; echo; ls /data")).check()
    assert result.stdout.split() == [b"5", b"0", b"2", b"3", b"5", b"last"]
    chain = await client.unpack(NAME)
    assert (await client.snapshots().stat(chain)).name == chain == many_layers(6).chain_ids[-1]


def damaged(change: Callable[[dict[str, bytes]], None]) -> bytes:
    files = layout_files({NAME: Image()})
    change(files)
    return archive_of(files)


def other_bytes(files: dict[str, bytes]) -> None:
    name = next(name for name in files if name.startswith("blobs/"))
    files[name] = b"?" * len(files[name])


def no_layer(files: dict[str, bytes]) -> None:
    del files[max((name for name in files if name.startswith("blobs/")), key=lambda name: len(files[name]))]


def no_index(files: dict[str, bytes]) -> None:
    del files["index.json"]


def bad_index(files: dict[str, bytes]) -> None:
    files["index.json"] = b"[" * 100_000


def big_index(files: dict[str, bytes]) -> None:
    files["index.json"] = b" " * (21 << 20)


def wrong_size(files: dict[str, bytes]) -> None:
    index = json.loads(files["index.json"])
    index["manifests"][0]["size"] += 1
    files["index.json"] = json.dumps(index).encode()


def bad_blob_name(files: dict[str, bytes]) -> None:
    files["blobs/sha256/../../etc"] = b"x"


def new_version(files: dict[str, bytes]) -> None:
    files["oci-layout"] = b'{"imageLayoutVersion":"2.0.0"}'


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (other_bytes, DataLoss),
        (no_layer, NotFound),
        (no_index, InvalidArgument),
        (bad_index, InvalidArgument),
        (big_index, ResourceExhausted),
        (wrong_size, DataLoss),
        (new_version, InvalidArgument),
    ],
)
async def test_damaged_archives(
    client: Client, change: Callable[[dict[str, bytes]], None], error: type[OrlopError]
) -> None:
    with pytest.raises(error):
        await client.import_images(io.BytesIO(damaged(change)))
    assert await client.images.list() == []


@pytest.mark.parametrize(
    "data",
    [
        tar([entry("../../etc/passwd", b"x")]),
        tar([entry("manifest.json", b'[{"Config":"a","Layers":[]}]'), symlink("a", "b"), symlink("b", "a")]),
        tar([entry("manifest.json", b'[{"Config":"a","Layers":[]}]'), symlink("a", "/etc/passwd")]),
        tar([entry("manifest.json", b'[{"Config":"a","Layers":[]}]'), symlink("a", "../../../etc/passwd")]),
        b"",
        b"no archive at all" * 100,
        gzip.compress(b"no archive at all" * 100),
        gzip.compress(bytes(2000))[:20],
    ],
    ids=["dotdot", "circle", "absolute", "climbing", "empty", "text", "gzipped-text", "cut"],
)
async def test_hostile_archives(client: Client, data: bytes) -> None:
    with pytest.raises((InvalidArgument, NotFound, DataLoss)):
        await client.import_images(io.BytesIO(data))


async def test_a_cut_archive_and_a_limit(client: Client, archive: Path) -> None:
    with pytest.raises(DataLoss):
        await client.import_images(io.BytesIO(contents(archive)[:500_000]))
    with pytest.raises(ResourceExhausted):
        await client.import_images(archive, options=ImportOptions(limit=10_000))


async def test_export_of_what_is_not_all_there(client: Client, busybox: str, tmp_path: Path) -> None:
    manifest = await client.manifest(busybox)
    await client.content.delete(manifest.layers[0].digest)
    status = await client.check_image(busybox)
    assert [each.digest for each in status.missing] == [manifest.layers[0].digest]
    with pytest.raises(OrlopError):
        await client.export_images(tmp_path / "x.tar", busybox)
    assert names_in(tmp_path) == []
