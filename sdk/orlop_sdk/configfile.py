# SPDX-License-Identifier: Apache-2.0
"""Writes configs: the defaults of everything installed, explained; the effective config; its JSON schema."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from orlop.config.document import Document, spell
from orlop.config.settings import Settings
from orlop.discovery import AnyRegistration

_WIDTH: Final = 118
#: What the kernel itself reads in a plugin's table.
_ISOLATED: Final = {
    "anyOf": [{"type": "boolean"}, {"type": "string"}],
    "default": False,
    "description": "Whether the plugin runs in a process of its own; or the id of any other isolator.",
}


def default(registrations: Iterable[AnyRegistration]) -> str:
    """A config file that says what holds without one: every key of every plugin, explained."""
    lines = list(_model(Settings(), (), skip={"plugins"}))
    for registration in sorted(registrations, key=lambda item: item.uri):
        try:
            config = registration.config()
        except ValueError:  # a key without a default: there is nothing to print that would hold
            continue
        lines += _model(config, ("plugins", registration.uri))
    return "\n".join(lines) + "\n"


def effective(document: Document) -> str:
    """The merged and migrated config as TOML, each key with the file and line that it came from."""
    return "\n".join(_tables(document.data, (), document)).lstrip("\n") + "\n"


def schema(registrations: Iterable[AnyRegistration]) -> dict[str, Any]:
    """JSON Schema (2020-12) of the whole file in the newest format, from the models of all plugins."""
    models: dict[str, type[BaseModel]] = {each.uri: each.config for each in registrations}
    # All at once: models of different distributions may have the same name.
    wanted: list[type[BaseModel]] = [Settings, *(models[uri] for uri in sorted(models))]
    places, whole = models_json_schema([(model, "validation") for model in dict.fromkeys(wanted)])
    definitions = whole["$defs"]

    def of(model: type[BaseModel]) -> dict[str, Any]:
        place: str = places[model, "validation"]["$ref"]
        return dict(definitions[place.rpartition("/")[2]])

    top, tables = of(Settings), {}
    for uri in sorted(models):
        table = of(models[uri])
        tables[uri] = table | {"properties": {**table.get("properties", {}), "isolated": _ISOLATED}}
    top["properties"] = {**top["properties"], "plugins": {"type": "object", "properties": tables}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **top, "$defs": definitions}


def _model(model: BaseModel, key: tuple[str, ...], skip: Iterable[str] = ()) -> Iterator[str]:
    nested: list[tuple[str, Any, str]] = []
    if key:
        yield f"\n[{spell(key)}]"
    for name, info in type(model).model_fields.items():
        value, text = getattr(model, name), info.description or ""
        label = info.alias or name
        if name in skip:
            continue
        if isinstance(value, BaseModel) or (isinstance(value, dict) and not value):
            nested.append((label, value, text))
            continue
        yield from (f"# {line}" for line in textwrap.wrap(text, _WIDTH))
        yield f"# {label} is unset" if value is None else f"{spell((label,))} = {_value(_plain(value))}"
    for label, value, text in nested:
        if isinstance(value, BaseModel):
            yield from _model(value, (*key, label))
        else:
            yield from (f"\n# {line}" for line in textwrap.wrap(text, _WIDTH))
            yield f"[{spell((*key, label))}]"


def _tables(table: Mapping[str, Any], key: tuple[str, ...], document: Document) -> Iterator[str]:
    plain = {name: value for name, value in table.items() if not isinstance(value, dict)}
    if key and (plain or not table):
        yield f"\n[{spell(key)}]"
    for name, value in plain.items():
        origin = document.origins.get((*key, name))
        yield f"{spell((name,))} = {_value(value)}" + (f"  # {origin}" if origin else "")
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _tables(value, (*key, name), document)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _value(value: Any) -> str:
    """A value on one line; tables inside lists become inline tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{spell((name,))} = {_value(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)
