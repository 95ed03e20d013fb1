# SPDX-License-Identifier: Apache-2.0
"""Pulling and pushing through real registries: open, with passwords, with tokens, over TLS, behind mirrors."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.client.registries import (
    PASSWORD,
    REFRESH,
    USER,
    TokenServer,
    tls_registry,
)
from tests.support.image import (
    Image,
    digest,
    encode,
    entry,
    layout_files,
    many_layers,
    tar,
    write_archive,
    write_layout,
)

from orlop.errors import FailedPrecondition, NotFound, OrlopError, PermissionDenied, Unauthenticated, Unavailable
from orlop_sdk.client import Client, Progress, ProgressKind
from orlop_sdk.client.archive_import import ImportOptions
from orlop_sdk.client.platform import Everything
from orlop_sdk.client.unpack import UnpackOptions, image_labels
from orlop_sdk.registry import Credential, DirectoryHosts, RegistryResolver, docker_config, fixed

ME = Credential(USER, PASSWORD)


@pytest.fixture(scope="session")
def tls(directory: Path) -> Iterator[tuple[str, Path]]:
    with tls_registry(directory / "tls") as found:
        yield found


async def test_push_and_pull(client: Client, busybox: str, registry: str) -> None:
    name = f"{registry}/{client.namespace}/busybox:1"
    told: list[Progress] = []
    pushed = await client.push(name, image=busybox, progress=told.append)
    assert pushed.digest == (await client.images.get(busybox)).target.digest
    assert told[-1].kind is ProgressKind.DONE
    await client.remove_image(busybox, sync=True)
    told.clear()
    image = await client.pull(name, progress=told.append)
    assert image.target.digest == pushed.digest
    assert {each.kind for each in told} >= {ProgressKind.RESOLVED, ProgressKind.DOWNLOADED, ProgressKind.DONE}
    assert (await client.run(name, "echo", "pulled")).stdout == b"pulled\n"


async def test_a_second_pull_fetches_nothing(client: Client, busybox: str, registry: str) -> None:
    name = f"{registry}/{client.namespace}/busybox:1"
    await client.push(name, image=busybox)
    told: list[Progress] = []
    await client.pull(name, progress=told.append)
    assert ProgressKind.DOWNLOADED not in {each.kind for each in told}


async def test_labels_that_keep_and_that_say_where_from(client: Client, busybox: str, registry: str) -> None:
    name = f"{registry}/{client.namespace}/busybox:1"
    await client.push(name, image=busybox)
    await client.remove_image(busybox, sync=True)
    image = await client.pull(name, labels={"mine": "yes"})
    assert image.labels == {"mine": "yes"}
    manifest = await client.manifest(name)
    labels = (await client.content.info(manifest.descriptor.digest)).labels
    source = {f"containerd.io/distribution.source.{registry}": f"{client.namespace}/busybox"}
    assert labels == {
        "containerd.io/gc.ref.content.config": manifest.config.digest,
        "containerd.io/gc.ref.content.l.0": manifest.layers[0].digest,
        **source,
    }
    config = (await client.content.info(manifest.config.digest)).labels
    chain = await client.unpack(name)
    assert config == {"containerd.io/gc.ref.snapshot.overlayfs": chain, **source}
    layer = (await client.content.info(manifest.layers[0].digest)).labels
    assert layer == {"containerd.io/uncompressed": Image().chain_ids[0], **source}
    lease = await client.leases.create()
    await client.leases.delete(lease.id, sync=True)
    assert (await client.check_image(name)).complete
    assert (await client.snapshots().stat(chain)).labels["containerd.io/snapshot.ref"] == chain


async def test_mount_from_another_repository(client: Client, busybox: str, registry: str) -> None:
    await client.push(f"{registry}/{client.namespace}/one:1", image=busybox)
    await client.push(f"{registry}/{client.namespace}/two:1", image=busybox)
    layer = (await client.manifest(busybox)).layers[0]
    labels = (await client.content.info(layer.digest)).labels
    found = labels[f"containerd.io/distribution.source.{registry}"]
    assert found == f"{client.namespace}/one,{client.namespace}/two"
    await client.pull(f"{registry}/{client.namespace}/two:1")


async def test_pull_by_digest(client: Client, busybox: str, registry: str) -> None:
    target = (await client.images.get(busybox)).target
    await client.push(f"{registry}/{client.namespace}/busybox:1", image=busybox)
    image = await client.pull(f"{registry}/{client.namespace}/busybox@{target.digest}")
    assert image.target.digest == target.digest


async def test_what_is_not_there(client: Client, registry: str) -> None:
    with pytest.raises(NotFound):
        await client.pull(f"{registry}/nothing:1")
    with pytest.raises(NotFound):
        await client.push(f"{registry}/nothing:1")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await client.pull("127.0.0.1:1/nothing:1")


async def test_an_interrupted_pull_goes_on(client: Client, registry: str, directory: Path) -> None:
    """The blob's first half is there, as an interrupted pull leaves it."""
    name = f"{registry}/{client.namespace}/busybox:1"
    archive = write_archive(directory / f"{client.namespace}.tar", {name: Image(environment=[client.namespace])})
    await client.import_images(archive)
    await client.push(name)
    manifest = await client.manifest(name)
    layer = manifest.layers[0]
    reader = await client.content.reader(layer)
    data = await reader.read_at(0, 500_000)
    await client.remove_image(name, sync=True)
    writer = await client.content.writer(f"layer-{layer.digest}", total=layer.size)
    await writer.write(data)
    await writer.close()
    told: list[Progress] = []
    await client.pull(name, progress=told.append)
    first = next(each for each in told if each.name == layer.digest and each.kind is ProgressKind.DOWNLOADING)
    assert first.offset in {500_000, layer.size}  # all of it where another namespace had it


