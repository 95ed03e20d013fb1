# SPDX-License-Identifier: Apache-2.0
"""What pulls, pushes, imports and exports tell while they run.

::

    def show(progress: Progress) -> None:
        print(progress.kind, progress.name, progress.offset, progress.total)

    await client.pull("docker.io/library/busybox:latest", progress=show)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from orlop.values import Descriptor


class ProgressKind(StrEnum):
    """What is happening."""

    RESOLVING = "resolving"
    RESOLVED = "resolved"
    EXPANDED = "expanded"
    WAITING = "waiting"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    EXISTS = "exists"
    EXTRACTING = "extracting"
    EXTRACTED = "extracted"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    MOUNTED = "mounted"
    IMPORTING = "importing"
    IMPORTED = "imported"
    EXPORTING = "exporting"
    EXPORTED = "exported"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Progress:
    """One piece of news. ``name`` is the reference, or the digest when it is about one blob; bytes are 0 if unknown.

    An index or manifest is *expanded* when it is known what it consists of; ``offset`` is 0 if it was here already.
    """

    kind: ProgressKind
    name: str
    offset: int = 0
    total: int = 0
    descriptor: Descriptor | None = None
    children: tuple[Descriptor, ...] = ()


#: Is told of progress; must return at once and not raise.
ProgressCallback = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Tell nobody."""


def about(callback: ProgressCallback, kind: ProgressKind, descriptor: Descriptor, offset: int | None = None) -> None:
    """Tell of one blob; its whole size is the offset unless another is given."""
    done = descriptor.size if offset is None else offset
    callback(Progress(kind, descriptor.digest, done, descriptor.size, descriptor))
