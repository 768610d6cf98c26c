"""What a process does about traces before any span is made: parsing, settings, and a part that is not installed."""

from __future__ import annotations

import logging
import re
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.semconv._incubating.attributes import (
    error_attributes,
    gen_ai_attributes,
    http_attributes,
    messaging_attributes,
)

from watchbill import tracing
from watchbill.errors import InvalidInput, install
from watchbill.settings import Settings, read
from watchbill.tracing import exporting, switch

pytestmark = pytest.mark.pure

URL = "http://otel-collector:4318"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
        ("", None),
        (None, None),
        (["00"], None),
    ],
)
def test_a_traceparent_is_taken_as_the_w3c_has_it(given: object, found: str | None) -> None:
    assert tracing.trace_id(given) == found


def test_attributes_have_the_names_of_the_semantic_conventions() -> None:
    conventions = (error_attributes, gen_ai_attributes, http_attributes, messaging_attributes)
    there = {value for module in conventions for value in vars(module).values() if isinstance(value, str)}
    source = "".join(file.read_text() for file in Path(tracing.__file__).parents[1].rglob("*.py"))
    used = set(re.findall(r'"((?:error|gen_ai|http|messaging)\.[a-z_.]+)"', source))
    assert used - there == set()
    assert len(used) > 10


def test_without_a_collector_nothing_is_on_and_without_the_extra_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.delitem(sys.modules, "watchbill.tracing.exporting", raising=False)
    switch.on(Settings(), "crew")
    assert caplog.messages == []
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", URL)
    switch.on(Settings(), "crew")
    assert tracing.active is None
    (line,) = caplog.messages
    assert line.startswith("no traces are sent to OTEL_EXPORTER_OTLP_ENDPOINT: ")
    assert line.endswith(install("otel"))


def test_workers_trace_as_the_operator_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": URL,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=staging",
        "WATCHBILL_TRACE_CONTENT": "true",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert read(Settings).of_tracing == given
    monkeypatch.setenv("WATCHBILL_TRACE_CONTENT", "false")
    assert "WATCHBILL_TRACE_CONTENT" not in read(Settings).of_tracing
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    assert read(Settings).of_tracing == {}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_a_share_of_similar_ids_is_recorded_and_all_who_ask_draw_the_same(share: float) -> None:
    bound = TraceIdRatioBased.get_bound_for_rate(share)
    drawn = [exporting._drawn(f"team/crew/t{n}") for n in range(20_000)]
    sampled = [exporting._trace_of("team/crew", f"t{n}") % 2**64 < bound for n in range(20_000)]
    assert sum(sampled) / 20_000 == pytest.approx(share, rel=0.15)
    assert not any(is_sampled for is_sampled, n in zip(sampled, drawn, strict=True) if n > bound >> 32)
    assert all(is_sampled for is_sampled, n in zip(sampled, drawn, strict=True) if n < bound >> 32)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_TRACES_SAMPLER", "some"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput) as refused:
        read(Settings)
    (problem,) = refused.value.problems
    assert problem.path == name
    assert repr(value) in problem.reason


def test_a_fault_in_making_a_span_costs_no_task_and_turns_tracing_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "active", object())  # which has none of the methods
    task: Any = None
    assert tracing.begin("team/crew", task, {}, datetime.now) is None
    assert tracing.active is None
    assert [(record.levelno, record.message.split(",")[0]) for record in caplog.records] == [
        (logging.ERROR, "tracing is off from now on")
    ]
    assert tracing.begin("team/crew", task, {}, datetime.now) is None
    assert len(caplog.records) == 1
    span: Any = SimpleNamespace(trace_id="1")
    monkeypatch.setattr(tracing, "active", object())
    assert tracing.handed_over(span) is None
    assert tracing.active is None
