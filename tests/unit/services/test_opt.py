# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orlop.errors import SkipPlugin
from orlop_services.opt import Opt


async def test_its_programs_come_first_while_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    path = tmp_path / "opt"
    opt = await Opt.make(path)
    for _ in range(2):
        await opt.start()
    assert os.environ["PATH"] == f"{path}/bin:/usr/bin:/bin"
    assert os.environ["LD_LIBRARY_PATH"] == f"{path}/lib"
    assert [stat.S_IMODE(os.stat(path / name).st_mode) for name in ("bin", "lib")] == [0o711, 0o711]
    await opt.close()
    assert os.environ["PATH"] == "/usr/bin:/bin"
    assert os.environ.get("LD_LIBRARY_PATH", "") == ""


async def test_a_place_that_cannot_be_made_is_skipped_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SkipPlugin, match="Not a directory; choose"):
        await Opt.make(tmp_path / "file" / "opt")
