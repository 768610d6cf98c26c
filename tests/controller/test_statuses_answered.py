"""The answer to a status write shows the whole resource, and with it what somebody else has changed."""

from __future__ import annotations

from typing import Any

import pytest
from test_statuses import Writing, status

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("changed", "is_woken"),
    [
        ({}, False),
        ({"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}}, False),
        ({"generation": 2}, True),
        ({"annotations": {"watchbill.dev/paused": "true"}}, True),
        ({"labels": {"team": "a"}}, True),
        ({"deletionTimestamp": "2026-03-01T12:00:00Z"}, True),
    ],
    ids=["nothing", "kubectl's copy", "the spec", "an annotation", "a label", "deleted"],
)
async def test_a_change_that_the_answer_shows_first_is_not_missed(changed: dict[str, Any], is_woken: bool) -> None:
    """The watch then tells of a version that is known already, which concerns nobody."""
    writing = Writing()
    writing.server.changed = changed
    assert await writing.has_written(None, status())
    assert writing.woken == [("team", "echo")] * is_woken
