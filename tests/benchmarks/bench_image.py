# SPDX-License-Identifier: Apache-2.0
"""Import and unpack a large image of many files with ``ctr``, on overlayfs.

    python -m tests.benchmarks.bench_image [--runs 3] [--files 27000] [--bytes 1300000000]

Budget: 0.6x of containerd's time.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from tests.benchmarks import large_image
from tests.benchmarks.sides import OURS, THEIRS, Figure, both, show
from tests.support.daemon import Daemon


def bring_in(daemon: Daemon, archive: Path, number: int) -> float:
    """Import and unpack into a daemon that has none of it, and return the seconds."""
    ctr = daemon.ctr(f"bench{number}")
    began = time.perf_counter()
    result = ctr.run("image", "import", "--snapshotter", "overlayfs", str(archive), timeout=600)
    took = time.perf_counter() - began
    if result.code != 0:
        raise RuntimeError(f"{daemon.name}: {result.err}\n{daemon.tail()}")
    names = ctr.run("image", "ls", "-q").out.split()
    ctr.run("image", "rm", "--sync", *names, timeout=600)
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--files", type=int, default=27_000)
    parser.add_argument("--bytes", type=int, default=1_300_000_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="obimage", dir="/var/tmp"))
    took: dict[str, list[float]] = {OURS: [], THEIRS: []}
    try:
        archive = folder / "image.tar"
        large_image.generate(archive, files=options.files, total=options.bytes)
        with both() as daemons:
            for number in range(options.runs):
                for side, daemon in daemons.items():
                    took[side].append(bring_in(daemon, archive, number))
    finally:
        shutil.rmtree(folder)
    figure = Figure("import and unpack, overlayfs", "s", took[OURS], took[THEIRS], budget=0.6)
    show(f"image of {options.bytes / 1e9:.1f} GB in {options.files} files", [figure])


if __name__ == "__main__":
    main()
