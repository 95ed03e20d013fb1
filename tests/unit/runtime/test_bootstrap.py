# SPDX-License-Identifier: Apache-2.0
"""What shims are told at their start, and the forms of their answers."""

from __future__ import annotations

import json

import pytest
from google.protobuf.any_pb2 import Any as AnyPb

from orlop.errors import InvalidArgument, NotFound, Unavailable
from orlop.interfaces.runtime import ShimAddress
from orlop.values import AnyMessage
from orlop_runtime.bootstrap import from_json, options_input, parse_answer, to_json
from orlop_runtime.shim_binary import BinarySearch, binary_name
from orlop_sdk.api.runtime.bootstrap.v1.bootstrap_pb2 import BootstrapResult


@pytest.mark.parametrize(
    ("answer", "address"),
    [
        (b"unix:///run/containerd/s/abc\n", ShimAddress("unix:///run/containerd/s/abc", 2, "ttrpc")),
        (b"/containerd-shim/ns/id.sock", ShimAddress("/containerd-shim/ns/id.sock")),
        (
            b'{"version":3,"address":"unix:///run/a","protocol":"ttrpc"}\n',
            ShimAddress("unix:///run/a", 3, "ttrpc"),
        ),
        (b'{"address":"unix:///run/a"}', ShimAddress("unix:///run/a", 2, "ttrpc")),
        (
            BootstrapResult(version=3, address="unix:///run/a", protocol="grpc").SerializeToString(),
            ShimAddress("unix:///run/a", 3, "grpc"),
        ),
        (
            BootstrapResult(version=2, address="unix:///run/" + "n" * 20).SerializeToString(),
            ShimAddress("unix:///run/" + "n" * 20, 2, "ttrpc"),
        ),
    ],
)
def test_every_form_of_answer_is_understood(answer: bytes, address: ShimAddress) -> None:
    assert parse_answer(answer) == address


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\n",
        b"time=now level=error msg=oops",
        b"\xff\xfe",
        b"{}",
        b'{"version":3}',
        b"{broken",
        b'{"version":4,"address":"unix:///run/a","protocol":"ttrpc"}',
        BootstrapResult(version=9, address="unix:///a").SerializeToString(),
    ],
)
def test_other_answers_are_refused(answer: bytes) -> None:
    with pytest.raises(Unavailable, match="shim"):
        parse_answer(answer)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="carrier-pigeon"):
        parse_answer(b'{"version":3,"address":"unix:///run/a","protocol":"carrier-pigeon"}')


def test_the_kept_form_reads_back() -> None:
    address = ShimAddress("unix:///run/a", 3, "ttrpc")
    text = to_json(address, "io.containerd.runc.v2")
    assert from_json(text) == address
    assert json.loads(text)["runtime"] == "io.containerd.runc.v2"


def test_options_are_an_any_for_every_reader() -> None:
    options = AnyMessage("containerd.runc.v1.Options", b"\x32\x04crun")
    data = options_input(options)
    read = AnyPb.FromString(data)
    assert (read.type_url, read.value) == (options.type_url, options.value)
    # Whoever reads it as BootstrapParams must notice that it is none: field 4 is a string there, and no UTF-8.
    assert data.endswith(b"\x22\x01\xff")
    assert options_input(None) == b""


@pytest.mark.parametrize(
    ("runtime", "name"),
    [
        ("io.containerd.runc.v2", "containerd-shim-runc-v2"),
        ("io.containerd.runsc.v1", "containerd-shim-runsc-v1"),
        ("kata.v2", "containerd-shim-kata-v2"),
        ("/opt/bin/my-shim", "/opt/bin/my-shim"),
    ],
)
def test_runtimes_name_their_shims(runtime: str, name: str) -> None:
    assert binary_name(runtime) == name


@pytest.mark.parametrize("runtime", ["", "runc", "a/b.v1", "./shim", "io.containerd.runc."])
def test_what_names_no_shim(runtime: str) -> None:
    with pytest.raises(InvalidArgument, match="not a runtime name"):
        binary_name(runtime)


def test_a_shim_is_searched_on_path_then_in_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(first))
        search = BinarySearch([second])
        with pytest.raises(NotFound, match="containerd-shim-demo-v1"):
            search.find("io.containerd.demo.v1")
        for folder in (second, first):
            shim = folder / "containerd-shim-demo-v1"
            shim.write_text("#!/bin/sh\n")
            shim.chmod(0o755)
        assert search.find("io.containerd.demo.v1") == str(first / "containerd-shim-demo-v1")
        (first / "containerd-shim-demo-v1").unlink()
        assert search.find("io.containerd.demo.v1") == str(first / "containerd-shim-demo-v1")
        assert BinarySearch([second]).find("io.containerd.demo.v1") == str(second / "containerd-shim-demo-v1")
