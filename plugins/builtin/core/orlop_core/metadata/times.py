# SPDX-License-Identifier: Apache-2.0
"""Times as the database keeps them: whole microseconds since 1970."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Final

from orlop.values import EPOCH

_MICROSECOND: Final = timedelta(microseconds=1)


def now_micros() -> int:
    """The current time."""
    return time.time_ns() // 1000


def to_micros(moment: datetime) -> int:
    """A datetime as microseconds. One without zone is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=EPOCH.tzinfo)
    return (moment - EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Microseconds as a datetime in UTC."""
    return EPOCH + timedelta(0, 0, micros)  # by keyword it takes twice as long


def parse_rfc3339(text: str) -> int | None:
    """The time a label names (RFC 3339), or None when it is malformed."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None or "T" not in text.upper():
        return None
    return to_micros(moment)
