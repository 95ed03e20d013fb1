# SPDX-License-Identifier: Apache-2.0
"""``orlopd config``: print the configuration as TOML, with what each key means."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import tomlkit
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from tomlkit.items import Table

from orlop.config import Config, from_data
from orlop.errors import ConfigError
from orlop.kernel import Kernel
from orlop.plugin import PluginConfig
from orlop_services.daemon.run import read_config


def config(arguments: argparse.Namespace) -> int:
    """Print what the action asks for; the exit status is 1 when the config has faults, which go to standard error."""
    found = from_data({}) if arguments.action == "default" else read_config(arguments)
    try:
        found.raise_faults()
        if arguments.action == "migrate":
            text = tomlkit.dumps(_plain(found.document.data))
        else:
            text = _effective(found)
    except ConfigError as error:
        sys.stderr.writelines(f"orlopd: {fault}\n" for fault in error.faults)
        return 1
    sys.stdout.write(text)
    return 0


def _effective(found: Config) -> str:
    kernel = Kernel(found)
    kernel.select()
    document = tomlkit.document()
    _fill(document, found.settings, skip=("plugins",))
    plugins = tomlkit.table(is_super_table=True)
    for uri in sorted(kernel.registry.entries):
        entry = kernel.registry.entries[uri]
        if entry.registration is not None:
            typed = entry.config or _default(entry.registration.config)
            if typed is not None and type(typed).model_fields:
                table = tomlkit.table()
                _fill(table, typed)
                plugins[uri] = table
    document["plugins"] = plugins
    return tomlkit.dumps(document)


def _default(model: type[PluginConfig]) -> PluginConfig | None:
    try:
        return model()
    except ValidationError:
        # A plugin that cannot do without settings has no default to print.
        return None


def _fill(table: tomlkit.TOMLDocument | Table, model: BaseModel, skip: tuple[str, ...] = ()) -> None:
    """Write a model's keys with their explanations: what is no table first, as TOML wants it."""
    values = model.model_dump(mode="json", by_alias=True)
    fields = [(info.alias or name, name, info) for name, info in type(model).model_fields.items() if name not in skip]
    tables = [field for field in fields if isinstance(values[field[0]], Mapping)]
    for key, _, info in fields:
        if isinstance(values[key], Mapping):
            continue
        _explain(table, info)
        if values[key] is None:
            # TOML has no word for "nothing"; the key is there to be found all the same.
            table.add(tomlkit.comment(f"{key} ="))
        else:
            table.add(key, _plain(values[key]))
    for key, name, info in tables:
        inner = tomlkit.table()
        _explain(inner, info)
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            _fill(inner, value)
        else:
            inner.update(_plain(values[key]))
        table.add(key, inner)


def _explain(table: tomlkit.TOMLDocument | Table, info: FieldInfo) -> None:
    for line in (info.description or "").splitlines():
        table.add(tomlkit.comment(line))


def _plain(value: Any) -> Any:
    """The value without what TOML cannot say: no value at all."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
