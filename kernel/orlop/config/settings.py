# SPDX-License-Identifier: Apache-2.0
"""The top level of the config: what the kernel itself reads. Everything below ``[plugins]`` belongs to plugins."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, field_validator

from orlop.config.duration import GoDuration
from orlop.plugin import PluginConfig

DEFAULT_ROOT: Final = "/var/lib/containerd"
DEFAULT_STATE: Final = "/run/containerd"
DEFAULT_FILE: Final = "/etc/containerd/config.toml"
DEFAULT_DROP_INS: Final = "/etc/containerd/conf.d/*.toml"
#: The package in which a composed build brings its config.toml along; everybody else's files win over it.
VENDOR_PACKAGE: Final = "orlop_build"


class Debug(PluginConfig):
    """The daemon's own log."""

    level: Literal["", "trace", "debug", "info", "warn", "error", "fatal", "panic"] = ""
    """Least severe level to write; info when empty."""
    format: Literal["", "text", "json"] = ""
    """Form of a log line; text when empty."""
    log_trace_id: bool = False
    """Whether log lines carry trace_id and span_id of the call they belong to, where it has any."""


class Cgroup(PluginConfig):
    """The daemon's own cgroup."""

    path: str = ""
    """Cgroup that the daemon joins at start; it stays where it is when empty."""


class ProxyPlugin(PluginConfig):
    """A part in another process that serves containerd's API on a socket."""

    type: str
    """Kind of part: snapshot, content, diff, or the id of any installed proxy kind, or a plugin type."""
    address: str
    """Path of its unix socket."""
    platform: str = ""
    """Platform it serves; this host's when empty."""
    exports: dict[str, str] = Field(default_factory=dict)
    """Facts to show to clients."""
    capabilities: list[str] = Field(default_factory=list)
    """Capabilities to show to clients (a snapshotter's rebase, remap-ids, ...)."""
    container: dict[str, Any] = Field(default_factory=dict)
    """The container to start the part in, for kinds that can; it runs already, or elsewhere, when empty."""


class StreamProcessor(PluginConfig):
    """A program that turns a layer of one media type into another."""

    accepts: list[str]
    """Media types it reads on its standard input."""
    returns: str
    """Media type it writes on its standard output."""
    path: str
    """The program: absolute, or looked up in PATH."""
    args: list[str] = Field(default_factory=list)
    """Its arguments."""
    env: list[str] = Field(default_factory=list)
    """Environment variables for it, NAME=value, beside the daemon's own."""


#: Settings that count when the daemon starts, and not again while it runs.
AT_START: Final = ("root", "state", "temp", "oom_score", "plugin_trust", "debug", "cgroup", "timeouts")


class Settings(PluginConfig):
    """The global config file, without its plugins."""

    version: int = 4
    """Version of the file format; older ones are migrated in memory."""
    root: str = DEFAULT_ROOT
    """Directory of what must last."""
    state: str = DEFAULT_STATE
    """Directory of what a reboot may take; must differ from root."""
    temp: str = ""
    """Directory for temporary files; the system's when empty."""
    imports: list[str] = Field(default_factory=list)
    """Further files to read, relative to this one, globs allowed; later ones win."""
    disabled_plugins: list[str] = Field(default_factory=list)
    """URIs of plugins to leave out; globs allowed. Their code is never imported."""
    required_plugins: list[str] = Field(default_factory=list)
    """URIs of plugins without which the daemon must not start."""
    oom_score: int = 0
    """The daemon's own oom_score_adj; unchanged when 0."""
    strict: bool = False
    """Whether an unknown key is an error; it is a warning otherwise."""
    plugin_modules: dict[str, str] = Field(default_factory=dict)
    """Plugins by URI to load from module:attribute, whether or not a distribution declares them."""
    plugin_dirs: list[str] = Field(default_factory=list)
    """Directories made by pip install --target whose distributions are searched for plugins too."""
    plugin_trust: Literal["open", "locked"] = "open"
    """Whose plugins may load: open trusts whatever is installed, locked only what plugin_lock names."""
    plugin_lock: str = ""
    """The lock file, relative to this one; orlop compose lock writes it."""
    debug: Debug = Debug()
    """The daemon's own log."""
    cgroup: Cgroup = Cgroup()
    """The daemon's own cgroup."""
    proxy_plugins: dict[str, ProxyPlugin] = Field(default_factory=dict)
    """Parts in other processes, by the id they get here."""
    stream_processors: dict[str, StreamProcessor] = Field(default_factory=dict)
    """Programs that convert layers, by id."""
    timeouts: dict[str, GoDuration] = Field(default_factory=dict)
    """Named timeouts, such as io.containerd.timeout.shim.load."""
    plugins: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """One table for each plugin, by URI."""

    @field_validator("disabled_plugins", "required_plugins")
    @classmethod
    def _are_uris(cls, names: list[str]) -> list[str]:
        for name in names:
            if "." not in name:
                raise ValueError(f'"{name}" is no plugin URI; write for example "io.containerd.snapshotter.v1.native"')
        return names
