# SPDX-License-Identifier: Apache-2.0
"""Transfers: images from one place to another, within the daemon; and verifiers, who may refuse an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from orlop.interfaces.streaming import StreamManager
from orlop.plugin import PluginType
from orlop.values import AnyMessage, Descriptor


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """One piece of news about a transfer.

    ``event`` is text for people, of the whole transfer when ``name`` is empty. ``name`` is an image's, or the ref of
    one blob (``layer-sha256:...``), and ``parents`` are names that were told before. ``progress`` of ``total`` bytes.
    """

    event: str
    name: str = ""
    parents: tuple[str, ...] = ()
    progress: int = 0
    total: int = 0
    descriptor: Descriptor | None = None
    """The blob that it is about, if any."""


#: Is told of progress; returns at once and does not raise.
ProgressTold = Callable[[TransferProgress], None]


def untold(progress: TransferProgress) -> None:
    """Tell nobody."""


@runtime_checkable
class Transferrer(Protocol):
    """Moves what *source* names to what *destination* names.

    Both are typed messages (``containerd.types.transfer.OCIRegistry``, ``.ImageStore``, or a type of the plugin's own),
    which may name streams of *streams*. A transferrer that does not know the pair raises `Unimplemented`, and the next
    one is asked; any other error is the answer.
    """

    async def transfer(
        self,
        source: AnyMessage,
        destination: AnyMessage,
        *,
        streams: StreamManager,
        progress: ProgressTold = untold,
    ) -> None:
        """Return when it is done. A cancelled transfer leaves no lease, no stream and no process behind.

        Raises `NotFound` for an image, blob or stream that is not there, `InvalidArgument` for a malformed message.
        """


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a verifier makes of an image, and why."""

    ok: bool
    """Whether the image may come in."""
    reason: str = ""
    """In words for the user, when it may not."""


@runtime_checkable
class ImageVerifier(Protocol):
    """Asked about each image that is about to be pulled by the daemon, before anything of it is fetched."""

    async def verify(self, name: str, descriptor: Descriptor) -> Judgement:
        """Whether the image that *name* stands for may come in. To raise is to refuse."""


TRANSFER: Final = PluginType("io.containerd.transfer.v1", Transferrer, group="orlop.transfer.v1", many=True)
transferrer = TRANSFER.plugin
"""Decorator that declares a transferrer."""
IMAGE_VERIFIER: Final = PluginType(
    "io.containerd.image-verifier.v1", ImageVerifier, group="orlop.image_verifier.v1", many=True
)
image_verifier = IMAGE_VERIFIER.plugin
"""Decorator that declares an image verifier. All of them must agree."""
