# SPDX-License-Identifier: Apache-2.0
"""Platforms: their names, and which of an image's variants a host can run.

::

    wanted = Only(parse("linux/arm/v7"))
    best = min((p for p in offered if wanted.rank(p) is not None), key=wanted.rank)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from orlop.errors import InvalidArgument
from orlop.values import Platform

_OS: Final = {"macos": "darwin"}
_KNOWN_OS: Final = frozenset(
    "aix android darwin dragonfly freebsd illumos ios js linux nacl netbsd openbsd plan9 solaris wasip1 windows".split()
)
#: Other names of architectures -> (name, variant that the name implies).
_ARCHITECTURES: Final[Mapping[str, tuple[str, str]]] = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
_KNOWN_ARCHITECTURES: Final = frozenset(
    "386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x wasm".split()
)
_PART: Final = re.compile(r"[A-Za-z0-9_.-]+")
_OS_PART: Final = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.-]*)((?:\+[A-Za-z0-9_.-]+)*)\))?")


def normalise(platform: Platform) -> Platform:
    """The same platform by its usual names: ``aarch64`` is ``arm64``, and its ``v8`` goes without saying."""
    os_name = _OS.get(platform.os.lower(), platform.os.lower())
    name = platform.architecture.lower()
    architecture, implied = _ARCHITECTURES.get(name, (name, ""))
    variant = implied or platform.variant.lower()
    if variant and variant[0].isdecimal():
        variant = f"v{variant}"
    if (architecture, variant) in {("arm64", "v8"), ("arm64", "v8.0"), ("amd64", "v1")}:
        variant = ""
    if (architecture, variant) == ("arm", ""):
        variant = "v7"
    return replace(platform, os=os_name, architecture=architecture, variant=variant)


def parse(text: str) -> Platform:
    """``linux/arm64/v8``, ``linux``, ``arm64``, ``windows(10.0.17763)/amd64``; what is left out is the host's.

    Raises `InvalidArgument`.
    """
    parts = text.split("/")
    match = _OS_PART.fullmatch(parts[0])
    if not match or len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts[1:]):
        raise InvalidArgument(f'platform "{text}": must read like linux/amd64 or linux/arm/v7')
    name, version, features = match[1].lower(), match[2] or "", tuple(filter(None, (match[3] or "").split("+")))
    if len(parts) == 1 and name not in _KNOWN_OS | _OS.keys():
        if name not in _KNOWN_ARCHITECTURES | _ARCHITECTURES.keys():
            raise InvalidArgument(f'platform "{text}": neither an operating system nor an architecture')
        return normalise(Platform(default().os, name))
    if len(parts) == 1:
        host = default()
        return normalise(Platform(name, host.architecture, host.variant, version, features))
    return normalise(Platform(name, parts[1], parts[2] if len(parts) == 3 else "", version, features))


def render(platform: Platform) -> str:
    """The text that `parse` takes, with version and features of the system where there are any."""
    inner = "+".join((platform.os_version, *platform.os_features))
    os_name = f"{platform.os}({inner})" if inner else platform.os
    return "/".join(filter(None, (os_name, platform.architecture, platform.variant)))


@cache
def default() -> Platform:
    """This host's platform."""
    machine = os.uname()
    variant = ""
    if machine.machine.startswith("arm"):
        variant = _arm_variant()
    architecture = "arm" if machine.machine.startswith("arm") and machine.machine != "arm64" else machine.machine
    return normalise(Platform(machine.sysname.lower(), architecture, variant))


def _arm_variant() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    match = re.search(r"(?mi)^CPU architecture\s*:\s*(\d+)", text)
    return f"v{match[1]}" if match else ""


@runtime_checkable
class Matcher(Protocol):
    """Says which platforms will do, and which is best."""

    def rank(self, platform: Platform) -> int | None:
        """0 for the best, larger for worse ones, None for one that will not do."""
        ...


class Only:
    """What a host of one platform can run, best first; *strict* takes nothing but that platform itself."""

    def __init__(self, platform: Platform, *, strict: bool = False) -> None:
        self.platform = normalise(platform)
        self._ranked = (self.platform,) if strict else _compatible(self.platform)

    def rank(self, platform: Platform) -> int | None:
        normal = normalise(platform)
        for rank, candidate in enumerate(self._ranked):
            same = (candidate.os, candidate.architecture, candidate.variant) == (
                normal.os,
                normal.architecture,
                normal.variant,
            )
            # A variant may ask for features of the system (such as erofs); all of them must be there.
            if same and set(normal.os_features) <= set(self.platform.os_features):
                return rank
        return None

    def __repr__(self) -> str:
        return f"Only({render(self.platform)})"


class AnyOf:
    """Any of several matchers, an earlier one's better than a later one's."""

    def __init__(self, *matchers: Matcher) -> None:
        self._matchers = matchers

    def rank(self, platform: Platform) -> int | None:
        for index, matcher in enumerate(self._matchers):
            rank = matcher.rank(platform)
            if rank is not None:
                return index * 1000 + rank
        return None

    def __repr__(self) -> str:
        return " or ".join(map(repr, self._matchers))


class Everything:
    """Any platform at all, none better than another."""

    def rank(self, platform: Platform) -> int | None:
        return 0

    def __repr__(self) -> str:
        return "Everything()"


#: What the functions of a client take: a name, a platform, a matcher, several of these, or None for the host's.
PlatformLike = str | Platform | Matcher | Sequence[str | Platform] | None


def matcher(wanted: PlatformLike) -> Matcher:
    """The matcher for what a caller gave; ``"all"`` matches everything."""
    if wanted is None:
        return Only(default())
    if isinstance(wanted, str):
        return Everything() if wanted == "all" else Only(parse(wanted))
    if isinstance(wanted, Platform):
        return Only(wanted)
    if isinstance(wanted, Matcher):
        return wanted
    return AnyOf(*(matcher(each) for each in wanted))


def _compatible(platform: Platform) -> tuple[Platform, ...]:
    def like(architecture: str, *variants: str) -> list[Platform]:
        return [replace(platform, architecture=architecture, variant=each) for each in variants]

    match platform.architecture:
        case "amd64":
            levels = [*(f"v{n}" for n in range(_level(platform.variant, 1), 1, -1)), ""]
            return (*like("amd64", *levels), *like("386", ""))
        case "arm":
            return tuple(like("arm", *(f"v{n}" for n in range(_level(platform.variant, 7), 4, -1))))
        case "arm64":
            variants = _arm64_variants(platform.variant)
            if variants is None:
                return (platform,)
            return (*like("arm64", *variants), *like("arm", "v8", "v7", "v6", "v5"))
        case _:
            return (platform,)


def _level(variant: str, default_level: int) -> int:
    text = variant.removeprefix("v")
    return int(text) if text.isdecimal() else default_level


def _arm64_variants(variant: str) -> list[str] | None:
    """Lower revisions that a revision of the 64-bit architecture runs; v9.x has all that v8.(x+5) has."""
    match = re.fullmatch(r"v([89])(?:\.(\d+))?", variant or "v8")
    if not match:
        return None
    major, minor = int(match[1]), int(match[2] or 0)
    found = [f"v9.{n}" if n else "v9" for n in range(minor, -1, -1)] if major == 9 else []
    highest = minor + 5 if major == 9 else minor
    return found + [f"v8.{n}" if n else "" for n in range(highest, -1, -1)]
