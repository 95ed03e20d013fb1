# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextvars
import json
import logging
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import pytest
import tomli

from orlop_sdk.rpc.channel import set_trace
from orlop_services.daemon import main
from orlop_services.daemon.logs import JsonFormatter, TextFormatter
from orlop_services.daemon.oci_hook import BadHook, expand

ORLOPD = str(Path(sys.executable).parent / "orlopd")
GRPC = "io.containerd.server.v1.grpc"
TTRPC = "io.containerd.server.v1.ttrpc"


def run(*arguments: str, data: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **env}
    command = [ORLOPD, *arguments]
    return subprocess.run(command, input=data, capture_output=True, timeout=60, env=environment, check=False)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"orlopd orlop {metadata.version('orlop-services')}\n"


@pytest.mark.parametrize("words", [["-address", "/x"], ["--address=/x"], ["-address=/x"], ["-a", "/x"]])
def test_long_options_may_have_one_dash(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text("version = 4\n")
    assert main(["-config", str(file), *words, "config", "migrate"]) == 0
    assert tomli.loads(capsys.readouterr().out)["plugins"][GRPC]["address"] == "/x"


def test_asking_for_the_version_loads_neither_grpc_nor_pydantic() -> None:
    code = "import sys; from orlop_services.daemon import main; main(['-v']); "
    code += "print({'grpc', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30)
    assert done.stdout.endswith(b"set()\n")


class TestConfig:
    def test_the_default_explains_every_key(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["config", "default"]) == 0
        text = capsys.readouterr().out
        data = tomli.loads(text)
        assert data["version"] == 4
        assert data["root"] == "/var/lib/containerd"
        assert data["plugins"][GRPC]["address"] == "/run/containerd/containerd.sock"
        assert data["plugins"][TTRPC]["address"] == "/run/containerd/containerd.sock.ttrpc"
        assert "# Path of the socket; 104 bytes at most.\naddress = " in text

    def test_a_dump_is_the_files_over_the_defaults(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "c.toml"
        file.write_text('version = 2\nroot = "/r"\n[grpc]\naddress = "/x.sock"\nuid = 7\n')
        assert main(["-c", str(file), "--state", "/s", "-l", "debug", "config", "dump"]) == 0
        data = tomli.loads(capsys.readouterr().out)
        assert (data["version"], data["root"], data["state"], data["debug"]["level"]) == (4, "/r", "/s", "debug")
        assert (data["plugins"][GRPC]["address"], data["plugins"][GRPC]["uid"]) == ("/x.sock", 7)
        assert data["plugins"][GRPC]["max_recv_message_size"] == 16777216
        assert data["plugins"][TTRPC]["address"] == "/x.sock.ttrpc"

    def test_the_defaults_as_a_file_change_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["config", "default"]) == 0
        written, bare = tmp_path / "written.toml", tmp_path / "bare.toml"
        written.write_text(capsys.readouterr().out)
        bare.write_text("version = 4\n")
        dumps = []
        for file in (written, bare):
            assert main(["-c", str(file), "config", "dump"]) == 0
            dumps.append(tomli.loads(capsys.readouterr().out))
        assert dumps[0] == dumps[1]

    def test_a_dump_tells_what_comes_from_where(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "c.toml"
        file.write_text('version = 4\nroot = "/r"\n')
        assert main(["-c", str(file), "--state", "/s", "config", "dump"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert f'root = "/r"  # {file}:2' in lines
        assert 'state = "/s"  # command line' in lines
        assert "oom_score = 0" in lines

    def test_a_migration_says_what_was_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "c.toml"
        file.write_text('version = 2\n[grpc]\naddress = "/x.sock"\n')
        assert main(["-c", str(file), "config", "migrate"]) == 0
        data = tomli.loads(capsys.readouterr().out)
        assert data["version"] == 4
        assert data["plugins"][GRPC] == {"address": "/x.sock"}
        assert "grpc" not in data

    def test_an_address_from_the_command_line_brings_its_ttrpc_twin(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "c.toml"
        file.write_text("version = 4\n")
        assert main(["-c", str(file), "-a", "/y.sock", "config", "dump"]) == 0
        plugins = tomli.loads(capsys.readouterr().out)["plugins"]
        assert (plugins[GRPC]["address"], plugins[TTRPC]["address"]) == ("/y.sock", "/y.sock.ttrpc")

    def test_all_faults_are_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "c.toml"
        file.write_text(f'version = 4\noom_score = "x"\n[plugins."{GRPC}"]\naddress = 5\n')
        assert main(["-c", str(file), "config", "dump"]) == 1
        text = capsys.readouterr().err
        assert f"orlopd: {file}:2: oom_score" in text


class TestHook:
    STATE: ClassVar = {"id": "c1", "pid": 7, "status": "created", "annotations": {"a": "x y"}}

    def test_fields_are_filled_in(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"root": {"path": "rootfs"}}')
        state = {**self.STATE, "bundle": str(tmp_path)}
        text = 'i={{id}} p={{ pid }} s={{status}} a={{annotation "a"}} b={{annotation `b`}} r={{rootfs}}'
        assert expand(text, state) == f"i=c1 p=7 s=created a=x y b= r={tmp_path}/rootfs"

    @pytest.mark.parametrize("text", ["{{nothing}}", "{{id", "{{annotation}}"])
    def test_other_fields_are_refused(self, text: str) -> None:
        with pytest.raises(BadHook, match="there is no field"):
            expand(text, self.STATE)

    def test_the_program_takes_our_place(self) -> None:
        state = json.dumps(self.STATE).encode()
        done = run("oci-hook", "--", "sh", "-c", 'echo "$0 $1 $V"', "{{id}}", "-root", data=state, V="{{pid}}")
        assert (done.returncode, done.stdout) == (0, b"c1 -root 7\n")

    @pytest.mark.parametrize(
        ("words", "data", "reason"),
        [
            ([], b"{}", "no program"),
            (["--", "true"], b"nonsense", "not the JSON"),
            (["--", "/nowhere/x"], b"{}", "No such file"),
        ],
    )
    def test_what_cannot_be_run_is_told(self, words: list[str], data: bytes, reason: str) -> None:
        done = run("oci-hook", *words, data=data)
        assert done.returncode == 1
        assert reason in done.stderr.decode()


class TestPublish:
    @pytest.mark.parametrize(
        ("arguments", "data", "reason"),
        [
            (["--topic", "/t"], b"", "both required"),
            (["--topic", "/t", "--namespace", "n"], b"\xff", "not a google.protobuf.Any"),
            (["--topic", "/t", "--namespace", "n"], b"", "without a type"),
        ],
    )
    def test_a_request_that_is_wrong_is_told(self, arguments: list[str], data: bytes, reason: str) -> None:
        done = run("publish", *arguments, data=data)
        assert done.returncode == 1
        assert reason in done.stderr.decode()


class TestLog:
    @staticmethod
    def record(name: str, message: str) -> logging.LogRecord:
        record = logging.LogRecord(name, logging.WARNING, "", 0, message, (), None)
        record.created = 1_700_000_000.25
        return record

    def test_a_line_of_text(self) -> None:
        record = self.record("orlop.io.containerd.snapshotter.v1.native", 'a "quoted"\nthing')
        assert TextFormatter().format(record) == (
            'time="2023-11-14T22:13:20.250000000Z" level=warning msg="a \\"quoted\\"\\nthing" '
            "plugin=io.containerd.snapshotter.v1.native"
        )

    def test_a_line_of_json(self) -> None:
        assert json.loads(JsonFormatter().format(self.record("orlop.registry", "x"))) == {
            "time": "2023-11-14T22:13:20.250000000Z",
            "level": "warning",
            "msg": "x",
            "logger": "orlop.registry",
        }

    @pytest.mark.parametrize(
        ("parent", "ids"),
        [
            (f"00-{'a1' * 16}-{'b2' * 8}-01", ("a1" * 16, "b2" * 8)),
            (f"cc-{'a1' * 16}-{'b2' * 8}-01-more", ("a1" * 16, "b2" * 8)),
            (f"00-{'0' * 32}-{'b2' * 8}-01", None),
            (f"00-{'a1' * 16}-{'0' * 16}-01", None),
            (f"00-{'A1' * 16}-{'b2' * 8}-01", None),
            (f'00-{"a1" * 16}-x" level=fatal-01', None),
            ("", None),
        ],
    )
    def test_a_line_of_a_call_names_its_trace(self, parent: str, ids: tuple[str, str] | None) -> None:
        def fields() -> dict[str, str]:
            set_trace({"traceparent": parent})
            line: dict[str, str] = json.loads(JsonFormatter(traced=True).format(self.record("orlop.registry", "x")))
            return line

        line = contextvars.copy_context().run(fields)
        assert (line.get("trace_id"), line.get("span_id")) == (ids or (None, None))

    def test_whoever_speaks_about_a_plugin_can_name_it(self) -> None:
        record = self.record("orlop.registry", "x")
        record.plugin = "io.containerd.gc.v1.scheduler"
        assert json.loads(JsonFormatter().format(record))["plugin"] == "io.containerd.gc.v1.scheduler"
