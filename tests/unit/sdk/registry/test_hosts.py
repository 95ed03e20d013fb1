# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from orlop.errors import ConfigError
from orlop_sdk.registry import Capability, DirectoryHosts, PlainHosts
from orlop_sdk.registry.hosts import ALL, parse_hosts


def parse(tmp_path: Path, text: str, registry: str = "example.com"):  # type: ignore[no-untyped-def]
    file = tmp_path / "hosts.toml"
    file.write_text(text)
    return parse_hosts(registry, file)


def test_everything(tmp_path: Path) -> None:
    hosts = parse(
        tmp_path,
        """
server = "https://upstream.example"
[host."https://mirror.example"]
capabilities = ["pull", "resolve"]
ca = ["ca.pem", "/abs/ca.pem"]
client = [["a.cert", "a.key"], ["b.pem"]]
skip_verify = true
dial_timeout = "1m30s"
[host."https://mirror.example".header]
x-one = "1"
x-two = ["2", "3"]
[host."http://second.example:8080/custom/path"]
override_path = true
""",
    )
    mirror, second, upstream = hosts
    assert mirror.base == "https://mirror.example/v2"
    assert mirror.capabilities == Capability.PULL | Capability.RESOLVE
    assert mirror.tls.ca == (tmp_path / "ca.pem", Path("/abs/ca.pem"))
    assert mirror.tls.client == ((tmp_path / "a.cert", tmp_path / "a.key"), (tmp_path / "b.pem", None))
    assert mirror.tls.skip_verify
    assert mirror.dial_timeout == 90
    assert dict(mirror.headers) == {"x-one": ("1",), "x-two": ("2", "3")}
    assert (second.base, second.host) == ("http://second.example:8080/custom/path", "second.example:8080")
    assert (upstream.base, upstream.capabilities) == ("https://upstream.example/v2", ALL)
    assert all(host.registry == "example.com" for host in hosts)


def test_without_a_server_the_registry_is_it(tmp_path: Path) -> None:
    (host,) = parse(tmp_path, "", "docker.io")
    assert host.base == "https://registry-1.docker.io/v2"


def test_all_faults_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(
            tmp_path,
            """
server = "ftp://x"
[host."https://a"]
capabilities = ["fly"]
[host."https://b"]
dial_timeout = "soon"
[host."https://c"]
colour = "red"
[host."https://d"]
client = 7
""",
        )
    faults = "\n".join(raised.value.faults)
    assert len(raised.value.faults) == 5
    for word in ("fly", "soon", "colour", "client", "ftp://x"):
        assert word in faults


def test_broken_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hosts.toml"):
        parse(tmp_path, "server = ")


def test_headers_are_not_shown(tmp_path: Path) -> None:
    hosts = parse(tmp_path, '[host."https://a".header]\nauthorization = "secret"\n')
    assert "secret" not in repr(hosts)


async def test_directories(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for name in ("_default", "example.com:5000", "example.org_443_"):
        (second / name).mkdir(parents=True)
        (second / name / "hosts.toml").write_text(f'server = "https://{name.partition(":")[0].strip("_")}.invalid"\n')
    (first / "certs.example").mkdir(parents=True)
    for name in ("ca.crt", "me.cert", "me.key"):
        (first / "certs.example" / name).write_text("")
    hosts = DirectoryHosts([first, second])
    assert [host.base for host in await hosts("example.com:5000")] == ["https://example.com.invalid/v2"]
    assert [host.base for host in await hosts("example.org:443")] == ["https://example.org_443.invalid/v2"]
    assert [host.base for host in await hosts("other.example")] == ["https://default.invalid/v2"]
    (host,) = await hosts("certs.example")
    assert host.tls.ca == (first / "certs.example" / "ca.crt",)
    assert host.tls.client == ((first / "certs.example" / "me.cert", first / "certs.example" / "me.key"),)
    (first / "certs.example" / "me.key").unlink()
    with pytest.raises(ConfigError, match=r"me\.key"):
        await hosts("certs.example")


@pytest.mark.parametrize(
    ("registry", "base", "fallback"),
    [
        ("docker.io", "https://registry-1.docker.io/v2", False),
        ("localhost:5000", "https://localhost:5000/v2", True),
        ("127.0.0.1", "https://127.0.0.1/v2", True),
        ("[::1]:5000", "https://[::1]:5000/v2", True),
        ("localhost.example", "https://localhost.example/v2", False),
    ],
)
async def test_plain_hosts(registry: str, base: str, fallback: bool) -> None:
    (host,) = await PlainHosts()(registry)
    assert (host.base, host.fallback) == (base, fallback)
    (host,) = await PlainHosts(plain_http=True)(registry)
    assert host.base == base.replace("https", "http")
