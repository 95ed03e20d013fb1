# SPDX-License-Identifier: Apache-2.0
"""Registries that speak the OCI distribution API: resolve, fetch and push.

::

    async with RegistryResolver(credentials=docker_config()) as resolver:
        found = await resolver.resolve(normalise("busybox"))
        fetcher = await resolver.fetcher(found.name)
        async for chunk in fetcher.fetch(found.descriptor): ...

=================================  =====================================================================================
`orlop_sdk.registry.interface`     the protocols: resolvers, fetchers and pushers are replaceable
`orlop_sdk.registry.reference`     references, and the short forms that people type
`orlop_sdk.registry.hosts`         which machines serve a registry: ``hosts.toml``, certificates, mirrors
`orlop_sdk.registry.credentials`   who to be: Docker's ``config.json``, credential helpers
`orlop_sdk.registry.auth`          basic and bearer authentication
`orlop_sdk.registry.transport`     requests with retries, redirects and authentication
`orlop_sdk.registry.resolver`      the resolver over all of these
=================================  =====================================================================================
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from orlop_sdk.registry.credentials import Credential, Credentials, docker_config, fixed
    from orlop_sdk.registry.hosts import Capability, DirectoryHosts, Hosts, PlainHosts, RegistryHost, Tls
    from orlop_sdk.registry.interface import Fetcher, Pusher, Resolved, Resolver
    from orlop_sdk.registry.reference import Reference, familiar, normalise
    from orlop_sdk.registry.resolver import RegistryResolver

__all__ = [
    "Capability",
    "Credential",
    "Credentials",
    "DirectoryHosts",
    "Fetcher",
    "Hosts",
    "PlainHosts",
    "Pusher",
    "Reference",
    "RegistryHost",
    "RegistryResolver",
    "Resolved",
    "Resolver",
    "Tls",
    "docker_config",
    "familiar",
    "fixed",
    "normalise",
]

_MODULES: Final = {
    "Capability": "hosts",
    "Credential": "credentials",
    "Credentials": "credentials",
    "DirectoryHosts": "hosts",
    "Fetcher": "interface",
    "Hosts": "hosts",
    "PlainHosts": "hosts",
    "Pusher": "interface",
    "Reference": "reference",
    "RegistryHost": "hosts",
    "RegistryResolver": "resolver",
    "Resolved": "interface",
    "Resolver": "interface",
    "Tls": "hosts",
    "docker_config": "credentials",
    "familiar": "reference",
    "fixed": "credentials",
    "normalise": "reference",
}


def __getattr__(name: str) -> object:
    """Import on first use: who only wants to read a reference must not wait for an HTTP client."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
