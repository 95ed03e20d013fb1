# SPDX-License-Identifier: Apache-2.0
"""Orlop's kernel: typed interfaces, a registry, one config, hooks. Everything else is a plugin.

A plugin author needs `InitContext`, `PluginConfig`, and the decorator and protocol of the role to play, from
`orlop.interfaces`. A program that embeds the kernel needs `orlop.kernel.Kernel` and `orlop.config`.
"""

TYPE_CHECKING = False  # not from typing, whose memory small processes would have to bear

if TYPE_CHECKING:
    from orlop.errors import OrlopError, SkipPlugin
    from orlop.plugin import ConfigPath, InitContext, PluginConfig, PluginStatus, PluginType, Registration, Requirement

__all__ = [
    "ConfigPath",
    "InitContext",
    "OrlopError",
    "PluginConfig",
    "PluginStatus",
    "PluginType",
    "Registration",
    "Requirement",
    "SkipPlugin",
]


def __getattr__(name: str) -> object:
    """Import on first use: a shim that needs `orlop.errors` alone must not pay for pydantic."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "orlop.errors" if name in ("OrlopError", "SkipPlugin") else "orlop.plugin"
    return getattr(import_module(module), name)
