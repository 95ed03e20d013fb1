# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from orlop.errors import Unauthenticated, Unavailable
from orlop_sdk.registry import Credential, docker_config, fixed
from orlop_sdk.registry.auth import Challenge, merge_scopes, parse_challenges

AUTH = base64.b64encode(b"me:pass:word").decode()


def config(tmp_path: Path, value: object) -> Path:
    path = tmp_path / "config.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("registry.example", "registry.example"),
        ("https://registry.example/v1/", "registry.example"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("https://index.docker.io/v1/", "registry-1.docker.io"),
        ("docker.io", "registry-1.docker.io"),
        ("registry.example:5000", "registry.example:5000"),
    ],
)
async def test_auths(tmp_path: Path, key: str, host: str) -> None:
    find = docker_config(config(tmp_path, {"auths": {key: {"auth": AUTH}}}))
    assert await find(host) == Credential("me", "pass:word")
    assert await find("other.example") is None


async def test_identity_token(tmp_path: Path) -> None:
    find = docker_config(config(tmp_path, {"auths": {"a.example": {"auth": AUTH, "identitytoken": "t"}}}))
    found = await find("a.example")
    assert found is not None
    assert found.is_token
    assert found.secret == "t"


async def test_no_file(tmp_path: Path) -> None:
    assert await docker_config(tmp_path / "none.json")("a.example") is None


@pytest.mark.parametrize("text", ["[]", "{", '{"auths": {"a.example": {"auth": "!"}}}'])
async def test_broken_files(tmp_path: Path, text: str) -> None:
    with pytest.raises(Unauthenticated):
        await docker_config(config(tmp_path, text))("a.example")


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "docker-credential-box"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


async def test_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, monkeypatch, 'read host; echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"$host\\"}"')
    find = docker_config(config(tmp_path, {"credHelpers": {"a.example": "box"}}))
    assert await find("a.example") == Credential("", "a.example")
    assert await find("b.example") is None


async def test_helper_that_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, monkeypatch, "echo credentials not found in native keychain; exit 1")
    find = docker_config(config(tmp_path, {"credsStore": "box", "auths": {"a.example": {"auth": AUTH}}}))
    assert await find("a.example") == Credential("me", "pass:word")


@pytest.mark.parametrize("script", ["exit 2", "echo secret nonsense", 'echo "{}"'])
async def test_broken_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    helper(tmp_path, monkeypatch, script)
    with pytest.raises(Unavailable, match="docker-credential-box") as raised:
        await docker_config(config(tmp_path, {"credsStore": "box"}))("a.example")
    assert "secret" not in str(raised.value)


async def test_missing_helper(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="docker-credential-nowhere"):
        await docker_config(config(tmp_path, {"credsStore": "nowhere"}))("a.example")


async def test_fixed() -> None:
    credential = Credential("me", "secret")
    assert await fixed(credential)("any.example") is credential
    assert await fixed(credential, "a.example")("b.example") is None
    assert "secret" not in repr(credential)


@pytest.mark.parametrize(
    ("values", "challenges"),
    [
        (['Basic realm="x"'], [Challenge("basic", {"realm": "x"})]),
        (
            ['Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"'],
            [Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"})],
        ),
        (
            ['Negotiate, Basic realm="a \\"b\\"", Bearer realm=c , error="invalid_token"'],
            [
                Challenge("negotiate"),
                Challenge("basic", {"realm": 'a "b"'}),
                Challenge("bearer", {"realm": "c", "error": "invalid_token"}),
            ],
        ),
        (["Basic", "Bearer realm=x"], [Challenge("basic"), Challenge("bearer", {"realm": "x"})]),
        ([""], []),
        (["===,,,"], []),
    ],
)
def test_challenges(values: list[str], challenges: list[Challenge]) -> None:
    assert parse_challenges(values) == challenges


def test_scopes_are_merged() -> None:
    merged = merge_scopes(["repository:a:pull", "repository:a:push,pull", "repository:b:pull"])
    assert merged == {"repository:a:pull,push", "repository:b:pull"}
