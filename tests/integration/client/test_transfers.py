# SPDX-License-Identifier: Apache-2.0
"""Transfers: the daemon pulls, pushes, imports, exports and tags by itself, and the client watches."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.integration.client.conftest import Target, clean
from tests.integration.client.registries import (
    PASSWORD,
    REFRESH,
    USER,
    TokenServer,
)
from tests.support.image import (
    INDEX,
    MANIFEST,
    Image,
    descriptor,
    digest,
    encode,
    entry,
    layout_files,
    many_layers,
    tar,
    write_archive,
)

from orlop.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    OrlopError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from orlop.interfaces.transfer import TransferProgress
from orlop_sdk.client import Client
from orlop_sdk.client.transfers import ArchiveFrom, ArchiveTo, ExtraName, RegistryImage, StoredImage, UnpackFor
from orlop_sdk.registry import Credential, fixed

WAIT = 30.0
HERE = UnpackFor("linux/amd64")


@pytest.fixture(params=["orlopd", "embedded"], scope="session")
def target(request: pytest.FixtureRequest, targets: Callable[[str], Target]) -> Target:
    """Debian's containerd is too old for transfers."""
    return targets(request.param)


@pytest.fixture
async def pushed(client: Client, registry: str, archive: Path) -> str:
    """The name of an image that is in the open registry, and not in the daemon."""
    name = f"{registry}/{client.namespace}/busybox:1"
    await client.transfer(ArchiveFrom(archive), StoredImage(extra=[ExtraName("import", True, True)]))
    (image,) = await client.images.list()
    await client.transfer(StoredImage(image.name), RegistryImage(name))
    await client.remove_image(image.name, sync=True)
    assert [info async for info in client.content.walk()] == []
    return name


async def pull(client: Client, name: str) -> list[TransferProgress]:
    told: list[TransferProgress] = []
    store = StoredImage(name, platforms=["linux/amd64"], unpacks=[HERE])
    await client.transfer(RegistryImage(name), store, progress=told.append)
    return told


async def no_lease(client: Client) -> None:
    """Fail if a lease is left a moment later."""
    deadline = asyncio.get_running_loop().time() + WAIT
    while await client.leases.list():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)


async def test_pull_and_run(client: Client, pushed: str) -> None:
    await pull(client, pushed)
    assert (await client.images.get(pushed)).target.digest == digest(Image().blobs()[-1][1])
    assert (await client.run(pushed, "echo", "pulled")).stdout == b"pulled\n"
    assert (await client.check_image(pushed)).complete
    assert await client.leases.list() == []


async def test_progress_tells_all_blobs_and_how_it_ended(client: Client, pushed: str) -> None:
    told = await pull(client, pushed)
    events = [each.event for each in told if not each.name]
    assert events == [
        f"{what} OCI Registry ({pushed})" for what in ("Resolving from", "Pulling from", "Completed pull from")
    ]
    manifest = await client.manifest(pushed)
    refs = {
        f"manifest-{manifest.descriptor.digest}": pushed,
        f"config-{manifest.config.digest}": f"manifest-{manifest.descriptor.digest}",
        f"layer-{manifest.layers[0].digest}": f"manifest-{manifest.descriptor.digest}",
    }
    for ref, parent in refs.items():
        mine = [each for each in told if each.name == ref]
        assert mine[0].event == "waiting"
        assert "complete" in {each.event for each in mine}
        assert {each.parents for each in mine} == {(parent,)}
    layer = [each.event for each in told if each.name == f"layer-{manifest.layers[0].digest}"]
    assert layer[-2:] == ["extracting", "extracted"]
    assert [each.name for each in told if each.event == "saved"] == [pushed]
    names = [each.name for each in told if each.name]
    assert names.index(pushed) < names.index(f"manifest-{manifest.descriptor.digest}")


async def test_a_second_pull_fetches_nothing(client: Client, pushed: str) -> None:
    await pull(client, pushed)
    told = await pull(client, pushed)
    assert {each.event for each in told if each.descriptor is not None} == {"waiting", "already exists", "saved"}


