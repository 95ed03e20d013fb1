# SPDX-License-Identifier: Apache-2.0
"""Who needs whom: the order of initialisation, and the words for what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from orlop.discovery import AnyRegistration
from orlop.plugin import Requirement

Edges = Mapping[str, set[str]]


def matching(requirement: Requirement, registrations: Mapping[str, AnyRegistration], but: str = "") -> list[str]:
    """URIs of the registrations that a requirement is about."""
    return [
        uri
        for uri, registration in registrations.items()
        if uri != but and registration.type.name == requirement.type and requirement.id in ("", registration.id)
    ]


def edges(registrations: Mapping[str, AnyRegistration]) -> dict[str, set[str]]:
    """For each plugin the plugins that must be initialised before it."""
    return {
        uri: {
            needed for requirement in registration.requires for needed in matching(requirement, registrations, but=uri)
        }
        for uri, registration in registrations.items()
    }


def cycles(graph: Edges) -> list[list[str]]:
    """Rings of plugins that require each other, each as a chain that ends where it began; empty when there are none."""
    rest = {node: set(needs) for node, needs in graph.items()}
    found: list[list[str]] = []
    while True:
        try:
            TopologicalSorter(rest).prepare()
        except CycleError as error:
            ring: list[str] = list(reversed(error.args[1]))
            found.append(ring)
            for node in ring:
                rest.pop(node, None)
            for needs in rest.values():
                needs.difference_update(ring)
        else:
            return found
