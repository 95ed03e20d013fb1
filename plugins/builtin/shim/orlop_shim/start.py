# SPDX-License-Identifier: Apache-2.0
"""Bringing up a shim: where its socket is, whether one serves the container's group already, and the new process."""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress

from orlop.errors import InvalidArgument, Unavailable
from orlop_sdk.hints import Final, NamedTuple
from orlop_shim import files
from orlop_shim import plain_socket as socket

# Not by way of hashlib, whose OpenSSL takes longer to load than all the rest.
try:
    from _sha2 import sha256  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    from _sha256 import sha256  # type: ignore[import-not-found, unused-ignore]

# Annotations that put containers of one value into one shim; the first that is there counts.
_GROUP_ANNOTATIONS: Final = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
_SOCKET_DIR: Final = "/run/containerd/s"
_BACKLOG: Final = 128


class Request(NamedTuple):
    """What a new shim has to know."""

    id: str
    namespace: str
    bundle: str
    grpc_address: str = ""
    ttrpc_address: str = ""
    socket_dir: str = ""
    debug: bool = False
    shim_cgroup: str = ""


class Endpoint(NamedTuple):
    """Where a shim is reached, and the socket to listen on: None where one listens already."""

    address: str
    listener: socket.socket | None


def group_of(bundle: str, id: str) -> str:
    """The name that the containers of one shim share: from an annotation, or the container's own id.

    Raises `InvalidArgument` when the bundle has no spec.
    """
    path = os.path.join(bundle, "config.json")
    try:
        text = files.read(path)
        # Most have none, and a spec is long.
        if not any(name.encode() in text for name in _GROUP_ANNOTATIONS):
            return id
        annotations = json.loads(text).get("annotations") or {}
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path}: not an OCI spec: {error}") from error
    for name in _GROUP_ANNOTATIONS:
        if annotations.get(name):
            return str(annotations[name])
    return id


def socket_path(request: Request, group: str) -> str:
    """The path of the socket of a group's shim; the same for every container of it."""
    name = "/".join((request.grpc_address.rstrip("/"), request.namespace, group))
    return os.path.join(request.socket_dir or _socket_dir(), sha256(name.encode()).hexdigest())


def listen(path: str) -> Endpoint:
    """Listen at a path, unless a shim does. Raises `Unavailable`."""
    address = f"unix://{path}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            _bind(sock, path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if _answers(path):
                sock.close()
                return Endpoint(address, None)
            os.unlink(path)
            _bind(sock, path)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise Unavailable(f"shim socket {path}: {error.strerror or error}") from error
    return Endpoint(address, sock)


def write_address(bundle: str, address: str) -> None:
    """Leave the shim's address in the file ``address`` of a bundle, for daemons that look for it there."""
    path = os.path.join(bundle, "address")
    new = os.path.join(bundle, ".address.new")
    files.write(new, address.encode())
    os.rename(new, path)


def remove_dead_socket(address: str) -> None:
    """Remove the socket file of a shim that ended without doing so; one that a shim listens on stays."""
    path = address.removeprefix("unix://")
    if path != address and not _answers(path):
        with suppress(OSError):
            os.unlink(path)


def _bind(sock: socket.socket, path: str) -> None:
    try:
        sock.bind(path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
        sock.bind(path)
    os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:
            # It is there, and busy.
            return True
        except OSError:
            return False
        return True


def _socket_dir() -> str:
    if os.geteuid() == 0:
        return _SOCKET_DIR
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    place = os.path.join(runtime, "containerd/s") if runtime else f"/tmp/containerd-s-{os.geteuid()}"  # noqa: S108
    os.makedirs(place, mode=0o700, exist_ok=True)
    if os.stat(place).st_uid != os.geteuid():
        raise Unavailable(f"{place}: belongs to somebody else; set XDG_RUNTIME_DIR")
    return place
