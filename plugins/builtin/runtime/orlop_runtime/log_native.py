# SPDX-License-Identifier: Apache-2.0
"""The log drivers that every shim has built in: FIFOs, files, and programs that follow containerd's logger protocol.

Here their URIs are only checked, so that a mistake shows when the container is created and not in a shim's log.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.interfaces.log import LogDriver, LogStreams


class _Native:
    """What the drivers that shims know have in common: nothing is ever left to run for them."""

    @property
    def schemes(self) -> tuple[str, ...]:
        return ()

    def run(self, uri: str, options: Mapping[str, str], streams: LogStreams) -> None:
        raise FailedPrecondition(f'log URI "{uri}": shims handle it themselves; give it to the shim as it is')


class FifoDriver(_Native):
    """``fifo:///path`` and bare paths: a named pipe that the client made and reads."""

    @property
    def schemes(self) -> tuple[str, ...]:
        return ("", "fifo")

    def shim_uri(self, uri: str) -> str | None:
        if "://" in uri:
            absolute_path(uri)
        return uri


class FileDriver(_Native):
    """``file:///path``: appended to; one path may serve both streams."""

    @property
    def schemes(self) -> tuple[str, ...]:
        return ("file",)

    def shim_uri(self, uri: str) -> str | None:
        path = absolute_path(uri)
        if os.path.isdir(path):
            raise InvalidArgument(f'log URI "{uri}": {path} is a directory; name a file in it')
        return uri


class BinaryDriver(_Native):
    """``binary:///path?key=value``: a program that gets both streams; ``binary-v2`` insists on its being ready."""

    @property
    def schemes(self) -> tuple[str, ...]:
        return ("binary", "binary-v2")

    def shim_uri(self, uri: str) -> str | None:
        path = absolute_path(uri)
        if not os.path.isfile(path):
            raise InvalidArgument(f'log URI "{uri}": there is no program {path}; install it')
        if not os.access(path, os.X_OK):
            raise InvalidArgument(f'log URI "{uri}": {path} is not executable; chmod +x it')
        return uri


def absolute_path(uri: str) -> str:
    """The path of a URI without host. Raises `InvalidArgument` unless there is one and it is absolute."""
    parts = urlsplit(uri)
    if parts.netloc or not parts.path.startswith("/"):
        raise InvalidArgument(f'log URI "{uri}": needs an absolute path; write {parts.scheme}:///path')
    return parts.path


_fifo: type[LogDriver] = FifoDriver
_file: type[LogDriver] = FileDriver
_binary: type[LogDriver] = BinaryDriver
