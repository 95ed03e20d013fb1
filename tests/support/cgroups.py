# SPDX-License-Identifier: Apache-2.0
"""The cgroups of plugins in containers, as the kernel lists them."""

from __future__ import annotations

from pathlib import Path

TOP = Path("/sys/fs/cgroup")


def plugin_cgroups(pid: int) -> list[Path]:
    """Those of the plugin container that a process is in, in every hierarchy; none for a process that is in none."""
    names = {line.rpartition(":")[2] for line in Path(f"/proc/{pid}/cgroup").read_text().split()}
    return [path for name in names if "orlop-plugin" in name for path in (*TOP.glob(f"*{name}"), *TOP.glob(name[1:]))]
