# SPDX-License-Identifier: Apache-2.0
"""Our specifications against those of the real ctr, option by option."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.client.conftest import Target, clean
from tests.support.image import Image, busybox_layer, entry, tar, write_archive

from orlop.values import Mount
from orlop_sdk import oci
from orlop_sdk.client import Client

NAME = "example.com/spec:1"


@pytest.fixture
def containerd(targets: Callable[[str], Target]) -> Target:
    return targets("containerd")


@pytest.fixture
async def client(containerd: Target, namespace: str, directory: Path) -> AsyncIterator[Client]:
    groups = tar([entry("etc/group", b"root:x:0:\nwheel:x:10:root,user\nuser:x:1000:\n")])
    archive = write_archive(directory / "spec.tar", {NAME: Image([busybox_layer(), groups], labels={"say": "hi"})})
    async with containerd.client(namespace) as client:
        await client.import_images(archive, snapshotter=None)
        yield client
        await clean(client)


OPTIONS: dict[str, tuple[list[str], list[oci.Option]]] = {
    "default": ([], []),
    "tty": (["--tty"], [oci.with_tty()]),
    "read-only": (["--read-only"], [oci.with_read_only_rootfs()]),
    "net-host": (["--net-host"], [oci.with_host_network()]),
    "privileged": (["--privileged"], [oci.with_privileged()]),
    "env": (["--env", "IMAGE=no", "--env", "NEW=1"], [oci.with_env(["IMAGE=no", "NEW=1"])]),
    "cwd": (["--cwd", "/tmp"], [oci.with_cwd("/tmp")]),
    "memory": (["--memory-limit", "1000000"], [oci.with_memory_limit(1_000_000)]),
    "cpu": (["--cpu-quota", "5000", "--cpu-period", "10000"], [oci.with_cpu_quota(5000, 10000)]),
    "device": (["--device", "/dev/fuse"], [oci.with_devices("/dev/fuse")]),
    "cap-add": (["--cap-add", "CAP_SYS_ADMIN"], [oci.with_capabilities(add=["SYS_ADMIN"])]),
    "cap-drop": (["--cap-drop", "CAP_CHOWN"], [oci.with_capabilities(drop=["CHOWN"])]),
    "new-privileges": (["--allow-new-privs"], [oci.with_new_privileges()]),
    "namespace": (["--with-ns", "pid:/proc/1/ns/pid"], [oci.with_namespace("pid", "/proc/1/ns/pid")]),
    "annotation": (["--annotation", "a=b"], [oci.with_annotations({"a": "b"})]),
    "propagation": (["--rootfs-propagation", "shared"], [oci.with_rootfs_propagation("shared")]),
    "mount": (
        ["--mount", "type=bind,src=/tmp,dst=/host,options=rbind:ro"],
        [oci.with_mounts(Mount("bind", "/tmp", "/host", ("rbind", "ro")))],
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
async def test_specification(client: Client, containerd: Target, case: str) -> None:
    flags, options = OPTIONS[case]
    assert containerd.daemon is not None
    ctr = containerd.daemon.ctr(client.namespace)
    ctr.ok("containers", "create", *flags, NAME, "c1")
    theirs = json.loads(ctr.ok("containers", "info", "c1"))
    async with await client.create_container("c2", NAME, *options) as container:
        assert normal(container.spec()) == normal(theirs["Spec"])
        assert container.record.labels == theirs["Labels"]
        assert container.record.image == theirs["Image"]
        assert container.record.runtime.name == theirs["Runtime"]["Name"]


def normal(spec: dict[str, Any]) -> dict[str, Any]:
    """The specification without what differs for good reasons: the id, and a mask that containerd 1.6 lacks."""
    linux = spec["linux"]
    linux["cgroupsPath"] = linux["cgroupsPath"].rpartition("/")[0]
    if "maskedPaths" in linux:
        linux["maskedPaths"] = [path for path in linux["maskedPaths"] if path != "/sys/devices/virtual/powercap"]
    return spec
