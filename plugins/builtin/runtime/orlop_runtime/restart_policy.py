# SPDX-License-Identifier: Apache-2.0
"""The labels by which clients ask for restarts, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from orlop.errors import InvalidArgument

_PREFIX: Final = "containerd.io/restart."
#: ``running`` or ``stopped``. Only containers that have this label are looked at.
STATUS: Final = f"{_PREFIX}status"
#: ``no``, ``always`` (also when missing), ``on-failure``, ``on-failure:N`` or ``unless-stopped``.
POLICY: Final = f"{_PREFIX}policy"
#: How often it was started again.
COUNT: Final = f"{_PREFIX}count"
#: A boolean: the user stopped it.
EXPLICITLY_STOPPED: Final = f"{_PREFIX}explicitly-stopped"
#: Where its output goes.
LOG_URI: Final = f"{_PREFIX}loguri"
#: The same as a path, of clients before containerd 2.0.
LOG_PATH: Final = f"{_PREFIX}logpath"

_TRUE: Final = ("1", "t", "T", "TRUE", "true", "True")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Policy:
    """What to do with a container that does not run. At most *most* restarts after failures; 0: any number."""

    name: str
    most: int = 0

    @classmethod
    def parse(cls, text: str) -> Policy:
        """The policy in a label. Raises `InvalidArgument` for one that nobody knows."""
        name, colon, most = text.partition(":")
        if name not in ("", "no", "always", "on-failure", "unless-stopped"):
            raise InvalidArgument(
                f'restart policy "{text}": unknown; use no, always, on-failure, on-failure:N or unless-stopped'
            )
        if colon and name != "on-failure":
            raise InvalidArgument(f'restart policy "{text}": only on-failure takes a number')
        if colon and not _NUMBER.fullmatch(most):
            raise InvalidArgument(f'restart policy "{text}": "{most}" is no number of restarts')
        return cls(name or "always", int(most or 0))

    def wants(self, labels: Mapping[str, str], exit_status: int) -> bool:
        """Whether a container with these labels, whose last process ended with that status, is to run again.

        Raises `InvalidArgument` for a count that is none.
        """
        if self.name == "always":
            return True
        if self.name == "unless-stopped":
            return labels.get(EXPLICITLY_STOPPED, "") not in _TRUE
        if self.name == "on-failure" and exit_status != 0:
            return self.most == 0 or count(labels) < self.most
        return False


def count(labels: Mapping[str, str]) -> int:
    """How often the container was started again. Raises `InvalidArgument` for a label that is no number."""
    text = labels.get(COUNT, "")
    if text and not _NUMBER.fullmatch(text):
        raise InvalidArgument(f'label {COUNT}: "{text}" is no number')
    return int(text or 0)


def log_uri(labels: Mapping[str, str]) -> str:
    """Where its output goes; empty for nowhere."""
    path = labels.get(LOG_PATH, "")
    return labels.get(LOG_URI, "") or (f"file://{path}" if path else "")
