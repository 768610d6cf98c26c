"""What metrics show of queues, and that the pages that list and explain them leave none out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from watchbill import metrics
from watchbill.store.figures import Figures, OfClass
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure

DOCS = Path(__file__).parents[1] / "docs"
IDLE = Figures()
BUSY = Figures(
    waiting=3,
    running=2,
    parked=4,
    dead=5,
    workers=2,
    oldest_ms=1500,
    delayed=6,
    draining=1,
    slots=20,
    parked_by={"concurrency": 3, "agent": 1},
    classes=(OfClass("critical", 1, 0, 1500), OfClass("low", 2, 2, None)),
    refused=7,
    trimmed=8,
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def page(queues: metrics.Queues) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(queues)
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found[(sample.name.removeprefix("watchbill_"), *sample.labels.values())] = sample.value
    return found


def test_all_that_figures_say_is_shown() -> None:
    queues = metrics.Queues()
    queues.show("team/a", BUSY)
    assert page(queues) == {
        ("queue_depth", "team/a", "waiting"): 3,
        ("queue_depth", "team/a", "running"): 2,
        ("queue_depth", "team/a", "parked"): 4,
        ("queue_depth", "team/a", "delayed"): 6,
        ("queue_depth", "team/a", "dead"): 5,
        ("queue_oldest_seconds", "team/a"): 1.5,
        ("queue_class_waiting", "team/a", "critical"): 1,
        ("queue_class_waiting", "team/a", "low"): 2,
        ("queue_class_oldest_seconds", "team/a", "critical"): 1.5,
        ("queue_class_oldest_seconds", "team/a", "low"): 0,
        ("queue_parked", "team/a", "concurrency"): 3,
        ("queue_parked", "team/a", "agent"): 1,
        ("workers", "team/a"): 2,
        ("workers_draining", "team/a"): 1,
        ("worker_slots", "team/a"): 20,
        ("submissions_refused_total", "team/a"): 7,
        ("dead_letters_trimmed_total", "team/a"): 8,
    }


def test_an_idle_crew_costs_nothing_and_one_that_was_busy_shows_its_zeros_for_a_while(clock: FakeClock) -> None:
    queues = metrics.Queues(clock)
    queues.show("team/idle", IDLE)
    assert page(queues) == {}
    queues.show("team/a", BUSY)
    clock.advance(10)
    queues.show("team/a", IDLE)
    assert page(queues)["queue_depth", "team/a", "waiting"] == 0
    assert queues.due(0) == [], "whoever looks after it tells when it has work again"
    clock.advance(metrics.SHOWN_IDLE_SECONDS - 11)
    queues.show("team/a", IDLE)
    assert queues.due(0) == []
    assert ("workers", "team/a") in page(queues)
    clock.advance(2)
    assert queues.due(0) == []
    assert page(queues) == {}


@pytest.mark.parametrize("field", ["waiting", "running", "parked", "delayed", "dead", "workers"])
def test_a_crew_with_anything_to_show_is_read_anew_when_its_figures_are_old(clock: FakeClock, field: str) -> None:
    queues = metrics.Queues(clock)
    shown: dict[str, Any] = {field: 1}
    queues.show("team/a", Figures(**shown))
    clock.advance(5)
    assert queues.due(10) == []
    clock.advance(5)
    assert queues.due(10) == ["team/a"]
    clock.advance(10 * metrics.SHOWN_IDLE_SECONDS)
    assert queues.due(10) == ["team/a"]


def test_those_that_were_read_first_are_due_first_and_what_is_gone_is_not_shown(clock: FakeClock) -> None:
    queues = metrics.Queues(clock)
    for crew in ("a", "b", "c"):
        queues.show(crew, BUSY)
        clock.advance(1)
    queues.show("a", BUSY)
    clock.advance(10)
    assert queues.due(1) == ["b", "c", "a"]
    queues.show("b", None)
    queues.remove("c")
    queues.remove("never-there")
    assert queues.due(1) == ["a"]
    assert {labels[1] for labels in page(queues)} == {"a"}


def exported() -> set[str]:
    metrics.QUEUES.show("test/docs", BUSY)
    try:
        families = {family.name: family.type for family in REGISTRY.collect() if family.name.startswith("watchbill_")}
    finally:
        metrics.QUEUES.remove("test/docs")
    suffix = {"counter": "_total", "info": "_info"}
    return {name + suffix.get(kind, "") for name, kind in families.items()}


def test_the_reference_lists_every_metric_and_no_other() -> None:
    assert len(exported()) > 25
    assert set(re.findall(r"^\| `(\w+)`", (DOCS / "reference" / "metrics.md").read_text(), re.MULTILINE)) == exported()


def test_the_page_says_how_to_read_every_metric_and_names_no_other() -> None:
    text = (DOCS / "metrics.md").read_text()
    groups = text.split("## How to read them\n")[1].split("\nLabels are")[0]
    beginnings = tuple(re.findall(r"`(watchbill_\w+)…?`", groups))

    assert {name for name in exported() if not name.startswith(beginnings)} == set()
    assert {b for b in beginnings if not any(name.startswith(b) for name in exported())} == set()
    assert set(re.findall(r"watchbill_[a-z_]+(?!…|[a-z_])", text)) <= exported()


def test_many_times_at_once_are_counted_as_one_by_one() -> None:
    registry = CollectorRegistry()
    one, many = (metrics.Times(name, "x", buckets=(0.1, 1), registry=registry) for name in ("one", "many"))
    seconds = [0.0, 0.1, 0.100001, 0.5, 1.0, 7.0, 0.05]
    for value in seconds:
        one.observe(value)
    many.observe_all(seconds[:3])
    many.observe_all(seconds[3:])
    many.observe_all([])

    def samples(name: str) -> dict[tuple[str, str], float]:
        (family,) = (found for found in registry.collect() if found.name == name)
        kinds = ("_bucket", "_count", "_sum")
        return {
            (s.name.removeprefix(name), s.labels.get("le", "")): s.value
            for s in family.samples
            if s.name.endswith(kinds)
        }

    assert samples("one") == samples("many")
    assert samples("many")["_count", ""] == len(seconds)