async def test_further_names_go_with_the_first(client: Client, pushed: str) -> None:
    store = StoredImage("example.com/first:1", labels={"mine": "yes"}, extra=[ExtraName("example.com/further:1")])
    await client.transfer(RegistryImage(pushed), store)
    assert (await client.images.get("example.com/first:1")).labels == {"mine": "yes"}
    further = await client.images.get("example.com/further:1")
    assert further.labels["containerd.io/gc.bref.image"] == "example.com/first:1"
    lease = await client.leases.create()
    await client.leases.delete(lease.id, sync=True)
    assert (await client.images.get("example.com/further:1")).target == further.target
    await client.remove_image("example.com/first:1", sync=True)
    assert await client.images.list() == []


async def test_unpack_elsewhere_and_nowhere(client: Client, pushed: str) -> None:
    store = StoredImage(pushed, unpacks=[UnpackFor(snapshotter="native")])
    await client.transfer(RegistryImage(pushed), store)
    assert (await client.snapshots("native").stat(Image().chain_ids[-1])).name == Image().chain_ids[-1]
    with pytest.raises(NotFound):
        await client.snapshots().stat(Image().chain_ids[-1])
    for name in ("nowhere", "native2"):
        with pytest.raises(NotFound, match=f'snapshotter "{name}": not loaded'):
            await client.transfer(RegistryImage(pushed), StoredImage(pushed, unpacks=[UnpackFor(snapshotter=name)]))
    assert await client.leases.list() == []


async def test_several_platforms(client: Client, registry: str, directory: Path) -> None:
    name = f"{registry}/{client.namespace}/many:1"
    arm = Image([tar([entry("arm", b"64")])], architecture="arm64")
    amd = Image([tar([entry("amd", b"64")])])
    archive = index_archive(directory / f"{client.namespace}.tar", {"linux/amd64": amd, "linux/arm64": arm})
    await client.transfer(ArchiveFrom(archive), StoredImage(extra=[ExtraName("many", True)]))
    await client.transfer(StoredImage("many:1"), RegistryImage(name))
    await client.remove_image("many:1", sync=True)

    async def here(**options: object) -> set[str]:
        await client.transfer(RegistryImage(name), StoredImage(name, **options))  # type: ignore[arg-type]
        found = {info.digest async for info in client.content.walk()}
        await client.remove_image(name, sync=True)
        return found

    parts = {
        each: [digest(blob) for _, blob in image.blobs()] for each, image in (("amd64", amd), ("arm64", arm))
    }  # layer, configuration, manifest
    index = (await here()) - {*parts["amd64"], *parts["arm64"]}
    assert len(index) == 1
    assert await here(platforms=["linux/arm64"]) == {*index, *parts["arm64"]}
    assert await here(platforms=["linux/arm64", "linux/amd64"]) == {*index, *parts["arm64"], *parts["amd64"]}
    assert await here(platforms=["linux/arm64", "linux/amd64"], limit=1) == {*index, *parts["arm64"]}
    assert await here(platforms=["linux/arm64"], all_metadata=True) == {*index, *parts["arm64"], *parts["amd64"][1:]}
    with pytest.raises(NotFound, match="s390x"):
        await here(platforms=["linux/s390x"])
    assert await client.leases.list() == []


async def test_an_image_with_one_variant_is_taken_whatever_that_is(client: Client, pushed: str) -> None:
    await client.transfer(RegistryImage(pushed), StoredImage(pushed, platforms=["linux/riscv64"]))
    assert (await client.images.get(pushed)).target.media_type == MANIFEST


# ---- credentials ----------------------------------------------------------------------------------------------------


