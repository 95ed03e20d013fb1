# SPDX-License-Identifier: Apache-2.0
"""The stream processors for encrypted layers that containerd's default config has: ocicrypt's program ``ctd-decoder``.

**Host needs**: the program (of the project imgcrypt) and keys, only once a layer is encrypted. A table
``[stream_processors."ID"]`` with the id of one of them takes its place.
"""

from __future__ import annotations

from typing import Final

from orlop.interfaces.stream import TAR, StreamProcessor, stream_processor
from orlop.plugin import InitContext, PluginConfig

_PLACE: Final = "/etc/containerd/ocicrypt"


class DecoderConfig(PluginConfig):
    """A program that decrypts layers; the keys and defaults are those of containerd's tables."""

    accepts: tuple[str, ...] = (f"{TAR}+encrypted",)
    """Media types it reads on its standard input."""
    returns: str = TAR
    """Media type it writes on its standard output."""
    path: str = "ctd-decoder"
    """The program: absolute, or looked up in PATH when a layer needs it."""
    args: tuple[str, ...] = ("--decryption-keys-path", f"{_PLACE}/keys")
    """Its arguments."""
    env: tuple[str, ...] = (f"OCICRYPT_KEYPROVIDER_CONFIG={_PLACE}/ocicrypt_keyprovider.conf",)
    """Environment variables for it, NAME=value, beside the daemon's own."""


class GzipDecoderConfig(DecoderConfig):
    """A program that decrypts layers that were compressed with gzip before."""

    accepts: tuple[str, ...] = (f"{TAR}+gzip+encrypted",)
    """Media types it reads on its standard input."""
    returns: str = f"{TAR}+gzip"
    """Media type it writes on its standard output."""


@stream_processor("io.containerd.ocicrypt.decoder.v1.tar", config=DecoderConfig)
async def encrypted_tar(ctx: InitContext[DecoderConfig]) -> StreamProcessor:
    """Encrypted layers."""
    return _program(ctx)


@stream_processor("io.containerd.ocicrypt.decoder.v1.tar.gzip", config=GzipDecoderConfig)
async def encrypted_gzip(ctx: InitContext[GzipDecoderConfig]) -> StreamProcessor:
    """Encrypted layers that are compressed below that."""
    return _program(ctx)


def _program(ctx: InitContext[DecoderConfig] | InitContext[GzipDecoderConfig]) -> StreamProcessor:
    from orlop.blocking import Pool
    from orlop_images.binary import ProgramConfig, ProgramProcessor

    config = ProgramConfig.model_validate(ctx.config.model_dump(include=set(DecoderConfig.model_fields)))
    return ProgramProcessor(ctx.id, config, Pool(f"stream-{ctx.id}", 2))
