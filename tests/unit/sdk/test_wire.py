# SPDX-License-Identifier: Apache-2.0
"""The compiled wire API equals the tables of the APIs that clients speak, in both directions, and is up to date.

``data/wire/*.json`` lists every package, service, method, message, field and enum of containerd, CRI, NRI and the
cgroup metrics. A name, number, type, label or stream marker that is in one place only fails here.
"""

from __future__ import annotations

import importlib
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor, ServiceDescriptor

import orlop_sdk.api

DATA = Path(__file__).parent / "data" / "wire"
API = Path(orlop_sdk.api.__file__).parent
GENERATOR = Path(__file__).parents[3] / "sdk" / "proto" / "generate.py"
TABLES = ("containerd", "cri", "nri", "cgroups")

#: Holds options for the Go generator, and no message.
OPTIONS_ONLY = {"types/fieldpath.proto"}
#: APIs of our own, in packages that begin with the name of the project.
OWN = {"orlop/plugins/v1/plugins.proto"}

SCALARS = {
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_UINT32: "uint32",
}


def compiled_files() -> dict[str, FileDescriptor]:
    files = {}
    for path in sorted(API.rglob("*_pb2.py")):
        name = ".".join(("orlop_sdk", "api", *path.relative_to(API).with_suffix("").parts))
        files[str(path.relative_to(API)).replace("_pb2.py", ".proto")] = importlib.import_module(name).DESCRIPTOR
    return files


def place_of(table: str, file: str) -> str:
    """Where a file of a table lies below ``orlop_sdk/api``."""
    match table:
        case "cri":
            return f"cri/v1/{file}"
        case "nri":
            return f"nri/v1alpha1/{file}"
        case "cgroups":
            return file.replace("cgroup1/stats", "cgroups/v1").replace("cgroup2/stats", "cgroups/v2")
        case _:
            return file


def load(table: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DATA / f"{table}.json").read_text())
    return loaded


def nested(message: Descriptor) -> Iterator[Descriptor]:
    yield message
    for inner in message.nested_types:
        if not inner.GetOptions().map_entry:
            yield from nested(inner)


def type_name(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return field.enum_type.full_name
    if field.message_type is None:
        return SCALARS[field.type]
    if field.message_type.GetOptions().map_entry:
        key, value = (type_name(field.message_type.fields_by_name[part]) for part in ("key", "value"))
        return f"map<{key}, {value}>"
    return field.message_type.full_name


def field_row(field: FieldDescriptor) -> dict[str, Any]:
    row: dict[str, Any] = {"name": field.name, "type": type_name(field)}
    is_map = row["type"].startswith("map<")
    if field.is_repeated and not is_map:
        row["repeated"] = True
    oneof = field.containing_oneof
    if oneof is not None:
        # An optional field is the only member of a oneof that the compiler made up.
        optional = len(oneof.fields) == 1 and oneof.name == f"_{field.name}"
        row |= {"optional": True} if optional else {"oneof": oneof.name}
    return row


def method_rows(service: ServiceDescriptor) -> dict[str, Any]:
    rows = {}
    for method in service.methods:
        row: dict[str, Any] = {"in": method.input_type.full_name, "out": method.output_type.full_name}
        row |= {flag: True for flag in ("client_streaming", "server_streaming") if getattr(method, flag)}
        rows[method.name] = row
    return rows


def compiled(table: str) -> dict[str, Any]:
    """What the compiled descriptors say, in the shape of a table."""
    files = compiled_files()
    wanted = {place_of(table, file): file for file in load(table)["files"]}
    result: dict[str, Any] = {"files": {}, "services": {}, "messages": {}, "enums": {}}

    def add_enum(enum: EnumDescriptor) -> None:
        result["enums"][enum.full_name] = {value.name: value.number for value in enum.values}

    for place, descriptor in files.items():
        if place not in wanted:
            continue
        result["files"][wanted[place]] = descriptor.package
        for enum in descriptor.enum_types_by_name.values():
            add_enum(enum)
        for top in descriptor.message_types_by_name.values():
            for message in nested(top):
                fields = {str(field.number): field_row(field) for field in message.fields}
                result["messages"][message.full_name] = fields
                for enum in message.enum_types:
                    add_enum(enum)
        for service in descriptor.services_by_name.values():
            result["services"][service.full_name] = method_rows(service)
    return result


@pytest.mark.parametrize("table", TABLES)
def test_files_and_packages_are_those_of_the_table(table: str) -> None:
    want = {file: package for file, package in load(table)["files"].items() if file not in OPTIONS_ONLY}
    assert compiled(table)["files"] == want


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", ["services", "messages", "enums"])
def test_compiled_descriptors_equal_the_table(table: str, kind: str) -> None:
    have, want = compiled(table)[kind], load(table)[kind]
    assert sorted(have) == sorted(want)
    for name, rows in want.items():
        assert have[name] == rows, name


def test_every_compiled_file_is_in_a_table() -> None:
    known = {place_of(table, file) for table in TABLES for file in load(table)["files"]} | {"ttrpc/ttrpc.proto"} | OWN
    assert set(compiled_files()) <= known


def test_ttrpc_frames_have_the_numbers_of_the_protocol() -> None:
    file = compiled_files()["ttrpc/ttrpc.proto"]
    rows = {
        message.full_name: {field.number: (field.name, type_name(field)) for field in message.fields}
        for message in file.message_types_by_name.values()
    }
    assert rows == {
        "ttrpc.Request": {
            1: ("service", "string"),
            2: ("method", "string"),
            3: ("payload", "bytes"),
            4: ("timeout_nano", "int64"),
            5: ("metadata", "ttrpc.KeyValue"),
        },
        "ttrpc.Response": {1: ("status", "google.rpc.Status"), 2: ("payload", "bytes")},
        "ttrpc.KeyValue": {1: ("key", "string"), 2: ("value", "string")},
    }


def test_generated_code_is_current(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="needs grpcio-tools to generate again; install the dev dependencies")
    made = runpy.run_path(str(GENERATOR))["generate"](tmp_path)
    fresh = {str(path.relative_to(tmp_path / "orlop_sdk" / "api")): path.read_bytes() for path in made}
    committed = {str(path.relative_to(API)): path.read_bytes() for path in (*API.rglob("*_pb2.py*"), API / "index.py")}
    assert sorted(fresh) == sorted(committed)
    stale = [name for name, data in fresh.items() if committed[name] != data]
    assert not stale, "run `make proto`"


def test_our_own_apis_keep_out_of_the_packages_of_others() -> None:
    files = compiled_files()
    assert {files[file].package for file in OWN} == {"orlop.plugins.v1"}
