# SPDX-License-Identifier: Apache-2.0
"""Clients that know nothing but reflection list, describe and call what a real daemon serves."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from tests.support.cli import PROGRAM
from tests.support.daemon import ORLOPD, Daemon
from tests.support.place import short_directory

from orlop.errors import NotFound
from orlop_reflection.messages import PACKAGES, describe, response_class
from orlop_sdk.api.index import MODULES

REFLECTION = "io.containerd.grpc.v1.reflection"
SERVICE = "grpc.reflection.v1.ServerReflection"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with short_directory() as base, Daemon(base, ORLOPD) as running:
        yield running


@pytest.fixture(scope="module")
def channel(daemon: Daemon) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"unix:{daemon.address}") as made:
        yield made


def ask(channel: grpc.Channel, *questions: dict[str, Any], version: str = PACKAGES[0]) -> list[Any]:
    """The answers to several questions of one call."""
    file = describe(version)
    request = GetMessageClass(file.message_types_by_name["ServerReflectionRequest"])
    call = channel.stream_stream(
        f"/{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=request.SerializeToString,
        response_deserializer=response_class(file).FromString,
    )
    return list(call(iter([request(**question) for question in questions]), timeout=30))


def test_the_official_client_lists_describes_and_calls(channel: grpc.Channel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from grpc_reflection.v1alpha import proto_reflection_descriptor_database as official

    database = official.ProtoReflectionDescriptorDatabase(channel)
    names = set(database.get_services())
    for wanted in ("images", "tasks", "mounts", "sandbox"):
        assert any(name.startswith(f"containerd.services.{wanted}.v1.") for name in names), names
    assert {"grpc.health.v1.Health", *(f"{package}.ServerReflection" for package in PACKAGES)} <= names
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("containerd.services.version.v1.Version")
    method = service.methods_by_name["Version"]
    call: Any = channel.unary_unary(
        f"/{service.full_name}/{method.name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    assert call(GetMessageClass(method.input_type)(), timeout=30).version
    # Every service, with all its messages.
    for name in names:
        for each in pool.FindServiceByName(name).methods:
            assert GetMessageClass(each.input_type)().ByteSize() == 0
            assert GetMessageClass(each.output_type)().ByteSize() == 0


@pytest.mark.parametrize("version", PACKAGES)
def test_both_versions_answer_every_kind_of_question(channel: grpc.Channel, version: str) -> None:
    services, symbol, again, inner, file, numbers, unknown, nothing = ask(
        channel,
        {"list_services": "*", "host": "here"},
        {"file_containing_symbol": "containerd.services.images.v1.Images.List"},
        {"file_containing_symbol": "containerd.services.images.v1.Image.target"},
        {"file_containing_symbol": "containerd.runc.v1.Options"},
        {"file_by_filename": "google/protobuf/any.proto"},
        {"all_extension_numbers_of_type": "containerd.types.Mount"},
        {"file_containing_symbol": "containerd.services.images.v1.Images.NoSuch"},
        {},
        version=version,
    )
    assert services.valid_host == "here"
    assert f"{version}.ServerReflection" in {each.name for each in services.list_services_response.service}
    first = len(symbol.file_descriptor_response.file_descriptor_proto)
    assert first > 3, "with the files that it needs"
    assert len(again.file_descriptor_response.file_descriptor_proto) == 1, "which are sent once only"
    assert b"binary_name" in inner.file_descriptor_response.file_descriptor_proto[0], "what travels within an Any"
    assert b"google.protobuf" in file.file_descriptor_response.file_descriptor_proto[0]
    assert numbers.all_extension_numbers_response.base_type_name == "containerd.types.Mount"
    assert list(numbers.all_extension_numbers_response.extension_number) == []
    assert unknown.error_response.error_code == NotFound.code
    assert unknown.original_request.file_containing_symbol.endswith(".NoSuch")
    assert "asks for nothing" in nothing.error_response.error_message


def test_every_message_of_the_api_can_be_asked_for(channel: grpc.Channel) -> None:
    """All that the wire tables have and this daemon may send in an ``Any``, whoever serves it."""
    names = [name for name in MODULES if name.startswith(("containerd.", "io.containerd."))]
    assert len(names) > 100
    answers = ask(channel, *({"file_containing_symbol": name} for name in names))
    assert [name for name, answer in zip(names, answers, strict=True) if answer.HasField("error_response")] == []


def test_it_follows_what_is_mounted(daemon: Daemon, channel: grpc.Channel) -> None:
    def served() -> set[str]:
        return {each.name for each in ask(channel, {"list_services": ""})[0].list_services_response.service}

    run_orlop(daemon, "plugins", "disable", "io.containerd.grpc.v1.leases")
    assert "containerd.services.leases.v1.Leases" not in served()
    run_orlop(daemon, "plugins", "enable", "io.containerd.grpc.v1.leases")
    assert "containerd.services.leases.v1.Leases" in served()
    run_orlop(daemon, "plugins", "disable", REFLECTION)
    with pytest.raises(grpc.RpcError) as refused:
        served()
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    run_orlop(daemon, "plugins", "enable", REFLECTION)
    assert SERVICE in served()


def run_orlop(daemon: Daemon, *words: str) -> None:

    done = subprocess.run(
        [*PROGRAM, "--address", str(daemon.address), *words], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
