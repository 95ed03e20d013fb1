# SPDX-License-Identifier: Apache-2.0
"""Labels that say how the owners of a snapshot's files are to be seen: for containers in a user namespace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from orlop.values import Labels
from orlop_sdk.linux.idmap import IdRange, parse_mapping

#: Users and groups, as ``container:host:size`` with commas between several. One without the other counts for nothing.
UIDS_LABEL: Final = "containerd.io/snapshot/uidmapping"
GIDS_LABEL: Final = "containerd.io/snapshot/gidmapping"


@dataclass(frozen=True, slots=True)
class Mapping:
    """Which owners of the layers below are seen as whom."""

    uids: Sequence[IdRange]
    gids: Sequence[IdRange]

    @classmethod
    def of(cls, labels: Labels) -> Self | None:
        """What the labels of a snapshot say; None if they say nothing. Raises `InvalidArgument`."""
        uids, gids = labels.get(UIDS_LABEL), labels.get(GIDS_LABEL)
        if not uids or not gids:
            return None
        return cls(parse_mapping(uids), parse_mapping(gids))

    @property
    def options(self) -> tuple[str, str]:
        """The options of a mount that shows them so."""
        return f"uidmap={','.join(map(str, self.uids))}", f"gidmap={','.join(map(str, self.gids))}"
