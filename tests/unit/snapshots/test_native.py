# SPDX-License-Identifier: Apache-2.0
"""The native snapshotter's own: owners for user namespaces. The conformance suite has the rest."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from orlop.errors import InvalidArgument, NotFound
from orlop_sdk.linux.mount import temporary_mount
from orlop_snapshots.mapped import GIDS_LABEL, UIDS_LABEL
from orlop_snapshots.native import NativeSnapshotter

LABELS = {UIDS_LABEL: "0:100000:65536", GIDS_LABEL: "0:200000:65536"}
MAPPED = {".": (100000, 200000), "file": (100003, 200004), "link": (100005, 200006)}


async def base(root: Path, uid: int = 3) -> NativeSnapshotter:
    """A snapshotter with one committed snapshot, ``base``."""
    snapshotter = NativeSnapshotter(root)
    (mount,) = await snapshotter.prepare("key")
    file, link = Path(mount.source) / "file", Path(mount.source) / "link"
    await asyncio.to_thread(file.touch)
    await asyncio.to_thread(link.symlink_to, "nowhere")
    os.chown(file, uid, 4)
    os.chown(link, 5, 6, follow_symlinks=False)
    await snapshotter.commit("base", "key")
    return snapshotter


def owners(tree: str | Path) -> dict[str, tuple[int, int]]:
    """Who the files belong to."""
    found = {name: os.lstat(os.path.join(tree, name)) for name in MAPPED}
    return {name: (each.st_uid, each.st_gid) for name, each in found.items()}


async def test_copies_get_owners_as_the_labels_say(short_tmp: Path) -> None:
    snapshotter = await base(short_tmp / "root")
    (mapped,) = await snapshotter.prepare("mapped", "base", labels=LABELS)
    assert owners(mapped.source) == MAPPED
    (plain,) = await snapshotter.prepare("plain", "base", labels={UIDS_LABEL: LABELS[UIDS_LABEL]})
    assert owners(plain.source)["file"] == (3, 4)
    await snapshotter.close()


async def test_views_are_mapped_by_their_mounts(short_tmp: Path) -> None:
    snapshotter = await base(short_tmp / "root")
    mounts = await snapshotter.view("view", "base", labels=LABELS)
    assert mounts[0].options == ("rbind", "ro", "uidmap=0:100000:65536", "gidmap=0:200000:65536")
    try:
        with temporary_mount(mounts, short_tmp) as tree:
            assert owners(tree) == MAPPED
    except OSError as error:
        if error.errno == errno.EINVAL:
            pytest.skip("this kernel or file system cannot map ids")
        raise
    finally:
        await snapshotter.close()


async def test_an_owner_outside_of_the_mapping_is_refused(short_tmp: Path) -> None:
    snapshotter = await base(short_tmp / "root", uid=70000)
    with pytest.raises(InvalidArgument, match="70000"):
        await snapshotter.prepare("mapped", "base", labels=LABELS)
    with pytest.raises(NotFound):
        await snapshotter.stat("mapped")
    await snapshotter.close()
