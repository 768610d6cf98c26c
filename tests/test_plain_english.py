"""Texts that people read alone: the HELP of each metric says what is measured."""

from __future__ import annotations

import re

import pytest
from prometheus_client import REGISTRY

from watchbill import metrics

pytestmark = pytest.mark.pure

MEASURED = re.compile(
    r"(Age|Duration|Time) of |Time (from|that) |Times that |Version of |1 while .*, else 0$"
    r"|(Tasks|Attempts|Agents|Workers|Submissions|Dead letters|Tokens|Lease renewals|Heartbeat slots|Crews|Changes"
    r"|Reconciliations|Statuses)\b"
)
"""A HELP begins with what is measured."""
HELP = {family.name: family.documentation for family in REGISTRY.collect() if family.name.startswith("watchbill_")}


def test_every_help_of_a_metric_stands_alone() -> None:
    assert len(HELP) > 30
    assert metrics.TASKS._name in HELP
    assert [name for name, text in HELP.items() if not MEASURED.match(text)] == []
    assert [name for name, text in HELP.items() if text.endswith(".") or re.search(r"\bof (them|these)\b", text)] == []
