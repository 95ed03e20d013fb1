# SPDX-License-Identifier: Apache-2.0
"""What a thousand installed distributions cost a daemon that has their plugins disabled.

    python -m tests.benchmarks.bench_distributions [--runs 5] [--counts 0,250,1000]

Budget: start grows by at most 1 ms for each. Three ways to have them: disabled by one glob, disabled by as many URIs,
and by one glob where a lock names every distribution, so that the files of each are hashed at start.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.bench_start import resident, start
from tests.support.daemon import Daemon
from tests.support.distributions import TYPE, install, uri_of
from tests.support.environment import Environment

BUDGET_MS = 1.0
GLOB, NAMED, LOCKED = "one glob", "one by one", "one glob, locked"


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def daemon(base: Path, environment: Environment, count: int, how: str) -> Daemon:
    """A daemon in an environment with *count* further distributions."""
    base.mkdir()
    disabled = [uri_of(number) for number in range(count)] if how == NAMED else [f"{TYPE}.acme-*"]
    top = f"disabled_plugins = {json.dumps(['io.containerd.grpc.v1.cri', *disabled])}\n"
    if how == LOCKED:
        lock = base / "plugins.lock"
        done = environment.run(str(environment.path / "bin/orlop"), "compose", "lock", "--output", str(lock))
        if done.returncode or not lock.exists():
            raise RuntimeError(done.stderr)
        top += f'plugin_trust = "locked"\nplugin_lock = "{lock}"\n'
    return Daemon(base, environment.orlopd, top=top)


def measure(daemons: dict[int, Daemon], runs: int) -> dict[int, list[tuple[float, float, float]]]:
    """Seconds until ready, seconds of processor time until then, and megabytes, of each run; in turn."""
    figures: dict[int, list[tuple[float, float, float]]] = {count: [] for count in daemons}
    for one in daemons.values():  # what is read from disk is cached then
        start(one)
        one.stop()
    for _ in range(runs):
        for count, one in daemons.items():
            ready = start(one)
            used = cpu(one.pid)
            time.sleep(0.5)
            figures[count].append((ready, used, resident(one.pid)))
            one.stop()
    return figures


def show(how: str, figures: dict[int, list[tuple[float, float, float]]]) -> None:
    """Print a table: growth is against the first line."""
    print(f"\ndisabled by {how} (budget: {BUDGET_MS:g} ms for each)")
    print(f"  {'distributions':>13}{'ready (s)':>12}{'cpu (s)':>10}{'MB':>8}{'each: ms':>14}{'cpu ms':>10}{'kB':>9}")
    first, base = min(figures), [statistics.median(column) for column in zip(*figures[min(figures)], strict=True)]
    for count, runs in figures.items():
        medians = [statistics.median(column) for column in zip(*runs, strict=True)]
        line = f"  {count:>13}{medians[0]:>12.3f}{medians[1]:>10.2f}{medians[2]:>8.1f}"
        if count != first:
            ready, used, memory = ((x - y) / (count - first) * 1e3 for x, y in zip(medians, base, strict=True))
            line += f"{ready:>14.2f}{used:>10.2f}{memory:>9.1f}   {'holds' if ready <= BUDGET_MS else 'MISSED'}"
        print(line)
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--counts", default="0,250,1000", help="numbers of distributions, ascending")
    options = parser.parse_args()
    counts = [int(word) for word in options.counts.split(",")]
    place = Path(tempfile.mkdtemp(prefix="ob", dir="/tmp"))
    try:
        environments = {}
        for count in counts:
            environments[count] = Environment(place / f"venv{count}")
            install(environments[count].site, range(count))
        for number, how in enumerate((GLOB, NAMED, LOCKED)):
            daemons = {
                count: daemon(place / f"{number}-{count}", environment, count, how)
                for count, environment in environments.items()
            }
            try:
                show(how, measure(daemons, options.runs))
            finally:
                for one in daemons.values():
                    one.close()
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
