# SPDX-License-Identifier: Apache-2.0
"""Simulated power cuts: what a program wrote, as the kernel saw it, and what a disk may have of it at any instant.

`record` runs a program under strace and gives its changes below one directory as a list of operations, in order, with
what it said on standard output in between. A `Disk` takes them one after another and knows which of them are durable:
data by fsync of the file, names by fsync of the directory. `Disk.after_cut` makes, from a seed, one of the states that
a file system may come up with: of what is not durable each write is there, is missing, or is torn at a sector; and of
the names either a prefix of all that happened (a journal), or of what happened in each directory by itself.
"""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
#: Memory shared by the users of a database; with the power it is gone, and what is on disk of it is not looked at.
VOLATILE = ("-shm",)
_TRACED = (
    "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fsync,fdatasync,"
    "rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,symlink,symlinkat,copy_file_range,"
    "sendfile,fallocate"
)
_LINE = re.compile(r"(\d+) +(?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))")
_CALL = re.compile(r"(.*)\)\s+= (-?\d+)(?:<.*>)?(?: .*)?")
_DESCRIPTOR = re.compile(r"(AT_FDCWD|\d+)<(.*?)>(\(deleted\))?")


@dataclass(frozen=True, slots=True)
class Operation:
    """One change, or one fsync, or something said. *began* is the number of operations that had ended when it began."""

    kind: str
    """``said``, ``make``, ``mkdir``, ``write``, ``truncate``, ``sync``, ``rename``, ``remove``."""
    path: str = ""
    began: int = 0
    offset: int = 0
    data: bytes = b""
    target: str = ""


@dataclass(eq=False, slots=True)
class Node:
    """A file or a directory: what is durable of it, and what has happened to it since then."""

    directory: bool
    data: bytearray = field(default_factory=bytearray)
    entries: dict[str, Node] = field(default_factory=dict)
    live: dict[str, Node] = field(default_factory=dict)
    pending: list[tuple[int, Operation]] = field(default_factory=list)


@dataclass(frozen=True, eq=False, slots=True)
class Move:
    """A change of names, in one or two directories at once: the entries before are gone, those after are there."""

    number: int
    gone: tuple[tuple[Node, str], ...]
    there: tuple[tuple[Node, str, Node], ...]

    @property
    def directories(self) -> list[Node]:
        """Where."""
        return [*(entry[0] for entry in self.gone), *(entry[0] for entry in self.there)]


