# SPDX-License-Identifier: Apache-2.0
"""The real stargz snapshotter as a proxy plugin: containers run on layers that were never fetched as a whole.

Needs root, FUSE, Debian's stargz-snapshotter (``ctr-remote``) and docker-registry, and the daemon that `.ci/stargz`
builds.
"""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import stargz
from tests.support.ctr import Ctr, columns, environment, eventually
from tests.support.daemon import Daemon
from tests.support.image import Image, busybox_layer, entry, tar, write_archive
from tests.support.place import short_directory
from tests.support.registry import Registry

ORLOP = str(Path(sys.executable).parent / "orlop")
PLAIN = "example.com/plain:1"
#: What no container reads, and what cannot be made shorter.
UNREAD = 12 << 20
GET = re.compile(r'"GET /v2/[^" ]+/blobs/(sha256:[0-9a-f]+)[^"]*" (\d+) (\d+)')

pytestmark = pytest.mark.skipif(bool(stargz.missing()), reason=stargz.missing())


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture(scope="module")
def registry(base: Path) -> Iterator[Registry]:
    with Registry(base / "registry") as registry:
        yield registry


@pytest.fixture(scope="module")
def reference(base: Path, registry: Registry) -> str:
    """An image in the registry that ``ctr-remote`` converted and pushed, through a daemon that knows nothing of it."""
    unread = tar([entry("unread", random.Random(1).randbytes(UNREAD)), entry("hello", b"from the second layer")])
    archive = write_archive(base / "plain.tar", {PLAIN: Image((busybox_layer(), unread))})
    name = f"{registry.host}/lazy:1"
    (base / "c").mkdir()
    with Daemon(base / "c") as daemon:
        remote = daemon.ctr(f"convert-{uuid.uuid4().hex}")
        remote.program = stargz.CTR_REMOTE
        remote.ok("images", "import", str(archive))
        remote.ok("images", "convert", "--estargz", "--oci", PLAIN, name, timeout=120)
        remote.ok("images", "push", "--plain-http", name, timeout=120)
    return name


@pytest.fixture
def daemon(short_tmp: Path) -> Iterator[Daemon]:
    with stargz.stargz(short_tmp) as address:
        with Daemon(short_tmp, tables=stargz.TABLE.format(address=address)) as daemon:
            yield daemon


@pytest.fixture
def ctr(daemon: Daemon) -> Ctr:
    return daemon.ctr(f"lazy-{uuid.uuid4().hex}")


@pytest.fixture
def contained(short_tmp: Path) -> Iterator[Daemon]:
    with Daemon(short_tmp, tables=stargz.contained(short_tmp)) as daemon:
        yield daemon


def fetched(registry: Registry, since: int, layers: list[str]) -> dict[str, tuple[set[int], int]]:
    """Statuses of answers and sum of bytes for each of these blobs, from a length of the registry's log on."""
    found: dict[str, tuple[set[int], int]] = {}
    for blob, status, size in GET.findall(registry.log.read_text()[since:]):
        if blob in layers:
            statuses, total = found.get(blob, (set(), 0))
            found[blob] = (statuses | {int(status)}, total + int(size))
    return found


def layers_of(ctr: Ctr, reference: str) -> list[str]:
    """The digests that the image's manifest names as layers."""
    (target,) = [row[2] for row in columns(ctr.ok("images", "ls")) if row[0] == reference]
    return re.findall(r'"digest":\s*"(sha256:[0-9a-f]+)"', ctr.ok("content", "get", target))[1:]


def use(daemon: Daemon, ctr: Ctr, registry: Registry, since: int, reference: str) -> None:
    """Run containers on the image that was pulled, and make sure that its layers are not here."""
    layers = layers_of(ctr, reference)
    assert len(layers) == 2
    assert not set(layers) & set(ctr.ok("content", "ls", "-q").split())
    kinds = stargz.kinds_of_mounts(daemon.base / "stargz")
    assert [kind for kind in kinds if kind.startswith("fuse")], kinds

    run = ("run", "--rm", "--snapshotter", "stargz", reference)
    assert ctr.ok(*run, "c1", "cat", "/hello") == "from the second layer"
    assert ctr.ok(*run, "c2", "sh", "-c", "echo new > /hello; cat /hello") == "new\n"
    assert not set(layers) & set(ctr.ok("content", "ls", "-q").split())
    got = fetched(registry, since, layers)
    assert got.keys() == set(layers)
    assert {status for statuses, _ in got.values() for status in statuses} == {206}
    assert got[layers[1]][1] < UNREAD / 2
    committed = [row for row in columns(ctr.ok("snapshots", "--snapshotter", "stargz", "ls")) if "Committed" in row]
    assert len(committed) == 2

    # What is read now comes from the registry, whole and right.
    ctr.ok("run", "--detach", "--snapshotter", "stargz", reference, "c3", "sleep", "100")
    read = ctr.run("tasks", "exec", "--exec-id", "e", "c3", "cat", "/unread").raw
    assert hashlib.sha256(read).digest() == hashlib.sha256(random.Random(1).randbytes(UNREAD)).digest()
    ctr.remove_tasks()
    ctr.ok("containers", "rm", "c3")
    ctr.ok("images", "rm", "--sync", reference)
    assert columns(ctr.ok("snapshots", "--snapshotter", "stargz", "ls")) == []
    mounted = daemon.base / "stargz"
    eventually(lambda: not [kind for kind in stargz.kinds_of_mounts(mounted) if "fuse" in kind], "its mounts are gone")


def test_its_own_client_pulls_lazily(daemon: Daemon, ctr: Ctr, registry: Registry, reference: str) -> None:
    since = len(registry.log.read_text())
    Ctr(daemon.address, ctr.namespace, stargz.CTR_REMOTE).ok("images", "rpull", "--plain-http", reference, timeout=60)
    use(daemon, ctr, registry, since, reference)


def test_orlop_pulls_lazily(daemon: Daemon, ctr: Ctr, registry: Registry, reference: str) -> None:
    since = len(registry.log.read_text())
    pulled = subprocess.run(
        [
            *(ORLOP, "--address", str(daemon.address), "--namespace", ctr.namespace),
            *("pull", "--plain-http", "--snapshotter", "stargz", reference),
        ],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert pulled.returncode == 0, pulled.stderr
    use(daemon, ctr, registry, since, reference)


def test_a_container_pulls_lazily(contained: Daemon, registry: Registry, reference: str) -> None:
    """The daemon starts the snapshotter too; what it mounts in its container is seen by the host."""
    ctr = contained.ctr(f"lazy-{uuid.uuid4().hex}")
    eventually(lambda: ctr.run("snapshots", "--snapshotter", "stargz", "prepare", "probe").code == 0, "it serves")
    ctr.ok("snapshots", "--snapshotter", "stargz", "rm", "probe")
    since = len(registry.log.read_text())
    Ctr(contained.address, ctr.namespace, stargz.CTR_REMOTE).ok(
        "images", "rpull", "--plain-http", reference, timeout=60
    )
    use(contained, ctr, registry, since, reference)
    contained.stop()
    assert stargz.kinds_of_mounts(contained.base) == []
