"""The spans of attempts, as a collector gets them, and what an attempt costs whose trace is not recorded."""

from __future__ import annotations

import contextvars
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import pytest
from opentelemetry import trace

from otlp_collector import Collector
from watchbill import tracing
from watchbill.store.queue import Claimed
from watchbill.tracing import exporting
from watchbill.tracing.exporting import Exporting

CREW = "team/crew"
Start = Callable[..., tuple[Collector, Exporting]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Turns tracing on in this process, with these variables."""
    begun: list[Exporting] = []
    with Collector() as collector:

        def start(**variables: str) -> tuple[Collector, Exporting]:
            for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **variables}.items():
                monkeypatch.setenv(name, value)
            begun.append(Exporting("tests"))
            monkeypatch.setattr(tracing, "active", begun[-1])
            return collector, begun[-1]

        monkeypatch.setattr(trace, "set_tracer_provider", lambda _: None)  # it would be every test's, for good
        yield start
        for one in begun:
            one.close(60)


def claimed(task_id: str) -> Claimed:
    return Claimed(task_id, "1", 1, "agent", f"{int(time.time() * 1000) - 500}-0", 5, taken_over=False)


def attempt(task_id: str, act: Callable[[], Any], metadata: Any = None) -> Any:
    """Has an attempt of the task do this, and returns what that returns."""
    span = tracing.begin(CREW, claimed(task_id), metadata or {}, lambda: datetime.now(UTC))

    def run() -> Any:
        tracing.enter(span, metadata or {})
        return act()

    try:
        return contextvars.copy_context().run(run)
    finally:
        tracing.end(span, "completed")


def add() -> trace.Span:
    current = trace.get_current_span()
    current.set_attribute("mine", "kept")
    current.add_event("seen")
    return current


@pytest.mark.parametrize("metadata", [{}, {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}])
@pytest.mark.parametrize("work", ["task", "run/step"])
def test_a_span_is_the_same_whether_something_was_added_to_it_or_not(start: Start, metadata: Any, work: str) -> None:
    collector, exporting = start()
    attempt(work, lambda: None, metadata)
    current = attempt(work, add, metadata)
    assert not current.is_recording()
    current.set_attribute("mine", "late")  # of a thread that goes on
    exporting.close(60)

    plain, added = sorted(collector.named("process"), key=lambda span: "mine" in span.attributes)
    assert added.attributes == {**plain.attributes, "mine": "kept"}
    assert added.attributes["watchbill.outcome"] == "completed"
    assert added.id == f"{current.get_span_context().span_id:016x}" != plain.id
    for one, other in ((plain, added), collector.named("wait")):
        differs = {"id": "", "start": 0, "end": 0, "attributes": {}}
        assert dataclasses.replace(one, **differs) == dataclasses.replace(other, **differs)  # type: ignore[arg-type]
        assert one.start < one.end <= time.time_ns()


def test_what_is_below_an_attempt_that_is_not_recorded_is_not_recorded(start: Start) -> None:
    _, exporting = start(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.001")
    tracer = exporting.provider.get_tracer("an agent")

    def recorded() -> bool:
        return any(tracer.start_span("one").is_recording() for _ in range(20_000))

    work = next(f"t{n}" for n in range(1000) if exporting.leaves_out(CREW, f"t{n}"))
    assert contextvars.copy_context().run(recorded), "spans of their own are drawn for"

    def of_worker() -> bool:
        tracing.rest()
        return bool(attempt(work, recorded))

    assert not contextvars.copy_context().run(of_worker)


def test_what_is_left_out_is_what_is_not_drawn(start: Start) -> None:
    _, traces = start(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.3")
    work = [(crew, f"t{n}") for n in range(500) for crew in (CREW, "team/\u00e4")]
    recorded = [exporting._drawn("/".join(one)) <= traces._most for one in work]
    assert [not traces.leaves_out(*one) for one in work] == recorded
    assert {True, False} == set(recorded)


def test_an_attempt_that_is_not_recorded_costs_a_few_calls(start: Start) -> None:
    start(OTEL_TRACES_SAMPLER="parentbased_always_off")
    task, calls = claimed("t"), []

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        span = tracing.begin(CREW, task, {}, lambda: datetime.now(UTC))
    finally:
        sys.setprofile(before)
    assert span is None, "so there is nothing to enter or to end"
    assert len(calls) <= 2, calls
