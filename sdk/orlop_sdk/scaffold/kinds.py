# SPDX-License-Identifier: Apache-2.0
"""The kinds of plugin that can be begun, and what the templates have to know of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from orlop.hooks import HOOK
from orlop.interfaces.differ import DIFFER
from orlop.interfaces.log import LOG_DRIVER
from orlop.interfaces.proxy import PROXY
from orlop.interfaces.rpc import GRPC_SERVICE
from orlop.interfaces.runtime import SHIM
from orlop.interfaces.snapshotter import SNAPSHOTTER
from orlop.interfaces.stream import STREAM_PROCESSOR
from orlop.plugin import TYPE_GROUP, PluginType


@dataclass(frozen=True)
class Kind:
    """One kind. Texts may hold the templates' variables, such as ``$id``."""

    type: PluginType[Any]
    """The plugin's type."""
    summary: str
    """What the new plugin does, a sentence without full stop."""
    usage: str
    """How an operator makes use of it, as Markdown."""
    needs: str = "orlop"
    """The distribution that its tests need beside the SDK."""
    points: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Further entry points, by group and name."""


_TOML: Final = "```toml\n{}\n```"


def _toml(*lines: str) -> str:
    return _TOML.format("\n".join(lines))


KINDS: Final[Mapping[str, Kind]] = {
    "snapshotter": Kind(
        SNAPSHOTTER,
        "A snapshotter for Orlop and containerd",
        "```\nctr images pull --snapshotter $id ...\nctr run --snapshotter $id ...\n```",
    ),
    "differ": Kind(
        DIFFER,
        "A differ for Orlop that refuses layers which an operator does not want",
        _toml(
            '[plugins."io.containerd.service.v1.diff-service"]',
            '  default = ["$id"]',
            '[plugins."$uri"]',
            '  blocked = ["sha256:..."]',
        ),
    ),
    "stream-processor": Kind(
        STREAM_PROCESSOR,
        "A stream processor for Orlop and containerd that unpacks layers compressed with xz",
        "Layers of type `application/vnd.oci.image.layer.v1.tar+$id` are unpacked from then on. "
        "For containerd, which starts a program:\n\n"
        + _toml(
            "[stream_processors.$id]",
            '  accepts = ["application/vnd.oci.image.layer.v1.tar+$id"]',
            '  returns = "application/vnd.oci.image.layer.v1.tar"',
            '  path = "/path/to/bin/$distribution"',
        ),
        points={"console_scripts": {"$distribution": "$package.convert:main"}},
    ),
    "log-driver": Kind(
        LOG_DRIVER,
        "A log driver for Orlop and containerd that writes lines with time and stream",
        "```\nctr run --log-uri $id:///var/log/c1.log ...\n```\n\nUnder containerd:\n\n"
        "```\nctr run --log-uri 'binary:///path/to/bin/$distribution?uri=$id:///var/log/c1.log' ...\n```",
        points={"console_scripts": {"$distribution": "$package.driver:main"}},
    ),
    "proxy": Kind(
        PROXY,
        "A plugin type for Orlop, and how plugins of it in other processes are reached",
        _toml("[proxy_plugins.mine]", '  type = "$id"', '  address = "/run/mine.sock"')
        + "\n\nOther plugins require it by its type, `$type`, from `$package.interface`.",
        points={TYPE_GROUP: {"$id": "$package.interface:TYPE"}},
    ),
    "runtime": Kind(
        SHIM,
        "A runtime for Orlop: runc's shim with an environment of its own",
        "```\nctr run --runtime io.containerd.$id.v1 ...\n```",
    ),
    "service": Kind(
        GRPC_SERVICE,
        "A gRPC service on the socket of the Orlop daemon",
        "Clients call `/$path.v1.$name/List` with an empty message, and get one `google.protobuf.Struct` for each "
        "plugin.",
    ),
    "hook": Kind(
        HOOK,
        "A hook for Orlop that gives all containers a common environment",
        _toml('[plugins."$uri"]', '  env = ["TZ=Europe/Oslo"]'),
    ),
}
