# SPDX-License-Identifier: Apache-2.0
"""Options of ``orlop run``: what they make of a specification, and which make no sense."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from orlop.errors import InvalidArgument, NotFound
from orlop_cli.commands import run_options
from orlop_cli.commands.processes import RunCommand
from orlop_cli.console import Usage
from orlop_sdk import oci
from orlop_sdk.api.types.runc.options.oci_pb2 import Options
from orlop_sdk.linux.idmap import IdRange


def parsed(*words: str) -> argparse.Namespace:
    """The arguments of a command line."""
    parser = argparse.ArgumentParser()
    RunCommand().configure(parser)
    return parser.parse_args([*words, "image", "command"])


async def spec_of(*words: str) -> dict[str, Any]:
    """The specification that it makes."""
    arguments = parsed(*words)
    run_options.check(arguments)
    return await oci.build(oci.SpecContext("c1"), *run_options.spec_options(arguments, (0, 0)))


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("--uidmap", "0:1:2"), Usage, "give both"),
        (("--uidmap", "0:1", "--gidmap", "0:1:2"), InvalidArgument, "container:host:size"),
        (("--remap-labels",), Usage, "goes with --uidmap"),
        (("--ulimit", "nofile"), Usage, "nofile=1024:4096"),
        (("--ulimit", "nofile=-2"), Usage, "nofile=1024:4096"),
        (("--mount", "dst=/x"), Usage, "type=bind,src="),
        (("--mount", "type=bind,src=/a,dst=/b,nosuch=1"), Usage, "type=bind,src="),
        (("--device", "/dev/fuse:x"), Usage, "/dev/name"),
        (("--seccomp-profile", "/nosuch"), NotFound, "no such file"),
        (("--env-file", "/nosuch"), InvalidArgument, "cannot be read"),
        (("--cgroup", "/a", "--cgroup-parent", "/b"), Usage, "leave one out"),
        (("--cpus", "1", "--cpu-quota", "5"), Usage, "leave one out"),
        (("--cpu-period", "5"), Usage, "add it"),
        (("--privileged", "--seccomp-profile", "/x"), Usage, "leave one out"),
        (("--with-ns", "nosuch:/proc/1/ns/pid"), InvalidArgument, "there are pid, ipc"),
        (("--rootfs",), NotFound, "no such directory"),
        (("--sysctl", "=1"), Usage, "empty name"),
    ],
)
async def test_mistakes(words: tuple[str, ...], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        await spec_of(*words)
        run_options.settings(parsed(*words), {})


async def test_names_of_mounts() -> None:
    spec = await spec_of("--mount", "type=bind,source=/a,target=/b,readonly", "--mount", "type=tmpfs,destination=/c")
    mounts = {mount["destination"]: mount for mount in spec["mounts"]}
    assert mounts["/b"] == {"destination": "/b", "type": "bind", "source": "/a", "options": ["rbind", "ro"]}
    assert mounts["/c"] == {"destination": "/c", "type": "tmpfs", "source": "tmpfs", "options": []}


async def test_limits_replace_those_of_one_name() -> None:
    spec = await spec_of("--ulimit", "nofile=5", "--rlimit", "RLIMIT_CORE=-1:unlimited")
    assert spec["process"]["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "hard": 5, "soft": 5},
        {"type": "RLIMIT_CORE", "hard": (1 << 64) - 1, "soft": (1 << 64) - 1},
    ]


async def test_groups() -> None:
    assert (await spec_of("--cgroup", ""))["linux"]["cgroupsPath"] == ""
    assert (await spec_of("--cgroup-parent", "a/b/"))["linux"]["cgroupsPath"] == "/a/b/c1"
    assert (await spec_of("--cgroup-parent", "a.slice"))["linux"]["cgroupsPath"] == "a.slice:orlop:c1"


async def test_a_file_of_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "h")
    file = tmp_path / "env"
    file.write_text("# remark\n\nA=1\n  B=two words\nFROM_HERE\nNOT_THERE\n")
    spec = await spec_of("--env-file", str(file), "-e", "A=2")
    assert sorted(spec["process"]["env"]) == ["A=2", "B=two words", "FROM_HERE=h"]


def test_a_user_namespace() -> None:
    settings = run_options.settings(parsed("--uidmap", "0:7:1,1:9:5", "--gidmap", "0:8:2"), {"more": "1"})
    assert settings.uids == (IdRange(0, 7, 1), IdRange(1, 9, 5))
    assert settings.gids == (IdRange(0, 8, 2),)
    assert settings.labels == {"more": "1"}
    assert settings.runtime_options is not None
    options = Options.FromString(settings.runtime_options.value)
    assert (options.io_uid, options.io_gid) == (7, 8)


def test_runtime_options_are_sent_only_if_there_are_any() -> None:
    assert run_options.settings(parsed(), {}).runtime_options is None
    words = ("--runc-binary", "crun", "--runc-root", "/r", "--no-pivot", "--runc-systemd-cgroup")
    message = run_options.settings(parsed(*words), {}).runtime_options
    assert message is not None
    options = Options.FromString(message.value)
    assert (options.binary_name, options.root, options.no_pivot_root, options.systemd_cgroup) == (
        "crun",
        "/r",
        True,
        True,
    )


async def test_seccomp_comes_after_the_capabilities(tmp_path: Path) -> None:
    profile = (await spec_of("--seccomp", "--cap-add", "SYS_ADMIN"))["linux"]["seccomp"]
    assert "mount" in profile["syscalls"][0]["names"]
    assert "mount" not in (await spec_of("--seccomp"))["linux"]["seccomp"]["syscalls"][0]["names"]
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"defaultAction": "SCMP_ACT_LOG"}))
    assert (await spec_of("--seccomp-profile", str(file)))["linux"]["seccomp"] == {"defaultAction": "SCMP_ACT_LOG"}
    for wrong in ('{"syscalls": []}', "[]", '{"defaultAction": "SCMP_ACT_LOG", "archMap": []}'):
        file.write_text(wrong)
        with pytest.raises(InvalidArgument, match="seccomp profile"):
            await spec_of("--seccomp-profile", str(file))
