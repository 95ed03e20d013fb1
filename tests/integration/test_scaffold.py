# SPDX-License-Identifier: Apache-2.0
"""From an empty folder to a plugin that the daemon uses: every kind of ``orlop-sdk new``, installed beside Orlop."""

from __future__ import annotations

import lzma
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.struct_pb2 import Struct
from tests.support.ctr import Ctr, columns, eventually
from tests.support.daemon import CONTAINERD, Daemon
from tests.support.environment import Environment
from tests.support.image import LAYER_TAR, Image, busybox_layer, digest, write_archive
from tests.support.place import short_directory

from orlop_sdk.scaffold import KINDS, create

IMAGE = "example.com/busy:1"
SPECIAL = "example.com/special:1"
SCRIPTS = Path(sys.executable).parent
TOP = """\
disabled_plugins = ["io.containerd.grpc.v1.cri"]
"""
TABLES = """\
[proxy_plugins.numbers]
  type = "my-proxy"
  address = "{base}/numbers.sock"
[plugins."io.orlop.hook.v1.my-hook"]
  env = ["SITE=north"]
[plugins."io.containerd.service.v1.diff-service"]
  default = ["my-differ"]
[plugins."io.containerd.differ.v1.my-differ"]
  blocked = ["{blocked}"]
[plugins."io.containerd.shim.v1.my-runtime"]
  env = ["MADE_BY=my-runtime"]
"""
BLOCKED = busybox_layer() + bytes(10240)


def name_of(kind: str) -> str:
    return f"my-{kind}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new distribution of every kind."""
    path = tmp_path_factory.mktemp("new")
    for kind in KINDS:
        create(kind, name_of(kind), path)
    return path


