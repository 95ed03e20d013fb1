# SPDX-License-Identifier: Apache-2.0
"""The parts that everything about images works with. Importing this loads nothing that talks to a daemon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orlop.interfaces.content import ContentStore
from orlop.interfaces.differ import Differ
from orlop.interfaces.metadata import ImageStore, LeaseStore
from orlop.interfaces.snapshotter import Snapshotter


@dataclass(frozen=True, slots=True)
class ImageServices:
    """What images need: the stores, the snapshotters and the differ."""

    content: ContentStore
    images: ImageStore
    leases: LeaseStore
    snapshotters: Mapping[str, Snapshotter]
    diff: Differ
