# SPDX-License-Identifier: Apache-2.0
"""``orlop config diff|explain|reload``: what differs from the defaults, what a key is for, and reading it again."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orlop.config import Config, load
from orlop.config.document import Key, spell
from orlop.errors import InvalidArgument, NotFound
from orlop.kernel import Kernel
from orlop_cli import admin
from orlop_cli.commands.plugins_change import show
from orlop_cli.console import Console


@dataclass(frozen=True, slots=True)
class Setting:
    """One key: its place, its field, the default and the value that holds."""

    key: Key
    info: FieldInfo
    default: Any
    value: Any


def diff(file: Path | None, console: Console) -> int:
    """Print every key whose value is not the default, with the line that it comes from."""
    config = load(file)
    found = [each for each in _settings(config) if each.value != each.default]
    rows = [
        {
            "key": spell(each.key),
            "value": each.value,
            "default": each.default,
            "origin": str(config.origin(*each.key)),
        }
        for each in found
    ]
    if console.format == "json":
        console.json(rows)
        return 0
    for row in rows:
        print(f"{row['key']} = {_shown(row['value'])}  # {row['origin']}; default: {_shown(row['default'])}")
    return 0


def explain(file: Path | None, name: str, console: Console) -> int:
    """Print what a key is for, what it may hold, and what holds now. Raises `NotFound` with similar keys."""
    config = load(file)
    key = _parsed(name)
    settings = list(_settings(config))
    found = [each for each in settings if each.key == key] or [each for each in settings if each.key[-1] == key[-1]]
    if not found:
        from difflib import get_close_matches

        near = get_close_matches(name, [spell(each.key) for each in settings], n=3, cutoff=0.4)
        raise NotFound(f'key "{name}": there is none{"; did you mean " + " or ".join(near) if near else ""}')
    rows = [
        {
            "key": spell(each.key),
            "description": each.info.description or "",
            "type": _type(each.info),
            "default": each.default,
            "value": each.value,
            "origin": str(config.origin(*each.key)) if each.value != each.default else "default",
        }
        for each in found
    ]
    if console.format == "json":
        console.json(rows)
        return 0
    for row in rows:
        print(f"{row['key']}\n  {row['description']}\n  type: {row['type']}, default: {_shown(row['default'])}")
        print(f"  in effect: {_shown(row['value'])} ({row['origin']})")
    return 0


async def reload(arguments: argparse.Namespace, console: Console) -> None:
    """Have the daemon read its config again."""
    from orlop_sdk.api.orlop.plugins.v1 import plugins_pb2 as pb

    async with admin.admin(console) as stub:
        request = pb.ReloadConfigRequest(dry_run=arguments.dry_run, force=arguments.force)
        change = await stub.ReloadConfig(request)
    show(change, console, planned=arguments.dry_run)


def _settings(config: Config) -> Iterator[Setting]:
    """All keys of the top level and of the enabled plugins. Raises `ConfigError`."""
    kernel = Kernel(config)
    kernel.select()
    yield from _pairs((), type(config.settings)(), config.settings)
    for entry in kernel.registry.entries.values():
        if entry.registration is None or entry.config is None:
            continue
        try:
            default = entry.registration.config()
        except ValueError:  # a key without a default: everything there was written
            continue
        yield from _pairs(("plugins", entry.uri), default, entry.config)


def _pairs(key: Key, default: BaseModel, value: BaseModel) -> Iterator[Setting]:
    for name, info in type(value).model_fields.items():
        place = (*key, info.alias or name)
        usual, now = getattr(default, name), getattr(value, name)
        if place == ("plugins",):
            continue
        if isinstance(usual, BaseModel) and isinstance(now, BaseModel):
            yield from _pairs(place, usual, now)
        else:
            yield Setting(place, info, usual, now)


def _parsed(name: str) -> Key:
    import tomli

    try:
        table: Any = tomli.loads(f"{name} = 0")
    except tomli.TOMLDecodeError as error:
        raise InvalidArgument(f'key "{name}": not a TOML key; put quotes around a part with dots') from error
    key: list[str] = []
    while isinstance(table, dict):
        part, table = next(iter(table.items()))
        key.append(part)
    return tuple(key)


def _type(info: FieldInfo) -> str:
    return getattr(info.annotation, "__name__", "") if isinstance(info.annotation, type) else str(info.annotation)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
