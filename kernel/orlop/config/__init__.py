# SPDX-License-Identifier: Apache-2.0
"""The one global config: containerd's ``config.toml``, read, migrated, merged and held against the plugins' models."""

from orlop.config.duration import GoDuration, seconds
from orlop.config.load import Config, from_data, load

__all__ = ["Config", "GoDuration", "from_data", "load", "seconds"]
