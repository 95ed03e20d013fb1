# SPDX-License-Identifier: Apache-2.0
"""Build the OCI runtime specification of a container out of small options.

A specification is the JSON object of the OCI runtime-spec as a plain ``dict``. An option is any callable that takes it
and a `SpecContext` and changes it; it may be a coroutine function::

    def slow(spec, context):
        spec["process"]["oomScoreAdj"] = 500

    spec = await build(SpecContext("web", "default"), with_args("sleep", "9"), with_env({"A": "b"}), slow)
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from inspect import isawaitable
from pathlib import Path
from typing import Any, Final

from orlop.blocking import run_blocking
from orlop.errors import InvalidArgument, NotFound
from orlop.values import AnyMessage, Mount
from orlop_sdk.oci.default import default_spec

#: A specification, as JSON.
Spec = dict[str, Any]

#: Type URLs under which specifications travel: JSON in an ``Any``.
SPEC_URL: Final = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS_URL: Final = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES_URL: Final = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"


@dataclass(frozen=True, slots=True)
class SpecContext:
    """What an option may want to know of the container to be."""

    id: str
    namespace: str = "default"
    image: Mapping[str, Any] = field(default_factory=dict)
    """The image's configuration (OCI image-spec, config.md); empty without an image."""
    rootfs: Sequence[Mount] = ()
    """Mounts that show the root file system, where they can be made on this host."""


#: Changes a specification.
Option = Callable[[Spec, SpecContext], Awaitable[None] | None]


async def build(context: SpecContext, *options: Option, base: Mapping[str, Any] | None = None) -> Spec:
    """The specification that the options make, in their order, of *base* (default: `default_spec`)."""
    spec = default_spec(context.id, context.namespace) if base is None else deepcopy(dict(base))
    return await apply(spec, context, *options)


async def apply(spec: Spec, context: SpecContext, *options: Option) -> Spec:
    """Let options change a specification, in their order, and return it."""
    for option in options:
        outcome = option(spec, context)
        if isawaitable(outcome):
            await outcome
    return spec


def compose(*options: Option) -> Option:
    """One option out of several."""

    async def composed(spec: Spec, context: SpecContext) -> None:
        await apply(spec, context, *options)

    return composed


def with_spec_file(path: str) -> Option:
    """The specification in a file, instead of all that was said before. Its root file system must be absolute.

    Raises `NotFound`, and `InvalidArgument` for what is no specification.
    """

    async def option(spec: Spec, context: SpecContext) -> None:
        about = f'specification "{path}"'
        found = await read_json(path, about)
        root = found.get("root") if isinstance(found, dict) else None
        if not isinstance(root, dict) or not str(root.get("path", "")).startswith("/"):
            raise InvalidArgument(f'{about}: needs "root" with an absolute "path"; see config.md of the OCI spec')
        spec.clear()
        spec.update(found)

    return option


async def read_json(path: str, about: str) -> Any:
    """What is in a file of JSON; *about* is what errors call it. Raises `NotFound`, `InvalidArgument`."""
    try:
        return json.loads(await run_blocking(Path(path).read_bytes))
    except FileNotFoundError as error:
        raise NotFound(f"{about}: no such file") from error
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{about}: cannot be read as JSON: {error}") from error


def encode(spec: Mapping[str, Any], url: str = SPEC_URL) -> AnyMessage:
    """A specification, process or set of resources as it travels."""
    return AnyMessage(url, json.dumps(spec, separators=(",", ":")).encode())


def decode(message: AnyMessage | None) -> Spec:
    """What `encode` encoded. Raises `InvalidArgument` for anything but a JSON object."""
    try:
        spec = json.loads(message.value if message else b"")
    except ValueError:
        spec = None
    if not isinstance(spec, dict):
        raise InvalidArgument("runtime specification: not a JSON object")
    return spec


def section(spec: Spec, *path: str) -> Spec:
    """The object at a path of keys, made where it is missing: ``section(spec, "linux", "resources")``."""
    place = spec
    for key in path:
        found = place.get(key)
        if not isinstance(found, dict):
            found = place[key] = {}
        place = found
    return place
