# SPDX-License-Identifier: Apache-2.0
"""The runtime's plugins in a kernel, with the metadata store and a real shim. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import oci
from tests.support.runtime import PATIENCE, RUNC, Forwarding, Recorder, forget_namespace

from orlop import context
from orlop.config import from_data
from orlop.interfaces.metadata import METADATA
from orlop.interfaces.task import TASKS, TaskOptions
from orlop.kernel import Kernel
from orlop.values import Container, RuntimeInfo, TaskStatus
from orlop_sdk.ttrpc.server import Server

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("containerd-shim-runc-v2", "runc", "busybox"))),
    reason="needs root, containerd's runc shim, runc and busybox-static",
)


def kernel(base: Path) -> Kernel:
    config = {
        "root": str(base / "root"),
        "state": str(base / "state"),
        "plugins": {
            "io.containerd.service.v1.tasks-service": {"rdt_config_file": "", "blockio_config_file": ""},
            "io.containerd.shim.v1.manager": {"env": ["TZ=UTC"]},
            "io.containerd.runtime.v2.task": {"platforms": ["linux/amd64"]},
        },
    }
    return Kernel(
        from_data(config),
        properties={"grpc.address": f"{base}/g.sock", "ttrpc.address": f"{base}/t.sock"},
        only={"io.containerd.service.v1.tasks-service", "io.orlop.log.v1.file"},
    )


async def test_a_task_of_a_record_survives_the_kernel(short_tmp: Path) -> None:
    namespace = f"orlop-test-{short_tmp.name}"
    mounts = oci.busybox_tree(short_tmp / "tree")
    server = Server(Forwarding(Recorder()).methods())
    await server.listen(f"{short_tmp}/t.sock")
    spec = oci.spec_message(oci.spec(namespace, "c1", ["sleep", "1000"]))
    with context.scope(namespace=namespace):
        async with kernel(short_tmp) as first:
            await first.get(METADATA).containers.create(Container("c1", RuntimeInfo(RUNC), spec))
            task = await first.get(TASKS, "tasks-service").create("c1", TaskOptions(rootfs=mounts))
            await task.start()
            assert (short_tmp / "state/io.containerd.runtime.v2.task" / namespace / "c1").is_dir()
        async with kernel(short_tmp) as second:
            tasks = second.get(TASKS, "tasks-service")
            assert [state.status for state in await tasks.states()] == [TaskStatus.RUNNING]
            assert [metric.id for metric in await tasks.metrics()] == ["c1"]
            task = await tasks.get("c1")
            await task.kill(9)
            assert (await task.wait()).status == 137
            assert (await task.delete()).status == 137
            statuses = {status.uri: status for status in second.registry.statuses()}
    assert statuses["io.containerd.runtime.v2.task"].exports["log-uri-schemes"] == "fifo,binary,binary-v2,file"
    assert statuses["io.orlop.log.v1.file"].exports["schemes"] == "file"
    await server.close()
    forget_namespace(namespace)


def test_declaring_the_plugins_loads_no_implementation() -> None:
    code = (
        "import sys, orlop_runtime.plugins\n"
        "print([name for name in sys.modules if name.startswith(('orlop_sdk', 'orlop_runtime.', 'google', 'grpc'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout.strip() == "['orlop_runtime.plugins']"
