# SPDX-License-Identifier: Apache-2.0
"""Generate the message modules of ``orlop_sdk.api`` from the ``.proto`` files beside this program.

Usage: ``python sdk/proto/generate.py [OUT]``, where OUT (default: ``sdk``) becomes the root of ``orlop_sdk/api/``.

Besides, ``index.py`` there says which module holds each service and top-level message, so that either is found by name
without importing all. Only messages are generated (``*_pb2.py`` with typed ``*_pb2.pyi``): services need no stub
classes, as clients and servers read their methods from the descriptors.
"""

from __future__ import annotations

import keyword
import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import status_pb2
from grpc_tools import protoc

SOURCES = Path(__file__).resolve().parent
GENERATED = ("*_pb2.py", "*_pb2.pyi", "index.py")
INDEX_HEAD = '''# SPDX-License-Identifier: Apache-2.0
"""Which module holds a service or a top-level message, by full name. Generated: ``make proto``."""

from __future__ import annotations

from typing import Final

MODULES: Final[dict[str, str]] = {
'''


def include_paths() -> list[Path]:
    """Where protoc finds our sources, ``google/protobuf`` and ``google/rpc``, in this order."""
    well_known = Path(str(resources.files("grpc_tools"))) / "_proto"
    return [SOURCES, well_known, Path(status_pb2.__file__).resolve().parents[2]]


def tidy(stub: Path) -> None:
    """Make a type stub of protoc's acceptable to strict type checkers.

    Declarations that are no Python are removed, as of the enum value ``None``, which only ``getattr`` reaches; a bare
    ``Mapping`` and ``**kwargs`` get their types.
    """
    keywords = "|".join(keyword.kwlist)
    text = stub.read_text(encoding="utf-8")
    text = re.sub(rf"^ *(?:{keywords}): .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\b_Mapping\](?!\[)", "_Mapping[str, object]]", text)
    text = text.replace("**kwargs)", "**kwargs: object)")
    stub.write_text(text, encoding="utf-8")


def write_index(api: Path, descriptors: FileDescriptorSet) -> Path:
    """Write the module that maps full names of services and top-level messages to modules."""
    rows = {
        f"{file.package}.{item}": file.name.removesuffix(".proto").replace("/", ".") + "_pb2"
        for file in descriptors.file
        for item in [*(each.name for each in file.service), *(each.name for each in file.message_type)]
    }
    lines = (f'    "{name}": "{module}",\n' for name, module in sorted(rows.items()))
    index = api / "index.py"
    index.write_text(INDEX_HEAD + "".join(lines) + "}\n", encoding="utf-8")
    return index


def generate(out: Path) -> list[Path]:
    """Compile every source into ``out`` and return the files made; ones that no source makes any more are removed.

    Raises RuntimeError when protoc refuses a source; it has said why on standard error.
    """
    sources = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.proto"))
    if not sources:
        raise RuntimeError(f"{SOURCES}: no .proto files")
    api = out / "orlop_sdk" / "api"
    for pattern in GENERATED:
        for stale in api.rglob(pattern):
            stale.unlink()
    out.mkdir(parents=True, exist_ok=True)
    includes = [f"-I{path}" for path in include_paths()]
    with tempfile.NamedTemporaryFile() as described:
        outputs = [f"--python_out={out}", f"--pyi_out={out}", f"--descriptor_set_out={described.name}"]
        if protoc.main(["protoc", *includes, *outputs, *sources]) != 0:
            raise RuntimeError("protoc failed")
        write_index(api, FileDescriptorSet.FromString(Path(described.name).read_bytes()))
    for stub in api.rglob("*_pb2.pyi"):
        tidy(stub)
    return sorted(path for pattern in GENERATED for path in api.rglob(pattern))


if __name__ == "__main__":
    made = generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCES.parent)
    print(f"{len(made)} files")