class Disk:
    """The disk below a directory that was durable and empty at first.

    It lies about paths that match *lies*: an fsync of those does nothing.
    """

    def __init__(self, *, lies: str = r"\b\B") -> None:
        self.root = Node(True)
        self.said: list[str] = []
        self._lies = re.compile(lies)
        self._moves: list[Move] = []
        self._number = 0

    def apply(self, operation: Operation) -> None:
        """Take the next operation."""
        self._number += 1
        match operation.kind:
            case "said":
                self.said += operation.data.decode().splitlines()
            case "make" | "mkdir":
                parent, name = self._place(operation.path)
                if name not in parent.live:
                    self._move((), ((parent, name, Node(operation.kind == "mkdir")),))
            case "write" | "truncate":
                if (node := self._find(operation.path)) is not None:
                    node.pending.append((self._number, operation))
            case "rename":
                parent, name = self._place(operation.path)
                target = self._place(operation.target)
                self._move(((parent, name),), ((*target, parent.live[name]),))
            case "remove":
                self._move((self._place(operation.path),), ())
            case "sync":
                node = self._find(operation.path)
                if node is not None and not self._lies.fullmatch(operation.path):
                    self._sync(node, operation.began)

    def after_cut(self, target: Path, seed: int) -> None:
        """Write one of the states in which the disk may be found now."""
        chance = random.Random(seed)
        entries = self._surviving_names(chance)
        self._write(self.root, entries, target, chance)

    def _find(self, path: str) -> Node | None:
        node: Node | None = self.root
        for part in filter(None, path.split("/")):
            node = node.live.get(part) if node is not None else None
        return node

    def _place(self, path: str) -> tuple[Node, str]:
        parent, _, name = path.rpartition("/")
        node = self._find(parent)
        assert node is not None, f"{path}: made in a directory that was not seen"
        return node, name

    def _move(self, gone: tuple[tuple[Node, str], ...], there: tuple[tuple[Node, str, Node], ...]) -> None:
        for node, name in gone:
            del node.live[name]
        for node, name, new in there:
            node.live[name] = new
        self._moves.append(Move(self._number, gone, there))

    def _sync(self, node: Node, began: int) -> None:
        if node.directory:
            self._persist([move for move in self._moves if move.number <= began and node in move.directories])
            return
        for number, operation in node.pending:
            if number <= began:
                _apply(node.data, operation)
        node.pending = [(number, operation) for number, operation in node.pending if number > began]

    def _persist(self, moves: Sequence[Move]) -> None:
        for move in self._closure(moves):
            _rename(move, {})
            self._moves.remove(move)

    def _closure(self, moves: Iterable[Move]) -> list[Move]:
        """With a change everything goes that happened before it in its directories."""
        chosen = set(moves)
        todo = list(chosen)
        while todo:
            move = todo.pop()
            for other in self._moves:
                if other.number >= move.number:
                    break
                if other not in chosen and any(node in move.directories for node in other.directories):
                    chosen.add(other)
                    todo.append(other)
        return sorted(chosen, key=lambda move: move.number)

    def _surviving_names(self, chance: random.Random) -> dict[Node, dict[str, Node]]:
        if chance.random() < 0.5:
            survivors = self._moves[: chance.randint(0, len(self._moves))]
        else:
            cuts = {node: chance.randint(0, self._number) for move in self._moves for node in move.directories}
            survivors = self._closure(
                move for move in self._moves if all(move.number <= cuts[node] for node in move.directories)
            )
        changed: dict[Node, dict[str, Node]] = {}
        for move in survivors:
            for node in move.directories:
                changed.setdefault(node, dict(node.entries))
            _rename(move, changed)
        return changed

    def _write(self, node: Node, changed: dict[Node, dict[str, Node]], path: Path, chance: random.Random) -> None:
        path.mkdir(exist_ok=True)
        for name, entry in changed.get(node, node.entries).items():
            if entry.directory:
                self._write(entry, changed, path / name, chance)
            elif not name.endswith(VOLATILE):
                (path / name).write_bytes(_surviving_data(entry, chance))


def _rename(move: Move, changed: dict[Node, dict[str, Node]]) -> None:
    """Do it to the durable entries, or to the copies of them in *changed*."""
    for node, name in move.gone:
        changed.get(node, node.entries).pop(name, None)
    for node, name, new in move.there:
        changed.get(node, node.entries)[name] = new


