# SPDX-License-Identifier: Apache-2.0
"""Media types of layers, and what their suffixes say."""

from __future__ import annotations

from typing import Final

from orlop.interfaces import stream

TAR: Final = stream.TAR
OCI_GZIP: Final = f"{TAR}+gzip"
OCI_ZSTD: Final = f"{TAR}+zstd"
#: Docker's type for a layer; in practice it may be compressed all the same, so its first bytes decide.
DOCKER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_GZIP: Final = f"{DOCKER}.gzip"
DOCKER_ZSTD: Final = f"{DOCKER}.zstd"
DOCKER_FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"
_NON_DISTRIBUTABLE: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"

PLAIN: Final = frozenset({TAR, _NON_DISTRIBUTABLE})
SNIFFED: Final = frozenset({DOCKER, DOCKER_FOREIGN})
GZIP: Final = frozenset({OCI_GZIP, f"{_NON_DISTRIBUTABLE}+gzip", DOCKER_GZIP, f"{DOCKER_FOREIGN}.gzip"})
ZSTD: Final = frozenset({OCI_ZSTD, f"{_NON_DISTRIBUTABLE}+zstd", DOCKER_ZSTD, f"{DOCKER_FOREIGN}.zstd"})
