# SPDX-License-Identifier: Apache-2.0
"""Transformers: prefixes of a mount's type that say what to do with the mount before it is made.

==========  ===========================================================================================================
``format/``  fills ``{{ mount 0 }}`` and the like in source, target and options with facts of the mounts before
``mkfs/``    makes a file with a file system in it, unless it is there; the source is its path
``mkdir/``   makes directories
==========  ===========================================================================================================

They are applied from left to right: ``format/mkdir/overlay`` is an overlay whose directories are made in what was
mounted before. All of it blocks.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from orlop.errors import InvalidArgument, NotFound, Unavailable
from orlop.interfaces.mount import ActiveMount
from orlop.values import Mount
from orlop_sdk.linux import syscalls as sc

TRANSFORMERS: Final = ("format", "mkfs", "mkdir")
_OPTION: Final = "X-containerd."
_TEMPLATE: Final = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_MKFS: Final = {"ext2": "mkfs.ext2", "ext3": "mkfs.ext3", "ext4": "mkfs.ext4", "xfs": "mkfs.xfs"}
_MKFS_TIMEOUT: Final = 300.0
_DIRECTORY: Final = 0o700


def split(type: str) -> tuple[list[str], str]:
    """The transformers in a mount's type, and the type that is left."""
    found = []
    while (parts := type.partition("/"))[1] and parts[0] in TRANSFORMERS:
        found.append(parts[0])
        type = parts[2]
    return found, type


def transform(mount: Mount, before: Sequence[ActiveMount], roots: Sequence[Path]) -> Mount:
    """Apply a mount's transformers. Files and directories are made below *roots* only.

    Raises `InvalidArgument` for what the mount says wrong, `NotFound` for a missing program, `Unavailable` with the
    words of one that failed, and OSError.
    """
    names, kind = split(mount.type)
    changed = replace(mount, type=kind)
    for name in names:
        if name == "format":
            changed = _format(changed, before)
        elif name == "mkfs":
            changed = _mkfs(changed, roots)
        else:
            changed = _mkdir(changed, roots)
    return changed


# format


def _format(mount: Mount, before: Sequence[ActiveMount]) -> Mount:
    def fill(text: str) -> str:
        return _TEMPLATE.sub(lambda match: _evaluate(match[1], before), text)

    return replace(mount, source=fill(mount.source), target=fill(mount.target), options=tuple(map(fill, mount.options)))


def _evaluate(expression: str, before: Sequence[ActiveMount]) -> str:
    name, *words = expression.split() or [""]
    wanted = {"source": 1, "target": 1, "mount": 1, "overlay": 2}.get(name)
    if wanted is None or len(words) != wanted or not all(re.fullmatch(r"-?\d+", word) for word in words):
        raise InvalidArgument(
            f'mount template "{{{{ {expression} }}}}": write one of source N, target N, mount N, overlay FIRST LAST'
        )
    numbers = [int(word) for word in words]
    if not all(0 <= number < len(before) for number in numbers):
        raise InvalidArgument(f'mount template "{{{{ {expression} }}}}": there are {len(before)} mounts before it')
    if name == "overlay":
        first, last = numbers
        step = 1 if first <= last else -1
        return ":".join(before[number].mount_point for number in range(first, last + step, step))
    chosen = before[numbers[0]]
    return {"source": chosen.mount.source, "target": chosen.mount.target, "mount": chosen.mount_point}[name]


# mkfs


def _mkfs(mount: Mount, roots: Sequence[Path]) -> Mount:
    settings, rest = _settings(mount.options, "mkfs.")
    size, kind, uuid = settings.pop("size", ""), settings.pop("fs", "ext4"), settings.pop("uuid", "")
    if settings:
        raise InvalidArgument(f"mount option {_OPTION}mkfs.{min(settings)}: unknown; there are size, fs and uuid")
    if not size:
        raise InvalidArgument(f"mount of type mkfs/{mount.type}: needs the option {_OPTION}mkfs.size, such as 64MiB")
    if kind not in _MKFS:
        raise InvalidArgument(f'mount option {_OPTION}mkfs.fs: "{kind}" is none of {", ".join(_MKFS)}')
    _make_image(Path(mount.source), parse_size(size), kind, uuid, roots)
    return replace(mount, options=rest)


