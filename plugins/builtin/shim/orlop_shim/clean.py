# SPDX-License-Identifier: Apache-2.0
"""Cleaning up after a shim that died: the action ``delete``."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from orlop_shim import files, rootfs
from orlop_shim.children import Children
from orlop_shim.container import LOG_FILE, OPTIONS_FILE, PID_FILE, RUNTIME_FILE
from orlop_shim.loop import Loop
from orlop_shim.messages import OPTIONS
from orlop_shim.runtime import Runtime, Settings
from orlop_shim.start import remove_dead_socket


def clean(id: str, namespace: str, bundle: str) -> int:
    """Kill and delete the container, unmount its root file system; returns the pid that it had, or 0.

    What is not there (any more) is fine. Raises OSError when something cannot be unmounted.
    """
    options = OPTIONS.decode(b"")
    with suppress(ValueError, TypeError):
        options |= json.loads(files.read_or_nothing(os.path.join(bundle, OPTIONS_FILE)) or b"{}")
    options["binary_name"] = (
        files.read_or_nothing(os.path.join(bundle, RUNTIME_FILE)).decode() or options["binary_name"]
    )
    loop = Loop()
    runtime = Runtime(Children(loop), Settings.of(options, namespace), os.path.join(bundle, LOG_FILE))

    async def work() -> None:
        # It says so when the container is not there, or never was; there is nothing to do about any other reason.
        with suppress(OSError):
            await runtime.run("delete", "--force", id)

    loop.spawn(work()).then(loop.stop)
    loop.run()
    rootfs.unmount(os.path.join(bundle, "rootfs"))
    remove_dead_socket(files.read_or_nothing(os.path.join(bundle, "address")).decode(errors="replace"))
    text = files.read_or_nothing(os.path.join(bundle, PID_FILE))
    return int(text) if text.isdigit() else 0
