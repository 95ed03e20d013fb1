# SPDX-License-Identifier: Apache-2.0
"""Checking the local content store: each blob against the digest that is its name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from orlop.blocking import Pool
from orlop.interfaces.check import Checkup, Finding
from orlop_sdk import digest as digests
from orlop_sdk.storage.lost import LOST, put_away

_CHUNK: Final = 1 << 20


async def check_content(root: Path, pool: Pool, checkup: Checkup) -> AsyncIterator[Finding]:
    """What is wrong below the root of a local content store: `orlop.interfaces.check.Checkable.check_up`.

    Whether anybody needs a blob, or has records of one that is not there, is for the metadata store to say.
    """
    for path, problem in await pool.run(_strangers, root):
        if checkup.repair:
            await pool.run(put_away, path, root)
        yield Finding(f'file "{path}"', problem, f"move it to {root / LOST}", repaired=checkup.repair, note=True)
    if checkup.quick:
        return
    blobs = await pool.run(lambda: list(_blobs(root)))
    total, done = sum(size for _, _, size in blobs), 0
    for path, digest, size in blobs:
        checkup.progress(done, total)
        if problem := await pool.run(_damage, path, digest):
            if checkup.repair:
                await pool.run(put_away, path, root)
            remedy = f"move it to {root / LOST}; then fetch it again"
            yield Finding(f'blob "{digest}"', problem, remedy, repaired=checkup.repair)
        done += size
    checkup.progress(done, total)


def _strangers(root: Path) -> list[tuple[Path, str]]:
    """What lies where only blobs and ingests belong."""
    found = []
    for entry in sorted(os.scandir(root / "blobs"), key=lambda entry: entry.name):
        if entry.name not in digests.ALGORITHMS or not entry.is_dir(follow_symlinks=False):
            found.append((Path(entry.path), "is no directory of a digest algorithm"))
            continue
        for inner in sorted(os.scandir(entry.path), key=lambda entry: entry.name):
            if not _is_blob(entry.name, inner):
                found.append((Path(inner.path), "is no blob"))
    for entry in sorted(os.scandir(root / "ingest"), key=lambda entry: entry.name):
        if not entry.is_dir(follow_symlinks=False):
            found.append((Path(entry.path), "is no ingest"))
    return found


def _blobs(root: Path) -> Iterator[tuple[Path, str, int]]:
    for algorithm in digests.ALGORITHMS:
        if (root / "blobs" / algorithm).is_dir():
            for entry in os.scandir(root / "blobs" / algorithm):
                if _is_blob(algorithm, entry):
                    yield Path(entry.path), f"{algorithm}:{entry.name}", entry.stat(follow_symlinks=False).st_size


def _is_blob(algorithm: str, entry: os.DirEntry[str]) -> bool:
    well_named = len(entry.name) == digests.ALGORITHMS[algorithm] and set(entry.name) <= set("0123456789abcdef")
    return well_named and entry.is_file(follow_symlinks=False)


def _damage(path: Path, digest: str) -> str:
    algorithm, expected = digests.parse(digest)
    hashed, size = hashlib.new(algorithm), 0
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                hashed.update(chunk)
                size += len(chunk)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if hashed.hexdigest() == expected else f"is damaged: its {size} bytes have another digest"
