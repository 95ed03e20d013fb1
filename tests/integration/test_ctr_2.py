# SPDX-License-Identifier: Apache-2.0
"""The ctr of containerd 2, which has the daemon pull, push, import, export and tag, where one is at hand."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.client.registries import PASSWORD, USER, basic_registry
from tests.support.ctr import environment
from tests.support.daemon import Daemon
from tests.support.image import Image, digest, many_layers, write_archive, write_layout
from tests.support.registry import Registry

CTR = os.environ.get("ORLOP_TEST_CTR2", "")
NAMESPACE = "ctr2"
pytestmark = pytest.mark.skipif(
    not CTR,
    reason="Debian's ctr is of containerd 1; build github.com/containerd/containerd/v2/cmd/ctr with Go and name the "
    "program in ORLOP_TEST_CTR2",
)


@pytest.fixture
def daemon(short_tmp: Path) -> Iterator[Daemon]:
    (short_tmp / "d").mkdir()
    with Daemon(short_tmp / "d") as daemon:
        daemon.ctr(NAMESPACE)
        yield daemon


def ctr(daemon: Daemon, *args: str, code: int = 0) -> str:
    done = subprocess.run(
        [CTR, "--address", str(daemon.address), "--namespace", NAMESPACE, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=environment(),
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_everything_that_goes_through_transfers(daemon: Daemon, short_tmp: Path) -> None:
    image = many_layers(3)
    with Registry(short_tmp / "r") as registry:
        name = registry.push(write_layout(short_tmp / "layout", {"1": image}), "team/app", "1")
        assert "extracted" in ctr(daemon, "images", "pull", name)
        assert ctr(daemon, "run", "--rm", name, "one", "echo", "hello") == "hello\n"
        ctr(daemon, "images", "tag", name, "example.com/tagged:1")
        ctr(daemon, "images", "push", "--plain-http", f"{registry.host}/other/app:2", "example.com/tagged:1")
        ctr(daemon, "images", "rm", "--sync", name, "example.com/tagged:1")
        ctr(daemon, "images", "pull", f"{registry.host}/other/app:2")
        assert digest(image.blobs()[-1][1]) in ctr(daemon, "images", "ls")
        ctr(daemon, "images", "pull", f"{registry.host}/none/there:1", code=1)
        archive = short_tmp / "out.tar"
        ctr(daemon, "images", "export", str(archive), f"{registry.host}/other/app:2")
    with tarfile.open(archive) as opened:
        assert "index.json" in opened.getnames()
    ctr(daemon, "images", "rm", "--sync", f"{registry.host}/other/app:2")
    ctr(daemon, "images", "import", str(archive))
    assert ctr(daemon, "run", "--rm", f"{registry.host}/other/app:2", "two", "echo", "again") == "again\n"
    assert ctr(daemon, "leases", "ls", "-q") == ""


def test_names_of_an_archive(daemon: Daemon, short_tmp: Path) -> None:
    archive = write_archive(short_tmp / "in.tar", {"example.com/a/b:1": Image(), "v9": many_layers(1)})
    ctr(daemon, "images", "import", "--base-name", "example.com/a/b", "--index-name", "example.com/all:1", str(archive))
    names = ctr(daemon, "images", "ls", "-q").split()
    assert names == ["example.com/a/b:1", "example.com/a/b:v9", "example.com/all:1"]


def test_passwords(daemon: Daemon, short_tmp: Path) -> None:
    archive = write_archive(short_tmp / "in.tar", {"example.com/a/b:1": Image()})
    ctr(daemon, "images", "import", str(archive))
    with basic_registry(short_tmp / "r") as host:
        push = ("images", "push", "--plain-http", f"{host}/a/b:1", "example.com/a/b:1")
        ctr(daemon, *push, code=1)
        ctr(daemon, *push[:2], "--user", f"{USER}:wrong", *push[2:], code=1)
        ctr(daemon, *push[:2], "--user", f"{USER}:{PASSWORD}", *push[2:])
        ctr(daemon, "images", "pull", "--user", f"{USER}:{PASSWORD}", f"{host}/a/b:1")
