# SPDX-License-Identifier: Apache-2.0
"""Config files that are written: defaults, the effective config, the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from orlop.config import load
from orlop.plugin import InitContext, PluginConfig, PluginType, Registration
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


def other(module: str) -> Registration[Any, object]:
    """A plugin whose models have the names of another's."""

    class Limits(PluginConfig):
        least: float
        """How few at least."""

    class ThingConfig(PluginConfig):
        limits: Limits
        """How few."""

    # The names that a distribution of somebody else would give them.
    Limits.__module__ = ThingConfig.__module__ = module
    Limits.__qualname__, ThingConfig.__qualname__ = "Limits", "ThingConfig"

    @THING.plugin("other", config=ThingConfig)
    async def made(ctx: InitContext[ThingConfig]) -> object:
        return object()

    return made


def test_models_of_the_same_name_are_kept_apart() -> None:
    schema = configfile.schema([one, other("acme_thing")])
    tables = schema["properties"]["plugins"]["properties"]

    def limits(reference: str) -> dict[str, Any]:
        found: dict[str, Any] = schema["$defs"][reference.rpartition("/")[2]]["properties"]
        return found

    mine = tables[one.uri]["properties"]["limits"]["additionalProperties"]["$ref"]
    theirs = tables[f"{THING.name}.other"]["properties"]["limits"]["$ref"]
    assert limits(mine).keys() == {"most"}
    assert limits(theirs).keys() == {"least"}


def test_the_schema_knows_what_the_kernel_reads_in_every_table() -> None:
    table = configfile.schema([one])["properties"]["plugins"]["properties"][one.uri]
    assert table["properties"]["isolated"]["default"] is False
