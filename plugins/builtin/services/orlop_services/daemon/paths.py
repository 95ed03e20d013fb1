# SPDX-License-Identifier: Apache-2.0
"""Where things are when nothing says otherwise: where containerd has them."""

from __future__ import annotations

from typing import Final

DEFAULT_FILE: Final = "/etc/containerd/config.toml"
DEFAULT_ADDRESS: Final = "/run/containerd/containerd.sock"
