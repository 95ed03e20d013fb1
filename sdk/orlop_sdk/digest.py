# SPDX-License-Identifier: Apache-2.0
"""Digests: ``<algorithm>:<lower-case hex>``, as the OCI image-spec defines them."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from orlop.errors import InvalidArgument

#: Algorithm -> number of hex digits. The first is the one that new content gets.
ALGORITHMS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
CANONICAL: Final = "sha256"

_HEX: Final = re.compile(r"[a-f0-9]+")


def parse(digest: str) -> tuple[str, str]:
    """Algorithm and hex of a digest. Raises `InvalidArgument` when it is malformed or its algorithm unknown."""
    algorithm, separator, encoded = digest.partition(":")
    if not separator:
        raise InvalidArgument(f'digest "{digest[:160]}": must read <algorithm>:<hex>')
    if algorithm not in ALGORITHMS:
        raise InvalidArgument(f'digest "{digest[:160]}": algorithm must be one of {", ".join(ALGORITHMS)}')
    if len(encoded) != ALGORITHMS[algorithm] or not _HEX.fullmatch(encoded):
        raise InvalidArgument(
            f'digest "{digest[:160]}": {algorithm} takes {ALGORITHMS[algorithm]} lower-case hex digits'
        )
    return algorithm, encoded


def of(data: bytes | bytearray | memoryview, algorithm: str = CANONICAL) -> str:
    """The digest of some bytes. Blocks for about a millisecond for 1 MiB."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
