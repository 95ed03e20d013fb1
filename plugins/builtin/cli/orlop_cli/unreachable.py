# SPDX-License-Identifier: Apache-2.0
"""Why a daemon does not answer, in one line that says what to do."""

from __future__ import annotations

import errno
import socket

from orlop.errors import OrlopError, Unavailable
from orlop_sdk.client.connection import default_address

_REASONS = {
    errno.ENOENT: "no such socket; start orlopd, or say with --address where it listens",
    errno.ECONNREFUSED: "nobody listens there; start orlopd, or say with --address where it listens",
    errno.EACCES: "permission denied; become root, or a member of the group that owns the socket",
    errno.ENOTDIR: "no such socket; say with --address where the daemon listens",
    errno.ENOTSOCK: "that is no socket; say with --address where the daemon listens",
}


def explain(error: Unavailable, address: str) -> OrlopError:
    """A better error, if it is the daemon's socket that cannot be reached; *error* itself otherwise."""
    path = (address or default_address()).removeprefix("unix://")
    if not path.startswith(("/", "./", "../")):
        return error
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            probe.connect(path)
    except OSError as failure:
        reason = _REASONS.get(failure.errno or 0, failure.strerror or str(failure))
        return Unavailable(f'daemon "{path}": {reason}')
    return error
