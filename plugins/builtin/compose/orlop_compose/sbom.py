# SPDX-License-Identifier: Apache-2.0
"""The bill of materials of an artefact, in CycloneDX's JSON: the same bytes for the same artefact."""

from __future__ import annotations

import hashlib
import importlib.metadata
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from orlop_compose.specification import Specification
from orlop_compose.wheels import Target, Wheel

#: Serial numbers are made of what an artefact holds, in this name space.
_SPACE: Final = uuid.UUID("6d0f5d5c-5a0f-4bb1-8a43-2ee5d2a6a0a9")


def bill(artefact: Path, specification: Specification, wheels: Mapping[str, Wheel], target: Target) -> str:
    """The bill of materials of *artefact*, which consists of *wheels*, and of pex's loader if it starts by itself."""
    name = specification.name
    digest = hashlib.sha256(artefact.read_bytes()).hexdigest()
    bom = Bom(serial_number=uuid.uuid5(_SPACE, digest))
    # It would be the one thing that differs from build to build.
    bom.metadata.timestamp = None  # type: ignore[assignment]  # optional in the format, and in the library's output
    top = Component(
        name=name, version=specification.version, type=ComponentType.APPLICATION, bom_ref=name, hashes=[_sha256(digest)]
    )
    bom.metadata.component = top
    components = {wheel.name: _component(wheel) for wheel in wheels.values()}
    if not artefact.name.endswith(".tar"):
        components["pex"] = _tool("pex")
    bom.components.update(components.values())
    for key, wheel in wheels.items():
        needs = {str(need.name) for need in wheel.requires(target)}
        bom.register_dependency(components[key], _known(components, needs))
    bom.register_dependency(top, components.values())
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _component(wheel: Wheel) -> Component:
    about = wheel.metadata.metadata
    text = next((about[key] for key in ("License-Expression", "License") if key in about), "")
    # Some put the whole text of their licence there.
    licenses = [LicenseFactory().make_from_string(text)] if text and "\n" not in text else []
    return Component(
        name=wheel.name,
        version=str(wheel.version),
        type=ComponentType.LIBRARY,
        bom_ref=f"{wheel.name}=={wheel.version}",
        purl=PackageURL("pypi", name=wheel.name, version=str(wheel.version)),
        hashes=[_sha256(wheel.digest)],
        licenses=licenses,
        description=about["Summary"] if "Summary" in about else None,
    )


def _tool(name: str) -> Component:
    """A tool that puts a part of itself into what it makes."""
    version = importlib.metadata.version(name)
    purl = PackageURL("pypi", name=name, version=version)
    return Component(name=name, version=version, type=ComponentType.LIBRARY, bom_ref=f"{name}=={version}", purl=purl)


def _known(components: Mapping[str, Component], names: Iterable[str]) -> list[Component]:
    return [components[name] for name in sorted(map(canonicalize_name, names)) if name in components]


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
