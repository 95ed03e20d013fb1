# SPDX-License-Identifier: Apache-2.0
"""The forms that a build takes: one executable file, or a wheelhouse with an installer in a tar archive."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from orlop.errors import FailedPrecondition
from orlop_compose.resolve import cache
from orlop_compose.specification import Specification
from orlop_compose.wheels import EPOCH, Target, Wheel


def executable(path: Path, specification: Specification, target: Target, wheels: Mapping[str, Wheel]) -> None:
    """Write one file that needs nothing but a Python: a PEX, which makes a virtual environment when it first starts.

    A real environment, because the daemon starts programs that lie beside its interpreter, and libraries want to be
    found by name.
    """
    own = target.python == ".".join(platform.python_version_tuple()[:2]) and target.platform.endswith(
        platform.machine()
    )
    foreign = json.dumps({"marker_environment": target.environment, "compatible_tags": target.tags()}, sort_keys=True)
    pex = [
        *(sys.executable, "-m", "pex", "--no-pypi", "--no-transitive", "--no-compile", "--pex-root", str(cache("pex"))),
        *("--output-file", str(path), "--entry-point", "orlop_build.launch:main", "--venv", "--sh-boot"),
        *("--python-shebang", f"/usr/bin/env python{target.python}", "--runtime-pex-root", specification.unpack),
        *(("--interpreter-constraint", f"CPython=={target.python}.*") if own else ("--complete-platform", foreign)),
        *(word for name in specification.without for word in ("--exclude", name)),
        *(word for wheel in wheels.values() for word in ("--pre-resolved-dist", str(wheel.path))),
        f"{specification.name}=={specification.version}",
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PEX_")}
    environment["SOURCE_DATE_EPOCH"] = str(EPOCH)
    done = subprocess.run(pex, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise FailedPrecondition(f"pex cannot pack the build: {done.stderr.strip()}")


def wheelhouse(path: Path, specification: Specification, target: Target, wheels: Mapping[str, Wheel]) -> None:
    """Write a tar archive of all wheels, their digests, and a program that installs them."""
    top = path.name.removesuffix(".tar")
    lines = [f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.digest}\n" for wheel in wheels.values()]
    about = {"name": specification.name, "version": specification.version, "python": target.python}
    installer = files("orlop_compose").joinpath("install.py").read_text()
    entries = {
        "build.json": (json.dumps(about, indent=2) + "\n").encode(),
        "install": f"#!/usr/bin/env python{target.python}\n{installer}".encode(),
        "requirements.txt": "".join(lines).encode(),
        **{f"wheels/{wheel.path.name}": wheel.path.read_bytes() for wheel in wheels.values()},
    }
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in sorted(entries.items()):
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size, info.mtime, info.mode = len(data), EPOCH, 0o755 if name == "install" else 0o644
            archive.addfile(info, io.BytesIO(data))
