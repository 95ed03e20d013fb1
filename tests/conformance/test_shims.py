# SPDX-License-Identifier: Apache-2.0
"""The shim suite, run against ours and against Debian's."""

from __future__ import annotations

import sys
from pathlib import Path

from orlop_sdk.testing.runtime import ShimSuite


class TestOrlop(ShimSuite):
    binary = str(Path(sys.executable).parent / "containerd-shim-orlop-v1")
    groups = True


class TestDebian(ShimSuite):
    binary = "containerd-shim-runc-v2"
    tells_info = False  # containerd 1.6
    groups = True
