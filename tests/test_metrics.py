"""What metrics show of queues, and that the pages that list and explain them leave none out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from watchbill import metrics
from watchbill.metrics import labels
from watchbill.metrics.page import page as page_for
from watchbill.metrics.queues import FAMILIES
from watchbill.store.figures import Deliveries, Figures, OfClass
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
    suspended=True,
)


SENT = replace(BUSY, deliveries=Deliveries(waiting=1, running=0, delayed=2, due_in_ms=None, dead=3, oldest_ms=4500))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def page(queues: metrics.Queues) -> dict[tuple[str, ...], float]:
    found = {}
    for family in text_string_to_metric_families(queues.text(is_open_metrics=False)):
        for sample in family.samples:
            labels = dict(sample.labels)
            of_crew = (labels.pop(label) for label in metrics.OF_CREW)
            found[(sample.name.removeprefix("watchbill_"), *of_crew, *labels.values())] = sample.value
    return found


def test_all_that_figures_say_is_shown() -> None:
    queues = metrics.Queues()
    queues.show("team/a", BUSY)
    assert page(queues) == {
        ("queue_depth", "team", "a", "waiting"): 3,
        ("queue_depth", "team", "a", "running"): 2,
        ("queue_depth", "team", "a", "parked"): 4,
        ("queue_depth", "team", "a", "delayed"): 6,
        ("queue_depth", "team", "a", "dead"): 5,
        ("queue_oldest_seconds", "team", "a"): 1.5,
        ("queue_class_waiting", "team", "a", "critical"): 1,
        ("queue_class_waiting", "team", "a", "low"): 2,
        ("queue_class_oldest_seconds", "team", "a", "critical"): 1.5,
        ("queue_class_oldest_seconds", "team", "a", "low"): 0,
        ("queue_parked", "team", "a", "concurrency"): 3,
        ("queue_parked", "team", "a", "agent"): 1,
        ("queue_suspended", "team", "a"): 1,
        ("workers", "team", "a"): 2,
        ("workers_draining", "team", "a"): 1,
        ("worker_slots", "team", "a"): 20,
        ("submissions_refused_total", "team", "a"): 7,
        ("dead_letters_trimmed_total", "team", "a"): 8,
    }


def test_a_priority_is_shown_from_its_first_task_on(clock: FakeClock) -> None:
    queues = metrics.Queues(clock)

    def waiting() -> dict[str, float]:
        return {name[-1]: value for name, value in page(queues).items() if name[0] == "queue_class_waiting"}

    queues.show("team/a", Figures(waiting=1, classes=(OfClass("critical", 0, 0, None), OfClass("low", 1, 0, 5))))
    assert waiting() == {"low": 1}
    queues.show("team/a", Figures(running=1, classes=(OfClass("critical", 0, 1, None), OfClass("low", 0, 0, None))))
    assert waiting() == {"critical": 0, "low": 0}
    queues.show("team/a", IDLE)
    assert waiting() == {"critical": 0, "low": 0}


def test_an_idle_crew_costs_nothing_and_one_that_was_busy_shows_its_zeros_for_a_while(clock: FakeClock) -> None:
    queues = metrics.Queues(clock)
    queues.show("team/idle", IDLE)
    assert page(queues) == {}
    queues.show("team/a", BUSY)
    clock.advance(10)
    queues.show("team/a", IDLE)
    assert page(queues)["queue_depth", "team", "a", "waiting"] == 0
    assert queues.due(0) == [], "whoever looks after it tells when it has work again"
    clock.advance(metrics.SHOWN_IDLE_SECONDS - 11)
    queues.show("team/a", IDLE)
    assert queues.due(0) == []
    assert ("workers", "team", "a") in page(queues)
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
    for crew in ("team/a", "team/b", "other/a"):
        queues.show(crew, BUSY)
        clock.advance(1)
    queues.show("team/a", BUSY)
    clock.advance(10)
    assert queues.due(1) == ["team/b", "other/a", "team/a"]
    queues.show("team/b", None)
    queues.remove("other/a")
    queues.remove("never/there")
    assert queues.due(1) == ["team/a"]
    assert {labels[1:3] for labels in page(queues)} == {("team", "a")}


def exported() -> set[str]:
    families = {family.name: family.type for family in REGISTRY.collect() if family.name.startswith("watchbill_")}
    suffix = {"counter": "_total", "info": "_info"}
    return {family.name for family in FAMILIES} | {name + suffix.get(kind, "") for name, kind in families.items()}


class AsTheLibrary(Collector):
    """The same figures as families of prometheus_client."""

    def collect(self) -> Iterable[Metric]:
        for family in FAMILIES:
            made = (CounterMetricFamily if family.type == "counter" else GaugeMetricFamily)(
                family.name, family.help, labels=[*metrics.OF_CREW, *family.labels]
            )
            for crew, figures in (("team/a", SENT), ('odd "/\\name\n', BUSY)):
                for values, value in family.rows(figures):
                    made.add_metric([*metrics.of_crew(crew), *values], value)
            yield made


@pytest.mark.parametrize("is_open_metrics", [False, True])
def test_queues_are_written_as_the_library_would(is_open_metrics: bool) -> None:
    registry, queues = CollectorRegistry(), metrics.Queues()
    registry.register(AsTheLibrary())
    queues.show("team/a", SENT)
    queues.show('odd "/\\name\n', BUSY)
    write = openmetrics_text if is_open_metrics else generate_latest
    written = queues.text(is_open_metrics=is_open_metrics)
    assert 'watchbill_delivery_depth{crew="a",namespace="team",state="delayed"} 2.0\n' in written
    assert written.encode() == write(registry).removesuffix(b"# EOF\n")


def test_the_reference_lists_every_metric_and_no_other() -> None:
    assert len(exported()) > 25
    assert set(re.findall(r"^\| `(\w+)`", (DOCS / "reference" / "metrics.md").read_text(), re.MULTILINE)) == exported()


def test_the_page_says_how_to_read_every_metric_and_names_no_other() -> None:
    text = (DOCS / "metrics.md").read_text()
    groups = text.split("## How to read them\n")[1].split("\nLabels are")[0]
    beginnings = tuple(re.findall(r"`(watchbill_\w+)…?`", groups))

    assert {name for name in exported() if not name.startswith(beginnings)} == set()
    assert {b for b in beginnings if not any(name.startswith(b) for name in exported())} == set()
    others = {"watchbill_crew_condition", "watchbill_heartbeat_condition"}  # of kube-state-metrics
    assert set(re.findall(r"watchbill_[a-z_]+(?!…|[a-z_])", text)) <= exported() | others


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


def test_a_value_that_is_an_example_is_in_its_bucket_and_not_counted() -> None:
    registry = CollectorRegistry()
    times = metrics.Times("one", "x", buckets=(0.1, 1), registry=registry)
    times.observe_all([0.5])
    times.exemplify(0.5, "ab" * 16, 1000.0)
    (family,) = registry.collect()
    counts = {s.labels["le"]: (s.value, s.exemplar) for s in family.samples if s.name == "one_bucket"}
    assert {le: value for le, (value, _) in counts.items()} == {"0.1": 0, "1.0": 1, "+Inf": 1}
    assert {le: found for le, (_, found) in counts.items() if found} == {
        "1.0": Exemplar({"trace_id": "ab" * 16}, 0.5, 1000.0)
    }


def test_a_crew_has_so_many_names_in_a_label_and_no_more() -> None:
    names = metrics.Names()
    team, other = ("team", "a"), ("team", "b")
    many = [f"bot-{i}" for i in range(labels.NAMES_MOST)]
    assert [names.shown(team, name) for name in many] == many
    assert names.shown(team, "one-more") == labels.OTHER
    assert names.shown(team, "bot-3") == "bot-3"
    assert names.shown(other, "one-more") == "one-more"


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", "application/openmetrics-text"),
        ("application/openmetrics-text", "application/openmetrics-text"),
        ("application/openmetrics-text;version=garbage", "text/plain; version=0.0.4"),
    ],
)
def test_a_scraper_gets_the_form_that_it_asks_for(accept: str, given: str) -> None:
    text, content_type = page_for(accept, is_operator=False)
    assert content_type.startswith(given)
    assert (text.endswith(b"# EOF\n"), text.count(b"# EOF\n")) == (given.startswith("application"),) * 2
    assert b"watchbill_build_info{" in text
    assert b"# TYPE watchbill_queue_depth gauge\n" in text


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
def test_only_an_operator_tells_of_an_operator(accept: str) -> None:
    """Gauges without labels are 0 from the start: a worker's would say that nobody leads, and the store is away."""

    def names(*, is_operator: bool) -> list[str]:
        text, _ = page_for(accept, is_operator=is_operator)
        return re.findall(r"^# TYPE (\S+)", text.decode(), re.M)

    operators = names(is_operator=True)
    assert "watchbill_operator_leader" in operators
    assert names(is_operator=False) == [name for name in operators if not name.startswith("watchbill_operator_")]
