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
    "rdt": (["--rdt-class", "gold"], [oci.with_rdt("gold")]),
    "apparmor": (["--apparmor-profile", "own"], [oci.with_apparmor("own")]),
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


async def test_the_default_seccomp_profile(client: Client, containerd: Target) -> None:
    """Ours forbids nothing that containerd's own allows, and allows nothing of old that its does not."""
    assert containerd.daemon is not None
    ctr = containerd.daemon.ctr(client.namespace)
    powers = ["SYS_ADMIN", "SYS_PTRACE", "SYS_TIME", "DAC_READ_SEARCH", "SYS_BOOT", "SYS_MODULE", "SYS_NICE", "SYSLOG"]
    for number, add in enumerate([[], powers]):
        flags = [word for name in add for word in ("--cap-add", f"CAP_{name}")]
        ctr.ok("containers", "create", "--seccomp", *flags, NAME, f"c{number}")
        theirs = json.loads(ctr.ok("containers", "info", f"c{number}"))["Spec"]["linux"]["seccomp"]
        context = oci.SpecContext("ours")
        ours = (await oci.build(context, oci.with_capabilities(add=add), oci.with_default_seccomp()))["linux"][
            "seccomp"
        ]
        assert ours["defaultAction"] == theirs["defaultAction"]
        assert set(ours["architectures"]) == set(theirs["architectures"])
        assert allowed(theirs) - allowed(ours) <= WITHDRAWN
        assert allowed(ours) - allowed(theirs) <= NEWER
        assert conditional(ours, "personality") == conditional(theirs, "personality")
        assert conditional(ours, "clone") == conditional(theirs, "clone")


#: What containerd 1.6 allows and later ones do not: too many holes, and sockets to the hypervisor.
WITHDRAWN = {"io_uring_enter", "io_uring_register", "io_uring_setup", "socket"}
#: What came to Linux after it, or is there on other processors only, whose profiles it makes apart.
NEWER = set(
    """
    arm_breakpoint arm_fadvise64_64 arm_set_tls arm_sync_file_range breakpoint cacheflush riscv_flush_icache
    riscv_hwprobe set_tls sync_file_range2 cachestat fchmodat2 futex_requeue futex_wait futex_wake getxattrat listmount
    listxattrat lsm_get_self_attr lsm_list_modules lsm_set_self_attr map_shadow_stack mseal open_tree_attr removexattrat
    set_mempolicy_home_node setxattrat statmount uretprobe
    """.split()
)


def allowed(profile: dict[str, Any]) -> set[str]:
    """The calls that are allowed whatever their arguments."""
    rules = [rule for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args")]
    return {name for rule in rules for name in rule["names"]}


def conditional(profile: dict[str, Any], name: str) -> set[tuple[int, ...]]:
    """The values of its arguments for which a call is allowed."""
    rules = [rule for rule in profile["syscalls"] if name in rule["names"] and rule["action"] == "SCMP_ACT_ALLOW"]
    return {(arg["index"], arg["value"], arg.get("valueTwo", 0)) for rule in rules for arg in rule.get("args", ())}
