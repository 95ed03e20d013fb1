# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orlop.errors import FailedPrecondition, InvalidArgument, NotFound
from orlop.values import AnyMessage, Mount
from orlop_sdk import oci
from orlop_sdk.linux.idmap import IdRange
from orlop_sdk.oci.user import Account, parse_accounts

IMAGE = {"config": {"Env": ["PATH=/bin", "A=1"], "Entrypoint": ["/run"], "Cmd": ["-x"], "WorkingDir": "/w"}}
PASSWD = "root:x:0:0::/root:/bin/sh\n# comment:x:1:1\nbroken\napp:x:1000:100::/:/bin/sh\n7:x:70:71::/:/bin/sh\n"
GROUP = "root:x:0:\nusers:x:100:\nextra:x:200:app,other\nmore:x:201:other,app\nbad:x:y:app\n"


async def spec(*options: oci.Option, **about: Any) -> oci.Spec:
    return await oci.build(oci.SpecContext("c", "ns", **about), *options)


async def test_the_default_is_a_copy_each_time() -> None:
    first, second = await spec(), await spec()
    assert first == second == oci.default_spec("c", "ns")
    first["mounts"].clear()
    assert second["mounts"]
    assert second["linux"]["cgroupsPath"] == "/ns/c"


async def test_options_are_plain_callables() -> None:
    seen = []

    def plain(spec: oci.Spec, context: oci.SpecContext) -> None:
        seen.append(context.id)
        spec["hostname"] = "first"

    async def asynchronous(spec: oci.Spec, context: oci.SpecContext) -> None:
        spec["hostname"] += "-second"

    made = await spec(oci.compose(plain, asynchronous))
    assert (made["hostname"], seen) == ("first-second", ["c"])


async def test_a_base_of_ones_own() -> None:
    base = {"process": {"args": ["x"]}}
    made = await oci.build(oci.SpecContext("c"), oci.with_env({"A": "b"}), base=base)
    assert made == {"process": {"args": ["x"], "env": ["A=b"]}}
    assert base == {"process": {"args": ["x"]}}


def test_encoding() -> None:
    message = oci.encode({"a": 1})
    assert message.type_url == "types.containerd.io/opencontainers/runtime-spec/1/Spec"
    assert json.loads(message.value) == {"a": 1}
    assert oci.decode(message) == {"a": 1}
    for bad in (None, AnyMessage("x", b"[]"), AnyMessage("x", b"{")):
        with pytest.raises(InvalidArgument):
            oci.decode(bad)