async def test_passwords_come_from_the_client(client: Client, basic: str, archive: Path) -> None:
    name = f"{basic}/{client.namespace}/busybox:1"
    await client.transfer(ArchiveFrom(archive), StoredImage(extra=[ExtraName("import", True, True)]))
    (image,) = await client.images.list()
    asked = []

    async def me(host: str) -> Credential | None:
        asked.append(host)
        return Credential(USER, PASSWORD)

    with pytest.raises(Unauthenticated):
        await client.transfer(StoredImage(image.name), RegistryImage(name))
    with pytest.raises(Unauthenticated):
        await client.transfer(StoredImage(image.name), RegistryImage(name, fixed(Credential(USER, "wrong"))))
    await client.transfer(StoredImage(image.name), RegistryImage(name, me))
    await client.transfer(RegistryImage(name, me), StoredImage(name))
    assert asked == [basic, basic]
    assert (await client.images.get(name)).target.digest == image.target.digest
    header = Credential(header=f"Basic {base64_of(f'{USER}:{PASSWORD}')}")
    await client.transfer(RegistryImage(name, fixed(header)), StoredImage(name))
    await client.transfer(
        RegistryImage(name, headers={"Authorization": f"Basic {base64_of(f'{USER}:{PASSWORD}')}"}), StoredImage(name)
    )
    assert await client.leases.list() == []


async def test_refresh_tokens_come_from_the_client(
    client: Client, bearer: tuple[str, TokenServer], archive: Path
) -> None:
    host, tokens = bearer
    name = f"{host}/{client.namespace}/busybox:1"
    await client.transfer(ArchiveFrom(archive), StoredImage(extra=[ExtraName("import", True, True)]))
    (image,) = await client.images.list()
    tokens.grants.clear()
    await client.transfer(StoredImage(image.name), RegistryImage(name, fixed(Credential("", REFRESH))))
    assert {kind for kind, _ in tokens.grants} == {"refresh_token"}

    async def nobody(host: str) -> Credential | None:
        return None

    tokens.grants.clear()
    await client.transfer(RegistryImage(name, nobody), StoredImage(name))
    assert {kind for kind, _ in tokens.grants} == {"get"}


async def test_a_client_that_fails_to_say_who_it_is(client: Client, basic: str) -> None:
    async def broken(host: str) -> Credential | None:
        raise OSError("no key ring here")

    with pytest.raises(OSError, match="no key ring here"):
        async with asyncio.timeout(WAIT):
            await client.transfer(RegistryImage(f"{basic}/a:1", broken), StoredImage("a:1"))
    await no_lease(client)


async def test_hosts_of_the_client_s_choice(client: Client, registry: str, pushed: str, directory: Path) -> None:
    hosts = directory / f"hosts-{client.namespace}" / "mirror.test"
    hosts.mkdir(parents=True)
    (hosts / "hosts.toml").write_text(f'server = "http://{registry}"\n')
    name = pushed.replace(registry, "mirror.test")
    await client.transfer(RegistryImage(name, hosts_directory=str(hosts.parent)), StoredImage(name))
    assert (await client.images.get(name)).target.digest == digest(Image().blobs()[-1][1])


# ---- archives -------------------------------------------------------------------------------------------------------


async def test_export_and_import_again(client: Client, pushed: str, tmp_path: Path) -> None:
    await pull(client, pushed)
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    told: list[TransferProgress] = []
    await client.transfer(StoredImage(pushed), ArchiveTo(first), progress=told.append)
    assert [each.event for each in told if not each.name] == ["Exporting", "Completed export"]
    target = (await client.images.get(pushed)).target
    await client.remove_image(pushed, sync=True)
    told.clear()
    store = StoredImage(extra=[ExtraName(pushed.removesuffix(":1"), True)], unpacks=[HERE])
    await client.transfer(ArchiveFrom(first), store, progress=told.append)
    assert [each.event for each in told if not each.name] == ["Importing", "Completed import"]
    assert [each.name for each in told if each.event == "saved"] == [pushed]
    assert (await client.images.get(pushed)).target.digest == target.digest
    assert (await client.run(pushed, "echo", "imported")).stdout == b"imported\n"
    with second.open("wb") as file:
        await client.transfer(StoredImage(pushed), ArchiveTo(file))
    assert second.read_bytes() == first.read_bytes()
    assert await client.leases.list() == []


