# SPDX-License-Identifier: Apache-2.0
"""What daemons of all ages send to ``start``, and what they get back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orlop.errors import InvalidArgument
from orlop_sdk.api.runtime.bootstrap.v1 import bootstrap_pb2
from orlop_shim import messages as pb
from orlop_shim.command import form_answer, parse, read_request
from orlop_shim.runtime import checkpoint_flags
from orlop_shim.start import Request, group_of, listen, socket_path

FLAGS = ["-namespace", "ns", "-address", "/run/c.sock", "-publish-binary", "/bin/true", "-id", "c1", "start"]
OPTIONS = pb.any_of("containerd.runc.v1.Options", pb.OPTIONS.encode(shim_cgroup="/shims"))


def test_flags_in_go_style() -> None:
    found = parse(["--namespace=ns", "-id", "c1", "-debug", "-bundle", "/b", "delete"])
    assert found.flags == {"namespace": "ns", "id": "c1", "bundle": "/b"}
    assert found.switches == {"debug"}
    assert found.action == "delete"


@pytest.mark.parametrize("words", [["-id"], ["-nonsense", "start"]])
def test_wrong_flags_are_named(words: list[str]) -> None:
    with pytest.raises(InvalidArgument, match=words[0]):
        parse(words)


def test_old_daemons_send_options_and_take_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAX_SHIM_VERSION", raising=False)
    monkeypatch.setenv("TTRPC_ADDRESS", "/run/c.sock.ttrpc")
    for given, cgroup in ((b"", ""), (pb.ANY.encode(**OPTIONS), "/shims")):
        request, form = read_request(parse(FLAGS), given)
        assert (request.id, request.namespace, request.shim_cgroup) == ("c1", "ns", cgroup)
        assert request.ttrpc_address == "/run/c.sock.ttrpc"
        assert form_answer("unix:///s", form) == b"unix:///s"


def test_later_ones_take_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_SHIM_VERSION", "2")
    _, form = read_request(parse(FLAGS), pb.ANY.encode(**OPTIONS))
    assert json.loads(form_answer("unix:///s", form)) == {"version": 3, "address": "unix:///s", "protocol": "ttrpc"}


def test_the_newest_send_params_and_take_a_message() -> None:
    params = bootstrap_pb2.BootstrapParams(
        instance_id="c1",
        namespace="other",
        log_level=bootstrap_pb2.LOG_LEVEL_DEBUG,
        containerd_grpc_address="/run/g",
        containerd_ttrpc_address="/run/t",
        socket_dir="/run/sockets",
    )
    params.extensions.add().value.type_url = OPTIONS["type_url"]
    params.extensions[0].value.value = OPTIONS["value"]
    request, form = read_request(parse(FLAGS), params.SerializeToString())
    assert request.namespace == "other"
    assert (request.grpc_address, request.ttrpc_address, request.socket_dir) == ("/run/g", "/run/t", "/run/sockets")
    assert request.debug
    assert request.shim_cgroup == "/shims"
    answer = bootstrap_pb2.BootstrapResult.FromString(form_answer("unix:///s", form))
    assert (answer.version, answer.address, answer.protocol) == (3, "unix:///s", "ttrpc")


def test_somebody_has_to_be_named() -> None:
    with pytest.raises(InvalidArgument, match="-id"):
        read_request(parse(["start"]), b"")


@pytest.mark.parametrize(
    ("annotations", "group"),
    [
        ({}, "c1"),
        ({"io.kubernetes.cri.sandbox-id": "pod"}, "pod"),
        ({"io.containerd.runc.v2.group": "g", "io.kubernetes.cri.sandbox-id": "pod"}, "g"),
    ],
)
def test_groups(tmp_path: Path, annotations: dict[str, str], group: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"annotations": annotations}))
    assert group_of(str(tmp_path), "c1") == group


def test_a_bundle_without_a_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="config.json"):
        group_of(str(tmp_path), "c1")


def test_one_listens_and_others_find_it(short_tmp: Path) -> None:
    request = Request("c1", "ns", "/b", "/run/c.sock", socket_dir=str(short_tmp / "s"))
    path = socket_path(request, "c1")
    assert path == socket_path(request._replace(id="c2"), "c1") != socket_path(request, "c2")
    first = listen(path)
    assert first.listener is not None
    assert listen(path).listener is None
    first.listener.close()
    again = listen(path)
    assert again.listener is not None, "the socket of a dead shim is replaced"
    again.listener.close()


def test_checkpoint_options_become_flags() -> None:
    chosen = pb.CHECKPOINT_OPTIONS.decode(
        pb.CHECKPOINT_OPTIONS.encode(
            open_tcp=True, external_unix_sockets=True, terminal=True, file_locks=True, empty_namespaces=["network"]
        )
    )
    assert checkpoint_flags(chosen, "/i", "/w") == [
        *("--image-path", "/i", "--work-path", "/w", "--tcp-established", "--ext-unix-sk", "--shell-job"),
        *("--file-locks", "--leave-running", "--empty-ns", "network"),
    ]
    leaving = pb.CHECKPOINT_OPTIONS.decode(pb.CHECKPOINT_OPTIONS.encode(exit=True, cgroups_mode="soft"))
    assert checkpoint_flags(leaving, "/i", "/w")[4:] == ["--manage-cgroups-mode", "soft"]
