"""A service makes the spans that a worker makes, if its environment names a collector."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from runtimes import Runtime, task

from otlp_collector import Collector
from watchbill import tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_a_services_tasks_belong_to_the_trace_of_their_submitter_until_it_stops(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "set_tracer_provider", lambda _: None)  # it would be every test's, for good
    with Collector() as collector:
        for name, value in collector.variables().items():
            monkeypatch.setenv(name, value)
        service = await runtime.service()
        asked = task("x").model_copy(update={"metadata": {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}})
        runtime.bot.let("x")
        assert await service.get_result(await service.submit_task(asked))
        assert tracing.active is not None
        await service.stop()
        assert tracing.active is None
    span = await collector.one(f"process {service.crew}")
    assert (span.trace, span.parent) == (TRACE, "00f067aa0ba902b7")
    namespace, _, name = service.crew.partition("/")
    assert (span.resource["service.namespace"], span.resource["service.name"]) == (namespace, name)