def _surviving_data(node: Node, chance: random.Random) -> bytes:
    if not node.pending:
        return bytes(node.data)
    data = bytearray(node.data)
    # Now and then all of it, none of it, or what came first: orders that real disks prefer.
    style = chance.random()
    first = chance.randint(0, len(node.pending))
    for index, (_, operation) in enumerate(node.pending):
        if style < 0.1 or (style < 0.4 and index < first) or (style >= 0.5 and chance.random() < 0.5):
            _apply(data, operation)
        elif style >= 0.4 and operation.kind == "write" and chance.random() < 0.5:
            start = operation.offset
            size = min(len(operation.data), SECTOR * chance.randint(0, len(operation.data) // SECTOR + 1))
            _apply(data, Operation("write", offset=start, data=operation.data[:size]))
    return bytes(data)


def _apply(data: bytearray, operation: Operation) -> None:
    if operation.kind == "truncate":
        del data[operation.offset :]
        data.extend(bytes(operation.offset - len(data)))
        return
    end = operation.offset + len(operation.data)
    data.extend(bytes(max(0, end - len(data))))
    data[operation.offset : end] = operation.data


def record(command: Sequence[str], root: Path, work: Path, *, lines: int, seconds: float) -> list[Operation]:
    """Run a program until it has said so many lines, and give what it did below *root*, which has to be empty."""
    said, log = work / "said", work / "strace"
    options = ["-D", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "10000000", "-e", f"trace={_TRACED}", "-o", str(log)]
    with said.open("wb") as output:
        process = subprocess.Popen(["strace", *options, *command], stdout=output)
        try:
            deadline = time.monotonic() + seconds
            while said.read_bytes().count(b"\n") < lines and process.poll() is None:
                assert time.monotonic() < deadline, f"said less than {lines} lines"
                time.sleep(0.02)
            assert process.poll() is None, "the program ended by itself"
        finally:
            process.kill()
            process.wait()
    # strace, which is nobody's child, writes its last lines after the program is gone.
    while not log.read_bytes()[-200:].rstrip().endswith(b"+++ killed by SIGKILL +++"):
        assert time.monotonic() < deadline, "strace does not end"
        time.sleep(0.02)
    operations = list(_Reader(str(root), str(said)).read(log))
    log.unlink()
    return operations


class _Reader:
    """Reads strace's log. Strings in it are hexadecimal, so that nothing in them looks like its own signs."""

    def __init__(self, root: str, said: str) -> None:
        self._root = root
        self._said = said
        self._positions: dict[int, int] = {}
        self._count = 0

    def read(self, log: Path) -> Iterator[Operation]:
        """Its operations below the root."""
        unfinished: dict[str, tuple[str, str, int]] = {}
        with log.open() as stream:
            for line in stream:
                if (match := _LINE.match(line)) is None:
                    continue
                pid, name, text, resumed, rest = match.groups()
                began = self._count
                if name and text.endswith("<unfinished ...>"):
                    unfinished[pid] = (name, text.removesuffix("<unfinished ...>").rstrip(), began)
                    continue
                if resumed:
                    name, text, began = unfinished.pop(pid)
                    text += rest
                if (call := _CALL.fullmatch(text)) is None or int(call[2]) < 0:
                    continue
                for operation in self._translate(name, call[1].split(", "), int(call[2]), began):
                    self._count += 1
                    yield operation

    def _translate(self, name: str, words: list[str], result: int, began: int) -> Iterator[Operation]:
        match name:
            case "openat":
                self._positions[result] = 0
                path = self._inside(_joined(*words[:2]))
                if path and "O_CREAT" in words[2]:
                    yield Operation("make", path, began)
                if path and "O_TRUNC" in words[2]:
                    yield Operation("truncate", path, began)
            case "write" | "pwrite64":
                yield from self._written(name, words, result, began)
            case "ftruncate" | "fsync" | "fdatasync":
                if path := self._inside(_of_descriptor(words[0])):
                    size = int(words[1]) if name == "ftruncate" else 0
                    yield Operation("truncate" if name == "ftruncate" else "sync", path, began, size)
            case "mkdir" | "rename" | "unlink" | "rmdir" | "mkdirat" | "unlinkat" | "renameat" | "renameat2":
                yield from self._renamed(name, words, began)
            case _:
                assert not self._inside(_of_descriptor(words[0])), f"{name}({', '.join(words)[:200]}) is not understood"

    def _written(self, name: str, words: list[str], result: int, began: int) -> Iterator[Operation]:
        where = _of_descriptor(words[0])
        path = self._inside(where)
        if not path and where != self._said:
            return
        assert not words[1].endswith("..."), "strace cut a string"
        data = bytes.fromhex(words[1].strip('"').replace("\\x", ""))[:result]
        if where == self._said:
            yield Operation("said", began=began, data=data)
            return
        number = int(words[0].partition("<")[0])
        offset = int(words[3]) if name == "pwrite64" else self._positions[number]
        if name == "write":
            self._positions[number] = offset + result
        yield Operation("write", path, began, offset, data)

    def _renamed(self, name: str, words: list[str], began: int) -> Iterator[Operation]:
        if not name.endswith(("at", "at2")):
            words = [new for word in words for new in ("AT_FDCWD<>", word)]
        path = self._inside(_joined(*words[:2]))
        if not path:
            return
        if name.startswith("rename"):
            yield Operation("rename", path, began, target=self._inside(_joined(*words[2:4])))
        else:
            yield Operation("mkdir" if name.startswith("mkdir") else "remove", path, began)

    def _inside(self, path: str) -> str:
        """A path relative to the root, with a slash before it; "" for one outside."""
        return path.removeprefix(self._root) or "/" if path == self._root or path.startswith(f"{self._root}/") else ""


def _text(word: str) -> str:
    return bytes.fromhex(word.strip('"').replace("\\x", "")).decode()


def _of_descriptor(word: str) -> str:
    """The path of an open file; "" for one that has none, or none any more."""
    match = _DESCRIPTOR.fullmatch(word)
    return _text(match[2]) if match and "\\x2f" in match[2] and not match[3] else ""


def _joined(directory: str, path: str) -> str:
    relative = _text(path)
    return relative if relative.startswith("/") else f"{_of_descriptor(directory)}/{relative}"
