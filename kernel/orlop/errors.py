# SPDX-License-Identifier: Apache-2.0
"""Every error that crosses an interface, classed by what the caller can do about it.

The classes map one-to-one to the gRPC status codes of the same meaning (``CODES``), so an error keeps its
class from a snapshotter through the daemon to any client, over gRPC and over ttrpc, and back again.
Cancelling a call stays ``asyncio.CancelledError``; ``Cancelled`` is what a *remote* side reports.

Messages are lower case, name the object first (``image "x": not found``) and end with the remedy, if there is one.
"""

from __future__ import annotations


class OrlopError(Exception):
    """Base of all errors of this project. ``code`` is the gRPC status code number (google.rpc.Code)."""

    code: int = 2


class Unknown(OrlopError):
    """A failure that fits no other class; usually from a foreign process."""


class Cancelled(OrlopError):
    """The other side gave the call up."""

    code = 1


class InvalidArgument(OrlopError):
    """The request can never succeed as it is; mend the request."""

    code = 3


class DeadlineExceeded(OrlopError):
    """The operation did not finish within its time."""

    code = 4


class NotFound(OrlopError):
    """The named object does not exist."""

    code = 5


class AlreadyExists(OrlopError):
    """The object to be made exists already."""

    code = 6


class PermissionDenied(OrlopError):
    """The caller may not do this."""

    code = 7


class ResourceExhausted(OrlopError):
    """A limit was reached: quota, message size, disk space."""

    code = 8


class FailedPrecondition(OrlopError):
    """The system is not in a state that allows this; change the state first."""

    code = 9


class Aborted(OrlopError):
    """A concurrent operation won; the whole sequence may be tried again."""

    code = 10


class OutOfRange(OrlopError):
    """An offset or index lies past the valid range."""

    code = 11


class Unimplemented(OrlopError):
    """This implementation does not offer the operation."""

    code = 12


class Internal(OrlopError):
    """An invariant of ours was broken: a bug."""

    code = 13


class Unavailable(OrlopError):
    """The service cannot answer now; the same call may be tried again."""

    code = 14


class DataLoss(OrlopError):
    """Stored or transferred data is damaged beyond repair."""

    code = 15


class Unauthenticated(OrlopError):
    """Credentials are missing or were refused."""

    code = 16


#: google.rpc.Code number -> error class: all of the above. One table for every transport.
CODES: dict[int, type[OrlopError]] = {kind.code: kind for kind in OrlopError.__subclasses__()}


def from_code(code: int, message: str) -> OrlopError:
    """The error for a google.rpc.Code number; unknown numbers give `Unknown`."""
    return CODES.get(code, Unknown)(message)


def describe(error: BaseException, module: str) -> str:
    """An exception of a plugin in words.

    One that nobody worded for people is told with its class, and with the line of *module*'s package it came from.
    """
    if isinstance(error, OrlopError | OSError):
        return str(error) or type(error).__name__
    import traceback  # only here: shims, which have these errors as well, keep every module in memory

    package, place = module.partition(".")[0], ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package:
            place = f" ({frame.f_code.co_filename}:{line})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def code_of(error: BaseException) -> int:
    """The google.rpc.Code number for any exception, the standard library's included.

    Time-outs are 4, ``FileNotFoundError`` 5, ``FileExistsError`` 6, ``PermissionError`` 7, ``ENOSPC``, ``EDQUOT``,
    ``EMFILE`` and ``ENFILE`` 8, a cancelled task 1; everything else is 2 (unknown).
    """
    import asyncio
    import errno

    if isinstance(error, OrlopError):
        return error.code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
        return ResourceExhausted.code
    for kind, code in (
        (asyncio.CancelledError, Cancelled.code),
        (TimeoutError, DeadlineExceeded.code),
        (FileNotFoundError, NotFound.code),
        (FileExistsError, AlreadyExists.code),
        (PermissionError, PermissionDenied.code),
    ):
        if isinstance(error, kind):
            return code
    return Unknown.code


class PluginError(OrlopError):
    """Something about a plugin. Carries who is to blame.

    ``plugin`` is the URI (``io.containerd.snapshotter.v1.overlayfs``) and ``origin`` says where it was declared:
    distribution with version and entry point, or a config file with its line.
    """

    code = FailedPrecondition.code

    def __init__(self, message: str, *, plugin: str = "", origin: str = "") -> None:
        super().__init__(message)
        self.plugin = plugin
        self.origin = origin

    def __str__(self) -> str:
        where = " ".join(filter(None, (self.plugin, f"({self.origin})" if self.origin else "")))
        return f"{where}: {self.args[0]}" if where else str(self.args[0])


class LoadError(PluginError):
    """The entry point could not be imported, or what it names is not a registration."""


class InitError(PluginError):
    """The factory of a plugin raised, or returned something that is not its interface."""


class DuplicatePlugin(PluginError):
    """Two registrations claim one URI, or two plugins are enabled of a type that allows one."""


class DependencyCycle(PluginError):
    """Registrations require each other in a ring; the message shows the chain."""


class RequirementError(PluginError):
    """A plugin needs another one that is absent, disabled, skipped or failed; the message names the root cause."""


class PluginInUse(PluginError):
    """A plugin cannot be stopped because others, or data, depend on it; the message lists them."""


class SkipPlugin(PluginError):
    """Raised by a factory: this host lacks what the plugin needs. Not a failure; give the reason and the remedy.

    The text always contains ``skip plugin``: containerd's clients tell skipped from failed by these words.
    """

    def __init__(self, message: str, *, plugin: str = "", origin: str = "") -> None:
        if "skip plugin" not in message:
            message = f"{message}: skip plugin"
        super().__init__(message, plugin=plugin, origin=origin)


class ConfigError(OrlopError):
    """The configuration has faults. ``faults`` lists all of them, each with its file, line and remedy."""

    code = InvalidArgument.code

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
