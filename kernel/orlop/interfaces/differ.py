# SPDX-License-Identifier: Apache-2.0
"""Differs: from a layer to a tree, and from two trees to a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol, runtime_checkable

from orlop.plugin import PluginType
from orlop.values import EMPTY, AnyMessage, Descriptor, Labels, Mount

_NO_PAYLOADS: Final[Mapping[str, AnyMessage]] = {}


@runtime_checkable
class Differ(Protocol):
    """Applies layers and makes them.

    A differ that does not know a media type, or cannot work on the mounts given, raises `Unimplemented`, and the next
    one is asked; any other error is the answer.

    **Security**: a layer is hostile input. Nothing outside the mounts is ever written, whatever the layer holds.
    """

    async def apply(
        self,
        descriptor: Descriptor,
        mounts: Sequence[Mount],
        *,
        payloads: Mapping[str, AnyMessage] = _NO_PAYLOADS,
        sync: bool = False,
    ) -> Descriptor:
        """Unpack a layer from the content store of the current namespace into *mounts*.

        Returns the descriptor of the uncompressed layer: its digest is the diff id. *payloads* go to the stream
        processors by their id; *sync* flushes the file system before returning. Raises `NotFound` for absent content,
        `Unimplemented` for foreign media types, `InvalidArgument` or `DataLoss` for a damaged layer.
        """

    async def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        *,
        media_type: str = "",
        ref: str = "",
        labels: Labels = EMPTY,
        source_date_epoch: datetime | None = None,
    ) -> Descriptor:
        """Store the layer that turns *lower* into *upper* in the content store, and return its descriptor.

        The default media type is OCI's gzip-ed tar. The blob gets the label ``containerd.io/uncompressed`` (its diff
        id) and *labels*. With *source_date_epoch* later times are clamped to it, for reproducible layers.
        """


DIFFER: Final = PluginType("io.containerd.differ.v1", Differ, group="orlop.differ.v1", many=True)
differ = DIFFER.plugin
"""Decorator that declares a differ plugin."""
DIFF_SERVICE: Final = PluginType("io.containerd.service.v1", Differ, group="orlop.service.v1", many=True)
diff_service = DIFF_SERVICE.plugin
"""Decorator that declares the differ that asks the others in their configured order. Its id is ``diff-service``."""
