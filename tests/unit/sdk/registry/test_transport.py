# SPDX-License-Identifier: Apache-2.0
"""The resolver against servers that behave as registries in the wild do, well and badly."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orlop.errors import AlreadyExists, DataLoss, NotFound, OrlopError, Unavailable, Unimplemented
from orlop.values import Descriptor
from orlop_sdk.registry import Credential, PlainHosts, RegistryHost, RegistryResolver, fixed
from orlop_sdk.registry.parts import Parts
from orlop_sdk.registry.resolver import MANIFEST_TYPES

OCI = MANIFEST_TYPES[2]
BODY = b'{"schemaVersion":2}'
DIGEST = "sha256:" + hashlib.sha256(BODY).hexdigest()
BLOB = bytes(range(256)) * 1000
LAYER = Descriptor("application/octet-stream", "sha256:" + hashlib.sha256(BLOB).hexdigest(), len(BLOB))


class Server:
    """An HTTP server whose answers a test writes. ``seen`` has each request's method, path and headers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda request: request.send_error(500)
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                owner.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                owner.answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = handle_any

            def log_message(self, *_: object) -> None:
                """Quietly."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def send(request: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
async def resolver() -> AsyncIterator[RegistryResolver]:
    async with RegistryResolver(hosts=PlainHosts(plain_http=True)) as made:
        yield made


async def fetch(resolver: RegistryResolver, server: Server, descriptor: Descriptor = LAYER, offset: int = 0) -> bytes:
    fetcher = await resolver.fetcher(f"{server.host}/a:1")
    return b"".join([chunk async for chunk in fetcher.fetch(descriptor, offset=offset)])


async def test_head_is_enough(server: Server, resolver: RegistryResolver) -> None:
    server.answer = lambda request: send(request, 200, BODY, Content_Type=OCI, Docker_Content_Digest=DIGEST)
    found = await resolver.resolve(f"{server.host}/a:1")
    assert found.descriptor == Descriptor(OCI, DIGEST, len(BODY))
    ((method, path, headers),) = server.seen
    assert (method, path) == ("HEAD", "/v2/a/manifests/1")
    assert OCI in headers["accept"]
    assert headers["user-agent"].startswith("orlop/")


@pytest.mark.parametrize("status", [405, 403])
async def test_head_that_is_not_wanted(server: Server, resolver: RegistryResolver, status: int) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        send(request, status if request.command == "HEAD" else 200, BODY, Content_Type=OCI)

    server.answer = answer
    found = await resolver.resolve(f"{server.host}/a:1")
    assert found.descriptor == Descriptor(OCI, DIGEST, len(BODY))


async def test_media_type_out_of_the_document(server: Server, resolver: RegistryResolver) -> None:
    body = b'{"schemaVersion":2,"mediaType":"%s"}' % OCI.encode()
    server.answer = lambda request: send(request, 200, body, Content_Type="application/json")
    assert (await resolver.resolve(f"{server.host}/a:1")).descriptor.media_type == OCI


async def test_a_lying_digest(server: Server, resolver: RegistryResolver) -> None:
    server.answer = lambda request: send(request, 200, b"{}")
    with pytest.raises(DataLoss):
        await resolver.resolve(f"{server.host}/a@{DIGEST}")


async def test_digest_of_a_blob(server: Server, resolver: RegistryResolver) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        send(request, 404 if "manifests" in request.path else 200, BODY, Content_Type="application/x")

    server.answer = answer
    assert (await resolver.resolve(f"{server.host}/a@{DIGEST}")).descriptor.digest == DIGEST


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.docker.distribution.manifest.v1+json",
        "text/html; charset=utf-8",
    ],
)
async def test_schema1_is_refused(server: Server, resolver: RegistryResolver, media_type: str) -> None:
    server.answer = lambda request: send(request, 200, BODY, Content_Type=media_type, Docker_Content_Digest=DIGEST)
    with pytest.raises(Unimplemented, match="schema 1"):
        await resolver.resolve(f"{server.host}/a:1")


async def test_huge_manifests_are_refused(server: Server, resolver: RegistryResolver) -> None:
    server.answer = lambda request: send(request, 405 if request.command == "HEAD" else 200, bytes(5 << 20))
    with pytest.raises(OrlopError, match="longer"):
        await resolver.resolve(f"{server.host}/a:1")


async def test_what_the_registry_says_is_told(server: Server, resolver: RegistryResolver) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"no trade with you"}]}'
    server.answer = lambda request: send(request, 403, body)
    with pytest.raises(OrlopError, match="no trade with you"):
        await resolver.resolve(f"{server.host}/a:1")


@pytest.mark.parametrize(("status", "tries"), [(503, 2), (429, 5), (408, 5), (404, 1)])
async def test_retries(server: Server, resolver: RegistryResolver, status: int, tries: int) -> None:
    server.answer = lambda request: send(request, status, Retry_After="0")
    with pytest.raises((Unavailable, NotFound)):
        await resolver.resolve(f"{server.host}/a:1")
    assert len(server.seen) == tries


async def test_trouble_that_passes(server: Server, resolver: RegistryResolver) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        status = 503 if len(server.seen) == 1 else 200
        send(request, status, BODY, Content_Type=OCI, Docker_Content_Digest=DIGEST)

    server.answer = answer
    assert (await resolver.resolve(f"{server.host}/a:1")).descriptor.digest == DIGEST


async def test_mirrors_are_asked_for_the_registry(server: Server, other: Server) -> None:
    async def hosts(registry: str) -> list[RegistryHost]:
        return [RegistryHost(registry, f"http://{each.host}/v2") for each in (server, other)]

    server.answer = lambda request: send(request, 404)
    other.answer = lambda request: send(request, 200, BODY, Content_Type=OCI, Docker_Content_Digest=DIGEST)
    async with RegistryResolver(hosts=hosts) as resolver:
        await resolver.resolve("real.example/a:1")
    assert [path for _, path, _ in (*server.seen, *other.seen)] == ["/v2/a/manifests/1?ns=real.example"] * 2


def broken_off(request: BaseHTTPRequestHandler, *, ranges: bool) -> None:
    """Send 100,000 bytes of the blob and hang up, from where the range says if ranges are known."""
    start = int(request.headers.get("Range", "bytes=0-")[6:-1]) if ranges else 0
    rest = BLOB[start:]
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}")
    request.send_header("Content-Length", str(len(rest)))
    request.end_headers()
    request.wfile.write(rest[:100_000])
    request.close_connection = True


async def test_a_broken_connection_goes_on_where_it_was(server: Server, resolver: RegistryResolver) -> None:
    server.answer = lambda request: broken_off(request, ranges=True)
    assert await fetch(resolver, server) == BLOB
    assert [headers.get("range") for _, _, headers in server.seen] == [None, "bytes=100000-", "bytes=200000-"]


async def test_no_progress_ends(server: Server, resolver: RegistryResolver) -> None:
    server.answer = lambda request: broken_off(request, ranges=False)
    with pytest.raises(Unavailable):
        await fetch(resolver, server)
    assert len(server.seen) <= 6


async def test_a_range_that_is_ignored(server: Server, resolver: RegistryResolver) -> None:
    server.answer = lambda request: send(request, 200, BLOB)
    assert await fetch(resolver, server, offset=1000) == BLOB[1000:]


async def test_too_many_bytes(server: Server, resolver: RegistryResolver) -> None:
    server.answer = lambda request: send(request, 200, BLOB + b"more")
    with pytest.raises(DataLoss):
        await fetch(resolver, server)


async def test_secrets_stay_with_their_host(server: Server, other: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The registry sends us elsewhere for the blob: neither password nor headers go there, nor into any log."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        if "authorization" not in {name.lower() for name in request.headers}:
            send(request, 401, WWW_Authenticate='Basic realm="x"')
        else:
            send(request, 307, Location=f"http://{other.host}/blob?signature=sigsecret")

    server.answer = answer
    other.answer = lambda request: send(request, 200, BLOB)
    headers = {"X-Api-Key": "keysecret"}

    async def hosts(registry: str) -> list[RegistryHost]:
        return [RegistryHost(registry, f"http://{server.host}/v2", headers=headers)]

    caplog.set_level(logging.DEBUG)
    async with RegistryResolver(hosts=hosts, credentials=fixed(Credential("me", "passsecret"))) as resolver:
        assert await fetch(resolver, server) == BLOB
    assert server.seen[1][2]["x-api-key"] == "keysecret"
    assert server.seen[1][2]["authorization"].startswith("Basic ")
    assert {"authorization", "x-api-key"} & other.seen[0][2].keys() == set()
    httpx_lines = [record.getMessage() for record in caplog.records if record.name == "httpx"]
    assert httpx_lines
    assert "secret" not in "".join(httpx_lines)


async def test_redirects_end(server: Server, resolver: RegistryResolver) -> None:
    server.answer = lambda request: send(request, 302, Location="/v2/again")
    with pytest.raises(Unavailable, match="redirects"):
        await fetch(resolver, server)


async def test_redirect_to_something_else(server: Server, resolver: RegistryResolver) -> None:
    server.answer = lambda request: send(request, 302, Location="file:///etc/passwd")
    with pytest.raises(Unavailable, match="refused"):
        await fetch(resolver, server)


async def test_no_password_over_plain_http_to_strangers(server: Server, resolver: RegistryResolver) -> None:
    """A token service that is not encrypted gets no password of a registry that is."""
    from orlop_sdk.registry.auth import Authorizer, parse_challenges

    host = RegistryHost("real.example", "https://real.example/v2")

    async def never(request: object) -> object:
        raise AssertionError("sent")

    authorizer = Authorizer(host, fixed(Credential("me", "secret")), never)  # type: ignore[arg-type]  # never called
    authorizer._challenge = parse_challenges(['Bearer realm="http://tokens.example/t"'])[0]
    with pytest.raises(OrlopError, match="not encrypted"):
        await authorizer.headers(frozenset())


async def test_push_of_what_is_there(server: Server, resolver: RegistryResolver) -> None:
    server.answer = lambda request: send(request, 200, Docker_Content_Digest=LAYER.digest)
    pusher = await resolver.pusher(f"{server.host}/a:1")
    with pytest.raises(AlreadyExists):
        await pusher.push(LAYER, pieces)


async def pieces() -> AsyncIterator[bytes]:
    for start in range(0, len(BLOB), 50_000):
        yield BLOB[start : start + 50_000]


async def test_upload_to_another_host_goes_without_password(server: Server, other: Server) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        if "authorization" not in {name.lower() for name in request.headers}:
            send(request, 401, WWW_Authenticate='Basic realm="x"')
        elif request.command == "HEAD":
            send(request, 404)
        else:
            send(request, 202, Location=f"http://{other.host}/up?state=1")

    server.answer = answer
    other.answer = lambda request: send(request, 201, Docker_Content_Digest=LAYER.digest)
    async with RegistryResolver(
        hosts=PlainHosts(plain_http=True), credentials=fixed(Credential("me", "secret"))
    ) as resolver:
        pusher = await resolver.pusher(f"{server.host}/a:1")
        await pusher.push(LAYER, pieces)
    ((method, path, headers),) = other.seen
    assert method == "PUT"
    assert path == f"/up?state=1&digest={LAYER.digest.replace(':', '%3A')}"
    assert "authorization" not in headers
    assert headers["content-length"] == str(len(BLOB))


async def test_unreachable(resolver: RegistryResolver) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        await resolver.resolve("127.0.0.1:1/a:1")


# ---- blobs in parts --------------------------------------------------------------------------------------------------

PART = 50_000


@pytest.fixture
async def divided() -> AsyncIterator[RegistryResolver]:
    """Three parts at a time."""
    async with RegistryResolver(hosts=PlainHosts(plain_http=True), parts=Parts(PART, 3)) as made:
        yield made


def section(request: BaseHTTPRequestHandler) -> tuple[int, int]:
    """From where to where a request wants the blob."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "bytes=0-"))
    assert match is not None
    return int(match[1]), int(match[2] or len(BLOB) - 1) + 1