def parse_size(text: str) -> int:
    """Bytes in ``64MiB``, ``64M`` or ``67108864``; all units are of 1024. Raises `InvalidArgument`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f'size "{text}": write a number of bytes, or one such as 64MiB')
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))


def _make_image(path: Path, size: int, kind: str, uuid: str, roots: Sequence[Path]) -> None:
    if path.exists():
        return
    with _parent(path, roots) as parent:
        # Whole or not at all, should the daemon die meanwhile.
        new = Path(f"/proc/self/fd/{parent}", f".{path.name}.new")
        with new.open("wb") as file:
            os.truncate(file.fileno(), size)
        identity = ["-m", f"uuid={uuid}"] if kind == "xfs" else ["-U", uuid]
        # The program gets no descriptor of ours, so it is told the path by its name.
        where = os.path.join(os.readlink(f"/proc/self/fd/{parent}"), new.name)
        command = [_MKFS[kind], "-q", *(("-F",) if kind != "xfs" else ()), *(identity if uuid else ()), where]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_MKFS_TIMEOUT,
                check=False,
            )
            if done.returncode != 0:
                words = done.stderr.decode(errors="replace").strip() or f"status {done.returncode}"
                raise Unavailable(f"{path}: {_MKFS[kind]}: {words}")
            new.rename(Path(f"/proc/self/fd/{parent}", path.name))
        except FileNotFoundError as error:
            raise NotFound(f"{path}: {_MKFS[kind]} is not installed") from error
        finally:
            new.unlink(missing_ok=True)


# mkdir


def _mkdir(mount: Mount, roots: Sequence[Path]) -> Mount:
    name = f"{_OPTION}mkdir.path="
    rest = tuple(option for option in mount.options if not option.startswith(name))
    for option in mount.options:
        if option.startswith(name):
            _make_directory(option.removeprefix(name), roots)
        elif option.startswith(f"{_OPTION}mkdir."):
            raise InvalidArgument(f'mount option "{option}": unknown; there is {_OPTION}mkdir.path')
    return replace(mount, options=rest)


def _make_directory(text: str, roots: Sequence[Path]) -> None:
    path, *words = text.split(":")
    if len(words) not in (0, 1, 3):
        raise InvalidArgument(f'mount option {_OPTION}mkdir.path: "{text}" is not PATH[:MODE[:UID:GID]]')
    try:
        mode = int(words[0], 8) if words else _DIRECTORY
        owner = (int(words[1]), int(words[2])) if len(words) == 3 else None
    except ValueError as error:
        raise InvalidArgument(f'mount option {_OPTION}mkdir.path: "{text}": {error}') from error
    with _parent(Path(path), roots) as parent:
        # One that is there stays as it is.
        with contextlib.suppress(FileExistsError):
            os.mkdir(Path(path).name, dir_fd=parent)
            if owner is not None:
                os.chown(Path(path).name, *owner, dir_fd=parent, follow_symlinks=False)
            os.chmod(f"/proc/self/fd/{parent}/{Path(path).name}", mode)


# What both need.


def _settings(options: Sequence[str], prefix: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The options that are meant for us, by name, and the others."""
    ours = {}
    rest = []
    for option in options:
        if option.startswith(_OPTION + prefix):
            name, _, value = option.removeprefix(_OPTION + prefix).partition("=")
            ours[name] = value
        else:
            rest.append(option)
    return ours, tuple(rest)


@contextlib.contextmanager
def _parent(path: Path, roots: Sequence[Path]) -> Iterator[int]:
    """The directory of a path below one of the roots, open; links in it lead nowhere else. Missing parents are made."""
    for root in roots:
        if path.is_absolute() and path.name and ".." not in path.parts and path.is_relative_to(root) and path != root:
            break
    else:
        raise InvalidArgument(f'"{path}": lies below none of {", ".join(map(str, roots))}; nothing is made elsewhere')
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in path.parent.relative_to(root).parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, _DIRECTORY, dir_fd=fd)
            inner = sc.openat2(part, os.O_PATH | os.O_DIRECTORY, dir_fd=fd, resolve=sc.RESOLVE_NO_SYMLINKS)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)
