# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import subprocess

import pytest

from orlop.errors import InvalidArgument
from orlop_sdk import oci


@pytest.mark.skipif(shutil.which("apparmor_parser") is None, reason="needs apparmor_parser; Debian's apparmor has it")
def test_the_default_profile_is_one() -> None:
    text = oci.default_apparmor("orlop-default").encode()
    subprocess.run(["apparmor_parser", "--skip-kernel-load", "--skip-cache"], input=text, check=True)


def test_its_name_is_one_word() -> None:
    assert "profile orlop-default flags" in oci.default_apparmor("orlop-default")
    for name in ("", "a b", "a {}", "-a", "a/b", "a\nb"):
        with pytest.raises(InvalidArgument, match="bad name"):
            oci.default_apparmor(name)
