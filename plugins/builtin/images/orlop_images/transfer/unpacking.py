# SPDX-License-Identifier: Apache-2.0
"""Where the variants of an image are unpacked: what a client asks for, held against what the config allows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from orlop.errors import InvalidArgument, NotFound
from orlop.interfaces.snapshotter import SNAPSHOTTER
from orlop_sdk.client.image import Manifest, is_layer
from orlop_sdk.client.image_services import ImageServices
from orlop_sdk.client.platform import Only, default, parse
from orlop_sdk.client.progress import ProgressCallback
from orlop_sdk.client.unpack import Unpacker, UnpackOptions, image_labels
from orlop_sdk.convert.common import platform_from_wire

if TYPE_CHECKING:
    from orlop_images.transfer.plugin import Parts, UnpackConfig
    from orlop_sdk.api.types.transfer import imagestore_pb2

log = logging.getLogger(__name__)

DEFAULT_SNAPSHOTTER: Final = "overlayfs"
_REMOTE: Final = "enable_remote_snapshot_annotations"

#: Who unpacks a variant of an image.
Choice = Callable[[Manifest], Sequence[Unpacker]]


class Unpacking:
    """Chooses unpackers for one transfer."""

    def __init__(self, parts: Parts, services: ImageServices, name: str, progress: ProgressCallback) -> None:
        self._parts = parts
        self._services = services
        self._name = name
        self._progress = progress

    def choice(self, requests: Sequence[imagestore_pb2.UnpackConfiguration]) -> Choice | None:
        """Who unpacks what, or None when nothing is to be unpacked.

        Raises `InvalidArgument` when none of the requests can be met, `NotFound` for what is not loaded.
        """
        chosen: list[tuple[imagestore_pb2.UnpackConfiguration, UnpackConfig, Unpacker]] = []
        for request in requests:
            setting = self._setting(request)
            if setting is None:
                log.warning("%s: not unpacked into %s: unpack_config does not allow it", self._name, _shown(request))
            else:
                chosen.append((request, setting, self._unpacker(setting)))
        if requests and not chosen:
            raise InvalidArgument(
                f'image "{self._name}": cannot be unpacked into {_shown(requests[0])}; '
                f'see "unpack_config" of the plugin io.containerd.transfer.v1.local'
            )
        if not chosen:
            return None

        def choose(manifest: Manifest) -> Sequence[Unpacker]:
            found: dict[str, Unpacker] = {}
            for request, setting, unpacker in chosen:
                if _wants(request, manifest) and _fits(setting, manifest):
                    found.setdefault(setting.snapshotter, unpacker)
            return list(found.values())

        return choose

    def _setting(self, request: imagestore_pb2.UnpackConfiguration) -> UnpackConfig | None:
        settings = self._settings(request.snapshotter)
        if self._parts.config.check_platform_supported and request.HasField("platform"):
            wanted = platform_from_wire(request.platform)
            settings = [each for each in settings if _platform(each).rank(wanted) is not None]
        if request.snapshotter:
            settings = [each for each in settings if each.snapshotter == request.snapshotter]
        preferred = [each for each in settings if each.snapshotter == DEFAULT_SNAPSHOTTER]
        return next(iter(preferred + settings), None)

    def _settings(self, wanted: str) -> list[UnpackConfig]:
        from orlop_images.transfer.plugin import UnpackConfig

        configured = self._parts.config.unpack_config
        if configured is None:
            return [UnpackConfig(snapshotter=wanted or DEFAULT_SNAPSHOTTER)]
        return [each for each in configured if not (each.optional and self._missing(each))]

    def _missing(self, setting: UnpackConfig) -> str:
        """What of a setting is not loaded; empty when all is."""
        if setting.snapshotter not in self._services.snapshotters:
            return f'snapshotter "{setting.snapshotter}"'
        if setting.differ and setting.differ not in self._parts.differs:
            return f'differ "{setting.differ}"'
        return ""

    def _unpacker(self, setting: UnpackConfig) -> Unpacker:
        if missing := self._missing(setting):
            raise NotFound(f"{missing}: not loaded; see the list of plugins for the reason")
        services = self._services
        if setting.differ:
            services = replace(services, diff=self._parts.differs[setting.differ])
        options = UnpackOptions()
        for status in self._parts.plugins.statuses():
            if status.type != SNAPSHOTTER.name or status.id != setting.snapshotter:
                continue
            if "rebase" in status.capabilities:
                options = replace(options, parallel=self._parts.config.max_concurrent_unpacks)
            if status.exports.get(_REMOTE) == "true":
                options = replace(options, layer_labels=image_labels(self._name))
        return Unpacker(services, setting.snapshotter, options, self._progress)


def _platform(setting: UnpackConfig) -> Only:
    return Only(parse(setting.platform) if setting.platform else default())


def _wants(request: imagestore_pb2.UnpackConfiguration, manifest: Manifest) -> bool:
    # What stands alone does not say in its index what it is for; whoever asks for it wants it unpacked.
    if not request.HasField("platform") or manifest.platform is None:
        return True
    return Only(platform_from_wire(request.platform)).rank(manifest.platform) is not None


def _fits(setting: UnpackConfig, manifest: Manifest) -> bool:
    if setting.config_type and manifest.config.media_type != setting.config_type:
        return False
    layers = (each.media_type for each in manifest.layers if is_layer(each.media_type))
    return not setting.layer_types or all(each in setting.layer_types for each in layers)


def _shown(request: imagestore_pb2.UnpackConfiguration) -> str:
    platform = f" for {platform_from_wire(request.platform)}" if request.HasField("platform") else ""
    return f'snapshotter "{request.snapshotter or DEFAULT_SNAPSHOTTER}"{platform}'
