# SPDX-License-Identifier: Apache-2.0
"""From what a client wrote as stdout or stderr to what its shim gets."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from orlop.errors import FailedPrecondition, InvalidArgument
from orlop.interfaces.log import LogDriver
from orlop.values import Stdio

#: The console script that runs a driver under a shim which does not know its scheme.
HELPER: Final = "orlop-log"
# What clients in Go make of URIs that have neither host nor path: journald:?tag=web
_BARE: Final = re.compile(r"([a-z][a-z0-9+.-]*):(\?.*)?", re.DOTALL)


class LogUris:
    """Resolves log URIs with the drivers there are.

    *drivers* is a live view by id and *driver_type* the name of their plugin type; *hooks* calls ``orlop_log_uri``.
    *config* is the config file that the helper reads the driver's section from, or empty.
    """

    def __init__(self, drivers: Mapping[str, LogDriver], driver_type: str, hooks: Any, config: str = "") -> None:
        self._drivers = drivers
        self._type = driver_type
        self._hooks = hooks
        self._config = config

    def resolve(self, stdio: Stdio, namespace: str, container: str, image: str = "") -> Stdio:
        """The same streams in terms that every shim understands. Drivers in the helper learn the *image*'s name.

        Raises `InvalidArgument` for a scheme that no driver has, and for a URI that its driver cannot use.
        """
        return replace(
            stdio,
            stdout=self._resolve(stdio.stdout, namespace, container, image),
            stderr=self._resolve(stdio.stderr, namespace, container, image),
        )

    def _resolve(self, uri: str, namespace: str, container: str, image: str) -> str:
        if not uri:
            return uri
        if bare := _BARE.fullmatch(uri):
            uri = f"{bare[1]}://{bare[2] or ''}"
        uri = self._hooks.orlop_log_uri(uri=uri, namespace=namespace, container=container) or uri
        scheme = uri.partition("://")[0] if "://" in uri else ""
        if not scheme and not self._drivers:
            # Without any driver installed, pipes still work.
            return uri
        id, driver = self._find(uri, scheme)
        native = driver.shim_uri(uri)
        return native if native is not None else self._through_helper(id, uri, image)

    def _find(self, uri: str, scheme: str) -> tuple[str, LogDriver]:
        known: set[str] = set()
        for id, driver in sorted(self._drivers.items()):
            if scheme in driver.schemes:
                return id, driver
            known.update(driver.schemes)
        names = ", ".join(sorted(filter(None, known))) or "none"
        raise InvalidArgument(
            f'log URI "{uri}": no log driver has the scheme "{scheme}" (there are: {names}); '
            "install the driver's distribution, or use one of these"
        )

    def _through_helper(self, id: str, uri: str, image: str) -> str:
        # Some shims pass the query on in no particular order, so nothing may depend on it.
        query = {"driver": f"{self._type}.{id}", "uri": uri}
        if self._config:
            query["config"] = self._config
        if image:
            query["image"] = image
        return f"binary://{helper_path()}?{urlencode(query)}"


def helper_path() -> str:
    """The absolute path of the helper, beside the interpreter or this program.

    Raises `FailedPrecondition` when it is not installed.
    """
    for folder in (Path(sys.executable).parent, Path(sys.argv[0]).parent):
        path = folder.absolute() / HELPER
        if os.access(path, os.X_OK):
            return str(path)
    raise FailedPrecondition(f"{HELPER}: not found beside {sys.executable}; reinstall orlop-runtime")
