"""What a client submits names the span in which it was: to a real store, by a program that uses OpenTelemetry."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support import Crew

from watchbill import tracing
from watchbill.client import Client, SyncClient
from watchbill.errors import InvalidInput
from watchbill.tasks import METADATA_MAX_ENTRIES, AgentTask

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Program:
    """A program whose spans are kept here."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.provider = provider
        self.tracer = provider.get_tracer("program")

    def spans(self) -> dict[str, Any]:
        return {span.name: span for span in self._kept.get_finished_spans()}


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    made = Program()
    monkeypatch.setattr(tracing, "_provider", lambda: made.provider)  # a process has one provider, once and for all
    return made


async def carried(crew: Crew, task_id: str, key: str = "task") -> Any:
    payload = json.loads(await crew.client.hget(getattr(crew.keys, key)(task_id), "payload"))
    return payload.get("metadata", {}).get("traceparent")


def as_header(span: Any) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


async def test_a_submission_is_a_span_below_the_active_one_and_its_work_carries_it(
    crew: Crew, client: Client, redis_url: str, program: Program
) -> None:
    name = crew.keys.crew
    with program.tracer.start_as_current_span("request") as request:
        await client.submit(name, "x", agent="a", id="t", metadata={"mine": 1})
    sent = program.spans()[f"submit {name}"]
    assert await carried(crew, "t") == as_header(sent)
    assert (sent.parent, sent.kind) == (request.get_span_context(), trace.SpanKind.PRODUCER)
    assert dict(sent.attributes) == {
        "messaging.system": "watchbill",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.destination.name": name,
        "messaging.message.id": "t",
    }
    with SyncClient(redis_url) as sync, program.tracer.start_as_current_span("blocking") as blocking:
        await asyncio.to_thread(sync.submit, name, "x", id="r")
    sent = program.spans()[f"submit {name}"]
    assert sent.parent == blocking.get_span_context(), "though its loop runs in another thread"
    assert await carried(crew, "r", "run") == as_header(sent)


async def test_many_tasks_are_one_span_and_what_names_another_keeps_it(
    crew: Crew, client: Client, program: Program
) -> None:
    name = crew.keys.crew
    full = dict.fromkeys(map(str, range(METADATA_MAX_ENTRIES)), 1)
    metadata: list[dict[str, Any]] = [{}, {"traceparent": GIVEN}, full]
    tasks = [AgentTask(task_id=f"t{n}", agent_name="a", prompt="x", metadata=own) for n, own in enumerate(metadata)]
    await client.submit_many(name, None, tasks)
    sent = program.spans()[f"submit {name}"]
    assert sent.attributes["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in sent.attributes
    assert [await carried(crew, f"t{n}") for n in range(3)] == [as_header(sent), GIVEN, None]

    await client.submit(name, "x", agent="a", id="given", metadata={"traceparent": GIVEN})
    assert await carried(crew, "given") == GIVEN
    assert len(program.spans()) == 1, "its submitter has made that span"


async def test_a_refused_submission_is_a_span_with_the_type_of_its_error_and_not_its_words(
    crew: Crew, client: Client, program: Program
) -> None:
    with pytest.raises(InvalidInput):
        await client.submit(crew.keys.crew, "x", agent="SECRET")
    (sent,) = program.spans().values()
    assert (sent.status.status_code, sent.status.description) == (trace.StatusCode.ERROR, None)
    assert sent.attributes["error.type"] == "InvalidInput"
    assert "SECRET" not in sent.to_json()


async def test_a_program_that_only_carries_a_span_has_its_work_carry_it(crew: Crew, client: Client) -> None:
    context = trace.SpanContext(int("ab" * 16, 16), int("cd" * 8, 16), True, trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        await client.submit(crew.keys.crew, "x", agent="a", id="t")
    found = await carried(crew, "t")
    assert found is not None
    assert found.split("-")[1] == "ab" * 16
    await client.submit(crew.keys.crew, "x", agent="a", id="without")
    assert await carried(crew, "without") in (None, found)
