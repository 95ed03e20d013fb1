# SPDX-License-Identifier: Apache-2.0
"""Does an instance really offer its interface? Asked once, at initialisation, where the author can be named."""

from __future__ import annotations

import inspect


def faults(instance: object, interface: type) -> list[str]:
    """What *instance* lacks of *interface*, a line each; empty when it conforms.

    A protocol check of the language looks at names only. This also tells a missing ``async`` and parameters that a
    caller of the interface would pass in vain.
    """
    if interface is object:
        return []
    if instance is None or isinstance(instance, type):
        return ["the factory must return an instance"]
    found = []
    for name in sorted(_members(interface)):
        declared = inspect.getattr_static(interface, name, None)
        actual = inspect.getattr_static(type(instance), name, None)
        if actual is None and not hasattr(instance, name):
            found.append(f"has no {name}")
        elif inspect.isfunction(declared) and inspect.isfunction(actual):
            found.extend(_compare(name, declared, actual))
    return found


def _members(interface: type) -> set[str]:
    names: set[str] = set()
    for base in interface.__mro__:
        if base is not object and base.__module__ not in ("typing", "abc"):
            names.update(name for name in vars(base) if not name.startswith("_"))
            names.update(name for name in getattr(base, "__annotations__", {}) if not name.startswith("_"))
    return names


def _compare(name: str, declared: object, actual: object) -> list[str]:
    assert inspect.isfunction(declared) and inspect.isfunction(actual)  # noqa: PT018  # narrows for type checkers
    if inspect.iscoroutinefunction(declared) and not inspect.iscoroutinefunction(actual):
        return [f"{name} must be async"]
    if inspect.iscoroutinefunction(actual) and not inspect.iscoroutinefunction(declared):
        return [f"{name} must not be a coroutine function"]
    wanted, given = inspect.signature(declared).parameters, inspect.signature(actual).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in given.values()):
        return []
    missing = [parameter for parameter in wanted if parameter not in given]
    return [f"{name} takes no parameter {parameter}" for parameter in missing if parameter != "self"]