def send_section(request: BaseHTTPRequestHandler, start: int, end: int) -> None:
    send(request, 206, BLOB[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(BLOB)}")


def ranges(server: Server) -> list[str]:
    return sorted(headers.get("range", "") for _, _, headers in server.seen)


async def test_parts_come_side_by_side_and_in_order(server: Server, divided: RegistryResolver) -> None:
    # After the first, each waits until as many as may be are under way.
    together = threading.Barrier(3)
    blob = BLOB + BLOB[:94_000]  # 350,000 bytes, seven parts

    def answer(request: BaseHTTPRequestHandler) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"])
        assert match is not None
        start, end = int(match[1]), int(match[2]) + 1
        if start:
            together.wait(30)
        send(request, 206, blob[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(blob)}")

    server.answer = answer
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    assert await fetch(divided, server, Descriptor("application/octet-stream", digest, len(blob))) == blob
    assert ranges(server) == sorted(f"bytes={at}-{at + PART - 1}" for at in range(0, len(blob), PART))


async def test_the_rest_of_a_blob_comes_in_parts_too(server: Server, divided: RegistryResolver) -> None:
    server.answer = lambda request: send_section(request, *section(request))
    assert await fetch(divided, server, offset=150_000) == BLOB[150_000:]
    assert ranges(server) == ["bytes=150000-199999", "bytes=200000-249999", "bytes=250000-255999"]


async def test_what_is_small_comes_whole(server: Server, divided: RegistryResolver) -> None:
    server.answer = lambda request: send(request, 200, BLOB[:PART])
    small = Descriptor("application/octet-stream", "sha256:" + hashlib.sha256(BLOB[:PART]).hexdigest(), PART)
    assert await fetch(divided, server, small) == BLOB[:PART]
    assert ranges(server) == [""]


async def test_a_server_without_ranges_sends_one_stream(server: Server, divided: RegistryResolver) -> None:
    server.answer = lambda request: send(request, 200, BLOB)
    assert await fetch(divided, server) == BLOB
    assert ranges(server) == ["", f"bytes=0-{PART - 1}"]


async def test_a_server_that_forgets_ranges_midway(server: Server, divided: RegistryResolver) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        start, end = section(request)
        if start == 2 * PART:
            send(request, 200, BLOB)
        else:
            send_section(request, start, end)

    server.answer = answer
    # The last stream begins behind the parts that came.
    assert await fetch(divided, server) == BLOB
    assert f"bytes={2 * PART}-" in ranges(server)


async def test_a_part_that_breaks_off_goes_on(server: Server, divided: RegistryResolver) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        start, end = section(request)
        if start == PART:
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(BLOB)}")
            request.send_header("Content-Length", str(end - start))
            request.end_headers()
            request.wfile.write(BLOB[start : start + 1000])
            request.close_connection = True
        else:
            send_section(request, start, end)

    server.answer = answer
    assert await fetch(divided, server) == BLOB
    assert f"bytes={PART + 1000}-{2 * PART - 1}" in ranges(server)


async def test_a_part_that_is_not_there_fails_and_ends_the_others(server: Server, divided: RegistryResolver) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        start, end = section(request)
        if start == 3 * PART:
            send(request, 404)
        else:
            send_section(request, start, end)

    server.answer = answer
    with pytest.raises(NotFound):
        await fetch(divided, server)


async def test_a_part_that_is_longer_than_asked_for(server: Server, divided: RegistryResolver) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        start, end = section(request)
        send_section(request, start, min(end + 1, len(BLOB)))

    server.answer = answer
    with pytest.raises(DataLoss, match="sent more"):
        await fetch(divided, server)
