# SPDX-License-Identifier: Apache-2.0
"""What the shim and its OCI runtime say about themselves: ``-info`` and ``-v``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from subprocess import DEVNULL, PIPE, run
from typing import Final

from orlop.errors import NotFound
from orlop_shim import runc_options
from orlop_shim.messages import ANY, RUNTIME_INFO, any_of
from orlop_shim.wire import WireError

NAME: Final = "io.containerd.orlop.v1"
_FEATURES: Final = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
_TIMEOUT: Final = 8.0


def version() -> str:
    """The version of this distribution."""
    try:
        return version_of("orlop-shim")
    except PackageNotFoundError:
        return "unknown"


def describe(given: bytes) -> bytes:
    """``containerd.types.RuntimeInfo`` for the runtime in the options given, an ``Any`` or nothing.

    Raises `NotFound` when there is no such runtime.
    """
    try:
        message = ANY.decode(given) if given else None
    except WireError:
        message = None
    options = runc_options.read(message)
    binary = options["binary_name"] or runc_options.DEFAULT_BINARY
    try:
        done = run([binary, "features"], stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, timeout=_TIMEOUT, check=False)
    except OSError as error:
        raise NotFound(f'OCI runtime "{binary}": {error.strerror}; install it, or set BinaryName') from error
    # Older runtimes do not know the command.
    features = any_of(_FEATURES, done.stdout) if done.returncode == 0 else None
    known = message if message is not None and message["type_url"] else None
    return RUNTIME_INFO.encode(name=NAME, version={"version": version()}, options=known, features=features)
