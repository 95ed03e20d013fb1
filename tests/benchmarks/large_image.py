# SPDX-License-Identifier: Apache-2.0
"""Makes a large image like those of machine learning or office suites, always the same one, as an OCI archive.

    python tests/benchmarks/large_image.py image.tar [--files 27000] [--bytes 1300000000] [--layers 4]

The contents are text, tables and noise in a mix that gzip shrinks to about a third, in files of which most are small
and a few are large.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from isal import igzip

NAME = "docker.io/library/large:latest"
MTIME = 1_700_000_000


@dataclass(frozen=True)
class Blob:
    """A blob that lies in a file, with the digest of what it holds uncompressed."""

    path: Path
    digest: str
    diff_id: str
    size: int


def main() -> None:
    """Write the archive that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--files", type=int, default=27_000)
    parser.add_argument("--bytes", type=int, default=1_300_000_000)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    generate(options.archive, files=options.files, total=options.bytes, layers=options.layers)


def generate(archive: Path, *, files: int = 27_000, total: int = 1_300_000_000, layers: int = 4) -> None:
    """Write an OCI archive with *layers* gzip-ed layers that hold *files* files of about *total* bytes together."""
    source = random.Random(1)  # the same image every time
    pool = _pool(source)
    blobs = []
    for number in range(layers):
        path = archive.with_name(f"{archive.name}.layer{number}")
        blobs.append(_layer(path, source, pool, number, files // layers, total // layers))
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [blob.diff_id for blob in blobs]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", _digest(config), len(config)),
            "layers": [
                _descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blob.digest, blob.size) for blob in blobs
            ],
        }
    ).encode()
    target = _descriptor("application/vnd.oci.image.manifest.v1+json", _digest(manifest), len(manifest))
    target["annotations"] = {"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "latest"}
    with tarfile.open(archive, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [target]}).encode())
        for data in (config, manifest):
            _add(tar, f"blobs/sha256/{_digest(data)[7:]}", data)
        for blob in blobs:
            with blob.path.open("rb") as file:
                _add(tar, f"blobs/sha256/{blob.digest[7:]}", file, blob.size)
            blob.path.unlink()


def sizes(source: random.Random, files: int, total: int) -> list[int]:
    """Sizes with many small files and few large ones, which add up to about *total*."""
    drawn = [source.lognormvariate(0, 2.0) for _ in range(files)]
    scale = total / sum(drawn)
    return [int(size * scale) for size in drawn]


def _layer(path: Path, source: random.Random, pool: bytes, number: int, files: int, total: int) -> Blob:
    diff = hashlib.sha256()
    with path.open("wb") as raw, _gzip(raw) as packed:
        with tarfile.open(fileobj=_Hashing(packed, diff), mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar:
            folder = ""
            for index, size in enumerate(sizes(source, files, total)):
                if index % 12 == 0:
                    folder = f"usr/lib/part{number}/{index // 240:03}/{index // 12:04}"
                    info = tarfile.TarInfo(folder)
                    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, MTIME
                    tar.addfile(info)
                start = source.randrange(len(pool))
                _add(tar, f"{folder}/file{index:05}.dat", _Repeated(pool, start, size), size)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Blob(path, f"sha256:{digest}", f"sha256:{diff.hexdigest()}", path.stat().st_size)


def _pool(source: random.Random) -> bytes:
    words = ["".join(source.choices("etaoinshrdlucmfw", k=source.randint(2, 10))) for _ in range(4000)]
    text = " ".join(source.choices(words, k=600_000)).encode()
    table = b"".join(
        struct.pack("<IHHd", n, source.randint(0, 50), 7, source.randint(0, 999) / 4) for n in range(150_000)
    )
    return text + table + source.randbytes(1_000_000)


class _Repeated(io.RawIOBase):
    """*size* bytes of a pool from *start* on, around its end as often as needed."""

    def __init__(self, pool: bytes, start: int, size: int) -> None:
        super().__init__()
        self._pieces = self._cut(pool, start, size)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    @staticmethod
    def _cut(pool: bytes, start: int, size: int) -> Iterator[bytes]:
        while size > 0:
            piece = pool[start : start + min(size, 1 << 16)]
            size -= len(piece)
            start = (start + len(piece)) % len(pool)
            yield piece


def _gzip(raw: IO[bytes]) -> Any:
    return igzip.IGzipFile(fileobj=raw, mode="wb", compresslevel=2, mtime=0)  # type: ignore[no-untyped-call]


class _Hashing(io.RawIOBase):
    """Passes writes on and hashes them."""

    def __init__(self, file: Any, digest: Any) -> None:
        super().__init__()
        self._file = file
        self._digest = digest

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return int(self._file.write(data))


def _add(tar: tarfile.TarFile, name: str, content: bytes | IO[bytes] | io.RawIOBase, size: int = -1) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content) if isinstance(content, bytes) else size
    info.mode, info.mtime = 0o644, MTIME
    tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else content)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


if __name__ == "__main__":
    main()
