# SPDX-License-Identifier: Apache-2.0
"""Declares the transfer service of the daemon's own stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from orlop.blocking import run_blocking
from orlop.errors import InvalidArgument
from orlop.interfaces.differ import DIFF_SERVICE, DIFFER, Differ
from orlop.interfaces.metadata import METADATA, MetadataStore
from orlop.interfaces.snapshotter import SNAPSHOTTER
from orlop.interfaces.streaming import StreamManager
from orlop.interfaces.transfer import (
    IMAGE_VERIFIER,
    ImageVerifier,
    ProgressTold,
    Transferrer,
    transferrer,
    untold,
)
from orlop.plugin import InitContext, PluginConfig, Plugins
from orlop.values import AnyMessage

_WORKER: Final = "orlop_images.transfer.service"


def _readable(text: str) -> str:
    from orlop_sdk.client.platform import parse

    try:
        if text:
            parse(text)
    except InvalidArgument as error:
        raise ValueError(str(error)) from error
    return text


class UnpackConfig(BaseModel):
    """One table of ``unpack_config``: for which images which snapshotter and differ are to be used."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    platform: Annotated[str, AfterValidator(_readable)] = ""
    """Platform of the images it is for, this host's when empty; counts with `check_platform_supported` only."""
    snapshotter: str = "overlayfs"
    """Where to unpack."""
    differ: str = ""
    """What unpacks; when empty, the differs in the order of the diff service."""
    config_type: str = ""
    """Only images whose configuration is of this media type; all when empty."""
    layer_types: tuple[str, ...] = ()
    """Only images all of whose layers are of these media types; all when empty."""
    optional: bool = False
    """Leave it out, instead of failing, while its snapshotter or differ is not there."""


class TransferConfig(PluginConfig):
    """Settings of transfers. Clients cannot change them."""

    max_concurrent_downloads: Annotated[int, Field(ge=0)] = 3
    """Blobs that one pull fetches at a time. 0: any number."""
    concurrent_layer_fetch_buffer: Annotated[int, Field(ge=0)] = 0
    """Size of the parts, in bytes, in which larger blobs are fetched by `max_concurrent_downloads` requests at a time,
    which hold as much memory each. Below 512 a blob is one stream, as it is where registries know no ranges."""
    max_concurrent_uploaded_layers: Annotated[int, Field(ge=0)] = 3
    """Blobs that one push sends at a time. 0: any number."""
    max_concurrent_unpacks: Annotated[int, Field(ge=1)] = 1
    """Layers of one image to unpack at a time, where the snapshotter can ``rebase``."""
    check_platform_supported: bool = False
    """Unpack only for platforms that ``unpack_config`` names."""
    unpack_config: tuple[UnpackConfig, ...] | None = None
    """Where clients may have images unpacked. When unset: into any snapshotter there is, overlayfs by default."""
    config_path: str = ""
    """Directories of ``hosts.toml`` files, separated by colons, for clients that name none."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What transfers work with."""

    metadata: MetadataStore
    diff: Differ
    differs: Mapping[str, Differ]
    verifiers: Mapping[str, ImageVerifier]
    plugins: Plugins
    config: TransferConfig


class LocalTransferrer:
    """Loads what does the work when it is first needed: it can talk to registries, and most daemons never have to."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def transfer(
        self,
        source: AnyMessage,
        destination: AnyMessage,
        *,
        streams: StreamManager,
        progress: ProgressTold = untold,
    ) -> None:
        worker: Any = await run_blocking(import_module, _WORKER)
        await worker.transfer(self._parts, source, destination, streams, progress)


@transferrer(
    "local",
    config=TransferConfig,
    requires=(
        METADATA,
        DIFF_SERVICE.exact("diff-service"),
        DIFFER.optional(),
        SNAPSHOTTER.optional(),
        IMAGE_VERIFIER.optional(),
    ),
)
async def local(ctx: InitContext[TransferConfig]) -> Transferrer:
    """Pull, push, import, export and tag in the stores of this daemon."""
    parts = Parts(
        ctx.get(METADATA),
        ctx.get(DIFF_SERVICE, "diff-service"),
        ctx.all(DIFFER),
        ctx.all(IMAGE_VERIFIER),
        ctx.plugins,
        ctx.config,
    )
    return LocalTransferrer(parts)


_: type[Transferrer] = LocalTransferrer
