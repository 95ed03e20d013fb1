# SPDX-License-Identifier: Apache-2.0
"""A private docker-registry on a port of its own."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Self

READY = 20.0
CONFIG = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: "{base}/data"}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:0"}}
"""


class Registry:
    """Serves plain HTTP on a random port of the loopback interface, from a new directory *base*."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.log = base / "log"
        self.host = ""
        """Address and port, once started."""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.base.mkdir()
        config = self.base / "config.yml"
        config.write_text(CONFIG.format(base=self.base))
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY
        while not (match := re.search(r"listening on (127\.0\.0\.1:\d+)", self.log.read_text(errors="replace"))):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.host = match[1]
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(READY)

    def push(self, layout: Path, name: str, tag: str = "latest") -> str:
        """Copy an image of an OCI layout, known there by *tag*, and give the reference it now has."""
        reference = f"{self.host}/{name}:{tag}"
        copied = subprocess.run(
            [
                "skopeo",
                "--insecure-policy",
                "copy",
                "--all",
                "--preserve-digests",
                "--dest-tls-verify=false",
                f"oci:{layout}:{tag}",
                f"docker://{reference}",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert copied.returncode == 0, copied.stderr
        return reference