@pytest.fixture(scope="module")
def environment(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Orlop, and beside it all of them."""
    environment = Environment(tmp_path_factory.mktemp("environment") / "venv")
    environment.install(*(folder / name_of(kind) for kind in KINDS))
    return environment


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass(kind: str, folder: Path, environment: Environment) -> None:
    done = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / name_of(kind)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " failed" not in done.stdout


def test_the_suite_passes_from_the_command_line(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(lzma.compress(b"hello" * 1000))
    (tmp_path / "plain").write_bytes(b"hello" * 1000)
    sample = f"{LAYER_TAR}+my-stream-processor={tmp_path}/packed:{tmp_path}/plain"
    # The differ works with another one, which has to have all that it works with.
    for words in (("my-differ", "-k", "applies or damaged"), ("my-stream-processor", "--sample", sample)):
        done = environment.run(str(environment.path / "bin/orlop-sdk"), "check", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert " 0 failed" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_linters_have_nothing_to_say(kind: str, folder: Path) -> None:
    types = ["mypy", "--strict", "--cache-dir", str(folder / "cache")]
    for command in (["ruff", "format", "--check"], ["ruff", "check"], types):
        done = subprocess.run(
            [str(SCRIPTS / command[0]), *command[1:], "."],
            cwd=folder / name_of(kind),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def daemon(environment: Environment) -> Iterator[Daemon]:
    with short_directory() as base:
        tables = TABLES.format(base=base, blocked=digest(BLOCKED))
        with Daemon(base, environment.orlopd, top=TOP, tables=tables) as daemon:
            yield daemon


@pytest.fixture
def ctr(daemon: Daemon) -> Ctr:
    return daemon.ctr(f"new-{uuid.uuid4().hex}")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("images") / "busy.tar", {IMAGE: Image()})


@pytest.mark.parametrize("kind", KINDS)
def test_the_daemon_has_it(kind: str, ctr: Ctr) -> None:
    states = {f"{row[0]}.{row[1]}": row[-1] for row in columns(ctr.ok("plugins", "ls")) if row}
    assert states[f"{KINDS[kind].type.name}.{name_of(kind)}"] == "ok"


def test_containers_run_on_the_snapshotter(ctr: Ctr, archive: Path) -> None:
    ctr.ok("images", "import", "--snapshotter", "my-snapshotter", str(archive))
    command = ("run", "--rm", "--snapshotter", "my-snapshotter", IMAGE, "c1", "cat", "/etc/group")
    assert ctr.ok(*command).startswith("root:x:0:")
    assert columns(ctr.ok("snapshots", "--snapshotter", "my-snapshotter", "ls"))


def test_the_hook_and_the_runtime_have_their_say(daemon: Daemon, ctr: Ctr, archive: Path) -> None:
    ctr.ok("images", "import", str(archive))
    assert "SITE=north" in ctr.ok("run", "--rm", IMAGE, "c1", "env").split()
    ctr.ok("run", "--detach", "--runtime", "io.containerd.my-runtime.v1", IMAGE, "c2", "sleep", "100")
    environments = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in daemon.shims()]
    assert [b"MADE_BY=my-runtime" in each for each in environments] == [True]
    ctr.ok("tasks", "kill", "--signal", "KILL", "c2")


def test_the_log_driver_logs(ctr: Ctr, archive: Path, tmp_path: Path) -> None:
    ctr.ok("images", "import", str(archive))
    log = tmp_path / "c1.log"
    ctr.ok("run", "--detach", "--log-uri", f"my-log-driver://{log}", IMAGE, "c1", "echo", "hello")
    eventually(lambda: log.exists() and log.read_text().endswith(" stdout F hello\n"), "the line is logged")


def test_the_stream_processor_unpacks(ctr: Ctr, special: Path) -> None:
    ctr.ok("images", "import", str(special))
    assert ctr.ok("run", "--rm", SPECIAL, "c1", "cat", "/etc/group").startswith("root:x:0:")


def test_the_differ_refuses(ctr: Ctr, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "blocked.tar", {IMAGE: Image((BLOCKED,), gzipped=False)})
    refused = ctr.run("images", "import", str(archive))
    assert refused.code != 0, str(refused)
    assert "is blocked on this host" in refused.err


def test_the_proxy_makes_a_plugin_of_a_table(ctr: Ctr) -> None:
    (row,) = [row for row in columns(ctr.ok("plugins", "ls")) if row and row[0] == "io.orlop.my-proxy.v1"]
    assert (row[1], row[-1]) == ("numbers", "ok")


def test_the_service_answers_on_the_daemons_socket(daemon: Daemon) -> None:
    with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
        call = channel.unary_stream(
            "/myservice.v1.MyService/List",
            request_serializer=Empty.SerializeToString,
            response_deserializer=Struct.FromString,
        )
        states = {found["uri"]: found["state"] for found in call(Empty(), timeout=20)}
    assert states["io.containerd.grpc.v1.my-service"] == "ok"


# ---- under Debian's containerd ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image whose layer only the new stream processor can unpack."""
    image = Image(media_type=f"{LAYER_TAR}+my-stream-processor", pack=lzma.compress)
    return write_archive(tmp_path_factory.mktemp("images") / "special.tar", {SPECIAL: image})


STREAM = """\
[stream_processors.mine]
  accepts = ["application/vnd.oci.image.layer.v1.tar+my-stream-processor"]
  returns = "application/vnd.oci.image.layer.v1.tar"
  path = "{program}"
"""


@pytest.fixture(scope="module")
def containerd(environment: Environment) -> Iterator[Daemon]:
    program = environment.path / "bin/orlop-my-stream-processor"
    with short_directory() as base, Daemon(base, CONTAINERD, tables=STREAM.format(program=program)) as daemon:
        yield daemon


def test_the_stream_processor_is_a_program_for_containerd(containerd: Daemon, special: Path) -> None:
    ctr = containerd.ctr(f"new-{uuid.uuid4().hex}")
    ctr.ok("images", "import", str(special))
    assert ctr.ok("run", "--rm", SPECIAL, "c1", "cat", "/etc/group").startswith("root:x:0:")


def test_what_it_cannot_unpack_is_an_error(containerd: Daemon, tmp_path: Path) -> None:
    image = Image(media_type=f"{LAYER_TAR}+my-stream-processor", pack=lambda _: b"this is not xz")
    archive = write_archive(tmp_path / "damaged.tar", {SPECIAL: image})
    refused = containerd.ctr(f"new-{uuid.uuid4().hex}").run("images", "import", str(archive))
    # What is said differs: containerd may look at the digest of what came out before it hears of the failure.
    assert refused.code != 0, str(refused)


def test_the_log_driver_is_a_program_for_containerd(
    containerd: Daemon, environment: Environment, archive: Path, tmp_path: Path
) -> None:
    ctr = containerd.ctr(f"new-{uuid.uuid4().hex}")
    ctr.ok("images", "import", str(archive))
    log = tmp_path / "c1.log"
    uri = f"binary://{environment.path}/bin/orlop-my-log-driver?uri=my-log-driver://{log}"
    script = "echo hello; echo trouble >&2"
    ctr.ok("run", "--detach", "--log-uri", uri, IMAGE, "c1", "sh", "-c", script)
    wanted = {"stdout F hello", "stderr F trouble"}

    def logged() -> bool:
        lines = log.read_text().splitlines() if log.exists() else []
        return {line.partition(" ")[2] for line in lines} == wanted

    eventually(logged, "both lines are logged")