def index_archive(path: Path, name: str) -> Path:
    """An index with variants for two platforms."""
    images = {"amd64": Image(environment=["A=1"]), "arm64": Image(environment=["A=2"], architecture="arm64")}
    files = layout_files({name: images["amd64"]})
    manifests = []
    for architecture, image in images.items():
        variant = layout_files({name: image})
        (found,) = json.loads(variant.pop("index.json"))["manifests"]
        files |= variant
        del found["annotations"]
        manifests.append(found | {"platform": {"os": "linux", "architecture": architecture}})
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
    raw = encode(index)
    files[f"blobs/sha256/{digest(raw).removeprefix('sha256:')}"] = raw
    top = {"mediaType": index["mediaType"], "digest": digest(raw), "size": len(raw)}
    named = {"io.containerd.image.name": name}
    files["index.json"] = encode({"schemaVersion": 2, "manifests": [top | {"annotations": named}]})
    path.write_bytes(tar(entry(each, data) for each, data in sorted(files.items())))
    return path


async def test_platforms(client: Client, registry: str, directory: Path) -> None:
    name = f"{registry}/{client.namespace}/multi:1"
    await client.import_images(index_archive(directory / f"{client.namespace}.tar", name))
    assert (await client.check_image(name, "all")).complete
    await client.push(name)
    await client.remove_image(name, sync=True)
    await client.pull(name, "linux/arm64", snapshotter="")
    assert (await client.image_config(name, "linux/arm64"))["config"]["Env"] == ["A=2"]
    with pytest.raises(NotFound, match="linux/amd64"):
        await client.manifest(name, "linux/amd64")
    with pytest.raises(FailedPrecondition, match="not all of it is here"):
        await client.push(name)
    await client.push(f"{registry}/{client.namespace}/arm:1", "linux/arm64", image=name)
    await client.pull(name, "all", snapshotter="", one_variant=False)
    assert (await client.check_image(name, "all")).complete
    with pytest.raises(NotFound, match="s390x"):
        await client.pull(name, "linux/s390x")


