# SPDX-License-Identifier: Apache-2.0
"""Make ``sync.pyi``: the types of the blocking client, derived from those of the async one.

::

    python -m orlop_sdk.client.stub        # after a change to a public signature

`orlop_sdk.client.sync` wraps whatever it meets, so its types can be computed: drop ``async``, and turn async iterators
and context managers into plain ones. A test sees that the file is what this makes.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Final

from orlop.interfaces import content, differ, event, metadata, runtime, snapshotter, task
from orlop_sdk.client import client, container, images, introspection, stdio

#: What blocking programs meet, and under which name.
_CLASSES: Final[tuple[tuple[type, str], ...]] = (
    (content.ContentReader, "ContentReader"),
    (content.ContentWriter, "ContentWriter"),
    (content.ContentStore, "ContentStore"),
    (snapshotter.Snapshotter, "Snapshotter"),
    (differ.Differ, "Differ"),
    (event.EventExchange, "EventExchange"),
    (metadata.NamespaceStore, "NamespaceStore"),
    (metadata.LeaseStore, "LeaseStore"),
    (metadata.ImageStore, "ImageStore"),
    (metadata.ContainerStore, "ContainerStore"),
    (metadata.SandboxStore, "SandboxStore"),
    (runtime.Task, "PlainTask"),
    (task.Tasks, "Tasks"),
    (introspection.Introspection, "Introspection"),
    (stdio.OutputStream, "OutputStream"),
    (stdio.PipeStreams, "PipeStreams"),
    (container.Process, "Process"),
    (container.Task, "Task"),
    (container.Container, "Container"),
    (images.ImageOperations, "ImageOperations"),
    (client.Client, "Client"),
)
_RENAMED: Final = {
    "AsyncIterator": "Iterator",
    "AsyncGenerator": "Iterator",
    "AbstractAsyncContextManager": "AbstractContextManager",
}
_DUNDERS: Final = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__", "__anext__": "__next__"}
#: Names that mean one thing in `container` and another in `runtime`.
_ALIASES: Final = {
    ("orlop.interfaces.task", "Task"): "PlainTask",
    ("orlop.interfaces.metadata", "Container"): "values.Container",
}
#: Not for callers.
_LEFT_OUT: Final = frozenset(("connect", "scope", "services"))
_HEAD: Final = '''\
# SPDX-License-Identifier: Apache-2.0
# Made by `python -m orlop_sdk.client.stub`; do not edit.
# ruff: noqa: D101, D102
"""The types of the blocking client; what each member does is said where the async one is."""
'''
_CLIENT_EXTRA: Final = """
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    @overload
    def blocking(self, value: stdio.PipeStreams) -> PipeStreams: ...
    @overload
    def blocking(self, value: stdio.OutputStream) -> OutputStream: ...
    @overload
    def blocking(self, value: object) -> Any: ...
"""


class _Module:
    """Where the names of a module's annotations come from."""

    def __init__(self, module: ModuleType) -> None:
        self.name = module.__name__
        self.tree = ast.parse(inspect.getsource(module))
        self.imports: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    target = f" as {alias.asname}" if alias.asname else ""
                    self.imports[alias.asname or alias.name] = f"from {node.module} import {alias.name}{target}"

    def statement(self, name: str) -> str | None:
        """The import statement that brings a name in; None for builtins."""
        if name in self.imports:
            return self.imports[name]
        defined = any(name in _defined(node) for node in self.tree.body)
        return f"from {self.name} import {name}" if defined else None


def _defined(node: ast.stmt) -> set[str]:
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {each.id for each in targets if isinstance(each, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


class _Rewriter(ast.NodeTransformer):
    """Turns annotations into their blocking form and collects the imports they need."""

    def __init__(self, module: _Module, imports: set[str]) -> None:
        self._module = module
        self._imports = imports
        self._names = {name for _, name in _CLASSES}

    def visit_Name(self, node: ast.Name) -> ast.AST:
        name = _ALIASES.get((self._module.name, node.id), node.id)
        if node.id in _RENAMED:
            name = _RENAMED[node.id]
            origin = "contextlib" if name == "AbstractContextManager" else "collections.abc"
            self._imports.add(f"from {origin} import {name}")
        elif name == "Streams":
            name = "stdio.Streams"
        elif name not in self._names:
            statement = self._module.statement(name)
            if statement:
                self._imports.add(statement)
        return ast.Name(name, node.ctx)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "AsyncGenerator" and isinstance(node.slice, ast.Tuple):
            node.slice = node.slice.elts[0]
        return self.generic_visit(node)


def generate() -> str:
    """The text of ``sync.pyi``."""
    imports = {
        "from typing import Any",
        "from typing import Self",
        "from typing import overload",
        "from orlop_sdk.client import stdio",
    }
    bodies = [_class(kind, name, imports) for kind, name in _CLASSES]
    return "\n".join([_HEAD, *sorted(imports), "", *bodies])


def _class(kind: type, name: str, imports: set[str]) -> str:
    module = _Module(sys.modules[kind.__module__])
    node = next(each for each in module.tree.body if isinstance(each, ast.ClassDef) and each.name == kind.__name__)
    known = {each.__name__ for each, _ in _CLASSES}
    bases = [each.id for each in node.bases if isinstance(each, ast.Name) and each.id in known]
    rewriter = _Rewriter(module, imports)
    lines = [f"class {name}({', '.join(bases)}):" if bases else f"class {name}:"]
    lines += _attributes(kind, node)
    for member in node.body:
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and _is_public(member.name, name):
            lines += _indent(_method(member, rewriter))
    if name == "Client":
        lines.append(_CLIENT_EXTRA.strip("\n"))
    return "\n".join([*lines, ""])


def _attributes(kind: type, node: ast.ClassDef) -> list[str]:
    """Public attributes that ``__init__`` sets."""
    found = {
        container.Process: ["streams: stdio.Streams", "exec_id: str", "pid: int"],
        container.Container: ["record: values.Container"],
        client.Client: ["namespace: str"],
        stdio.PipeStreams: ["stdout: OutputStream", "stderr: OutputStream"],
    }
    return [f"    {line}" for line in found.get(kind, [])]


def _is_public(method: str, owner: str) -> bool:
    if owner in {"Client", "ImageOperations"} and (method in _LEFT_OUT or method in _DUNDERS):
        return False
    if method == "__init__":
        return owner == "Client"
    return method in _DUNDERS or not method.startswith("_")


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef, rewriter: _Rewriter) -> str:
    decorators: list[ast.expr] = [
        each for each in node.decorator_list if isinstance(each, ast.Name) and each.id in _KEPT
    ]
    arguments = node.args
    arguments.defaults = [ast.Constant(...) for _ in arguments.defaults]
    arguments.kw_defaults = [None if each is None else ast.Constant(...) for each in arguments.kw_defaults]
    rewriter.visit(arguments)
    plain = ast.FunctionDef(
        name=_DUNDERS.get(node.name, node.name),
        args=arguments,
        body=[ast.Expr(ast.Constant(...))],
        decorator_list=decorators,
        returns=rewriter.visit(node.returns) if node.returns else None,
        lineno=0,
    )
    return ast.unparse(ast.fix_missing_locations(plain))


_KEPT: Final = frozenset(("property", "classmethod", "staticmethod"))


def _indent(text: str) -> Iterable[str]:
    return (f"    {line}" for line in text.splitlines())


def target() -> Path:
    """Where the stub is kept."""
    return Path(__file__).with_name("sync.pyi")


def main() -> None:
    """Write the stub."""
    target().write_text(generate())


if __name__ == "__main__":
    main()