async def test_the_same_archive_as_debian_s_ctr(client: Client, target: Target, pushed: str, tmp_path: Path) -> None:
    if target.daemon is None:
        pytest.skip("nothing listens for ctr; the daemon's case is the other one")
    await pull(client, pushed)
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    await client.transfer(StoredImage(pushed), ArchiveTo(ours))
    done = target.daemon.ctr(client.namespace).run("images", "export", str(theirs), pushed)
    assert done.code == 0, done
    with tarfile.open(ours) as first, tarfile.open(theirs) as second:
        names = {name for name in first.getnames() if name.startswith("blobs/")}
        assert names == {name.rstrip("/") for name in second.getnames() if name.startswith("blobs/")}
        for name in first.getnames():
            if first.getmember(name).isfile() and name.startswith("blobs/"):
                assert file_of(first, name) == file_of(second, name)
        assert manifests_of(first) == manifests_of(second)
        assert json.loads(file_of(first, "manifest.json")) == json.loads(file_of(second, "manifest.json"))


async def test_names_of_an_archive_s_own(client: Client, directory: Path) -> None:
    images = {"example.com/a/b:1": Image(), "v9": many_layers(1)}
    archive = write_archive(directory / f"{client.namespace}.tar", images)
    digests = {name: digest(image.blobs()[-1][1]) for name, image in images.items()}

    async def named(*extra: ExtraName, name: str = "") -> dict[str, str]:
        await client.transfer(ArchiveFrom(archive), StoredImage(name, extra=extra))
        found = {image.name: image.target.digest for image in await client.images.list()}
        for each in found:
            await client.remove_image(each)
        return found

    full, short = digests["example.com/a/b:1"], digests["v9"]
    assert await named(ExtraName("import", True, True)) == {"example.com/a/b:1": full, "import:v9": short}
    assert await named(ExtraName("import", True)) == {"import:v9": short}
    assert await named(ExtraName("example.com/a/b", True)) == {"example.com/a/b:1": full, "example.com/a/b:v9": short}
    assert await named(ExtraName("example.com/a", True)) == {"example.com/a/b:1": full, "example.com/a:v9": short}
    assert await named(ExtraName("x", True, False, True, True)) == {f"x@{full}": full, "x:v9": short}
    assert set(await named(ExtraName("x", True, True, True))) == {
        "example.com/a/b:1",
        f"x@{full}",
        "x:v9",
        f"x@{short}",
    }
    index = layout_files(images)["index.json"]
    assert await named(name="whole:1") == {"whole:1": digest(index)}
    assert await named(ExtraName("example", True)) == {"example:v9": short}  # "example.com" is another name
    assert await named(ExtraName("", True)) == {}
    assert await client.leases.list() == []


async def test_docker_archives_and_compression(client: Client, tmp_path: Path) -> None:
    image = Image(gzipped=False)
    _, config, _ = image.blobs()
    document = [{"Config": "config.json", "RepoTags": ["team/app:3"], "Layers": ["layer.tar"]}]
    files = {"config.json": config[1], "layer.tar": image.layers[0], "manifest.json": json.dumps(document).encode()}
    archive = tmp_path / "docker.tar"
    archive.write_bytes(tar(entry(name, data) for name, data in files.items()))
    store = StoredImage("index:1", extra=[ExtraName("import", True, True)], unpacks=[HERE])
    for compress, ending in ((False, "diff.tar"), (True, "diff.tar.gzip")):
        await client.transfer(ArchiveFrom(archive, compress=compress), store)
        assert {each.name for each in await client.images.list()} == {"index:1", "docker.io/team/app:3"}
        manifest = await client.manifest("docker.io/team/app:3")
        assert manifest.layers[0].media_type == f"application/vnd.docker.image.rootfs.{ending}"
        assert (await client.images.get("index:1")).target.media_type == INDEX
        assert (await client.run("docker.io/team/app:3", "echo", "docker's")).stdout == b"docker's\n"


