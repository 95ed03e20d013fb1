# SPDX-License-Identifier: Apache-2.0
"""The shim suite, run against ours and against Debian's."""

from __future__ import annotations

from tests.support.daemon import OUR_SHIM

from orlop_sdk.testing.runtime import ShimSuite


class TestOrlop(ShimSuite):
    binary = OUR_SHIM
    groups = True


class TestDebian(ShimSuite):
    binary = "containerd-shim-runc-v2"
    tells_info = False  # containerd 1.6
    groups = True
