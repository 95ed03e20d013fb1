# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from orlop.errors import InvalidArgument
from orlop_runtime.restart_policy import COUNT, EXPLICITLY_STOPPED, LOG_PATH, LOG_URI, Policy, count, log_uri


@pytest.mark.parametrize(
    ("text", "labels", "status", "wanted"),
    [
        ("", {}, 0, True),
        ("always", {EXPLICITLY_STOPPED: "true"}, 0, True),
        ("no", {}, 1, False),
        ("unless-stopped", {}, 0, True),
        ("unless-stopped", {EXPLICITLY_STOPPED: "true"}, 1, False),
        ("unless-stopped", {EXPLICITLY_STOPPED: "maybe"}, 1, True),
        ("on-failure", {}, 0, False),
        ("on-failure", {COUNT: "99"}, 1, True),
        ("on-failure:2", {}, 1, True),
        ("on-failure:2", {COUNT: "1"}, 1, True),
        ("on-failure:2", {COUNT: "2"}, 1, False),
        ("on-failure:2", {COUNT: "1"}, 0, False),
        ("on-failure:0", {COUNT: "9"}, 1, True),
    ],
)
def test_what_policies_want(text: str, labels: dict[str, str], status: int, wanted: bool) -> None:
    assert Policy.parse(text).wants(labels, status) is wanted


@pytest.mark.parametrize(
    "text", ["sometimes", "always:3", "no:1", ":2", "on-failure:", "on-failure:x", "on-failure:1:2"]
)
def test_policies_that_nobody_knows(text: str) -> None:
    with pytest.raises(InvalidArgument, match="restart policy"):
        Policy.parse(text)


def test_counts() -> None:
    assert (count({}), count({COUNT: ""}), count({COUNT: "12"})) == (0, 0, 12)
    with pytest.raises(InvalidArgument, match="is no number"):
        count({COUNT: "many"})


def test_log_uris() -> None:
    assert log_uri({}) == ""
    assert log_uri({LOG_PATH: "/var/log/x"}) == "file:///var/log/x"
    assert log_uri({LOG_PATH: "/var/log/x", LOG_URI: "binary:///logger"}) == "binary:///logger"
