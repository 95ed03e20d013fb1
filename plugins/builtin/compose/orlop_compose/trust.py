# SPDX-License-Identifier: Apache-2.0
"""Writes lock files for ``plugin_trust = "locked"``: see `orlop.trust` for the form and what it guards against."""

from __future__ import annotations

import importlib.metadata
import tempfile
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path
from typing import Final

import tomlkit

from orlop.discovery import discover
from orlop.errors import FailedPrecondition
from orlop.plugin import TYPE_GROUP
from orlop.trust import VERSION, fingerprint, normalised

_PREFIX: Final = "orlop."


def installed() -> list[Distribution]:
    """The distributions of this interpreter that offer plugins, each once, as the daemon would find them."""
    groups = {TYPE_GROUP} | {type.group for type in discover().types.values()}
    found: dict[str, Distribution] = {}
    for distribution in importlib.metadata.distributions():
        if any(point.group in groups for point in distribution.entry_points):
            found.setdefault(normalised(distribution.name), distribution)
    return list(found.values())


def lock(distributions: Iterable[Distribution]) -> str:
    """The text of a lock file over *distributions*. Raises `FailedPrecondition` for one that records no files."""
    document = tomlkit.document()
    document.add(tomlkit.comment("Written by orlop compose. Only these distributions may give the daemon code."))
    document["version"] = VERSION
    tables = tomlkit.table(is_super_table=True)
    for distribution in sorted(distributions, key=lambda each: normalised(each.name)):
        if not distribution.files:
            raise FailedPrecondition(f"distribution {distribution.name}: records no files; install it with pip or uv")
        table = tomlkit.table()
        table["version"] = distribution.version
        table["files"] = {
            name: digest
            for name, digest in fingerprint(distribution).items()
            if ".data/" not in name.partition("/")[0] + "/"
        }
        tables[normalised(distribution.name)] = table
    document["distributions"] = tables
    return tomlkit.dumps(document)


def lock_of_wheels(wheels: Iterable[Path]) -> str:
    """The lock that holds wherever these wheels get installed."""
    with tempfile.TemporaryDirectory() as folder:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        return lock(each for each in importlib.metadata.distributions(path=[folder]) if _offers_plugins(each))


def _offers_plugins(distribution: Distribution) -> bool:
    # Nothing can be imported here that tells the groups of other people's plugin types; they need the kernel, though.
    return any(point.group.startswith(_PREFIX) for point in distribution.entry_points) or any(
        normalised(requirement).startswith("orlop-kernel") for requirement in distribution.requires or ()
    )
