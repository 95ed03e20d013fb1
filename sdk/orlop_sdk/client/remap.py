# SPDX-License-Identifier: Apache-2.0
"""Files whose owners fit a container in a user namespace.

Where a snapshotter can show the owners of its layers mapped (capability ``remap-ids``) it is told to by labels, and
nothing is copied. For any other one a committed snapshot is made on top of the image's, whose files belong to the users
that the container's are on the host; the next container with the same mapping takes the same::

    parent = await remapped(client.snapshots("native"), parent, parse_mapping("0:100000:65536"), ...)
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from orlop.blocking import run_blocking
from orlop.errors import AlreadyExists, FailedPrecondition, NotFound
from orlop.interfaces.snapshotter import Snapshotter
from orlop.values import Mount, SnapshotKind
from orlop_sdk.linux.idmap import IdRange, change_owners
from orlop_sdk.linux.mount import temporary_mount

#: The labels that tell a snapshotter what the owners of a snapshot's files are to be seen as.
UIDS_LABEL: Final = "containerd.io/snapshot/uidmapping"
GIDS_LABEL: Final = "containerd.io/snapshot/gidmapping"
#: What snapshotters are capable of that heed these labels.
CAPABILITY: Final = "remap-ids"


def mapping_labels(uids: Sequence[IdRange], gids: Sequence[IdRange]) -> dict[str, str]:
    """The labels for a mapping."""
    return {UIDS_LABEL: ",".join(map(str, uids)), GIDS_LABEL: ",".join(map(str, gids))}


async def remapped(snapshotter: Snapshotter, parent: str, uids: Sequence[IdRange], gids: Sequence[IdRange]) -> str:
    """The name of a committed snapshot that is *parent* with its files' owners mapped; made if it is not there.

    Takes root on the daemon's host, where it mounts the snapshot. File capabilities are lost, as with any change of
    owner. Raises `InvalidArgument` for an owner that is in none of the ranges, `FailedPrecondition` where mounting or
    changing fails.
    """
    name = f"{parent}-{','.join(map(str, uids))}-{','.join(map(str, gids))}"
    with suppress(NotFound):
        if (await snapshotter.stat(name)).kind is SnapshotKind.COMMITTED:
            return name
    key = f"{name}-{uuid.uuid4().hex[:12]}"
    mounts = await snapshotter.prepare(key, parent)
    try:
        await run_blocking(_change, mounts, uids, gids)
        await snapshotter.commit(name, key)
    except AlreadyExists:
        # Somebody else had the same wish at the same time.
        await snapshotter.remove(key)
    except BaseException:
        await snapshotter.remove(key)
        raise
    return name


def _change(mounts: Sequence[Mount], uids: Sequence[IdRange], gids: Sequence[IdRange]) -> None:
    try:
        with temporary_mount(mounts) as tree:
            change_owners(tree, uids, gids)
    except OSError as error:
        raise FailedPrecondition(
            f"user namespace: the owners of files cannot be changed ({error}); it takes root on the daemon's host"
        ) from error
