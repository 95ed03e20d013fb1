# SPDX-License-Identifier: Apache-2.0
"""Options of runc-like runtimes (``containerd.runc.v1.Options``): as they come, and as they lie in a bundle.

The files are those of containerd's shim, ``options.json`` and ``runtime``: whoever cleans up after a shim reads them.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress

from orlop.errors import InvalidArgument
from orlop_sdk.hints import Final
from orlop_shim import files
from orlop_shim.messages import OPTIONS
from orlop_shim.wire import Values, WireError

#: The OCI runtime when none is named.
DEFAULT_BINARY: Final = "runc"
_TYPE: Final = "containerd.runc.v1.Options"
_FILE: Final = "options.json"
_BINARY_FILE: Final = "runtime"


def read(message: Values | None) -> Values:
    """Those in an ``Any``; of another type, or none, they count as empty. Raises `InvalidArgument`."""
    value = b""
    if message is not None and message["type_url"].rpartition("/")[2] == _TYPE:
        value = message["value"]
    try:
        return OPTIONS.decode(value)
    except WireError as error:
        raise InvalidArgument(f"runtime options: not a {_TYPE}: {error}") from error


def save(bundle: str, options: Values) -> None:
    """Leave them in a bundle. Raises OSError."""
    files.write(os.path.join(bundle, _FILE), json.dumps(options).encode())
    files.write(os.path.join(bundle, _BINARY_FILE), (options["binary_name"] or DEFAULT_BINARY).encode())


def saved(bundle: str) -> Values:
    """What some shim has left in a bundle. What cannot be read counts as not given."""
    options = OPTIONS.decode(b"")
    with suppress(ValueError, TypeError):
        options |= json.loads(files.read_or_nothing(os.path.join(bundle, _FILE)) or b"{}")
    binary = files.read_or_nothing(os.path.join(bundle, _BINARY_FILE)).decode()
    return {**options, "binary_name": binary or options["binary_name"]}