async def test_image_config() -> None:
    process = (await spec(oci.with_image_config(), oci.with_env(["A=2", "B=3"]), image=IMAGE))["process"]
    assert process["args"] == ["/run", "-x"]
    assert process["env"] == ["PATH=/bin", "A=2", "B=3"]
    assert process["cwd"] == "/w"
    assert process["user"] == {"uid": 0, "gid": 0, "additionalGids": [0]}
    process = (await spec(oci.with_image_config(["-y"]), image=IMAGE))["process"]
    assert process["args"] == ["/run", "-y"]
    with pytest.raises(InvalidArgument, match="no command"):
        await spec(oci.with_image_config())
    process = (await spec(oci.with_image_config(["sh"])))["process"]
    assert process["env"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    assert process["cwd"] == "/"


def test_environment() -> None:
    assert oci.merge_env(["A=1", "B=2", "C=3"], ["B=x=y", "A", "D="]) == ["B=x=y", "C=3", "D="]
    with pytest.raises(InvalidArgument):
        oci.merge_env([], ["=x"])


@pytest.mark.parametrize(
    ("user", "account"),
    [
        ("root", Account(0, 0)),
        ("app", Account(1000, 100, (200, 201))),
        ("1000", Account(1000, 100, (200, 201))),
        ("app:root", Account(1000, 0, (200, 201))),
        ("app:5", Account(1000, 5, (200, 201))),
        ("99", Account(99, 0)),
        ("99:98", Account(99, 98)),
        ("7", Account(70, 71)),
    ],
)
def test_users(user: str, account: Account) -> None:
    assert parse_accounts(user, PASSWD, GROUP) == account


@pytest.mark.parametrize("user", ["nobody", "app:nogroup"])
def test_unknown_users(user: str) -> None:
    with pytest.raises(NotFound):
        parse_accounts(user, PASSWD, GROUP)


@pytest.mark.parametrize("user", ["", ":1", "app:", "4294967296", "1:4294967296"])
def test_what_is_no_user(user: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_accounts(user, PASSWD, GROUP)


def root(folder: Path) -> list[Mount]:
    (folder / "etc").mkdir()
    return [Mount("bind", str(folder), "", ("rbind", "rw"))]


def link(path: Path, target: str) -> None:
    path.symlink_to(target)


async def test_users_of_a_root_file_system(tmp_path: Path) -> None:
    mounts = root(tmp_path)
    (tmp_path / "etc/passwd").write_text(PASSWD)
    link(tmp_path / "etc/group", "/etc/groups")
    (tmp_path / "etc/groups").write_text(GROUP)
    user = (await spec(oci.with_user("app"), rootfs=mounts))["process"]["user"]
    assert user == {"uid": 1000, "gid": 100, "additionalGids": [100, 200, 201]}


async def test_links_do_not_lead_out_of_the_root_file_system(tmp_path: Path) -> None:
    """The host's own accounts would be found by whoever follows them."""
    (tmp_path / "outside").write_text("spy:x:1:1::/:/bin/sh\n")
    inside = tmp_path / "inside"
    inside.mkdir()
    mounts = root(inside)
    for target in ("../../outside", str(tmp_path / "outside"), "/proc/self/root" + str(tmp_path / "outside")):
        link(inside / "etc/passwd", target)
        with pytest.raises(NotFound):
            await spec(oci.with_user("spy"), rootfs=mounts)
        (inside / "etc/passwd").unlink()


async def test_a_fifo_in_place_of_passwd_blocks_nobody(tmp_path: Path) -> None:
    import os

    mounts = root(tmp_path)
    os.mkfifo(tmp_path / "etc/passwd")
    with pytest.raises(NotFound):
        await spec(oci.with_user("app"), rootfs=mounts)


async def test_names_without_a_root_file_system() -> None:
    with pytest.raises(FailedPrecondition, match="uid:gid"):
        await spec(oci.with_user("app"))
    assert (await spec(oci.with_user("5:6")))["process"]["user"] == {"uid": 5, "gid": 6, "additionalGids": [6]}
    made = await spec(oci.with_user_id(5), oci.with_additional_groups(7, 8))
    assert made["process"]["user"]["additionalGids"] == [0, 7, 8]


async def test_capabilities() -> None:
    made = await spec(oci.with_capabilities(drop=["ALL"], add=["chown", "CAP_KILL"]))
    assert made["process"]["capabilities"]["effective"] == ["CAP_CHOWN", "CAP_KILL"]
    made = await spec(oci.with_only_capabilities([]), oci.with_ambient_capabilities(["NET_RAW"]))
    assert set(made["process"]["capabilities"]) == {"bounding", "effective", "permitted", "inheritable", "ambient"}
    with pytest.raises(InvalidArgument, match="FLY"):
        oci.with_capabilities(add=["FLY"])


async def test_mounts_and_namespaces() -> None:
    made = await spec(
        oci.with_mounts(oci.bind("/srv", "/data", read_only=True), Mount("tmpfs", "tmpfs", "/run", ("size=1m",))),
        oci.without_mounts("/dev/mqueue"),
        oci.with_host_namespace("ipc", "uts"),
        oci.with_namespace("cgroup"),
        oci.with_user_namespace(100_000, 200_000),
    )
    mounts = {mount["destination"]: mount for mount in made["mounts"]}
    assert mounts["/data"] == {"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "ro"]}
    assert mounts["/run"]["options"] == ["size=1m"]
    assert "/dev/mqueue" not in mounts
    types = [each["type"] for each in made["linux"]["namespaces"]]
    assert types == ["pid", "mount", "network", "cgroup", "user"]
    assert made["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 100_000, "size": 65536}]
    with pytest.raises(InvalidArgument):
        oci.with_host_namespace("space")
    with pytest.raises(InvalidArgument):
        oci.with_cwd("tmp")
    with pytest.raises(InvalidArgument):
        oci.with_mounts(Mount("bind", "/a", "b"))


async def test_limits_and_the_rest() -> None:
    made = await spec(
        oci.with_memory_limit(100, swap=200),
        oci.with_cpus(1.5),
        oci.with_cpu_shares(512),
        oci.with_cpuset("0-1"),
        oci.with_pids_limit(9),
        oci.with_rlimit("RLIMIT_NOFILE", 5, 6),
        oci.with_oom_score_adj(100),
        oci.with_cgroup("/x"),
        oci.with_seccomp({"defaultAction": "SCMP_ACT_ALLOW"}),
        oci.with_apparmor("p"),
        oci.with_selinux("l"),
        oci.with_rootfs_path("/srv/root"),
        oci.with_tty(80, 24),
    )
    resources = made["linux"]["resources"]
    assert resources["memory"] == {"limit": 100, "swap": 200}
    assert resources["cpu"] == {"quota": 150_000, "period": 100_000, "shares": 512, "cpus": "0-1"}
    assert resources["pids"] == {"limit": 9}
    process = made["process"]
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "hard": 6, "soft": 5}]
    assert (process["oomScoreAdj"], process["apparmorProfile"], process["selinuxLabel"]) == (100, "p", "l")
    assert process["consoleSize"] == {"height": 24, "width": 80}
    assert made["root"]["path"] == "/srv/root"
    assert made["linux"]["seccomp"] == {"defaultAction": "SCMP_ACT_ALLOW"}


async def test_devices() -> None:
    made = await spec(oci.with_devices("/dev/null", access="r"))
    assert [device["path"] for device in made["linux"]["devices"]] == ["/dev/null"]
    assert made["linux"]["resources"]["devices"][-1] == {
        "allow": True,
        "type": "c",
        "major": 1,
        "minor": 3,
        "access": "r",
    }
    for path in ("/dev/no-such-device", "/etc/passwd"):
        with pytest.raises(NotFound):
            await spec(oci.with_devices(path))


async def test_hooks_are_kept_in_their_order() -> None:
    first = oci.with_hook("poststop", "/bin/one", "two", env=["A=1"], timeout=3)
    made = await spec(first, oci.with_hook("poststop", "/bin/three"), oci.with_hook("prestart", "/bin/four"))
    assert made["hooks"] == {
        "poststop": [
            {"path": "/bin/one", "args": ["/bin/one", "two"], "env": ["A=1"], "timeout": 3},
            {"path": "/bin/three", "args": ["/bin/three"]},
        ],
        "prestart": [{"path": "/bin/four", "args": ["/bin/four"]}],
    }
    with pytest.raises(InvalidArgument, match="createRuntime"):
        oci.with_hook("sometime", "/bin/one")
    for args in ((), ("one",)):
        with pytest.raises(InvalidArgument, match="absolute path"):
            oci.with_hook("poststop", *args)


async def test_a_device_by_another_name() -> None:
    made = await spec(oci.with_device("/dev/null", "/dev/nothing", "r"))
    (device,) = made["linux"]["devices"]
    assert (device["path"], device["major"], device["minor"]) == ("/dev/nothing", 1, 3)
    assert made["linux"]["resources"]["devices"][-1] == {
        "allow": True,
        "type": "c",
        "major": 1,
        "minor": 3,
        "access": "r",
    }
    with pytest.raises(InvalidArgument, match="only one device"):
        await spec(oci.with_device("/dev/pts/..", "/dev/other"))
    with pytest.raises(NotFound):
        await spec(oci.with_device("/nosuch", "/dev/other"))


async def test_a_user_namespace_of_several_ranges() -> None:
    made = await spec(oci.with_id_mappings([IdRange(0, 5, 1), IdRange(1, 100, 9)], [IdRange(0, 6, 10)]))
    assert made["linux"]["uidMappings"][1] == {"containerID": 1, "hostID": 100, "size": 9}
    assert made["linux"]["gidMappings"] == [{"containerID": 0, "hostID": 6, "size": 10}]
    again = await spec(oci.with_user_namespace(7, 8), oci.with_user_namespace(7, 8))
    assert [each for each in again["linux"]["namespaces"] if each["type"] == "user"] == [{"type": "user"}]


def test_the_default_seccomp_profile_knows_other_machines() -> None:
    assert oci.default_seccomp(machine="aarch64")["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert "architectures" not in oci.default_seccomp(machine="riscv64")
    allowed = oci.default_seccomp(("CAP_SYS_CHROOT",))["syscalls"][0]["names"]
    assert "chroot" in allowed
    assert "chroot" not in oci.default_seccomp()["syscalls"][0]["names"]
