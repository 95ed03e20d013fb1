# SPDX-License-Identifier: Apache-2.0
"""From mounts to the directory that a worker writes to, or the two that it compares. Pure: nothing is mounted here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from orlop.errors import InvalidArgument, Unimplemented
from orlop.values import Mount
from orlop_sdk.linux.mount import split_lower

_BINDS: Final = frozenset({"bind", "rbind"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where to unpack, and how."""

    target: str
    whiteouts: str
    """``overlay`` leaves marks, ``remove`` removes files."""
    lowers: list[str] = field(default_factory=list)
    """Layers below, topmost first."""
    mounts: list[list[Any]] = field(default_factory=list)
    """What to mount at the target first."""


def place(mounts: Sequence[Mount], scratch: str, *, user_namespace: bool) -> Place:
    """Where a layer for these mounts goes.

    Into an overlay's upper directory itself where that is allowed, which saves a mount and every copy up, or a bind's
    source; any other mounts are made, at *scratch*. Raises `Unimplemented` for mounts that need more than mount(2).
    """
    check(mounts)
    if not mounts:
        raise InvalidArgument("mounts: there are none, so there is nothing to unpack into")
    if len(mounts) == 1 and not mounts[0].target.strip("/"):
        mount = mounts[0]
        # Devices and trusted attributes, which are an overlay's marks, cannot be made inside a user namespace.
        upper = _option(mount, "upperdir")
        if mount.type == "overlay" and upper and not user_namespace:
            return Place(upper, "overlay", split_lower(lower) if (lower := _option(mount, "lowerdir")) else [])
        if _is_bind(mount) and "ro" not in mount.options:
            return Place(mount.source, "remove")
    return Place(scratch, "remove", mounts=plain(mounts))


def plain(mounts: Sequence[Mount]) -> list[list[Any]]:
    """Mounts as a worker's request has them."""
    return [[mount.type, mount.source, mount.target, list(mount.options)] for mount in mounts]


def check(mounts: Sequence[Mount]) -> None:
    """Raise `Unimplemented` for mounts that have to be prepared by a mount manager first."""
    for mount in mounts:
        if "/" in mount.type or "loop" in mount.options:
            raise Unimplemented(f'mount of type "{mount.type}": has to be prepared by a mount manager')


def topmost(lower: Sequence[Mount], upper: Sequence[Mount]) -> str:
    """The directory that alone makes *upper* out of *lower*: an overlay's top layer. Empty where there is none."""
    below, above = _layers(lower), _layers(upper)
    if below and above and len(above) > 1 and above[1:] == below:
        return above[0]
    return ""


def in_user_namespace() -> bool:
    """Whether this process's ids are mapped."""
    return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


def _layers(mounts: Sequence[Mount]) -> list[str]:
    if len(mounts) != 1 or mounts[0].target.strip("/"):
        return []
    mount = mounts[0]
    if _is_bind(mount):
        return [mount.source]
    if mount.type != "overlay":
        return []
    upper, lower = _option(mount, "upperdir"), _option(mount, "lowerdir")
    return ([upper] if upper else []) + (split_lower(lower) if lower else [])


def _is_bind(mount: Mount) -> bool:
    return mount.type in _BINDS or bool(_BINDS & set(mount.options))


def _option(mount: Mount, key: str) -> str:
    return next((option.partition("=")[2] for option in mount.options if option.startswith(f"{key}=")), "")
