# SPDX-License-Identifier: Apache-2.0
"""Encrypted layers by the processors that containerd has without any config, under containerd and under orlopd.

The program ``ctd-decoder`` of these tests decrypts with openssl and a key of its own, instead of ocicrypt's.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.daemon import CONTAINERD, ORLOPD, Daemon
from tests.support.image import LAYER_GZIP, LAYER_TAR, Image, write_archive

IMAGE = "example.com/secret:1"
CIPHER = ("openssl", "enc", "-aes-256-ctr", "-K", "5e" * 32, "-iv", "0f" * 16)
DECODER = """\
#!/bin/sh
echo "$STREAM_PROCESSOR_MEDIATYPE $OCICRYPT_KEYPROVIDER_CONFIG $*" >>"{place}/calls"
exec {cipher} -d
"""
REFUSING = """\
#!/bin/sh
cat >/dev/null
echo "no key fits" >&2
exit 3
"""
ARGUMENTS = "/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf --decryption-keys-path /etc/containerd/ocicrypt/keys"


def encrypted(layer: bytes) -> bytes:
    return subprocess.run(CIPHER, input=layer, check=True, capture_output=True, timeout=60).stdout


def image(media_type: str) -> Image:
    """Its only layer is encrypted, after compression if the media type says so."""
    zipped = media_type == LAYER_GZIP
    return Image(
        media_type=f"{media_type}+encrypted",
        pack=lambda layer: encrypted(gzip.compress(layer, mtime=0) if zipped else layer),
    )


def program(place: Path, text: str) -> None:
    place.mkdir(exist_ok=True)
    path = place / "ctd-decoder"
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(params=[CONTAINERD, ORLOPD], ids=["containerd", "orlopd"])
def daemon(request: pytest.FixtureRequest, short_tmp: Path) -> Iterator[Daemon]:
    """One that looks for programs in ``bin`` first."""
    search = f"{short_tmp}/bin:{os.environ['PATH']}"
    with Daemon(short_tmp, request.param, env={"PATH": search}) as daemon:
        yield daemon


#: For what containerd says in other words.
ORLOP_ONLY = pytest.mark.parametrize("daemon", [ORLOPD], ids=["orlopd"], indirect=True)


@pytest.mark.parametrize("media_type", [LAYER_TAR, LAYER_GZIP])
def test_an_encrypted_image_runs(daemon: Daemon, media_type: str) -> None:
    place = daemon.base / "bin"
    program(place, DECODER.format(place=place, cipher=" ".join(CIPHER)))
    ctr = daemon.ctr(f"secret-{uuid.uuid4().hex[:8]}")
    ctr.ok("images", "import", str(write_archive(daemon.base / "secret.tar", {IMAGE: image(media_type)})))
    assert ctr.ok("run", "--rm", IMAGE, "x", "echo", "no secret") == "no secret\n"
    assert (place / "calls").read_text().splitlines() == [f"{media_type}+encrypted {ARGUMENTS}"]


@ORLOP_ONLY
def test_what_the_decoder_says_is_told(daemon: Daemon) -> None:
    program(daemon.base / "bin", REFUSING)
    archive = write_archive(daemon.base / "secret.tar", {IMAGE: image(LAYER_GZIP)})
    refused = daemon.ctr(f"secret-{uuid.uuid4().hex[:8]}").run("images", "import", str(archive))
    assert refused.code != 0, str(refused)
    assert 'stream processor "io.containerd.ocicrypt.decoder.v1.tar.gzip": no key fits' in refused.err


@ORLOP_ONLY
def test_without_the_program_nothing_but_encrypted_layers_fails(daemon: Daemon) -> None:
    ctr = daemon.ctr(f"secret-{uuid.uuid4().hex[:8]}")
    archive = write_archive(daemon.base / "secret.tar", {IMAGE: image(LAYER_GZIP)})
    refused = ctr.run("images", "import", str(archive))
    assert refused.code != 0, str(refused)
    assert "cannot run ctd-decoder: No such file or directory; install it, or mend" in refused.err
    plain = write_archive(daemon.base / "plain.tar", {"example.com/plain:1": Image()})
    ctr.ok("images", "import", str(plain))


TABLE = """\
[stream_processors."io.containerd.ocicrypt.decoder.v1.tar.gzip"]
  accepts = ["{type}+encrypted"]
  returns = "{type}"
  path = "{path}"
  args = ["mine"]
"""


@pytest.mark.parametrize("subject", [CONTAINERD, ORLOPD], ids=["containerd", "orlopd"])
def test_a_table_of_the_same_id_takes_the_place(short_tmp: Path, subject: tuple[str, ...]) -> None:
    place = short_tmp / "elsewhere"
    program(place, DECODER.format(place=place, cipher=" ".join(CIPHER)))
    with Daemon(short_tmp, subject, tables=TABLE.format(type=LAYER_GZIP, path=place / "ctd-decoder")) as daemon:
        ctr = daemon.ctr(f"secret-{uuid.uuid4().hex[:8]}")
        ctr.ok("images", "import", str(write_archive(short_tmp / "secret.tar", {IMAGE: image(LAYER_GZIP)})))
        assert ctr.ok("run", "--rm", IMAGE, "x", "echo", "no secret") == "no secret\n"
        assert (place / "calls").read_text().splitlines() == [f"{LAYER_GZIP}+encrypted  mine"]
