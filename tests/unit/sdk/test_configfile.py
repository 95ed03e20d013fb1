# SPDX-License-Identifier: Apache-2.0
"""Config files that are written: defaults, the effective config, the schema."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from orlop.config import load
from orlop.plugin import InitContext, PluginConfig, PluginType
from orlop_sdk import configfile

THING = PluginType("org.example.thing.v1", object, group="org.example.thing.v1", many=True)


class Limits(PluginConfig):
    most: int = 3
    """How many at most."""


class ThingConfig(PluginConfig):
    root_path: Path | None = None
    """Where."""
    limits: dict[str, Limits] = Field(default_factory=dict)
    """How many."""


@THING.plugin("one", config=ThingConfig)
async def one(ctx: InitContext[ThingConfig]) -> object:
    """A plugin with a config."""
    return object()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults_are_a_valid_config_with_every_key_explained(tmp_path: Path) -> None:
    text = configfile.default([one])
    config = load(write(tmp_path / "c.toml", text.replace("strict = false", "strict = true")))
    assert config.validate([one], [one.uri]) == {one.uri: ThingConfig()}
    config.raise_faults()
    assert "# Where.\n# root_path is unset\n" in text
    assert '# Directory of what must last.\nroot = "/var/lib/containerd"' in text


def test_a_dump_says_where_values_come_from_and_reads_back(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", 'version = 2\n[grpc]\naddress = "/x"\n[plugins."a.b".c]\nlist = [{x = 1}, 2.5]\n')
    text = configfile.effective(load(file).document)
    assert f'address = "/x"  # {file}:3' in text
    again = load(write(tmp_path / "d.toml", text))
    assert again.document.data == load(file).document.data


def test_the_schema_covers_every_plugin() -> None:
    schema = configfile.schema([one])
    table = schema["properties"]["plugins"]["properties"][one.uri]
    assert table["properties"]["root_path"]["description"] == "Where."
    assert "Limits" in schema["$defs"]
