# SPDX-License-Identifier: Apache-2.0
"""Namespaces of a daemon that have an image with busybox."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.ctr import Ctr
from tests.support.daemon import Daemon
from tests.support.image import Image, write_archive
from tests.support.runtime import forget_namespace

IMAGE = "example.com/busy:1"


@contextmanager
def busy_namespace(daemon: Daemon, prefix: str) -> Iterator[Ctr]:
    """A new one with `IMAGE`; what runc leaves of it on the host is removed."""
    ctr = daemon.ctr(f"{prefix}-{uuid.uuid4().hex[:10]}")
    ctr.ok("images", "import", str(write_archive(daemon.base / "busy.tar", {IMAGE: Image()})))
    yield ctr
    forget_namespace(ctr.namespace)
