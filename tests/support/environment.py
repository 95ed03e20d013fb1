# SPDX-License-Identifier: Apache-2.0
"""Virtual environments with a chosen set of Orlop's distributions, as an integrator would compose one.

Nothing is downloaded: a new environment links to what is installed in the one that the tests run in, distribution by
distribution, so that leaving one out leaves no trace of it there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Collection
from importlib.metadata import Distribution, distributions
from pathlib import Path

SITE = Path(sysconfig.get_path("purelib"))
SCRIPTS = Path(sysconfig.get_path("scripts"))


def members() -> dict[str, Distribution]:
    """Orlop's own distributions that are installed here, by name."""
    return {item.name: item for item in distributions(path=[str(SITE)]) if item.name.partition("-")[0] == "orlop"}


class Environment:
    """A new virtual environment at *path*, with all that is installed here but the distributions in *without*."""

    def __init__(self, path: Path, *, without: Collection[str] = ()) -> None:
        unknown = set(without) - members().keys()
        assert not unknown, f"not installed: {unknown}"
        venv.create(path, symlinks=True, with_pip=False)
        self.path = path
        self.python = path / "bin" / "python"
        self.site = path / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        own = set()
        for name, item in members().items():
            files = {str(file).split("/", 1)[0] for file in item.files or () if not str(file).startswith("..")}
            own |= files
            if name not in without:
                self._link(files)
                self._copy_scripts(item)
        self._link({entry.name for entry in SITE.iterdir()} - own)

    @property
    def orlopd(self) -> tuple[str, ...]:
        """The command that starts its daemon."""
        return (str(self.path / "bin" / "orlopd"),)

    def install(self, *folders: Path) -> None:
        """``pip install`` distributions that are on this machine, and nothing else."""
        pip_install(folders, "--python", str(self.python))

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run its Python interpreter."""
        return subprocess.run(
            [str(self.python), *args], capture_output=True, text=True, check=False, timeout=60, cwd=self.path
        )

    def _link(self, names: Collection[str]) -> None:
        for name in names:
            if (SITE / name).exists() and name != "__pycache__":
                os.symlink(SITE / name, self.site / name)

    def _copy_scripts(self, item: Distribution) -> None:
        for point in item.entry_points.select(group="console_scripts"):
            script = self.path / "bin" / point.name
            body = f"import sys\nfrom {point.module} import {point.attr}\nsys.exit({point.attr}())\n"
            script.write_text(f"#!{self.python}\n{body}")
            script.chmod(0o755)


def pip_install(folders: Collection[Path], *options: str) -> None:
    """Build and install distributions offline. With ``--python`` as first option pip works for that interpreter."""
    leading = list(options[:2]) if options[:1] == ("--python",) else []
    offline = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", *leading, "install"),
            *(*offline, "--root-user-action=ignore", *options[len(leading) :]),
            *map(str, folders),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={name: value for name, value in os.environ.items() if not name.startswith("PIP_")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