async def test_layers_side_by_side(client: Client, registry: str, directory: Path) -> None:
    """The outcome is that of one layer after the other, also where the snapshotter cannot do it."""
    name = f"{registry}/{client.namespace}/many:1"
    archive = write_archive(directory / f"{client.namespace}.tar", {name: many_layers(8)})
    await client.import_images(archive)
    await client.push(name)
    await client.remove_image(name, sync=True)
    await client.pull(name, unpack=UnpackOptions(parallel=4))
    chain = many_layers(8).chain_ids
    parents = {info.name: info.parent async for info in client.snapshots().walk()}
    assert parents == dict(zip(chain, ["", *chain], strict=False))
    result = (await client.run(name, "sh", "-c", "cat /data/last; echo; ls /data")).check()
    assert result.stdout.split() == [b"7", b"0", b"2", b"3", b"5", b"6", b"7", b"last"]


async def test_many_layers(client: Client, registry: str, directory: Path) -> None:
    name = f"{registry}/{client.namespace}/many:1"
    archive = write_archive(directory / f"{client.namespace}.tar", {name: many_layers(8)})
    await client.import_images(archive)
    await client.push(name)
    await client.remove_image(name, sync=True)
    await client.pull(name, downloads=2, unpack=UnpackOptions(layer_labels=image_labels(name)))
    labels = (await client.snapshots().stat(many_layers(8).chain_ids[3])).labels
    assert labels["containerd.io/snapshot/cri.image-ref"] == name
    assert (await client.run(name, "cat", "/data/last")).stdout == b"7"


async def test_basic_authentication(client: Client, busybox: str, basic: str) -> None:
    name = f"{basic}/{client.namespace}/busybox:1"
    async with RegistryResolver() as nobody, RegistryResolver(credentials=fixed(ME)) as me:
        with pytest.raises(Unauthenticated, match="log in"):
            await client.push(name, image=busybox, resolver=nobody)
        await client.push(name, image=busybox, resolver=me)
        with pytest.raises(Unauthenticated):
            await client.pull(name, resolver=nobody)
        await client.pull(name, resolver=me)
    async with RegistryResolver(credentials=fixed(Credential(USER, "wrong"))) as other:
        with pytest.raises(Unauthenticated) as refused:
            await client.pull(name, resolver=other)
        assert "wrong" not in str(refused.value)


async def test_docker_credentials(client: Client, busybox: str, basic: str, tmp_path: Path) -> None:
    name = f"{basic}/{client.namespace}/busybox:2"
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    config = save(tmp_path / "config.json", {"auths": {basic: {"auth": auth}}})
    async with RegistryResolver(credentials=docker_config(config)) as resolver:
        await client.push(name, image=busybox, resolver=resolver)


