# SPDX-License-Identifier: Apache-2.0
"""What containers and sandboxes have in common: a runtime, a spec, and extensions of unknown types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from orlop.errors import InvalidArgument
from orlop.values import AnyMessage, RuntimeInfo
from orlop_core.metadata.database import Transaction

#: Every extension of the node ``n``, as JSON: ``{key: [type, hex bytes]}``.
EXTENSIONS: Final = "(SELECT json_group_object(key, json_array(type, hex(value))) FROM extension WHERE node = n.id)"


def to_columns(message: AnyMessage | None) -> tuple[str | None, bytes | None]:
    """Two columns for a payload that may be absent."""
    return (None, None) if message is None else (message.type_url, message.value)


def from_columns(type_url: str | None, value: bytes | None) -> AnyMessage | None:
    """A payload out of its two columns."""
    return None if type_url is None else AnyMessage(type_url, value or b"")


def runtime(name: str, options_type: str | None, options: bytes | None) -> RuntimeInfo:
    """A runtime out of its columns."""
    return RuntimeInfo(name, from_columns(options_type, options))


def parse_extensions(text: str) -> dict[str, AnyMessage]:
    """Extensions out of the JSON that `EXTENSIONS` makes."""
    if text == "{}":
        return {}
    return {key: AnyMessage(kind, bytes.fromhex(value)) for key, (kind, value) in json.loads(text).items()}


def store_extensions(tx: Transaction, node: int, extensions: Mapping[str, AnyMessage]) -> None:
    """Replace a node's extensions."""
    tx.db.execute("DELETE FROM extension WHERE node = ?", (node,))
    tx.db.executemany(
        "INSERT INTO extension VALUES (?, ?, ?, ?)",
        [(node, key, message.type_url, message.value) for key, message in extensions.items()],
    )


def merge_extensions(
    current: Mapping[str, AnyMessage], new: Mapping[str, AnyMessage], path: str
) -> dict[str, AnyMessage]:
    """Extensions after an update under the path ``extensions`` or ``extensions.<key>``."""
    if path == "extensions":
        return dict(new)
    key = path.removeprefix("extensions.")
    if not key:
        raise InvalidArgument(f'field "{path}": names no extension')
    result = dict(current)
    if key in new:
        result[key] = new[key]
    else:
        result.pop(key, None)
    return result


def check_extensions(extensions: Mapping[str, AnyMessage], what: str) -> None:
    """Raise `InvalidArgument` for an extension without a name."""
    if "" in extensions:
        raise InvalidArgument(f"{what}: extension keys must not be empty")
