# SPDX-License-Identifier: Apache-2.0
"""The history of containerd's config format, as moves of keys: version 1 to 2 to 3 to 4.

Files are never rewritten; this happens in memory at each start. The names below are those of the file format (they
stand in files whether or not such a plugin is installed), which is the only reason that the kernel knows them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from orlop.config.document import Document, Key

NEWEST: Final = 4

_P: Final = "io.containerd."
_CRI: Final = f"{_P}grpc.v1.cri"
_CRI_IMAGES: Final = f"{_P}cri.v1.images"
_CRI_RUNTIME: Final = f"{_P}cri.v1.runtime"

#: Version 1 named plugins by id alone.
_SHORT: Final = {
    "cri": _CRI,
    "cgroups": f"{_P}monitor.v1.cgroups",
    "linux": f"{_P}runtime.v1.linux",
    "scheduler": f"{_P}gc.v1.scheduler",
    "bolt": f"{_P}metadata.v1.bolt",
    "task": f"{_P}runtime.v2.task",
    "opt": f"{_P}internal.v1.opt",
    "restart": f"{_P}internal.v1.restart",
    "tracing": f"{_P}internal.v1.tracing",
    "otlp": f"{_P}tracing.processor.v1.otlp",
    **{id: f"{_P}snapshotter.v1.{id}" for id in ("aufs", "btrfs", "devmapper", "native", "overlayfs", "zfs")},
}

_RENAMED: Final = {
    f"{_P}monitor.v1.cgroups": f"{_P}monitor.task.v1.cgroups",
    f"{_P}internal.v1.restart": f"{_P}monitor.container.v1.restart",
}

#: Keys of the CRI plugin that stayed with its service.
_CRI_SERVER_KEYS: Final = frozenset(
    "disable_tcp_service stream_server_address stream_server_port stream_idle_timeout "
    "enable_tls_streaming x509_key_pair_streaming".split()
)
#: And those that went to its images.
_CRI_IMAGE_KEYS: Final[dict[Key, Key]] = {
    ("sandbox_image",): ("pinned_images", "sandbox"),
    **{(key,): (key,) for key in ("registry", "image_decryption", "max_concurrent_downloads")},
    **{(key,): (key,) for key in ("image_pull_progress_timeout", "image_pull_with_sync_fs", "stats_collect_period")},
    **{("containerd", key): (key,) for key in ("snapshotter", "disable_snapshot_annotations")},
    ("containerd", "discard_unpacked_layers"): ("discard_unpacked_layers",),
}
_TCP_KEYS: Final = ("address", "tls_ca", "tls_cert", "tls_key", "tls_common_name")
_SERVER_MOVES: Final[dict[Key, tuple[str, str]]] = {
    **{("debug", key): (f"{_P}server.v1.debug", key) for key in ("address", "uid", "gid")},
    **{("grpc", f"tcp_{key}"): (f"{_P}server.v1.grpc-tcp", key) for key in _TCP_KEYS},
    ("metrics", "address"): (f"{_P}server.v1.metrics", "address"),
    ("metrics", "grpc_histogram"): (f"{_P}metrics.v1.grpc-prometheus", "grpc_histogram"),
}


def long_name(name: str) -> str:
    """A plugin's URI from what version 1 called it."""
    if "." in name:
        return name
    if name.endswith("-service"):
        return f"{_P}service.v1.{name}"
    return _SHORT.get(name, f"{_P}grpc.v1.{name}")


def migrate(document: Document, version: int) -> None:
    """Bring a document of *version* to the newest, in place."""
    for step in range(max(version, 1), NEWEST):
        _STEPS[step](document)


def _names(document: Document) -> None:
    for name in list(document.get(("plugins",), {})):
        if (uri := long_name(name)) != name:
            document.move(("plugins", name), ("plugins", uri))
    for key in ("disabled_plugins", "required_plugins"):
        if isinstance(names := document.get((key,)), list):
            document.data[key] = [long_name(name) if isinstance(name, str) else name for name in names]


def _split_cri(document: Document) -> None:
    section: Key = ("plugins", _CRI)
    for source, target in _CRI_IMAGE_KEYS.items():
        document.move((*section, *source), ("plugins", _CRI_IMAGES, *target))
    for key in list(document.get(section, {})):
        if key not in _CRI_SERVER_KEYS:
            document.move((*section, key), ("plugins", _CRI_RUNTIME, key))
    runtime: Key = ("plugins", _CRI_RUNTIME)
    if isinstance(folder := document.get((*runtime, "cni", "bin_dir")), str):
        document.move((*runtime, "cni", "bin_dir"), (*runtime, "cni", "bin_dirs"))
        document.set((*runtime, "cni", "bin_dirs"), [folder], document.origin((*runtime, "cni", "bin_dirs")))
    for name in document.get((*runtime, "containerd", "runtimes"), {}):
        one: Key = (*runtime, "containerd", "runtimes", name)
        document.move((*one, "sandbox_mode"), (*one, "sandboxer"))
    for old, new in _RENAMED.items():
        document.move(("plugins", old), ("plugins", new))
    _rename_listed(document)
    task: Key = ("plugins", f"{_P}runtime.v2.task", "sched_core")
    if document.get(task) is True:
        document.set(("plugins", f"{_P}shim.v1.manager", "env"), ["SCHED_CORE=1"], document.origin(task))
    document.forget(task)


def _rename_listed(document: Document) -> None:
    for key in ("disabled_plugins", "required_plugins"):
        if isinstance(names := document.get((key,)), list):
            document.data[key] = [_RENAMED.get(name, name) if isinstance(name, str) else name for name in names]


def _servers(document: Document) -> None:
    grpc: Key = ("plugins", f"{_P}server.v1.grpc")
    ttrpc: Key = ("plugins", f"{_P}server.v1.ttrpc")
    for source, target in _SERVER_MOVES.items():
        document.move(source, ("plugins", *target))
    document.move(("grpc",), grpc)
    document.move(("ttrpc",), ttrpc)
    document.forget(("metrics",))
    address = document.get((*grpc, "address"))
    if address and not document.get((*ttrpc, "address")):
        document.set((*ttrpc, "address"), f"{address}.ttrpc", document.origin((*grpc, "address")))
        for key in ("uid", "gid"):
            if (value := document.get((*grpc, key))) is not None and document.get((*ttrpc, key)) is None:
                document.set((*ttrpc, key), value, document.origin((*grpc, key)))


_STEPS: Final[dict[int, Callable[[Document], None]]] = {1: _names, 2: _split_cri, 3: _servers}