def save(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


async def test_tokens(client: Client, busybox: str, bearer: tuple[str, TokenServer]) -> None:
    host, tokens = bearer
    name = f"{host}/{client.namespace}/busybox:1"
    repository = f"repository:{client.namespace}/busybox"
    tokens.grants.clear()
    async with RegistryResolver(credentials=fixed(ME)) as me:
        await client.push(name, image=busybox, resolver=me)
    assert set(tokens.grants) == {("password", f"{repository}:pull,push")}
    assert len(tokens.grants) == 1, "tokens are kept"
    tokens.grants.clear()
    async with RegistryResolver() as nobody:
        await client.pull(name, resolver=nobody)
        assert set(tokens.grants) == {("get", f"{repository}:pull")}
        with pytest.raises((Unauthenticated, PermissionDenied)):
            await client.push(f"{host}/{client.namespace}/other:1", image=busybox, resolver=nobody)


@pytest.mark.parametrize("old_form", [False, True])
async def test_kinds_of_token_credentials(
    client: Client, busybox: str, bearer: tuple[str, TokenServer], old_form: bool
) -> None:
    host, tokens = bearer
    name = f"{host}/{client.namespace}/busybox:{old_form}"
    tokens.old_form = old_form
    tokens.grants.clear()
    try:
        async with RegistryResolver(credentials=fixed(ME if old_form else Credential("", REFRESH))) as resolver:
            await client.push(name, image=busybox, resolver=resolver)
        assert {kind for kind, _ in tokens.grants} == {"get" if old_form else "refresh_token"}
        async with RegistryResolver(credentials=fixed(Credential(USER, "wrong"))) as resolver:
            with pytest.raises(Unauthenticated):
                await client.pull(name, resolver=resolver)
    finally:
        tokens.old_form = False


def hosts_file(folder: Path, name: str, text: str) -> DirectoryHosts:
    (folder / name).mkdir()
    (folder / name / "hosts.toml").write_text(text)
    return DirectoryHosts([folder])


async def test_tls(client: Client, busybox: str, tls: tuple[str, Path], tmp_path: Path) -> None:
    host, certificate = tls
    name = f"{host}/{client.namespace}/busybox:1"
    async with RegistryResolver() as unknown:
        with pytest.raises((OrlopError,)):
            await client.push(name, image=busybox, resolver=unknown)
    hosts = hosts_file(tmp_path, host.replace(":", "_") + "_", f'server = "https://{host}"\nca = "{certificate}"\n')
    async with RegistryResolver(hosts=hosts) as trusting:
        await client.push(name, image=busybox, resolver=trusting)
        await client.pull(name, resolver=trusting)
    (tmp_path / "skip").mkdir()
    hosts = hosts_file(tmp_path / "skip", "_default", f'server = "https://{host}"\nskip_verify = true\n')
    async with RegistryResolver(hosts=hosts) as careless:
        await client.pull(name, resolver=careless)


async def test_mirrors(client: Client, busybox: str, registry: str, tmp_path: Path) -> None:
    """A registry whose name leads nowhere is served by a mirror, after one that does not answer."""
    await client.push(f"{registry}/{client.namespace}/busybox:1", image=busybox)
    text = f"""
server = "https://nowhere.invalid"
[host."http://127.0.0.1:1"]
capabilities = ["pull", "resolve"]
[host."http://{registry}"]
capabilities = ["pull", "resolve"]
"""
    async with RegistryResolver(hosts=hosts_file(tmp_path, "nowhere.invalid", text)) as resolver:
        image = await client.pull(f"nowhere.invalid/{client.namespace}/busybox:1", resolver=resolver)
        assert image.name.startswith("nowhere.invalid/")
        with pytest.raises(Unavailable):
            await client.push(image.name, resolver=resolver)


def skopeo(*args: str) -> bytes:
    return subprocess.run(["skopeo", *args], check=True, capture_output=True, timeout=60).stdout


async def test_images_of_other_tools(client: Client, registry: str, tmp_path: Path) -> None:
    """What skopeo pushes we pull; what we push, skopeo reads."""
    layout = write_layout(tmp_path / "layout", {"latest": Image()})
    name = f"{registry}/{client.namespace}/skopeo:latest"
    skopeo("--insecure-policy", "copy", "--dest-tls-verify=false", f"oci:{layout}:latest", f"docker://{name}")
    await client.pull(name)
    ours = f"{registry}/{client.namespace}/ours:latest"
    await client.push(ours, image=name)
    shown = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{ours}"))
    assert shown["Digest"] == (await client.images.get(name)).target.digest


async def test_import_keeps_only_wanted_variants(client: Client, directory: Path) -> None:
    name = f"example.com/{client.namespace}:1"
    archive = index_archive(directory / f"{client.namespace}.tar", name)
    await client.import_images(archive, options=ImportOptions(platforms=Everything()))
    assert (await client.check_image(name, "all")).complete
