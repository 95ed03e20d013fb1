# SPDX-License-Identifier: Apache-2.0
"""Holds tables of the config against their models, and words what is wrong: file, line, rule, remedy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from orlop.config.document import Document, Key, Origin, spell
from orlop.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


@dataclass
class Findings:
    """What is wrong with a config, all of it, in the order of files and lines when printed."""

    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def validate(document: Document, key: Key, model: type[M], findings: Findings, *, strict: bool) -> M | None:
    """The table at *key* as its model, or None when it has faults.

    A wrong value is a fault; an unknown key is a warning, and under *strict* a fault. Each names the file and line,
    and what to write instead. ``isolated`` in a plugin's table is the kernel's, and not the model's to know.
    """
    table = json.loads(json.dumps(document.get(key, {}), default=str))
    if key[:1] == ("plugins",):
        table.pop("isolated", None)
    while True:
        try:
            return model.model_validate_json(json.dumps(table), strict=True)
        except ValidationError as error:
            details = error.errors(include_url=False)
        unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
        for detail in unknown:
            message = _unknown(document, key, detail["loc"], model)
            (findings.faults if strict else findings.warnings).append(message)
            _remove(table, detail["loc"])
        if len(unknown) < len(details):
            wrong = [detail for detail in details if detail["type"] != "extra_forbidden"]
            findings.faults.extend(_wrong(document, key, detail, model) for detail in wrong)
            return None


def checked(table: Mapping[str, Any], model: type[M], where: str) -> M:
    """A table that is in no file as its model. Raises `ConfigError` with all faults, unknown keys among them."""
    findings = Findings()
    found = validate(Document(dict(table), {(): Origin(where)}), (), model, findings, strict=True)
    if found is None or findings.faults:
        raise ConfigError(findings.faults)
    return found


def nearest(name: str, names: list[str]) -> str:
    """The likeliest of *names* for a misspelt one, or the empty string."""
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.6)), "")


def _unknown(document: Document, key: Key, location: Key, model: type[BaseModel]) -> str:
    where = document.origin(key + location)
    known = _keys(_model_at(model, location[:-1]))
    guess = nearest(str(location[-1]), known)
    remedy = f'write "{guess}"' if guess else f"valid here: {', '.join(known) or 'nothing'}"
    return f"{where}: {where.key or spell(key + location)}: unknown key; {remedy}"


def _wrong(document: Document, key: Key, detail: Mapping[str, Any], model: type[BaseModel]) -> str:
    location: Key = detail["loc"]
    where = document.origin(key + location)
    name = where.key if location and where.key.endswith(str(location[-1])) else spell(key + location)
    if detail["type"] == "missing":
        text = _field(model, location)
        return f"{where}: {name}: missing; add {location[-1]} = ...{f' ({text.description})' if text else ''}"
    rule = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    shown = json.dumps(detail["input"], default=str)
    if detail["type"] == "value_error":
        return f"{where}: {name}: {rule}"
    return f"{where}: {name} = {shown[:80]}: {rule}{_example(model, location)}"


def _example(model: type[BaseModel], location: Key) -> str:
    info = _field(model, location)
    if info is None or info.is_required():
        return ""
    default = info.get_default(call_default_factory=True)
    if isinstance(default, BaseModel) or default is None:
        return ""
    return f"; write for example {location[-1]} = {json.dumps(default, default=str)}"


def _field(model: type[BaseModel], location: Key) -> FieldInfo | None:
    owner = _model_at(model, location[:-1])
    if owner is None or not location:
        return None
    for name, info in owner.model_fields.items():
        if location[-1] in (name, info.alias):
            return info
    return None


def _model_at(model: type[BaseModel] | None, location: Key) -> type[BaseModel] | None:
    for part in location:
        if model is None:
            return None
        info = _field(model, (part,))
        model = _inner(info.annotation) if info is not None else model
    return model


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as ``dict[str, Model]`` or ``list[Model] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _inner(argument)) is not None:
            return found
    return None


def _keys(model: type[BaseModel] | None) -> list[str]:
    return sorted(info.alias or name for name, info in model.model_fields.items()) if model is not None else []


def _remove(table: Any, location: Key) -> None:
    for part in location[:-1]:
        table = table[part]
    del table[location[-1]]
