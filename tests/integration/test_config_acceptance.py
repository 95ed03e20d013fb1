# SPDX-License-Identifier: Apache-2.0
"""Config files as operators have them: containerd's own load unchanged, and mistakes are all answered at once."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.support.ctr import Ctr
from tests.support.daemon import ORLOPD, Daemon

ORLOP = Path(ORLOPD[0]).with_name("orlop")
MAIN = """\
version = 3
root = "{base}/root"
state = "{base}/state"
imports = ["conf.d/*.toml"]
disabled_plugins = ["cri"]

[timeouts]
"io.containerd.timeout.shim.load" = "five seconds"

[grpc]
address = "{base}/s.sock"
"""
SNAPSHOTS = """\
version = 2

[plugins."io.containerd.snapshotter.v1.overlayfs"]
root_path = "/var/lib/overlay"
upperdir_label = "yes"
"""
GARBAGE = """\
version = 2

[plugins."io.containerd.gc.v1.scheduler"]
mutation_threshold = 100
pause_threshold = "0.02"

[plugins."io.containerd.metadata.v1.bolt"]
content_sharing_policy = 1
"""
# File, line, and what the message has to say about the mistake and its remedy.
MISTAKES = {
    ("config.toml", 5): ["disabled_plugins", "cri", "io.containerd."],
    ("config.toml", 8): ["io.containerd.timeout.shim.load", "five seconds"],
    ("conf.d/10-snapshots.toml", 5): ["upperdir_label", "yes", "false"],
    ("conf.d/20-garbage.toml", 5): ["pause_threshold", "0.02"],
    ("conf.d/20-garbage.toml", 8): ["content_sharing_policy", "shared"],
}


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(args, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def mistaken(short_tmp: Path) -> Path:
    """A config of three files with five mistakes."""
    files = {
        "config.toml": MAIN.format(base=short_tmp),
        "conf.d/10-snapshots.toml": SNAPSHOTS,
        "conf.d/20-garbage.toml": GARBAGE,
    }
    for name, text in files.items():
        (short_tmp / name).parent.mkdir(exist_ok=True)
        (short_tmp / name).write_text(text)
    return short_tmp / "config.toml"


@pytest.mark.parametrize(
    "command",
    [
        (*ORLOPD, "--config", "{}"),
        (*ORLOPD, "--config", "{}", "config", "dump"),
        (str(ORLOP), "config", "check", "--config", "{}"),
    ],
    ids=["start", "dump", "check"],
)
def test_all_mistakes_are_answered_at_once(mistaken: Path, command: tuple[str, ...]) -> None:
    """Five mistakes in three files: five messages, each with file and line, what is there, and what to write."""
    done = run(*(part.format(mistaken) for part in command))
    assert done.returncode not in {0, -11}, done.stdout
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if re.search(r"\.toml:\d+", line)]
    for (name, number), words in MISTAKES.items():
        place = f"{mistaken.parent / name}:{number}"
        about = [line for line in lines if place in line]
        assert len(about) == 1, f"{place}: {about}\n{said}"
        assert [word for word in words if word not in about[0]] == [], about[0]
    assert len(lines) == len(MISTAKES), said


def test_unknown_keys_warn_and_name_the_nearest(short_tmp: Path) -> None:
    """A misspelt key does not stop the daemon, unless the config is strict."""
    misspelt = '[plugins."io.containerd.snapshotter.v1.overlayfs"]\nuperdir_label = true\n'
    daemon = Daemon(short_tmp, tables=misspelt)
    line = 1 + daemon.config.read_text().splitlines().index("uperdir_label = true")
    with daemon:
        warned = [text for text in daemon.tail(1000).splitlines() if f"config.toml:{line}" in text]
        assert len(warned) == 1
        assert "upperdir_label" in warned[0]
    daemon.config.write_text("strict = true\n" + daemon.config.read_text())
    done = run(*ORLOPD, "--config", str(daemon.config))
    assert done.returncode != 0
    assert f"config.toml:{line + 1}" in done.stdout + done.stderr


def redirect(text: str, base: Path) -> str:
    """A config with everything that names a place on the host below *base*, and no other change."""
    text = text.replace("/var/lib/containerd", f"{base}/root").replace("/run/containerd/containerd", f"{base}/s")
    return text.replace('"/run/containerd"', f'"{base}/state"').replace("/opt/containerd", f"{base}/opt")


def check_accepted(base: Path, text: str, *, effective: Mapping[tuple[str, ...], object]) -> None:
    """The daemon starts with the config, listens where it says, and `config dump` shows these values."""
    daemon = Daemon(base)
    daemon.config.write_text(text)
    with daemon:
        assert Ctr(daemon.address, "default").run("namespaces", "ls").code == 0
        assert (base / "root").is_dir()
        assert (base / "s.sock.ttrpc").is_socket()
        faults = [line for line in daemon.tail(1000).splitlines() if "level=error" in line and "config.toml" in line]
        assert faults == []
    dump = run(*ORLOPD, "--config", str(daemon.config), "config", "dump")
    assert dump.returncode == 0, dump.stderr
    shown = tomllib.loads(dump.stdout)
    for key, value in effective.items():
        found: object = shown
        for part in key:
            assert isinstance(found, dict), key
            assert part in found, f"{key}: no {part}; there are {sorted(found)}"
            found = found[part]
        assert found == value, key


def test_default_config_of_containerd(short_tmp: Path) -> None:
    """What Debian's containerd prints as its default (format 2) is accepted; only places are changed here."""
    text = redirect(run("/usr/bin/containerd", "config", "default").stdout, short_tmp)
    check_accepted(
        short_tmp,
        text,
        effective={
            ("root",): f"{short_tmp}/root",
            ("plugins", "io.containerd.gc.v1.scheduler", "mutation_threshold"): 100,
            ("plugins", "io.containerd.server.v1.grpc", "address"): f"{short_tmp}/s.sock",
            ("stream_processors", "io.containerd.ocicrypt.decoder.v1.tar", "path"): "ctd-decoder",
        },
    )


