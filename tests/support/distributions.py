# SPDX-License-Identifier: Apache-2.0
"""Third-party distributions by the hundred, as pip leaves them in a site directory."""

from __future__ import annotations

from pathlib import Path
from typing import Final

TYPE: Final = "io.containerd.snapshotter.v1"
SENTINELS: Final = "ACME_SENTINELS"
#: Every page on an index has a description, and reading metadata takes longer the longer it is.
_DESCRIPTION: Final = "\n".join(
    f"Line {number} of what its author has to say about this snapshotter." for number in range(60)
)
_MODULE: Final = f'''\
"""A snapshotter from elsewhere, which tells that it was imported."""

import os
import pathlib

if "{SENTINELS}" in os.environ:
    (pathlib.Path(os.environ["{SENTINELS}"]) / __name__).touch()

from orlop.interfaces.snapshotter import snapshotter
from orlop_sdk.storage.directories import DirectorySnapshotter


class Acme(DirectorySnapshotter):
    def populate(self, directory, new):
        raise NotImplementedError

    def describe(self, snapshot):
        raise NotImplementedError


@snapshotter("{{id}}")
async def plugin(ctx):
    return Acme(ctx.root)
'''


def id_of(number: int) -> str:
    """The id of the plugin of one of them."""
    return f"acme-{number:04}"


def uri_of(number: int) -> str:
    """The URI of the plugin of one of them."""
    return f"{TYPE}.{id_of(number)}"


def install(site: Path, numbers: range) -> None:
    """Put distributions there, each with one snapshotter. A module that is imported leaves a file in ``$SENTINELS``."""
    for number in numbers:
        id, module = id_of(number), f"acme_{number:04}"
        info = site / f"{module}-1.0.dist-info"
        info.mkdir()
        files = {
            site / f"{module}.py": _MODULE.format(id=id),
            info / "METADATA": _metadata(id),
            info / "WHEEL": "Wheel-Version: 1.0\nGenerator: hatchling\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            info / "entry_points.txt": f"[orlop.snapshotter.v1]\n{id} = {module}:plugin\n",
            info / "INSTALLER": "pip\n",
        }
        for path, text in files.items():
            path.write_text(text)
        record = [path.relative_to(site) for path in (*files, info / "RECORD")]
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in record))


def _metadata(name: str) -> str:
    classifiers = "".join(f"Classifier: Programming Language :: Python :: 3.{minor}\n" for minor in range(11, 15))
    return (
        f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nSummary: A snapshotter\nLicense-Expression: Apache-2.0\n"
        f"{classifiers}Requires-Python: >=3.11\nRequires-Dist: orlop-sdk\n"
        f"Description-Content-Type: text/markdown\n\n{_DESCRIPTION}\n"
    )
