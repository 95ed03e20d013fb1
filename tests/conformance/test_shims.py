# SPDX-License-Identifier: Apache-2.0
"""The shim suite, run against Debian's real shim."""

from __future__ import annotations

from orlop_sdk.testing.runtime import ShimSuite


class TestDebian(ShimSuite):
    binary = "containerd-shim-runc-v2"
    tells_info = False  # containerd 1.6
    groups = True