VERSION_1 = """\
root = "{base}/root"
state = "{base}/state"
oom_score = 0
disabled_plugins = ["cri", "restart"]
[grpc]
  address = "{base}/s.sock"
  uid = 0
  gid = 0
[debug]
  level = "debug"
[plugins]
  [plugins.cgroups]
    no_prometheus = false
  [plugins.scheduler]
    pause_threshold = 0.05
    schedule_delay = "1s"
  [plugins.overlayfs]
    upperdir_label = true
  [plugins.diff-service]
    default = ["walking"]
"""
VERSION_3 = """\
version = 3
root = '{base}/root'
state = '{base}/state'
temp = ''
disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.runtime', 'io.containerd.cri.v1.images']
required_plugins = ['io.containerd.metadata.v1.bolt']
oom_score = 0
imports = []

[grpc]
  address = '{base}/s.sock'
  tcp_address = ''
  uid = 0
  gid = 0
  max_recv_message_size = 16777216
  max_send_message_size = 16777216

[ttrpc]
  address = ''
  uid = 0
  gid = 0

[debug]
  address = ''
  level = 'info'
  format = 'json'

[metrics]
  address = ''
  grpc_histogram = false

[plugins]
  [plugins.'io.containerd.gc.v1.scheduler']
    pause_threshold = 0.02
    deletion_threshold = 0
    mutation_threshold = 50
    schedule_delay = '0s'
    startup_delay = '100ms'
  [plugins.'io.containerd.cri.v1.images']
    snapshotter = 'overlayfs'
    disable_snapshot_annotations = true
    [plugins.'io.containerd.cri.v1.images'.pinned_images]
      sandbox = 'registry.k8s.io/pause:3.10'
    [plugins.'io.containerd.cri.v1.images'.registry]
      config_path = '/etc/containerd/certs.d'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = true
  [plugins.'io.containerd.snapshotter.v1.overlayfs']
    root_path = ''
    upperdir_label = false
    sync_remove = true
    slow_chown = false
    mount_options = []

[cgroup]
  path = ''

[timeouts]
  'io.containerd.timeout.bolt.open' = '0s'
  'io.containerd.timeout.metrics.shimstats' = '2s'
  'io.containerd.timeout.shim.load' = '5s'
  'io.containerd.timeout.task.state' = '2s'

[stream_processors]
"""
VERSION_4 = """\
version = 4
root = '{base}/root'
state = '{base}/state'
imports = ['{base}/drop-ins/*.toml']

[debug]
  level = 'debug'
  format = 'text'
  log_trace_id = false

[plugins.'io.containerd.server.v1.grpc']
  address = '{base}/s.sock'
  uid = 0
  gid = 0

[plugins.'io.containerd.server.v1.ttrpc']
  address = '{base}/s.sock.ttrpc'

[plugins.'io.containerd.server.v1.grpc-tcp']
  address = ''

[plugins.'io.containerd.metadata.v1.bolt']
  content_sharing_policy = 'isolated'
  no_sync = false

[plugins.'io.containerd.differ.v1.erofs']
  mkfs_options = []

[timeouts]
  'io.containerd.timeout.shim.shutdown' = '3s'
"""
DROP_IN = """\
version = 4
[plugins.'io.containerd.gc.v1.scheduler']
  deletion_threshold = 7
"""


