# SPDX-License-Identifier: Apache-2.0
"""Things that are kept outside the metadata store and take part in its garbage collection.

A plugin that keeps such things (streams, mounts) hands an `orlop.interfaces.metadata.Collectible` to
``MetadataStore.register_collectible``. One of its things stays while any of these holds:

* it is active (``Collectible.active``);
* something that stays has a label ``containerd.io/gc.ref.<label>`` with its id, or a lease holds it;
* what it is attached to stays: the power below, for things whose own labels are ``containerd.io/gc.bref.*``, and for
  those that live with the lease under which they were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from orlop.values import LeaseResource


@dataclass(frozen=True, slots=True)
class Attachment:
    """One thing of a collectible, and what keeps it."""

    namespace: str
    """Of the thing."""
    id: str
    """Of the thing, as `Collectible.active` tells it."""
    keeper: LeaseResource
    """In the same namespace: of type ``content``, ``images``, ``snapshots/<snapshotter>``, ``containers``,
    ``sandboxes`` or ``leases``."""


@runtime_checkable
class Attached(Protocol):
    """Optional power of a `Collectible`: its things refer to what keeps them."""

    async def attachments(self) -> Sequence[Attachment]:
        """All there are, asked at the start of each collection. A thing may have several."""
