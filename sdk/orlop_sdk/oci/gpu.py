# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's devices, by way of the program that its toolkit has for hooks (``nvidia-container-cli``)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orlop.errors import FailedPrecondition
from orlop_sdk.oci.spec import Option
from orlop_sdk.oci.system import with_hook

#: The program, found on PATH.
PROGRAM: Final = "nvidia-container-cli"
#: Parts of the driver that the container gets: all that the program knows.
_PARTS: Final = ("compute", "compat32", "graphics", "utility", "video", "display")


def with_nvidia_gpus(*devices: str) -> Option:
    """GPUs by number or UUID; none given means all. A hook prepares them before the container starts.

    Raises `FailedPrecondition` where the program, or the ``orlopd`` that fills the container's pid into its arguments,
    is missing.
    """
    hook = [
        *(_found("orlopd"), "oci-hook", "--", _found(PROGRAM), "--load-kmods", "configure"),
        *_wanted(devices),
        *(f"--{part}" for part in _PARTS),
        *("--ldconfig=@/sbin/ldconfig", "--pid={{pid}}", "{{rootfs}}"),
    ]
    # Later ones come too late: it has to be before the container's root is its own.
    return with_hook("prestart", *hook, env=[f"PATH={os.environ.get('PATH', os.defpath)}"])


def _wanted(devices: Sequence[str]) -> list[str]:
    return [f"--device={device}" for device in devices or ["all"]]


def _found(name: str) -> str:
    beside = Path(sys.executable).parent / name
    path = str(beside) if os.access(beside, os.X_OK) else shutil.which(name)
    if path is None:
        raise FailedPrecondition(f"GPUs: {name} is not on PATH; install NVIDIA's container toolkit, and orlop-services")
    return os.path.abspath(path)
