# SPDX-License-Identifier: Apache-2.0
"""Installs a composed build from the wheels beside this file. Needs no network.

Usage: install [DIRECTORY]. It makes a virtual environment there, or in /opt under the build's name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path


def main() -> int:
    """Install, and say where; the exit status is 1 when this Python is the wrong one or pip refuses."""
    here = Path(__file__).resolve().parent
    about = json.loads((here / "build.json").read_text())
    words = sys.argv[1:]
    if len(words) > 1 or any(word.startswith("-") for word in words):
        sys.stderr.write(f"{__doc__}")
        return 2
    if ".".join(map(str, sys.version_info[:2])) != about["python"]:
        sys.stderr.write(f"install: made for Python {about['python']}, this is {sys.version.split()[0]}\n")
        return 1
    prefix = Path(words[0] if words else f"/opt/{about['name']}").absolute()
    venv.create(prefix, with_pip=True, symlinks=True)
    pip = [str(prefix / "bin" / "python"), "-m", "pip", "--isolated", "install", "--quiet", "--no-deps"]
    offline = ["--disable-pip-version-check", "--no-index", "--find-links", str(here / "wheels"), "--require-hashes"]
    done = subprocess.run([*pip, *offline, "--requirement", str(here / "requirements.txt")], check=False)
    if done.returncode == 0:
        sys.stdout.write(f"{prefix}/bin/orlopd\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