async def test_an_archive_that_breaks_off(client: Client, archive: Path, tmp_path: Path) -> None:
    data = archive.read_bytes()  # noqa: ASYNC240  # a moment
    store = StoredImage("whole:1", extra=[ExtraName("import", True, True)])

    async def failing() -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        async with asyncio.timeout(WAIT):
            await client.transfer(ArchiveFrom(failing()), store)
    with pytest.raises(FileNotFoundError):
        await client.transfer(ArchiveFrom(tmp_path / "none.tar"), store)

    async def short() -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]

    with pytest.raises(OrlopError, match="archive"):
        await client.transfer(ArchiveFrom(short()), store)
    assert await client.images.list() == []
    await no_lease(client)


async def test_a_long_archive_after_its_end(client: Client, archive: Path) -> None:
    data = archive.read_bytes()  # noqa: ASYNC240  # a moment

    async def padded() -> AsyncIterator[bytes]:
        yield data
        for _ in range(40):
            yield bytes(1 << 16)

    await client.transfer(ArchiveFrom(padded()), StoredImage("whole:1"))
    assert [each.name for each in await client.images.list()] == ["whole:1"]


async def test_no_file_is_left_of_an_export_that_failed(client: Client, pushed: str, tmp_path: Path) -> None:
    await client.transfer(RegistryImage(pushed), StoredImage(pushed))
    manifest = await client.manifest(pushed)
    for reference, error in ((["nope:1"], NotFound), ([pushed, "nope:1"], NotFound)):
        store = StoredImage(extra=[ExtraName(each) for each in reference])
        with pytest.raises(error):
            await client.transfer(store, ArchiveTo(tmp_path / "out.tar"))
    await client.content.delete(manifest.layers[0].digest)
    with pytest.raises(OrlopError, match=manifest.layers[0].digest):
        await client.transfer(StoredImage(pushed), ArchiveTo(tmp_path / "out.tar"))
    with pytest.raises(Unimplemented):
        await client.transfer(StoredImage(extra=[ExtraName("a", True)]), ArchiveTo(tmp_path / "out.tar"))
    with pytest.raises(InvalidArgument):
        await client.transfer(StoredImage(), ArchiveTo(tmp_path / "out.tar"))
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240  # a moment
    await no_lease(client)


