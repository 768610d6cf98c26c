"""Prometheus' own judgement of our metrics (names, types, units, help) and of our alerts, by their unit tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase

from watchbill import metrics
from watchbill.metrics.page import page
from watchbill.store.figures import Deliveries, Figures, OfClass

PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")
"""CI sets the variable, so that this is not skipped there."""
CHARTS = Path(__file__).parents[1] / "charts"

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="promtool isn't here; it comes with Prometheus")


@pytest.fixture
def labelled() -> Iterator[None]:
    """Each metric with labels has a series for the length of the test: promtool passes over those that have none."""
    found: list[Any] = [one for one in vars(metrics).values() if isinstance(one, MetricWrapperBase) and one._labelnames]
    values = [tuple(f"promtool-{name}" for name in one._labelnames) for one in found]
    for one, of in zip(found, values, strict=True):
        one.labels(*of)
    yield
    for one, of in zip(found, values, strict=True):
        one.remove(*of)


def test_promtool_has_nothing_to_say_about_a_page(labelled: None) -> None:
    assert PROMTOOL is not None
    urgent = OfClass("critical", 1, 0, 5)
    sent = Deliveries(waiting=1, running=0, delayed=0, due_in_ms=None, dead=0, oldest_ms=5)
    metrics.QUEUES.show("test/promtool", Figures(waiting=1, parked_by={"agent": 1}, classes=(urgent,), deliveries=sent))
    try:
        text, _ = page("text/plain", is_operator=True)
    finally:
        metrics.QUEUES.remove("test/promtool")
    assert b'watchbill_delivery_depth{crew="promtool"' in text
    families, series = (
        set(re.findall(form, text, re.M)) for form in (rb"^# TYPE (watchbill_\w+)", rb"^(watchbill_\w+)")
    )
    assert {name for name in families if not {name, name + b"_bucket"} & series} == set()
    for given, found in ((text, 0), (text + b"# TYPE calls counter\ncalls 1\n", 3)):
        checked = subprocess.run([PROMTOOL, "check", "metrics"], input=given, capture_output=True, timeout=300)
        assert (checked.returncode, bool(checked.stderr or checked.stdout)) == (found, found > 0), checked


def test_the_alerts_fire_as_their_unit_tests_say() -> None:
    assert PROMTOOL is not None
    for kind, file in (
        ("check", CHARTS / "watchbill" / "files" / "rules.yaml"),
        ("test", CHARTS / "monitoring" / "alerts_test.yaml"),
    ):
        ran = subprocess.run([PROMTOOL, kind, "rules", file], capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "SUCCESS" in ran.stdout + ran.stderr
