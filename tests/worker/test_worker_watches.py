"""Watches where agents work: real workers, a real store."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from workshop import Crew, Make

from waiting import until
from watchbill import metrics
from watchbill.api import CrewRef, Heartbeat, HeartbeatSpec, ObjectMeta
from watchbill.api.watches import Watch
from watchbill.events import EventStream, TownEvent
from watchbill.records import ExecutionMode
from watchbill.store import suspension
from watchbill.tasks import PROMPT_MAX_BYTES
from watchbill.worker import watching


def watch(name: str, *events: str, **fields: Any) -> Watch:
    return Watch.model_validate({"name": name, "events": list(events), **fields})


async def messages(crew: Crew, kind: str) -> list[str]:
    return [event.message for event in await crew.events() if event.event_type == kind]


def counted(crew: Crew, name: str, outcome: str) -> float:
    return metrics.WATCH_EVENTS.labels(*metrics.of_crew(crew.name), name, outcome)._value.get()


async def made(crew: Crew, name: str, number: int = 1) -> list[str]:
    """The ids of what a watch has begun, once they are so many."""

    async def found() -> list[str] | None:
        ids = {task.split("/")[0] for task in crew.executions() if task.startswith(f"watch-{name}-")}
        return sorted(ids) if len(ids) >= number else None

    return list(await until(found, 180, f"{number} of watch {name}"))


async def test_each_event_begins_one_task_over_workers_that_are_killed(make_crew: Make) -> None:
    """Two worker processes race for each event; one is killed in the middle."""
    after = watch("after", "task_completed", ofAgent="a", agent="b", prompt="{event.task_id}")
    crew = await make_crew({"a": "Brief", "b": "Brief"}, watches=[after], lease_seconds=3)
    first, _ = await crew.worker(), await crew.worker()
    ids = [await crew.submit(f"t{i}", "a") for i in range(20)]
    await made(crew, "after")
    first.kill()
    ids += [await crew.submit(f"u{i}", "a") for i in range(20)]
    await crew.results(ids)
    begun = await made(crew, "after", len(ids))
    results = await crew.results(begun)
    assert Counter(result.output for result in results) == Counter(ids)
    assert len(await messages(crew, "mission_watch_triggered")) == len(ids)


async def test_the_end_of_a_run_begins_a_run_of_the_crew(make_crew: Make) -> None:
    again = watch("again", "mission_state_changed", states=["failed"], prompt="{event.mission_id} {event.new_state}")
    crew = await make_crew({"a": "Fails"}, mode=ExecutionMode.SEQUENTIAL, watches=[again], tasks={"max_attempts": 1})
    async with crew.in_process():
        await crew.submit("r")
        assert not (await crew.run_result("r")).success
        [run] = await made(crew, "again")
        assert list((await crew.run_result(run)).steps) == ["a"]
        # its own end begins nothing, and neither does its beginning
        await crew.submit("s")
        await made(crew, "again", 2)
        await asyncio.gather(*(crew.run_result(one) for one in await made(crew, "again", 2)))
    assert len(await messages(crew, "mission_watch_triggered")) == 2


async def test_two_watches_in_a_circle_end_and_the_feed_says_so(make_crew: Make) -> None:
    ping = watch("ping", "task_completed", ofAgent="a", agent="b", prompt="x")
    pong = watch("pong", "task_completed", ofAgent="b", agent="a", prompt="x")
    crew = await make_crew({"a": "Brief", "b": "Brief"}, watches=[ping, pong])
    async with crew.in_process():
        await crew.submit("t", "a")
        [last] = await made(crew, "pong")
        told = await until(lambda: messages(crew, "mission_event"))
        await until(lambda: counted(crew, "ping", "refused"), what="the count, which follows what is told")
    assert told == [
        f"watch ping: task_completed of {last} begins nothing: it would go round in a circle (ping → pong → ping)"
    ]
    assert len(await messages(crew, "mission_watch_triggered")) == 2
    assert [counted(crew, "ping", "begun"), counted(crew, "pong", "begun"), counted(crew, "ping", "refused")] == [1] * 3
    assert [counted(crew, "pong", "refused"), counted(crew, "ping", "waits")] == [0, 0]


async def test_of_a_heartbeats_work_alone_the_watch_begins_something(make_crew: Make) -> None:
    mend = watch("mend", "task_completed", ofHeartbeat="hb", agent="b", prompt="{event.task_id}")
    crew = await make_crew({"a": "Brief", "b": "Brief"}, watches=[mend])
    ref = CrewRef(name=crew.name.partition("/")[2])
    spec = HeartbeatSpec(crewRef=ref, schedule="0 0 1 1 *", agent="a", prompt="look")
    await crew.client.apply(Heartbeat(metadata=ObjectMeta(name="hb", namespace="test"), spec=spec))
    async with crew.in_process():
        await crew.result(await crew.submit("t", "a"))
        fired = await crew.client.fire(crew.name, "hb", token="once")
        [begun] = await made(crew, "mend")
        assert (await crew.result(begun)).output == fired


async def test_a_watch_that_a_crew_gets_later_is_followed(make_crew: Make, monkeypatch: Any) -> None:
    monkeypatch.setattr(watching, "UNUSED_SECONDS", 0.2)
    crew = await make_crew({"a": "Brief", "b": "Brief"})
    async with crew.in_process():
        await crew.result(await crew.submit("before", "a"))
        await crew.define(watches=[watch("late", "task_completed", ofAgent="a", agent="b", prompt="{event.task_id}")])
        await crew.result(await crew.submit("after", "a"))
        [begun] = await made(crew, "late")
        assert (await crew.result(begun)).output == "after"
        await crew.define(watches=[])
        await crew.result(await crew.submit("more", "a"))
    assert len(await messages(crew, "mission_watch_triggered")) == 1


async def test_a_worker_that_is_behind_reads_on_at_once(make_crew: Make, monkeypatch: Any) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 3600.0)
    crew = await make_crew({"a": "Brief", "b": "Brief"}, watches=[watch("mend", "task_failed", agent="b", prompt="x")])
    stream = EventStream.of_crew(crew.redis, crew.name)
    for kind, task in (*(("task_completed", f"t{i}") for i in range(600)), ("task_failed", "last")):
        await stream.emit(TownEvent.new(kind, "").with_agent("a").with_task(task))
    async with crew.in_process():
        [begun] = await made(crew, "mend")
        assert (await crew.result(begun)).success


async def test_what_happened_while_the_crew_was_suspended_begins_work_afterwards(make_crew: Make) -> None:
    tell = watch("tell", "task_cancelled", agent="b", prompt="{event.task_id}")
    crew = await make_crew({"a": "Brief", "b": "Brief"}, watches=[tell])
    await suspension.suspend(crew.redis, crew.keys, crew.uid, on=True)
    await crew.submit("t", "a")
    await crew.client.cancel(crew.name, "t")
    await suspension.suspend(crew.redis, crew.keys, crew.uid, on=False)
    async with crew.in_process():
        [begun] = await made(crew, "tell")
        assert (await crew.result(begun)).output == "t"


async def test_work_that_would_be_too_long_does_not_begin_and_the_feed_says_why(make_crew: Make) -> None:
    quote = watch("quote", "task_completed", ofAgent="a", agent="b", prompt="{event.message}" * 5)
    crew = await make_crew({"a": "Brief", "b": "Brief"}, watches=[quote])
    stream = EventStream.of_crew(crew.redis, crew.name)
    async with crew.in_process():
        for task, message in (("long", "x" * (PROMPT_MAX_BYTES // 5 + 1)), ("short", "y")):
            await stream.emit(TownEvent.new("task_completed", message).with_agent("a").with_task(task))
        [begun] = await made(crew, "quote")
        assert (await crew.result(begun)).output == "yyyyy"
    [told] = await messages(crew, "mission_event")
    assert told.startswith("watch quote: task_completed of long begins nothing: the prompt has 262145 bytes")
