# SPDX-License-Identifier: Apache-2.0
"""Debian's ``dockerd`` on a daemon of ours, with everything below one directory, and its own ``docker``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
from tests.conftest import mount_points
from tests.support.ctr import Result, on_terminal, text
from tests.support.image import CONFIG, Image, digest, entry, tar

DOCKER = "/usr/bin/docker"
DOCKERD = "/usr/sbin/dockerd"
READY = 60.0
"""Seconds within which dockerd has to answer."""
STOP = 40.0
"""Seconds within which dockerd has to end after SIGTERM."""
TIMEOUT = 60.0
"""Seconds that one call may take."""


class Dockerd:
    """One dockerd in *base*, on the containerd socket *containerd*.

    It makes no network and no firewall rules, and has control groups and a containerd namespace of its own.
    """

    def __init__(self, base: Path, containerd: Path, *flags: str) -> None:
        self.base = base
        self.namespace = f"docker-{uuid.uuid4().hex[:10]}"
        self.socket = base / "d.sock"
        self.exec_root = base / "exec"
        self.log = base / "dockerd.log"
        self.process: subprocess.Popen[bytes] | None = None
        (base / "config").mkdir(parents=True)
        self.flags = [
            *("--containerd", str(containerd), "--containerd-namespace", self.namespace),
            *("--containerd-plugins-namespace", f"plugins-{self.namespace}"),
            *("--bridge", "none", "--iptables=false", "--ip6tables=false"),
            *("--data-root", str(base / "data"), "--exec-root", str(self.exec_root)),
            *("--pidfile", str(base / "d.pid"), "--host", f"unix://{self.socket}", "--group", "root"),
            *("--config-file", str(base / "config" / "daemon.json"), "--cgroup-parent", f"/{self.namespace}"),
            *flags,
        ]
        # Its key would be written to /etc otherwise; there is no flag for that.
        (base / "config" / "daemon.json").write_text(
            json.dumps({"deprecated-key-path": str(base / "config" / "key.json")})
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start, and return once it answers."""
        assert not self.running
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [DOCKERD, *self.flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(self.base),
                start_new_session=True,
            )
        deadline = time.monotonic() + READY
        while not (self.socket.exists() and self.run("version").code == 0):
            assert self.running, f"dockerd ended at start:\n{self.tail()}"
            assert time.monotonic() < deadline, f"dockerd is not ready after {READY:g} s:\n{self.tail()}"
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it as an operator does."""
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"dockerd did not stop within {STOP:g} s:\n{self.tail()}") from None

    def kill(self) -> None:
        """End it without any warning."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Remove all containers, stop, and clear what is left on the host."""
        try:
            if self.running:
                if ids := self.ok("ps", "--all", "--quiet").split():
                    self.run("rm", "--force", *ids, timeout=120)
                self.stop()
        finally:
            if self.running:
                self.kill()
            self.purge()

    def purge(self) -> None:
        """Remove by force what containers left behind."""
        for path in sorted(self.cgroups(), key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):
                for pid in (path / "cgroup.procs").read_text().split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            deadline = time.monotonic() + 5
            while path.exists() and time.monotonic() < deadline:
                with suppress(OSError):
                    path.rmdir()
                    break
                time.sleep(0.05)
        # dockerd leaves mounts of its own, more of them when it was killed.
        for point in mount_points(self.base):
            subprocess.run(["umount", "--lazy", point], check=True, timeout=30)

    def cgroups(self) -> list[Path]:
        """The control groups of its containers, that of all of them included."""
        top = Path("/sys/fs/cgroup")
        found = []
        for parent in (*top.glob(self.namespace), *top.glob(f"*/{self.namespace}")):
            # Which passes over what is removed meanwhile.
            found += [Path(place) for place, _, _ in os.walk(parent)]
        return found

    def command(self, *args: str) -> list[str]:
        """The argument list of a call."""
        return [DOCKER, "--host", f"unix://{self.socket}", *args]

    def run(self, *args: str, stdin: bytes | None = None, timeout: float = TIMEOUT) -> Result:
        """Make a call, whatever comes of it. Without *stdin* it reads from /dev/null."""
        done = subprocess.run(
            self.command(*args),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=_environment(self.base),
            timeout=timeout,
            check=False,
        )
        return Result(args, done.returncode, text(done.stdout), text(done.stderr), done.stdout)

    def ok(self, *args: str, stdin: bytes | None = None, timeout: float = TIMEOUT) -> str:
        """Make a call that has to succeed, and give its standard output."""
        result = self.run(*args, stdin=stdin, timeout=timeout)
        assert result.code == 0, f"docker {result}\n{self.tail()}"
        return result.out

    def on_terminal(self, *args: str, keys: bytes = b"", timeout: float = TIMEOUT) -> tuple[int, str]:
        """Make a call on a terminal. See `tests.support.ctr.on_terminal`."""
        return on_terminal(self.command(*args), _environment(self.base), keys=keys, timeout=timeout)

    def get(self, path: str) -> Any:
        """What dockerd's own interface answers at a path, as JSON."""
        transport = httpx.HTTPTransport(uds=str(self.socket))
        with httpx.Client(transport=transport, base_url="http://docker/v1.41", timeout=TIMEOUT) as client:
            return client.get(path).raise_for_status().json()

    def inspect(self, name: str, format: str) -> str:
        """A field of a container."""
        return self.ok("inspect", "--format", format, name).strip()

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _environment(base: Path) -> dict[str, str]:
    names = ("DOCKER_", "CONTAINERD_", "BUILDKIT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return kept | {"DOCKER_CONFIG": str(base / "config"), "DOCKER_BUILDKIT": "0"}


def write_docker_archive(path: Path, images: Mapping[str, Image]) -> Path:
    """Write an archive for ``docker load``, which knows no OCI layouts yet."""
    files: dict[str, bytes] = {}
    manifest = []
    for name, image in images.items():
        config = next(blob for kind, blob in image.blobs() if kind == CONFIG)
        layers = {f"{digest(layer).removeprefix('sha256:')}/layer.tar": layer for layer in image.layers}
        config_name = f"{digest(config).removeprefix('sha256:')}.json"
        files |= {config_name: config, **layers}
        manifest.append({"Config": config_name, "RepoTags": [name], "Layers": list(layers)})
    files["manifest.json"] = json.dumps(manifest).encode()
    path.write_bytes(tar(entry(name, data) for name, data in sorted(files.items())))
    return path
