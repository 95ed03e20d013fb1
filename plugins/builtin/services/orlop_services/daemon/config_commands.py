# SPDX-License-Identifier: Apache-2.0
"""``orlopd config``: print the configuration as TOML."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pydantic import BaseModel

from orlop.config import Config, from_data
from orlop.config.document import Document
from orlop.discovery import AnyRegistration
from orlop.errors import ConfigError
from orlop.kernel import Kernel
from orlop_sdk import configfile
from orlop_services.daemon.run import read_config


def config(arguments: argparse.Namespace) -> int:
    """Print what the action asks for; the exit status is 1 when the config has faults, which go to standard error."""
    try:
        text = _text(arguments)
    except ConfigError as error:
        sys.stderr.writelines(f"orlopd: {fault}\n" for fault in error.faults)
        return 1
    sys.stdout.write(text)
    return 0


def _text(arguments: argparse.Namespace) -> str:
    if arguments.action == "default":
        return configfile.default(registration for registration, _ in _select(from_data({})))
    found = read_config(arguments)
    complete = _complete(found)
    return configfile.effective(found.document if arguments.action == "migrate" else complete)


def _select(found: Config) -> list[tuple[AnyRegistration, BaseModel | None]]:
    """The enabled plugins with their configs; None where a key without a default is missing."""
    kernel = Kernel(found)
    kernel.select()
    return [(entry.registration, entry.config) for entry in kernel.registry.entries.values() if entry.registration]


def _complete(found: Config) -> Document:
    """The config with every default filled in. What a file says keeps its origin, and is told from defaults by it."""
    plugins = {registration.uri: typed for registration, typed in _select(found) if typed is not None}
    tables = {uri: _plain(plugins[uri]) for uri in sorted(plugins)}
    return Document({**_plain(found.settings), "plugins": tables}, found.document.origins)


def _plain(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
