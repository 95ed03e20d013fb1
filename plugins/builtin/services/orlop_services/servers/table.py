# SPDX-License-Identifier: Apache-2.0
"""The methods that a server answers, as they are at each call: services come and go while it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from orlop.interfaces.rpc import GRPC_SERVICE, RpcMethod, RpcService
from orlop.plugin import Plugins


class LiveTable(Mapping[str, RpcMethod]):
    """Full path to method, of all services in a live mapping.

    A path that two services claim belongs to the first. A look costs a dictionary access; the tables of the services
    are read again only when one that is needed is not there any more, or a path is unknown.
    """

    def __init__(self, services: Mapping[str, RpcService], log: logging.Logger) -> None:
        self._services = services
        self._log = log
        self._mounted: dict[str, RpcService] = {}
        self._methods: dict[str, tuple[str, RpcMethod]] = {}

    def __getitem__(self, path: str) -> RpcMethod:
        found = self._methods.get(path)
        if found is None or self._services.get(found[0]) is not self._mounted[found[0]]:
            self._mount()
            found = self._methods[path]
        return found[1]

    def __iter__(self) -> Iterator[str]:
        self._mount()
        return iter(dict(self._methods))

    def __len__(self) -> int:
        self._mount()
        return len(self._methods)

    def _mount(self) -> None:
        services = dict(self._services)
        if _same(services, self._mounted):
            return
        self._mounted, self._methods = services, {}
        for id, service in services.items():
            for path, method in service.methods().items():
                owner, _ = self._methods.setdefault(path, (id, method))
                if owner != id:
                    self._log.warning("%s: offered by %s and %s; the first answers", path, owner, id)


class Offered(Mapping[str, RpcService]):
    """Those of the services whose plugin has a capability."""

    def __init__(self, services: Mapping[str, RpcService], plugins: Plugins, capability: str) -> None:
        self._services, self._plugins, self._capability = services, plugins, capability

    def __getitem__(self, id: str) -> RpcService:
        if id not in set(self):
            raise KeyError(id)
        return self._services[id]

    def __iter__(self) -> Iterator[str]:
        capable = {
            status.id
            for status in self._plugins.statuses()
            if status.type == GRPC_SERVICE.name and self._capability in status.capabilities
        }
        return (id for id in self._services if id in capable)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _same(one: Mapping[str, RpcService], other: Mapping[str, RpcService]) -> bool:
    return one.keys() == other.keys() and all(one[id] is other[id] for id in one)
