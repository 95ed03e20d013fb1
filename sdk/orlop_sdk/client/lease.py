# SPDX-License-Identifier: Apache-2.0
"""Hold a lease for as long as a block runs, so that garbage collection leaves alone what is made in it.

::

    async with held(services.leases, expire=3600) as lease:
        ...   # everything made in here stays until the lease is deleted, which is at the end
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from orlop import context
from orlop.errors import NotFound
from orlop.interfaces.metadata import LeaseStore
from orlop.values import EMPTY, Labels, Lease

EXPIRE_LABEL: Final = "containerd.io/gc.expire"
#: How long a lease lives whose client died (seconds).
DAY: Final = 24 * 3600.0


@asynccontextmanager
async def held(
    leases: LeaseStore, *, expire: float = DAY, labels: Labels = EMPTY, id: str = "", sync: bool = False
) -> AsyncIterator[Lease]:
    """A new lease that calls in the body are made under; deleted at the end, waiting for garbage collection if *sync*.

    Should this process die, it expires after *expire* seconds.
    """
    until = datetime.now(UTC) + timedelta(seconds=expire)
    wanted = {**labels, EXPIRE_LABEL: until.strftime("%Y-%m-%dT%H:%M:%SZ")}
    lease = await leases.create(id or _id(), wanted)
    try:
        with context.scope(namespace=context.namespace_or_none(), lease=lease.id):
            yield lease
    finally:
        with suppress(NotFound):  # expired, or somebody deleted it for us
            await leases.delete(lease.id, sync=sync)


@asynccontextmanager
async def ensured(leases: LeaseStore, *, expire: float = DAY) -> AsyncIterator[None]:
    """The lease of the current call, or a new one when there is none."""
    if context.lease() is not None:
        yield
        return
    async with held(leases, expire=expire):
        yield


def _id() -> str:
    return f"{time.time_ns()}-{base64.urlsafe_b64encode(os.urandom(6)).decode()}"
