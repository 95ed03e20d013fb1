# SPDX-License-Identifier: Apache-2.0
"""The global config: positions, migration, merging, and faults that say what to write instead."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from orlop.config import Config, load, seconds
from orlop.config.document import Document, SyntaxFault
from orlop.config.migrate import long_name
from orlop.errors import ConfigError
from orlop.plugin import ConfigPath, InitContext, PluginConfig, PluginType

THING = PluginType("org.example.thing.v1", object, group="org.example.thing.v1", many=True)


class Limits(PluginConfig):
    most: int = 3
    """How many at most."""


class ThingConfig(PluginConfig):
    root_path: ConfigPath = None
    """Where."""
    mount_options: tuple[str, ...] = ()
    """How."""
    sync_remove: bool = False
    """When."""
    limits: dict[str, Limits] = Field(default_factory=dict)
    """How many."""


@THING.plugin("one", config=ThingConfig)
async def one(ctx: InitContext[ThingConfig]) -> object:
    """A plugin with a config."""
    return object()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def checked(config: Config) -> dict[str, Any]:
    typed = config.validate([one], [one.uri])
    config.raise_faults()
    return dict(typed)


def test_five_mistakes_in_three_files_are_five_messages(tmp_path: Path) -> None:
    main = write(
        tmp_path / "config.toml",
        'version = 3\nimports = ["a.toml", "b.toml"]\noom_score = "low"\n\n[debug]\nlevel = "loud"\n',
    )
    first = write(tmp_path / "a.toml", f'version = 3\n\n[plugins."{one.uri}"]\n  # a comment\n  sync_remove = "yes"\n')
    second = write(
        tmp_path / "b.toml",
        f'version = 3\ndisabled_plugins = ["overlayfs"]\n[plugins."{one.uri}".limits.x]\nmost = 1.5\n',
    )
    with pytest.raises(ConfigError) as caught:
        checked(load(main))
    faults = caught.value.faults
    assert len(faults) == 5
    assert faults[0] == (
        f'{first}:5: plugins."{one.uri}".sync_remove = "yes": should be a valid boolean; '
        "write for example sync_remove = false"
    )
    assert faults[1].startswith(f'{second}:2: disabled_plugins: "overlayfs" is no plugin URI; write for example')
    assert faults[2].startswith(f'{second}:4: plugins."{one.uri}".limits.x.most = 1.5: should be a valid integer')
    assert faults[2].endswith("write for example most = 3")
    assert faults[3].startswith(f'{main}:3: oom_score = "low": should be a valid integer; write for example')
    assert faults[4].startswith(f"{main}:6: debug.level = \"loud\": should be '', 'trace', 'debug'")


def test_unknown_keys_warn_with_the_nearest_and_are_faults_when_strict(tmp_path: Path) -> None:
    text = f'version = 3\n[plugins."{one.uri}"]\nsync_remov = true\nroot_path = "/x"\n'
    config = load(write(tmp_path / "c.toml", text))
    typed = checked(config)
    assert typed[one.uri].root_path == Path("/x")
    expected = f'{tmp_path}/c.toml:3: plugins."{one.uri}".sync_remov: unknown key; write "sync_remove"'
    assert config.findings.warnings == [expected]
    with pytest.raises(ConfigError) as caught:
        checked(load(write(tmp_path / "c.toml", f"strict = true\n{text}")))
    assert caught.value.faults == [expected.replace(":3:", ":4:")]


def test_a_table_of_an_absent_plugin_warns(tmp_path: Path) -> None:
    config = load(write(tmp_path / "c.toml", 'version = 3\n[plugins."org.example.thing.v1.onne"]\na = 1\n'))
    checked(config)
    assert config.findings.warnings == [
        f'{tmp_path}/c.toml:2: plugins."org.example.thing.v1.onne": no such plugin is installed; '
        f'did you mean "{one.uri}"?'
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = = 2\n", 2), ("[x\n", 1), ("a = 1\na = 2\n", 2), ('x = "\n', 1), ("[a]\nb = [1,\n\n2 3]\n", 4)],
)
def test_bad_toml_says_where(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(SyntaxFault, match=rf"c\.toml:{line}: not valid TOML"):
        Document.parse(write(tmp_path / "c.toml", text))


def test_bad_utf8_says_where(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(SyntaxFault, match=r"c\.toml:2: not UTF-8"):
        Document.parse(file)


def test_a_missing_explicit_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        checked(load(tmp_path / "none.toml"))


KEYS = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r", categories=("L", "N", "P", "S", "Zs")), max_size=5
)
VALUES = st.recursive(
    st.integers(-9, 9)
    | st.booleans()
    | st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z", "Cc")), max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
TABLES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=3), lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


def quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def emit(table: dict[str, Any], prefix: tuple[str, ...], lines: list[str], places: dict[Any, int]) -> None:
    for key, value in table.items():
        if not isinstance(value, dict):
            places[*prefix, key] = len(lines) + 1
            lines.extend(f"{quoted(key)} = {literal(value)}".split("\n"))
    for key, value in table.items():
        if isinstance(value, dict):
            lines.append("# [not] = a 'header")
            places[*prefix, key] = len(lines) + 1
            lines.append(f"[{' . '.join(map(quoted, (*prefix, key)))}]")
            emit(value, (*prefix, key), lines, places)


def literal(value: Any) -> str:
    if isinstance(value, list):
        return "[ # ]\n" + "".join(f"  {literal(item)},\n" for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and "\n" in value and '"' not in value and "\\" not in value:
        cleaned = "".join(character for character in value if character == "\n" or character.isprintable())
        return f'"""{cleaned}"""'
    return quoted(value) if isinstance(value, str) else str(value)


@given(TABLES)
def test_every_key_is_found_where_it_stands(tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any]) -> None:
    lines: list[str] = []
    places: dict[Any, int] = {}
    emit(table, (), lines, places)
    text = "\n".join(lines) + "\n"
    tomli.loads(text)
    document = Document.parse(write(tmp_path_factory.getbasetemp() / "any.toml", text))
    assert {key: document.origins[key].line for key in places} == places


def test_arrays_of_tables_have_positions(tmp_path: Path) -> None:
    text = '[[plugins.x.unpack]]\nname = "a"\n[[plugins.x.unpack]]\nname = "b"\n[plugins.x.unpack.deep]\nk.l = 1\n'
    document = Document.parse(write(tmp_path / "c.toml", text))
    assert document.origin(("plugins", "x", "unpack", 0, "name")).line == 2
    assert document.origin(("plugins", "x", "unpack", 1, "name")).line == 4
    assert document.origin(("plugins", "x", "unpack", 1, "deep", "k", "l")).line == 6


def test_version_1_names_become_uris(tmp_path: Path) -> None:
    text = (
        'disabled_plugins = ["cri", "aufs"]\n[plugins.scheduler]\npause_threshold = 0.1\n'
        '[plugins."diff-service"]\ndefault = ["walking"]\n[grpc]\naddress = "/x/c.sock"\nuid = 5\n'
    )
    config = load(write(tmp_path / "c.toml", text))
    assert config.disabled("io.containerd.snapshotter.v1.aufs")
    assert config.section("io.containerd.gc.v1.scheduler") == {"pause_threshold": 0.1}
    assert config.section("io.containerd.service.v1.diff-service") == {"default": ["walking"]}
    assert config.section("io.containerd.server.v1.grpc") == {"address": "/x/c.sock", "uid": 5}
    assert config.section("io.containerd.server.v1.ttrpc") == {"address": "/x/c.sock.ttrpc", "uid": 5}
    moved = config.origin("plugins", "io.containerd.server.v1.grpc", "uid")
    assert (moved.line, moved.key) == (8, "grpc.uid")
    assert long_name("leases") == "io.containerd.grpc.v1.leases"


def test_version_2_cri_is_split(tmp_path: Path) -> None:
    text = (
        'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nsandbox_image = "p:1"\nstream_server_port = "0"\n'
        'enable_selinux = true\n[plugins."io.containerd.grpc.v1.cri".cni]\nbin_dir = "/opt"\n'
        '[plugins."io.containerd.grpc.v1.cri".containerd]\nsnapshotter = "native"\ndefault_runtime_name = "r"\n'
    )
    config = load(write(tmp_path / "c.toml", text))
    assert config.section("io.containerd.grpc.v1.cri") == {"stream_server_port": "0"}
    images = config.section("io.containerd.cri.v1.images")
    assert images == {"pinned_images": {"sandbox": "p:1"}, "snapshotter": "native"}
    runtime = config.section("io.containerd.cri.v1.runtime")
    assert runtime["cni"] == {"bin_dirs": ["/opt"]}
    assert runtime["containerd"] == {"default_runtime_name": "r"}


def test_merging_follows_containerd(tmp_path: Path) -> None:
    main = write(
        tmp_path / "c.toml",
        'version = 3\nroot = "/r"\nimports = ["d/*.toml"]\ndisabled_plugins = ["a.b"]\noom_score = 5\n'
        '[plugins.x]\nlist = [1]\nflag = true\n[plugins.x.deep]\na = 1\n[timeouts]\n"t" = "1s"\n',
    )
    (tmp_path / "d").mkdir()
    write(
        tmp_path / "d/1.toml",
        'version = 2\ndisabled_plugins = ["a.b", "c.d"]\noom_score = 0\n'
        '[plugins.x]\nlist = [2]\nflag = false\n[plugins.x.deep]\nb = 2\n[timeouts]\n"t" = "2s"\n',
    )
    config = load(main)
    assert config.settings.disabled_plugins == ["a.b", "c.d"]
    assert config.settings.oom_score == 5
    assert config.section("x") == {"list": [2], "flag": False, "deep": {"a": 1, "b": 2}}
    assert config.timeouts == {"t": 2.0}
    assert str(config.disabled("c.d")) == f"{tmp_path}/d/1.toml:2"
    assert str(config.disabled("a.b")) == f"{main}:4"


def test_imports_may_loop_but_not_be_newer(tmp_path: Path) -> None:
    main = write(tmp_path / "c.toml", 'version = 2\nimports = ["d.toml", "gone.toml"]\n')
    write(tmp_path / "d.toml", 'version = 3\nimports = ["c.toml"]\n')
    with pytest.raises(ConfigError) as caught:
        checked(load(main))
    assert [fault.split(": ", 1)[1].split(";")[0] for fault in caught.value.faults] == [
        f"imports: {tmp_path}/gone.toml does not exist",
        "version = 3: newer than the file that imports it",
    ]


@pytest.mark.parametrize("version", ["9", '"two"', "true", "-1"])
def test_unknown_versions_are_faults(tmp_path: Path, version: str) -> None:
    with pytest.raises(ConfigError, match="not a known format; write version = 4"):
        checked(load(write(tmp_path / "c.toml", f"version = {version}\n")))


def test_overrides_win_and_root_differs_from_state(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", 'version = 3\nroot = "/a"\nstate = "/b"\n')
    assert load(file, {("root",): "/z"}).settings.root == "/z"
    with pytest.raises(ConfigError, match="command line: state: must differ from root"):
        checked(load(file, {("state",): "/a"}))


def test_debian_default_config_is_accepted_unchanged(tmp_path: Path) -> None:
    text = subprocess.run(["containerd", "config", "default"], check=True, capture_output=True, text=True).stdout
    config = load(write(tmp_path / "c.toml", text))
    checked(config)
    assert config.section("io.containerd.server.v1.grpc")["address"] == "/run/containerd/containerd.sock"
    assert all("no such plugin is installed" in warning for warning in config.findings.warnings)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1h2m3s", 3723.0), ("100ms", 0.1), ("1.5s", 1.5), ("0", 0.0), ("", 0.0), ("-2s", -2.0), ("3us", 3e-6)],
)
def test_go_durations(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["5", "s", "1 s", "1d", "ms1"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="write for example"):
        seconds(text)


def test_an_empty_path_is_unset_and_a_relative_one_a_fault(tmp_path: Path) -> None:
    text = f'version = 3\n[plugins."{one.uri}"]\nroot_path = ""\n'
    assert checked(load(write(tmp_path / "c.toml", text)))[one.uri].root_path is None
    with pytest.raises(ConfigError, match=r'c\.toml:3: .*root_path: "data" is no absolute path; write one'):
        checked(load(write(tmp_path / "c.toml", text.replace('""', '"data"'))))


def test_the_first_line_that_disables_a_plugin_is_blamed(tmp_path: Path) -> None:
    lists = {"1": '["a.v1.one", "a.v1.t*"]', "2": '["a.v1.two", "?.v1.[of]*"]', "3": '["a.v1.four", "a.v1.six"]'}
    for name, text in lists.items():
        write(tmp_path / f"{name}.toml", f"version = 3\ndisabled_plugins = {text}\n")
    main = write(tmp_path / "main.toml", 'version = 3\nimports = ["1.toml", "2.toml", "3.toml"]\n')
    config = load(main)
    found = {name: config.disabled(f"a.v1.{name}") for name in ("one", "two", "three", "four", "five", "six", "zen")}
    blamed = {name: Path(origin.file).stem if origin else None for name, origin in found.items()}
    assert blamed == {"one": "1", "two": "1", "three": "1", "four": "2", "five": "2", "six": "3", "zen": None}