def test_version_1(short_tmp: Path) -> None:
    """Short names of plugins, as in containerd's first releases."""
    check_accepted(
        short_tmp,
        VERSION_1.format(base=short_tmp),
        effective={
            ("plugins", "io.containerd.gc.v1.scheduler", "pause_threshold"): 0.05,
            ("plugins", "io.containerd.snapshotter.v1.overlayfs", "upperdir_label"): True,
        },
    )


def test_version_3(short_tmp: Path) -> None:
    """A file as containerd 2.0 to 2.2 writes it, with tables for plugins that are not installed here."""
    check_accepted(
        short_tmp,
        VERSION_3.format(base=short_tmp),
        effective={
            ("plugins", "io.containerd.gc.v1.scheduler", "mutation_threshold"): 50,
            ("plugins", "io.containerd.server.v1.ttrpc", "address"): f"{short_tmp}/s.sock.ttrpc",
            ("debug", "format"): "json",
        },
    )


def test_version_4(short_tmp: Path) -> None:
    """A file as containerd 2.3 writes it, with a drop-in of the same version."""
    (short_tmp / "drop-ins").mkdir()
    (short_tmp / "drop-ins" / "gc.toml").write_text(DROP_IN)
    check_accepted(
        short_tmp,
        VERSION_4.format(base=short_tmp),
        effective={
            ("version",): 4,
            ("plugins", "io.containerd.gc.v1.scheduler", "deletion_threshold"): 7,
            ("plugins", "io.containerd.metadata.v1.bolt", "content_sharing_policy"): "isolated",
        },
    )


def test_a_newer_version_is_refused(short_tmp: Path) -> None:
    file = short_tmp / "config.toml"
    file.write_text("version = 5\n")
    done = run(*ORLOPD, "--config", str(file))
    assert done.returncode != 0
    assert f"{file}:1" in done.stdout + done.stderr


def test_a_missing_file_is_refused(short_tmp: Path) -> None:
    done = run(*ORLOPD, "--config", str(short_tmp / "nosuch.toml"))
    assert done.returncode != 0
    assert str(short_tmp / "nosuch.toml") in done.stdout + done.stderr


def test_broken_syntax_names_the_line(short_tmp: Path) -> None:
    file = short_tmp / "config.toml"
    file.write_text('version = 2\nroot = "/x\n')
    done = run(*ORLOPD, "--config", str(file), "config", "dump")
    assert done.returncode != 0
    assert f"{file}:2" in done.stdout + done.stderr


def test_default_config_is_accepted_as_it_is_printed(short_tmp: Path) -> None:
    """What `config default` prints is a config, and says the same when it is read again."""
    printed = run(*ORLOPD, "config", "default")
    assert printed.returncode == 0, printed.stderr
    file = short_tmp / "config.toml"
    file.write_text(printed.stdout)
    again = run(*ORLOPD, "--config", str(file), "config", "dump")
    assert again.returncode == 0, again.stderr
    assert tomllib.loads(again.stdout)["plugins"] == tomllib.loads(printed.stdout)["plugins"]


def test_address_on_the_command_line_wins(short_tmp: Path) -> None:
    daemon = Daemon(short_tmp)
    other = short_tmp / "other.sock"
    daemon.address = other
    daemon.launch("--address", str(other))
    try:
        daemon.wait_ready()
        assert not os.path.exists(short_tmp / "s.sock")
    finally:
        daemon.close()
