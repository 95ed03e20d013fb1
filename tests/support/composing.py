# SPDX-License-Identifier: Apache-2.0
"""Builds for tests, each composed once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ORLOP = str(Path(sys.executable).parent / "orlop")
LIMIT = 300.0
"""Seconds that composing may take on a busy machine."""


def checkout(folder: Path) -> None:
    """A copy of this repository's files, which stays as it is whoever works on them meanwhile."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def compose(file: Path, output: Path, *options: str) -> list[Path]:
    """``orlop compose``; returns the artefacts."""
    done = subprocess.run(
        [ORLOP, "compose", str(file), "--output", str(output), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
        env=os.environ | {"PYTHONWARNINGS": ""},
    )
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.splitlines()]


class Build:
    """What came out of a build file, and where its executable unpacks itself in this test run."""

    def __init__(self, file: Path, output: Path, unpacked: Path) -> None:
        self.file = file
        began = time.monotonic()
        self.artefacts = compose(file, output)
        self.seconds = time.monotonic() - began
        self.executable = self.artefacts[0]
        self.env: Mapping[str, str] = {"PEX_ROOT": str(unpacked)}
        self.unpacked = unpacked

    def run(self, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run one of its commands to the end, or the daemon with these arguments."""
        # No path of this interpreter's: the artefact needs a Python, and nothing that is installed for it.
        return subprocess.run(
            [str(self.executable), *args],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=120,
            env=os.environ | self.env,
        )
