# SPDX-License-Identifier: Apache-2.0
"""Cleaning up after a shim that died: the action ``delete``."""

from __future__ import annotations

import os
from contextlib import suppress

from orlop_shim import files, rootfs, runc_options
from orlop_shim.children import Children
from orlop_shim.container import LOG_FILE, PID_FILE
from orlop_shim.loop import Loop
from orlop_shim.runtime import Runtime, Settings
from orlop_shim.start import remove_dead_socket


def clean(id: str, namespace: str, bundle: str) -> int:
    """Kill and delete the container, unmount its root file system; returns the pid that it had, or 0.

    What is not there (any more) is fine. Raises OSError when something cannot be unmounted.
    """
    loop = Loop()
    settings = Settings.of(runc_options.saved(bundle), namespace)
    runtime = Runtime(Children(loop), settings, os.path.join(bundle, LOG_FILE))

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
