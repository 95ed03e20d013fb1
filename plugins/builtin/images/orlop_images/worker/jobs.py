# SPDX-License-Identifier: Apache-2.0
"""What workers can be asked to do."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from orlop_images.worker.extract import Extractor, Whiteouts
from orlop_images.worker.fault import INVALID, STATE, Fault, invalid, printable
from orlop_images.worker.stream import CHUNK, ByteStream, Pipeline, decode, load_codecs
from orlop_images.worker.tar import TarReader
from orlop_images.worker.tree import Directories
from orlop_sdk.linux import syscalls

Request = dict[str, Any]

_USUAL: Final = ("orlop.values", "orlop_images.codecs", "orlop_sdk.linux.mount", "zlib", "isal.isal_zlib")
#: What the kernel says about a mount whose source, target or options cannot be.
_WRONG_MOUNT: Final = {
    errno.ENOENT: STATE,
    errno.ENOTBLK: STATE,
    errno.ENXIO: STATE,
    errno.EINVAL: INVALID,
    errno.E2BIG: INVALID,
}


def preload() -> None:
    """Import what jobs usually need, before they are forked off."""
    for name in _USUAL:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def apply(request: Request) -> dict[str, Any]:
    """Unpack the layer on descriptor 0. Reports the digest and size of the uncompressed layer, and its entries."""
    # Codecs import what they need now: once confined, nothing more can be imported.
    source = decode(0, load_codecs(request["codecs"]))
    lowers = [os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for lower in request["lowers"]]
    if request["mounts"]:
        own_mounts()
        mount(request["mounts"], request["target"])
    confine(request["target"])
    pipeline = Pipeline(source, request["max_size"])
    extractor = Extractor(
        TarReader(ByteStream(pipeline.next_chunk)),
        Directories(lowers),
        Whiteouts(request["whiteouts"]),
        devices=request["devices"],
        limit=request["max_entries"],
    )
    extractor.run()
    pipeline.drain()
    if request["sync"]:
        syscalls.syncfs(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
    return {"digest": pipeline.digest(), "size": pipeline.size, "entries": extractor.entries}


def copy_decoded(request: Request) -> dict[str, Any]:
    """Write the uncompressed form of descriptor 0 to descriptor 1."""
    reader = decode(0, load_codecs(request["codecs"]))
    try:
        while chunk := reader.read(CHUNK):
            view = memoryview(chunk)
            while view:
                view = view[os.write(1, view) :]
    except BrokenPipeError:
        return {"closed": True}  # the reader has had enough
    return {}


def compare(request: Request) -> dict[str, Any]:
    """Write the layer that turns one list of mounts into another to descriptor 1."""
    from orlop_images.worker.compare import Layer, walk_both, walk_layer
    from orlop_images.worker.tarwrite import TarWriter

    target, top = request["target"], request["layer"]
    own_mounts()
    mount(request["upper"], f"{target}/upper")
    if top:
        mount([("bind", top, "", ["rbind", "ro"])], f"{target}/layer")
    else:
        mount(request["lower"], f"{target}/lower")
    writer = TarWriter(1, request["compression"])
    confine(target)
    layer = Layer(b"upper", writer, request["epoch"])
    if top:
        walk_layer(layer, b"upper", b"layer")
    else:
        walk_both(layer, b"lower", b"upper")
    return {"digest": writer.finish(), "size": writer.size}


def own_mounts() -> None:
    """Enter a mount namespace of our own: nobody else ever sees its mounts, and they end with this process."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)


def mount(mounts: Sequence[Sequence[Any]], target: str) -> None:
    """Make mounts as they stand in a request. Raises `Fault` for what is wrong with them."""
    from orlop.errors import InvalidArgument
    from orlop.values import Mount
    from orlop_sdk.linux.mount import mount_all

    try:
        mount_all([Mount(type, source, inner, tuple(options)) for type, source, inner, options in mounts], target)
    except InvalidArgument as error:
        raise invalid(str(error)) from error
    except OSError as error:
        if error.errno not in _WRONG_MOUNT:
            raise
        shown = printable(os.fsencode(str(error.filename or target)))
        raise Fault(_WRONG_MOUNT[error.errno], f'mounts: "{shown}": {error.strerror or error}') from error


def confine(target: str) -> None:
    """Make *target* the root, after which no path leads out of it, and no module is imported from within it."""
    os.chroot(target)
    os.chdir("/")
    sys.path.clear()
    sys.path_importer_cache.clear()


JOBS: Final[dict[str, Callable[[Request], dict[str, Any]]]] = {
    "apply": apply,
    "compare": compare,
    "decode": copy_decoded,
}
