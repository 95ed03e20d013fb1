# SPDX-License-Identifier: Apache-2.0
"""Gets the wheels that come from an index: resolved once, written down with their digests, and taken by those after.

The lock has pip's format, so that everybody's tools can read and audit it::

    # python 3.11, platform manylinux_2_28_x86_64; written by orlop compose
    grpcio==1.76.0 --hash=sha256:...
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from orlop.errors import FailedPrecondition
from orlop_compose.wheels import Sources, Target, Wheel, closure

_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class Resolver:
    """Completes a build's own wheels with those from an index.

    *lock* is the file that says which; it is written when it is not there, or *relock* is set. *constraints* is a file
    of pinned requirements that a resolution keeps to, or None.
    """

    def __init__(self, target: Target, lock: Path, folder: Path, *, constraints: Path | None, relock: bool) -> None:
        self._target = target
        self._lock = lock
        self._folder = folder
        self._relock = relock or not lock.exists()
        self._pins = _read(constraints, target) if constraints is not None else {}
        self._cached: dict[str, Path] = {}
        self._head = f"# python {target.python}, platform {target.platform}; written by orlop compose"

    def complete(self, wanted: Sequence[Requirement], sources: Sources) -> dict[str, Wheel]:
        """All wheels that *wanted* needs, by name. Raises `FailedPrecondition` when that is not possible."""
        needed, others = self._local(wanted, sources)
        if not self._relock:
            self._take_locked()
        while self._relock:
            self._resolve(others)
            # Something from the index may need what is to come from a source tree.
            more = [Requirement(wheel.name) for wheel in self._downloaded() if wheel.name in sources]
            if all(requirement.name in needed for requirement in more):
                break
            needed, others = self._local([*wanted, *more], sources)
        there = {wheel.name: wheel for wheel in self._downloaded() if wheel.name not in sources} | needed
        chosen, faults = closure(wanted, there, self._target)
        if faults:
            remedy = "try a newer constraint" if self._relock else f"{self._lock} is older; add --relock"
            raise FailedPrecondition(f"the build lacks {'; '.join(faults)}; {remedy}")
        if self._relock:
            kept = [wheel for name, wheel in chosen.items() if name not in sources]
            lines = [f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.digest}" for wheel in kept]
            self._lock.write_text("\n".join([self._head, *lines]) + "\n")
        return chosen

    def _local(self, wanted: Iterable[Requirement], sources: Sources) -> tuple[dict[str, Wheel], list[Requirement]]:
        """What comes from source trees and wheels at hand, as far as these need each other, and what they need else."""
        found: dict[str, Wheel] = {}
        others: dict[str, Requirement] = {}
        seen: set[str] = set()
        queue = list(wanted)
        while queue:
            requirement = queue.pop(0)
            if str(requirement) in seen:
                continue
            seen.add(str(requirement))
            name = canonicalize_name(requirement.name)
            if name in sources:
                found[name] = sources.wheel(name)
                queue.extend(found[name].requires(self._target, requirement.extras))
            else:
                requirement.marker = None  # it holds for the target, which pip cannot be told
                others[str(requirement)] = requirement
        return found, [others[text] for text in sorted(others)]

    def _downloaded(self) -> list[Wheel]:
        return [Wheel(path) for path in sorted(self._folder.glob("*.whl"))]

    def _resolve(self, requirements: Sequence[Requirement]) -> None:
        for wheel in self._downloaded():
            wheel.path.unlink()
        if not requirements:
            return
        with tempfile.TemporaryDirectory() as scratch:
            pins = Path(scratch, "constraints.txt")
            pins.write_text("".join(f"{line}\n" for line, _ in self._pins.values()))
            words = ["--constraint", str(pins), *map(str, requirements)]
            if not self._from_cache(words):
                self._pip(*words)
        for wheel in self._downloaded():
            _, digests = self._pins.get(wheel.name, ("", set()))
            if digests and wheel.digest not in digests:
                raise FailedPrecondition(f'wheel "{wheel.path.name}": its digest is not among those of the constraints')

    def _from_cache(self, words: Sequence[str]) -> bool:
        """Resolve among what is in the cache, if that has all there is to say: everything is pinned, and is there."""
        if self._pins:
            with contextlib.suppress(FailedPrecondition):
                self._pip("--no-index", *words)
            if self._downloaded() and all(wheel.name in self._pins for wheel in self._downloaded()):
                return True
        for wheel in self._downloaded():
            wheel.path.unlink()
        return False

    def _take_locked(self) -> None:
        head, _, rest = self._lock.read_text().partition("\n")
        if head != self._head:
            raise FailedPrecondition(f"{self._lock}: was made for {head.lstrip('# ').partition(';')[0]}; add --relock")
        absent = [line for line in rest.splitlines() if not self._take_cached(*_HASH.findall(line))]
        if absent:
            missing = self._folder / "missing.txt"
            missing.write_text("\n".join(absent))
            self._pip("--no-deps", "--require-hashes", "--requirement", str(missing))

    def _take_cached(self, digest: str) -> bool:
        """Copy the wheel with that digest from the cache, if it is there."""
        if not self._cached:
            self._cached = {Wheel(path).digest: path for path in cache("wheels").glob("*.whl")}
        if digest in self._cached:
            shutil.copy(self._cached[digest], self._folder)
        return digest in self._cached

    def _pip(self, *arguments: str) -> None:
        """``pip download`` for the target, by way of a cache: what was downloaded once need not be again."""
        target = [
            *("--only-binary", ":all:", "--implementation", "cp", "--python-version", self._target.python),
            *(word for abi in (self._target.abi, "abi3", "none") for word in ("--abi", abi)),
            *(word for name in self._target.platforms() for word in ("--platform", name)),
        ]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        places = ["--dest", str(self._folder), "--find-links", str(cache("wheels"))]
        done = subprocess.run([*pip, *places, *target, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            words = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
            raise FailedPrecondition(f"pip cannot get what the build needs: {' '.join(words)}")
        for wheel in self._folder.glob("*.whl"):
            if not (cache("wheels") / wheel.name).exists():
                shutil.copy(wheel, cache("wheels"))


def cache(part: str) -> Path:
    """A directory to keep things in that can be had again."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "orlop", part)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _read(path: Path, target: Target) -> dict[str, tuple[str, set[str]]]:
    """Pinned requirements by name, each as a line without its hashes, and the hashes."""
    found: dict[str, tuple[str, set[str]]] = {}
    for entry in path.read_text().replace("\\\n", " ").splitlines():
        line = entry.partition("--hash")[0].partition(" #")[0].strip()
        if not line or line.startswith(("#", "-")):
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise FailedPrecondition(f"constraints {path}: {line}: {error}") from error
        if requirement.marker is None or requirement.marker.evaluate(target.environment):
            requirement.marker = None
            found[canonicalize_name(requirement.name)] = str(requirement), set(_HASH.findall(entry))
    return found
