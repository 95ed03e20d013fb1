# SPDX-License-Identifier: Apache-2.0
"""What travels with a call beside its arguments: the namespace and the lease.

Servers set both from the call's metadata (`scope`), stores read them. They live in context variables, so they
follow ``await`` and new asyncio tasks by themselves and never need a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from orlop.errors import FailedPrecondition, InvalidArgument

#: gRPC metadata keys, and their ttrpc twin.
NAMESPACE_HEADER: Final = "containerd-namespace"
LEASE_HEADER: Final = "containerd-lease"
TTRPC_NAMESPACE_HEADER: Final = "containerd-namespace-ttrpc"

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_MAX_IDENTIFIER: Final = 76

_namespace: ContextVar[str | None] = ContextVar("orlop_namespace", default=None)
_lease: ContextVar[str | None] = ContextVar("orlop_lease", default=None)


@contextmanager
def scope(*, namespace: str | None = None, lease: str | None = None) -> Iterator[None]:
    """Run the body under this namespace and lease. An empty string counts as absent."""
    tokens = _namespace.set(namespace or None), _lease.set(lease or None)
    try:
        yield
    finally:
        _namespace.reset(tokens[0])
        _lease.reset(tokens[1])


def namespace() -> str:
    """The namespace of the current call.

    Raises `FailedPrecondition` when none was given, `InvalidArgument` when it is not an identifier.
    """
    name = _namespace.get()
    if name is None:
        raise FailedPrecondition("namespace is required; send the metadata header containerd-namespace")
    check_identifier(name, "namespace")
    return name


def namespace_or_none() -> str | None:
    """The namespace of the current call as it was sent, or None."""
    return _namespace.get()


def lease() -> str | None:
    """The lease id of the current call, or None."""
    return _lease.get()


def check_identifier(text: str, what: str) -> None:
    """Raise `InvalidArgument` unless *text* may name a namespace, container, task, exec or sandbox.

    The rule is containerd's: letters and digits, single ``.``, ``_`` or ``-`` between them, at most 76 characters.
    """
    if not text:
        raise InvalidArgument(f"{what}: identifier must not be empty")
    if len(text) > _MAX_IDENTIFIER:
        raise InvalidArgument(f'{what} "{text}": identifier is longer than {_MAX_IDENTIFIER} characters')
    if not _IDENTIFIER.fullmatch(text):
        raise InvalidArgument(
            f'{what} "{text}": identifier must be letters and digits, with single ".", "_" or "-" between them'
        )
