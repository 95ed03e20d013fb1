# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import importlib

from orlop_sdk.client import client, images, stub


def parts(text: str) -> tuple[set[tuple[str, str, str]], list[str]]:
    """Imports in any order, and the rest as it is."""
    imports: set[tuple[str, str, str]] = set()
    rest = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom):
            imports |= {(node.module or "", alias.name, alias.asname or "") for alias in node.names}
        else:
            rest.append(ast.dump(node))
    return imports, rest


def test_the_blocking_types_are_up_to_date() -> None:
    assert parts(stub.target().read_text()) == parts(stub.generate()), "run python -m orlop_sdk.client.stub"


def test_the_blocking_client_has_everything() -> None:
    """Whatever the async client offers is in the stub, and so is nothing else."""
    tree = ast.parse(stub.target().read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    typed = {
        member.name
        for name in ("Client", "ImageOperations")
        for member in classes[name].body
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_")
    }
    offered = {name for kind in (client.Client, images.ImageOperations) for name in vars(kind) if name[0] != "_"}
    assert typed == (offered - {"connect", "scope", "services"}) | {"blocking"}
    assert not any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(tree))


def test_only_what_is_async_is_wrapped() -> None:
    blocking = importlib.import_module("orlop_sdk.client.sync")  # the stub has only what users need
    thread = blocking.LoopThread()
    try:
        assert blocking.blocking("text", thread) == "text"
        assert isinstance(blocking.blocking(client.Client("/nowhere"), thread), blocking.Blocking)
    finally:
        thread.close()
        thread.close()
