# SPDX-License-Identifier: Apache-2.0
"""Private docker-registries with the three kinds of authentication, and a token server that signs for real."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER = "sailor"
PASSWORD = "open sesame"
REFRESH = "refresh-me"
#: bcrypt of the password, as ``htpasswd -B`` writes it.
HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"
READY = 20.0
SERVICE = "registry.test"
ISSUER = "issuer.test"
CONFIG = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: "{base}/data"}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:0"{tls}}}
{auth}
"""


@contextmanager
def docker_registry(base: Path, auth: str = "", tls: str = "") -> Iterator[str]:
    """Run one and give its host."""
    base.mkdir(exist_ok=True)
    config = base / "config.yml"
    config.write_text(CONFIG.format(base=base, auth=auth, tls=tls))
    log = base / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + READY
        while not (match := re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text(errors="replace"))):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield match[1]
    finally:
        process.terminate()
        process.wait(READY)


@contextmanager
def basic_registry(base: Path) -> Iterator[str]:
    """One that wants `USER` and `PASSWORD` by basic authentication."""
    base.mkdir()
    passwords = base / "htpasswd"
    passwords.write_text(HTPASSWD)
    with docker_registry(base, f'auth: {{htpasswd: {{realm: test, path: "{passwords}"}}}}') as host:
        yield host


@contextmanager
def tls_registry(base: Path) -> Iterator[tuple[str, Path]]:
    """One that speaks TLS with a certificate of its own, given with the host."""
    base.mkdir()
    key, certificate = make_certificate(base)
    with docker_registry(base, tls=f', tls: {{certificate: "{certificate}", key: "{key}"}}') as host:
        yield host, certificate


@contextmanager
def bearer_registry(base: Path) -> Iterator[tuple[str, TokenServer]]:
    """One that wants tokens, and the server that gives them."""
    base.mkdir()
    key, certificate = make_certificate(base)
    with TokenServer(key, certificate) as tokens:
        auth = (
            f'auth: {{token: {{realm: "{tokens.realm}", service: {SERVICE}, issuer: {ISSUER}, '
            f'rootcertbundle: "{certificate}"}}}}'
        )
        with docker_registry(base, auth) as host:
            yield host, tokens


def make_certificate(base: Path) -> tuple[Path, Path]:
    """A key and a certificate for the loopback address."""
    key, certificate = base / "key.pem", base / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return key, certificate


class TokenServer:
    """Gives tokens for reading to anybody, for writing to `USER`. ``grants`` lists what was asked, and how."""

    def __init__(self, key: Path, certificate: Path) -> None:
        self._key = key
        self._chain = [
            line for line in re.sub(r"-----[A-Z ]+-----", "", certificate.read_text()).replace("\n", "").split() if line
        ]
        self.grants: list[tuple[str, str]] = []
        self.old_form = False
        """Whether it knows GET only, as the older token services."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                header = self.headers.get("Authorization", "")
                user = base64.b64decode(header.removeprefix("Basic ")).decode() if header else ""
                owner.answer(self, "get", user == f"{USER}:{PASSWORD}", bool(user), query.get("scope", []))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {key: value[0] for key, value in parse_qs(body).items()}
                if owner.old_form:
                    self.send_error(404)
                    return
                known = (form.get("username"), form.get("password")) == (USER, PASSWORD)
                known |= form.get("refresh_token") == REFRESH
                owner.answer(self, form["grant_type"], known, True, form["scope"].split(" "))

            def log_message(self, *_: object) -> None:
                """Quietly."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.realm = f"http://127.0.0.1:{self._server.server_port}/token"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> TokenServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, kind: str, known: bool, claimed: bool, scopes: list[str]) -> None:
        self.grants.append((kind, " ".join(scopes)))
        if claimed and not known:
            request.send_error(401)
            return
        access = []
        for scope in scopes:
            type, name, actions = scope.split(":")
            allowed = [each for each in actions.split(",") if known or each == "pull"]
            access.append({"type": type, "name": name, "actions": allowed})
        body = json.dumps({"token": self._token(access), "expires_in": 300}).encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _token(self, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": SERVICE, "sub": "", "exp": now + 600, "nbf": now - 60, "iat": now, "jti": "1"}
        head = {"typ": "JWT", "alg": "RS256", "x5c": self._chain}
        text = ".".join(_encode(json.dumps(part).encode()) for part in (head, claims | {"access": access}))
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self._key)],
            input=text.encode(),
            check=True,
            capture_output=True,
            timeout=20,
        )
        return f"{text}.{_encode(signed.stdout)}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
