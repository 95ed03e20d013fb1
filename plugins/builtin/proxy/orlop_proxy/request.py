# SPDX-License-Identifier: Apache-2.0
"""What a process is told that shall run one plugin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """One line of JSON on its standard input."""

    uri: str
    """The plugin."""
    type: str
    """Its type."""
    address: str
    """Where to serve it: a path short enough for a socket."""
    settings: Mapping[str, Any]
    """The config, as plain data in the newest version."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """The daemon's facts (`InitContext.properties`)."""
    stores: str = ""
    """Socket of the daemon's stores, for a plugin that requires a metadata store."""
    followed: tuple[str, ...] = ()
    """Types of which the plugin wants all there are; each process has its own."""
    log_level: int = 30
    """Least severe level of log records to send."""

    def to_json(self) -> bytes:
        """The line, with its end."""
        return json.dumps(asdict(self), default=str).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> Request:
        """The request in a line."""
        fields = json.loads(line)
        return cls(**fields | {"followed": tuple(fields["followed"])})
