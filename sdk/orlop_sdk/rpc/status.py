# SPDX-License-Identifier: Apache-2.0
"""Errors to ``google.rpc.Status`` and back, and what a server answers when a handler raises."""

from __future__ import annotations

import asyncio
import logging

from google.rpc import status_pb2

from orlop.errors import OrlopError, ResourceExhausted, code_of, from_code

log = logging.getLogger(__name__)


def to_status(error: BaseException) -> status_pb2.Status:
    """The status of any exception: the code of its class and its text."""
    return status_pb2.Status(code=code_of(error), message=str(error))


def from_status(status: status_pb2.Status) -> OrlopError:
    """The error of a status that is not OK. Raises ValueError for code 0, which is no error."""
    if status.code == 0:
        raise ValueError("status is OK: no error to make of it")
    return from_code(status.code, status.message)


def failure(error: Exception, method: str) -> OrlopError:
    """What to tell the client when the handler of *method* raised *error*.

    Our own errors pass as they are. Anything else is a fault of the handler: its traceback is logged here, and the
    client gets no more than the text and a code that fits.
    """
    if isinstance(error, OrlopError):
        return error
    code = code_of(error)
    if code == ResourceExhausted.code:
        log.warning('method "%s": %s', method, error)  # the host's want, not the handler's fault
    elif not isinstance(error, (TimeoutError, asyncio.CancelledError)):
        log.error('method "%s": unexpected %s', method, type(error).__name__, exc_info=error)
    return from_code(code, str(error) or type(error).__name__)
