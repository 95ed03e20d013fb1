# SPDX-License-Identifier: Apache-2.0
"""Orlop's kernel: typed interfaces, a registry, one config, hooks. Everything else is a plugin.

A plugin author needs `InitContext`, `PluginConfig`, and the decorator and protocol of the role to play, from
`orlop.interfaces`. A program that embeds the kernel needs `orlop.kernel.Kernel` and `orlop.config`.
"""

from orlop.errors import OrlopError, SkipPlugin
from orlop.plugin import InitContext, PluginConfig, PluginStatus, PluginType, Registration, Requirement

__all__ = [
    "InitContext",
    "OrlopError",
    "PluginConfig",
    "PluginStatus",
    "PluginType",
    "Registration",
    "Requirement",
    "SkipPlugin",
]