async def test_echo(client: Client, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    (tmp_path / "in").write_bytes(data)
    await client.transfer(ArchiveFrom(tmp_path / "in"), ArchiveTo(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == data


# ---- names ----------------------------------------------------------------------------------------------------------


async def test_tag(client: Client, pushed: str) -> None:
    await client.transfer(RegistryImage(pushed), StoredImage(pushed, labels={"old": "yes"}))
    await client.transfer(StoredImage(pushed), StoredImage("example.com/new:1", labels={"new": "yes"}))
    image = await client.images.get("example.com/new:1")
    assert image.labels == {"new": "yes"}
    assert image.target == (await client.images.get(pushed)).target
    await client.transfer(StoredImage(pushed), StoredImage("example.com/new:1"))  # whatever it was before
    assert (await client.images.get("example.com/new:1")).labels == {}
    with pytest.raises(NotFound, match="nope"):
        await client.transfer(StoredImage("nope"), StoredImage("example.com/new:1"))


async def test_what_cannot_be(client: Client, registry: str, tmp_path: Path) -> None:
    there = RegistryImage(f"{registry}/none/there:1")
    for source, destination, error in (
        (there, there, Unimplemented),
        (there, ArchiveTo(tmp_path / "out.tar"), Unimplemented),
        (there, StoredImage("a"), NotFound),
        (RegistryImage("::"), StoredImage("a"), InvalidArgument),
        (RegistryImage("127.0.0.1:1/a:1"), StoredImage("a"), Unavailable),
        (StoredImage("nope"), there, NotFound),
    ):
        with pytest.raises(error):
            await client.transfer(source, destination, progress=lambda _: None)
    await no_lease(client)


async def test_an_old_daemon_says_so(targets: Callable[[str], Target], namespace: str) -> None:
    async with targets("containerd").client(namespace) as client:
        with pytest.raises(Unimplemented):
            await client.transfer(StoredImage("a"), StoredImage("b"))


# ---- leaving early --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def stalling_registry(image: Image) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """One that serves an image up to the middle of its layer. The event says that it got there."""
    layer, config, manifest = image.blobs()
    reached = asyncio.Event()
    blobs = {digest(data): (kind, data) for kind, data in (layer, config, manifest)} | {"1": manifest}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                method, path, _ = request.split(b"\r\n")[0].decode().split(" ")
                kind, data = blobs[path.rpartition("/")[2]]
                head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
                writer.write(f"{head}Docker-Content-Digest: {digest(data)}\r\n\r\n".encode())
                if method == "GET" and (kind, data) == layer:
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    reached.set()
                    await reader.read()
                    return
                if method == "GET":
                    writer.write(data)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}", reached


async def test_a_pull_that_is_cancelled(client: Client) -> None:
    async with stalling_registry(Image()) as (host, reached):
        told: list[TransferProgress] = []
        pulling = asyncio.create_task(
            client.transfer(
                RegistryImage(f"{host}/a/b:1", fixed(Credential(USER, PASSWORD)), plain_http=True),
                StoredImage("a:1", unpacks=[HERE]),
                progress=told.append,
            )
        )
        async with asyncio.timeout(WAIT):
            await reached.wait()
            assert len(await client.leases.list()) == 1
            assert any(each.event == "waiting" for each in told)
            pulling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pulling
        await no_lease(client)
    assert await client.images.list() == []
    # What was fetched until then is garbage, and so is the snapshot that was being made.
    lease = await client.leases.create()
    await client.leases.delete(lease.id, sync=True)
    assert [info async for info in client.content.walk()] == []
    assert [info async for info in client.snapshots().walk()] == []


async def test_a_transfer_under_the_caller_s_lease(client: Client, pushed: str) -> None:
    async with client.lease() as lease:
        await client.transfer(RegistryImage(pushed), StoredImage(pushed))
        kept = {each.id for each in await client.leases.resources(lease.id)}
        assert {digest(blob) for _, blob in Image().blobs()} <= kept
        await client.remove_image(pushed, sync=True)
        assert {info.digest async for info in client.content.walk()} == {digest(blob) for _, blob in Image().blobs()}
    with pytest.raises(AlreadyExists):
        await client.leases.create("twice")
        await client.leases.create("twice")


async def test_many_at_a_time(client: Client, pushed: str) -> None:
    async def one(number: int) -> None:
        name = f"example.com/copy:{number}"
        told: list[TransferProgress] = []
        await client.transfer(RegistryImage(pushed), StoredImage(name, unpacks=[HERE]), progress=told.append)
        assert told[-1].event.startswith("Completed")

    async with asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(one(number))
    assert len(await client.images.list()) == 12
    await clean(client)
    await no_lease(client)


# ---- helpers --------------------------------------------------------------------------------------------------------


def index_archive(path: Path, images: dict[str, Image]) -> Path:
    """An archive with one image of several variants, tagged 1."""
    files: dict[str, bytes] = {}
    entries = []
    for platform, image in images.items():
        system, _, architecture = platform.partition("/")
        blobs = image.blobs()
        files |= {f"blobs/sha256/{digest(blob).removeprefix('sha256:')}": blob for _, blob in blobs}
        entries.append(descriptor(*blobs[-1]) | {"platform": {"os": system, "architecture": architecture}})
    index = encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
    files[f"blobs/sha256/{digest(index).removeprefix('sha256:')}"] = index
    named = descriptor(INDEX, index) | {"annotations": {"org.opencontainers.image.ref.name": "1"}}
    files["index.json"] = encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]})
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    path.write_bytes(tar(entry(name, data) for name, data in sorted(files.items())))
    return path


def base64_of(text: str) -> str:
    done = subprocess.run(["base64", "-w0"], input=text.encode(), capture_output=True, check=True)
    return done.stdout.decode()


def file_of(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def manifests_of(archive: tarfile.TarFile) -> list[tuple[str, str]]:
    index = json.loads(file_of(archive, "index.json"))
    named = [(each["digest"], each["annotations"]["io.containerd.image.name"]) for each in index["manifests"]]
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each, _ in named)
    return named
