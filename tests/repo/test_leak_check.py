# SPDX-License-Identifier: Apache-2.0
"""The check that a test run leaves nothing behind, shown at work on small runs of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"


@pytest.fixture
def inner(tmp_path: Path) -> Path:
    """A folder with this repository's conftest, its patience shortened."""
    text = CONFTEST.read_text()
    patience = "GRACE = 5.0"
    assert patience in text
    (tmp_path / "conftest.py").write_text(text.replace(patience, "GRACE = 0.3"))
    return tmp_path


def run(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_inner.py").write_text(body)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}", str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_clean_run_passes(inner: Path) -> None:
    result = run(inner, "def test_it(short_tmp):\n    (short_tmp / 'file').write_text('x')\n")
    assert result.returncode == 0, result.stdout


def test_process_left_behind_fails_the_run(inner: Path) -> None:
    result = run(
        inner,
        "import subprocess\n"
        "def test_it():\n"
        "    process = subprocess.Popen(['sleep', '55'], start_new_session=True)\n"
        # The kernel shows no environment until the new program is in place, a moment after Popen returns.
        "    while not open(f'/proc/{process.pid}/environ', 'rb').read():\n"
        "        pass\n",
    )
    match = re.search(r"process (\d+): sleep 55", result.stdout)
    assert match, result.stdout
    os.kill(int(match[1]), signal.SIGKILL)
    assert result.returncode != 0


def test_mount_left_behind_fails_its_test_and_is_detached(inner: Path) -> None:
    result = run(
        inner,
        "import subprocess\n"
        "def test_it(short_tmp):\n"
        "    subprocess.run(['mount', '-t', 'tmpfs', 'none', str(short_tmp)], check=True)\n",
    )
    match = re.search(r"mounts left below (\S+): ", result.stdout)
    assert match, result.stdout
    assert result.returncode != 0
    assert not Path(match[1]).exists()
    assert "left behind" not in result.stdout


def test_what_runc_leaves_is_removed(inner: Path) -> None:
    group = f"/sys/fs/cgroup/pids/orlop-left-{os.getpid()}"
    if not Path(group).parent.is_dir():
        group = f"/sys/fs/cgroup/orlop-left-{os.getpid()}"
    result = run(inner, f"import os\ndef test_it():\n    os.mkdir({group!r})\n")
    assert result.returncode == 0, result.stdout
    assert not Path(group).exists()
