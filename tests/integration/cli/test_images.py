# SPDX-License-Identifier: Apache-2.0
"""Images from the command line: archives, names, and registries."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.client.registries import PASSWORD, USER, basic_registry, docker_registry
from tests.support.cli import Orlop
from tests.support.ctr import columns

BUSY = "busy:1"
FULL = f"docker.io/library/{BUSY}"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that lets everybody in."""
    with docker_registry(tmp_path_factory.mktemp("registry") / "open") as host:
        yield host


@pytest.fixture(scope="module")
def closed_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that asks who is there."""
    with basic_registry(tmp_path_factory.mktemp("registry") / "closed") as host:
        yield host


def names(orlop: Orlop) -> list[str]:
    return orlop.ok("images", "-q").split()


def test_table_and_json(any_busy: Orlop) -> None:
    (row,) = any_busy.json("images")
    assert (row["name"], row["image"], row["complete"], row["platforms"]) == (FULL, BUSY, True, ["linux/amd64"])
    assert row["digest"] == row["target"]["digest"]
    assert row["size"] > 400_000
    heading, *_ = any_busy.ok("images").splitlines()
    assert heading.split() == ["IMAGE", "DIGEST", "SIZE", "PLATFORMS", "CREATED"]
    (line,) = columns(any_busy.ok("images"))
    assert line[:2] == [BUSY, row["digest"].removeprefix("sha256:")[:12]]
    assert any_busy.ok("images", "-q", "name==nosuch") == ""


def test_names_come_and_go(orlop_busy: Orlop) -> None:
    orlop_busy.ok("tag", BUSY, "team/app:2", "example.com/app")
    assert names(orlop_busy) == [FULL, "docker.io/team/app:2", "example.com/app:latest"]
    assert "--force takes the name" in orlop_busy.fails("tag", BUSY, "team/app:2")
    orlop_busy.ok("tag", "--force", BUSY, "team/app:2")
    assert orlop_busy.run("run", "--rm", "team/app:2", "true").code == 0
    assert orlop_busy.ok("rmi", BUSY, "example.com/app") == f"{FULL}\nexample.com/app:latest\n"
    assert orlop_busy.run("run", "--rm", "team/app:2", "true").code == 0
    orlop_busy.ok("rmi", "team/app:2")
    assert names(orlop_busy) == []
    for words in (("rmi", BUSY), ("tag", BUSY, "x"), ("export", "/dev/null", BUSY)):
        assert orlop_busy.fails(*words) == f'image "{BUSY}": not found; orlop pull {BUSY} fetches it'


def test_archives_in_files_and_pipes(any_busy: Orlop, tmp_path: Path) -> None:
    file = tmp_path / "out.tar"
    any_busy.ok("export", str(file), BUSY)
    piped = any_busy.run("export", "-", BUSY)
    assert piped.code == 0
    assert piped.raw == file.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(piped.raw)) as archive:
        assert {"oci-layout", "index.json", "manifest.json"} <= set(archive.getnames())
    any_busy.ok("rmi", BUSY)
    assert any_busy.ok("import", "-", stdin=piped.raw) == f"{FULL}\n"
    assert any_busy.ok("run", "--rm", BUSY, "echo", "fine") == "fine\n"
    assert any_busy.json("import", "--no-unpack", str(file))[0]["name"] == FULL


def test_bad_archives(orlop_busy: Orlop, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"no tar at all")
    assert "archive" in orlop_busy.fails("import", str(tmp_path / "bad"))
    assert "no such file" in orlop_busy.fails("import", str(tmp_path / "nosuch"))
    # An archive is told from an image's name by its place only, so the words of the system have to do.
    target = tmp_path / "nosuch" / "out.tar"
    assert "No such file or directory" in orlop_busy.run("export", str(target), BUSY).err


def test_push_and_pull(any_busy: Orlop, registry: str) -> None:
    reference = f"{registry}/{any_busy.namespace}/busy:1"
    pushed = any_busy.run("push", reference, BUSY)
    (row,) = any_busy.json("images")
    assert (pushed.code, pushed.out) == (0, f"{row['digest']}\n")
    assert f"done        {reference}" in pushed.err.splitlines()
    any_busy.ok("rmi", BUSY)
    pulled = any_busy.run("pull", "--plain-http", reference)
    assert (pulled.code, pulled.out) == (0, f"{reference} {row['digest']}\n")
    assert {line.split()[0] for line in pulled.err.splitlines()} >= {"resolved", "downloaded", "extracted", "done"}
    assert any_busy.ok("run", "--rm", "--pull", "never", reference, "echo", "fine") == "fine\n"
    # What is there by another name needs no source.
    assert any_busy.json("push", reference)["target"]["digest"] == row["digest"]


def test_run_fetches_what_is_missing(orlop_busy: Orlop, registry: str) -> None:
    reference = f"{registry}/{orlop_busy.namespace}/busy:1"
    orlop_busy.ok("push", reference, BUSY)
    result = orlop_busy.run("run", "--rm", reference, "echo", "fine")
    assert (result.code, result.out) == (0, "fine\n")
    assert result.err.startswith(f'image "{reference}": not here, fetching it\n')
    again = orlop_busy.run("run", "--rm", reference, "echo", "fine")
    assert (again.code, again.out, again.err) == (0, "fine\n", "")
    always = orlop_busy.run("run", "--rm", "--pull", "always", reference, "echo", "fine")
    assert (always.code, always.out) == (0, "fine\n")
    assert "resolved" in always.err


def test_registries_that_have_not_or_are_not(orlop: Orlop, registry: str) -> None:
    assert f"{registry}/no/such:1" in orlop.fails("pull", f"{registry}/no/such:1")
    assert 'registry "127.0.0.1:1": cannot be reached' in orlop.fails("pull", "127.0.0.1:1/x")
    assert "use lower case letters" in orlop.fails("pull", "BAD!!")


def test_logging_in(orlop_busy: Orlop, closed_registry: str, tmp_path: Path) -> None:
    """By option, by what docker login wrote, and not at all."""
    reference = f"{closed_registry}/team/busy:1"
    user = f"{USER}:{PASSWORD}"
    for words in (("push", reference, BUSY), ("push", "--user", f"{USER}:wrong", reference, BUSY)):
        result = orlop_busy.run(*words)
        assert result.code == 1
        assert closed_registry in result.err
    orlop_busy.ok("push", "--user", user, reference, BUSY)
    orlop_busy.ok("pull", "--user", user, reference)
    login = {"auths": {closed_registry: {"auth": base64.b64encode(user.encode()).decode()}}}
    (tmp_path / "config.json").write_text(json.dumps(login))
    known = orlop_busy.run("pull", reference, env={"DOCKER_CONFIG": str(tmp_path)})
    assert known.code == 0, known.err
    assert orlop_busy.run("pull", reference, env={"DOCKER_CONFIG": "/nonexistent"}).code == 1


def test_a_password_is_asked_for(orlop_busy: Orlop, closed_registry: str) -> None:
    with orlop_busy.terminal("push", "--user", USER, f"{closed_registry}/team/asked:1", BUSY) as terminal:
        terminal.expect(f"password of {USER}: ")
        terminal.type(f"{PASSWORD}\n")
        assert terminal.wait() == 0
        assert PASSWORD not in terminal.shown
