"""The spans at both ends of a run: of the heartbeat that fires it, and of the delivery of its result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry import trace
from receiver import receiving
from workshop import Crew, Make

from otlp_collector import Collector
from waiting import until
from watchbill.api import CrewRef, Heartbeat, HeartbeatSpec, ObjectMeta
from watchbill.client import Client
from watchbill.settings import Settings, read
from watchbill.store import definitions, firing, heartbeats
from watchbill.tasks import METADATA_MAX_ENTRIES
from watchbill.tracing import switch
from watchbill.worker.delivering.options import Delivering

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SLOT = NOON + timedelta(minutes=1)
TRACE, SUBMITTED = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT, UNSAMPLED = (f"00-{TRACE}-{SUBMITTED}-{flag}" for flag in ("01", "00"))
QUICK = Delivering(schedule=(0.02,) * 9, settings=Settings(delivery_allow="127.0.0.0/8"))

Trace = Callable[..., Collector]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trace]:
    """Has this process send its spans to the collector that it returns. Takes more variables of the environment."""
    monkeypatch.setattr(trace, "set_tracer_provider", lambda _: None)  # it would be every test's, for good
    with Collector() as collector:

        def begin(**more: str) -> Collector:
            for name, value in collector.variables(**more).items():
                monkeypatch.setenv(name, value)
            assert switch.on(read(Settings), "both-ends")
            return collector

        yield begin
        switch.off()


async def calls(crew: Crew, number: int, **spec: Any) -> list[firing.Call]:
    """As many calls that fire the same slot, each as another process would make it."""
    beat = HeartbeatSpec(crewRef=CrewRef(name="crew"), schedule="* * * * *", prompt="0", **spec)
    heartbeat = Heartbeat(metadata=ObjectMeta(name="hb"), spec=beat)
    state = await heartbeats.apply(crew.redis, crew.keys, crew.uid, heartbeat, now=NOON)
    current = await definitions.current(crew.redis, crew.keys)
    following = SLOT + timedelta(minutes=1)
    return [
        firing.prepare(crew.keys, state, current, slot=SLOT, following=following, now=SLOT + timedelta(seconds=n))
        for n in range(number)
    ]


async def carried(crew: Crew, task_id: str) -> Any:
    payload = await crew.redis.hget(crew.keys.task(task_id), "payload")
    return json.loads(str(payload)).get("metadata", {}).get("traceparent")


async def test_a_slot_that_fires_begins_the_trace_of_its_run_once_whoever_fires(make_crew: Make, traced: Trace) -> None:
    collector = traced()
    crew = await make_crew({"a": "Brief"})
    fired = await firing.fire_all(crew.redis, await calls(crew, 2))
    assert [isinstance(one, firing.Fired) and one.outcome for one in fired] == ["fired", "already"]
    async with crew.in_process():
        work = heartbeats.task_id("hb", SLOT)
        assert (await crew.run_result(work)).success
        run = await collector.one("invoke_workflow")
        attempt = await collector.one(f"process {crew.name}")
    beat = await collector.one("heartbeat")
    assert (beat.name, beat.kind, beat.parent, beat.links) == ("heartbeat hb", "producer", "", ())
    assert (run.trace, run.parent) == (beat.trace, beat.id)
    assert (attempt.trace, attempt.parent, attempt.links) == (beat.trace, run.id, ((beat.trace, beat.id),))
    assert beat.attributes == {
        "messaging.system": "watchbill",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.destination.name": crew.name,
        "messaging.message.id": work,
        "watchbill.heartbeat": "hb",
        "watchbill.slot": heartbeats.iso(SLOT),
    }
    assert 0 <= beat.end - beat.start < 60_000_000_000


async def test_a_heartbeat_whose_trace_is_not_recorded_makes_no_span_and_says_so(
    make_crew: Make, traced: Trace
) -> None:
    collector = traced(OTEL_TRACES_SAMPLER="always_off")
    crew = await make_crew({"a": "Brief"})
    (call,) = await calls(crew, 1, agent="a")
    assert (await firing.fire(crew.redis, call)).outcome == "fired"
    found = str(await carried(crew, call.made))
    assert found.endswith("-00")
    assert found == call.traceparent

    given = {"traceparent": PARENT}
    (call,) = await calls(crew, 1, agent="a", metadata=given, inputs={"changed": "spec"})
    assert call.traceparent == "", "who gave it has made that span"
    switch.off()
    (call,) = await calls(crew, 1, agent="a")
    assert call.traceparent == ""
    assert "traceparent" not in str(call.args)
    assert collector.spans == []


async def test_a_heartbeat_whose_metadata_are_full_fires_without_a_trace(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    full = {f"key-{number}": "x" for number in range(METADATA_MAX_ENTRIES - 2)}
    await calls(crew, 1, agent="a", metadata=full)
    made, _ = await firing.run_now(crew.redis, crew.keys, "hb", "one", now=NOON, traceparent=PARENT)
    assert await carried(crew, made) is None


async def test_who_asks_a_heartbeat_to_fire_is_its_submitter(make_crew: Make, traced: Trace) -> None:
    crew = await make_crew({"a": "Brief"})
    await calls(crew, 1, agent="a")
    made, _ = await firing.run_now(crew.redis, crew.keys, "hb", "one", now=NOON, traceparent=PARENT)
    assert await carried(crew, made) == PARENT
    collector = traced()
    await firing.run_now(crew.redis, crew.keys, "hb", "two", now=NOON)
    beat = await collector.one("heartbeat hb")
    assert await carried(crew, "hb-hb-now-two") == f"00-{beat.trace}-{beat.id}-01"
    async with Client(crew.url) as client:
        context = trace.SpanContext(int(TRACE, 16), int(SUBMITTED, 16), True, trace.TraceFlags(1))
        with trace.use_span(trace.NonRecordingSpan(context)):
            made = await client.fire(crew.name, "hb", token="three")
    assert str(await carried(crew, made)).split("-")[1] == TRACE


async def test_each_attempt_to_deliver_is_a_span_of_its_runs_trace_and_its_request_carries_that(
    make_crew: Make, traced: Trace
) -> None:
    async with receiving(answers=[(500, {})]) as receiver:
        crew = await make_crew({"a": "Gate"}, delivery=[receiver.destination()])
        crew.open()
        collector = traced()
        async with crew.in_process(delivering=QUICK):
            await crew.submit("r", prompt="go", metadata={"traceparent": PARENT})
            run = await collector.one("invoke_workflow")
            await collector.until(lambda: len(collector.named("deliver")) == 2, "both attempts")
            await crew.submit("t", "a")
            alone = await collector.one("deliver ops", **{"messaging.message.id": "t"})
            attempt = await collector.one(f"process {crew.name}", **{"messaging.message.id": "t"})
            await crew.submit("u", "a", metadata={"traceparent": UNSAMPLED})
            await collector.until(lambda: len(receiver.got) == 4, "the request that is in no span")
    failed, taken = sorted(collector.named("deliver", **{"watchbill.run": "r"}), key=lambda span: span.start)
    *sent, unrecorded = [str(header) for header in receiver.traces]
    assert [header[:53] for header in sent] == [f"00-{span.trace}-{span.id}-" for span in (failed, taken, alone)]
    assert all(int(header[53:], 16) & 1 for header in sent)
    assert unrecorded == UNSAMPLED
    assert {(span.name, span.kind, span.trace, span.parent) for span in (failed, taken)} == {
        ("deliver ops", "client", TRACE, run.id)
    }
    assert (alone.trace, alone.parent) == (attempt.trace, "")
    told = ("watchbill.attempt", "watchbill.outcome", "http.response.status_code", "error.type")
    assert [[span.attributes.get(name) for name in told] for span in (failed, taken)] == [
        [1, "failed", 500, "NotDelivered"],
        [2, "completed", 204, None],
    ]
    assert (failed.failed, failed.message, taken.failed) == (True, "", False)
    assert failed.attributes["watchbill.channel"] == "webhook"
    assert len(collector.named("deliver")) == 3


async def test_without_tracing_a_delivery_carries_the_trace_of_its_submitter(make_crew: Make) -> None:
    async with receiving() as receiver:
        crew = await make_crew({"a": "Gate"}, delivery=[receiver.destination()])
        crew.open()
        async with crew.in_process(delivering=QUICK):
            for task_id, metadata in (("t", {"traceparent": f"cc{PARENT[2:]}-more\r"}), ("u", {})):
                await crew.submit(task_id, "a", metadata=metadata)
                await crew.result(task_id)
            await until(lambda: len(receiver.got) == 2, what="both")
    assert dict(zip(receiver.tasks, receiver.traces, strict=True)) == {"t": PARENT, "u": None}
