"""Every type of event is caused by what the table says, and is on every stream where it belongs, and on no other."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from support import LEASE_MS, MANY, Crew, flow_of, library, next_millisecond

from watchbill.api import Heartbeat
from watchbill.api.heartbeat import CrewRef, HeartbeatSpec
from watchbill.api.meta import ObjectMeta
from watchbill.api.watches import Watch
from watchbill.event_causes import CAUSES
from watchbill.event_types import Telling
from watchbill.events import EventType, SpawnMode, TownEvent
from watchbill.records import ExecutionMode
from watchbill.store import approvals, control, dead, definitions, events, firing, heartbeats, incarnations, watches

PAIR = library("a", "b", mode=ExecutionMode.SEQUENTIAL)
NOW = datetime(2026, 11, 21, tzinfo=UTC)


async def _cause_all(crew: Crew) -> None:
    """Has all happen that the table says."""
    queue, client, keys, uid = crew.queue, crew.client, crew.keys, crew.uid
    await queue.enter("w", ["a", "b", "c"], lease_ms=LEASE_MS)
    numbers = count(2)

    async def end(outcome: Any) -> None:
        await crew.finish("w", await crew.take("w", next(numbers)), outcome)

    await crew.run("good", PAIR)
    await end("completed")
    await end("completed")
    await crew.run("bad", flow_of([("a", "b"), ("a", "c")]))
    await end("dead")
    await dead.replay(client, keys, uid, [await dead.find(client, keys, "bad/a")], max_queued=MANY)
    await end("failed")
    await crew.run("stuck", PAIR)
    taken = await crew.take("w", next(numbers))
    await queue.say("w", taken[0], "half way", 1)
    for number, told in enumerate(
        (
            Telling(EventType.TASK_DELEGATED, "", child="b", scope="the sources", spawn_mode=SpawnMode.FRESH),
            Telling(EventType.REVIEWER_HANDOFF, "", child="b"),
            Telling(EventType.REVIEWER_APPROVAL, "", parent="b"),
            Telling(EventType.CONDUCTOR_ESCALATION, "", parent="c"),
        ),
        2,
    ):
        assert await queue.say("w", taken[0], told, number)
    await queue.park("w", taken, "AgentUnavailable: no such class")
    await crew.submit("asking", agent="b")
    asking = await crew.take("w", next(numbers))
    await crew.finish("w", asking, "approval", detail="to pay", message="waits for approval: to pay", ttl_ms=60_000)
    await approvals.decide(client, keys, uid, "asking", "rejected", "too dear")
    await end("failed")
    await crew.run("halted", PAIR)
    await control.interrupt(client, keys, uid, "halted/a", "later")
    await control.resume(client, keys, uid, "halted/a")
    await control.cancel(client, keys, uid, "halted/a", "never", 60_000)
    beat = HeartbeatSpec(crewRef=CrewRef(name="crew"), schedule="* * * * *", prompt="look")
    await heartbeats.apply(client, keys, uid, Heartbeat(metadata=ObjectMeta(name="hb"), spec=beat), now=NOW)
    await firing.run_now(client, keys, "hb", "once", now=NOW)
    watch = Watch(name="w", events=["task_failed"], agent="a", prompt="look")
    await definitions.apply(client, keys, crew.definition.model_copy(update={"watches": [watch]}))
    current = await definitions.current(client, keys)
    failed = TownEvent.new(EventType.TASK_FAILED, "").with_task("asking")
    assert await watches.fire(client, keys, current, watch, "9999999999999-0", failed, ()) == "fired"
    await queue.enter("vanishing", ["a"], lease_ms=LEASE_MS)
    await client.hset(keys.workers, "vanishing", "{}")
    await queue.declare_dead(["vanishing"])
    await crew.claim("w", next(numbers), 1)
    await queue.leave("w")


async def test_every_type_is_told_by_what_causes_it_wherever_it_belongs(crew: Crew) -> None:
    await _cause_all(crew)
    expected: dict[str, list[TownEvent]] = {}
    named: dict[EventType, set[str]] = {}
    for _, event in await events.recent(crew.client, crew.keys.events, 1000):
        for stream in events.bounds(crew.keys, event):
            expected.setdefault(stream, []).append(event)
        of = {"agent": event.agent_id, "parent": event.parent_agent_id, "child": event.child_agent_id}
        of["run"] = event.mission_id
        named.setdefault(event.event_type, set()).update(name for name, value in of.items() if value)
    names = await crew.client.keys(crew.keys.prefix + "events*")
    assert sorted(names) == sorted(expected)
    for name in names:
        assert [event for _, event in await events.recent(crew.client, name, 1000)] == expected[name], name
    assert named == {kind: set(cause.streams) for kind, cause in CAUSES.items()}
    assert set(CAUSES) == {*EventType}


async def _told(crew: Crew, *kinds: EventType) -> list[str]:
    """Type, agent and message of the crew's events of these types."""
    found = await events.recent(crew.client, crew.keys.events, 1000)
    return [f"{e.event_type} {e.agent_id}: {e.message}" for _, e in found if e.event_type in kinds]


THERE = (EventType.AGENT_SPAWNED, EventType.AGENT_STOPPED)


async def test_an_agent_is_spawned_with_its_first_worker_and_stopped_with_the_last(crew: Crew) -> None:
    for worker in ("w1", "w2", "w3"):
        await crew.queue.enter(worker, ["a", "b"], lease_ms=LEASE_MS)
    await crew.queue.enter("w4", ["a", "b", "c"], lease_ms=LEASE_MS)
    await crew.queue.leave("w1")
    await crew.queue.declare_dead(["w2", "w3"])
    spawned = [f"agent_spawned {agent}: with worker w{n}" for agent, n in (("a", 1), ("b", 1), ("c", 4))]
    assert await _told(crew, *THERE) == spawned
    await crew.queue.leave("w4")
    stopped = [f"agent_stopped {agent}: its last worker has left" for agent in "abc"]
    assert (await _told(crew, *THERE))[3:] == stopped
    for key in map(crew.keys.agent_events, "abc"):
        assert [e["event_type"] for e in await crew.events(key)] == ["agent_spawned", "agent_stopped"]
    assert not [field for field in await crew.client.hkeys(crew.keys.meta) if field.startswith("spawned:")]


async def test_what_several_calls_tell_of_a_workers_agents_is_told_once(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call for each agent; another worker comes between two of them."""
    monkeypatch.setattr(incarnations, "AGENTS_AT_ONCE", 1)
    w1 = await crew.queue.enter("w1", ["a"], lease_ms=LEASE_MS)
    await crew.queue.enter("w2", ["c"], lease_ms=LEASE_MS)
    for agent in ("b", "c", "c"):  # the last one twice: its answer was lost
        await crew.queue.enter("w1", [agent], lease_ms=LEASE_MS, since_ms=w1.now_ms)
    spawned = [f"agent_spawned {agent}: with worker w{n}" for agent, n in (("a", 1), ("c", 2), ("b", 1))]
    assert await _told(crew, *THERE) == spawned
    await crew.queue.leave("w2")
    await crew.queue.declare_dead(["w1"])
    died = [f"agent_stopped {agent}: its last worker has died" for agent in "abc"]
    assert (await _told(crew, *THERE))[3:] == died

    w3 = await crew.queue.enter("w3", ["a"], lease_ms=LEASE_MS)
    await crew.queue.enter("w3", ["b"], lease_ms=LEASE_MS, since_ms=w3.now_ms)
    await crew.client.zadd(crew.keys.leases, {"w3": 1})
    await next_millisecond(crew)
    w4 = await crew.queue.enter("w4", ["a"], lease_ms=LEASE_MS)
    for _ in range(2):
        await crew.queue.enter("w4", ["b"], lease_ms=LEASE_MS, since_ms=w4.now_ms)
    vanished = [
        line
        for agent in "ab"
        for line in (f"agent_stopped {agent}: its last worker has vanished", f"agent_spawned {agent}: with worker w4")
    ]
    assert (await _told(crew, *THERE))[8:] == vanished


async def test_agents_stop_when_the_last_worker_is_declared_dead(crew: Crew) -> None:
    await crew.queue.enter("w1", ["a"], lease_ms=LEASE_MS)
    await crew.queue.enter("w2", ["a"], lease_ms=LEASE_MS)
    await crew.queue.declare_dead(["w1", "w2"])
    assert (await _told(crew, *THERE))[1:] == ["agent_stopped a: its last worker has died"]


async def test_a_worker_that_follows_one_that_vanished_tells_of_both(crew: Crew) -> None:
    await crew.queue.enter("w1", ["a", "b"], lease_ms=LEASE_MS)
    await crew.client.zadd(crew.keys.leases, {"w1": 1})
    await crew.queue.enter("w2", ["a"], lease_ms=LEASE_MS)
    await crew.queue.enter("w2", ["a"], lease_ms=LEASE_MS)  # sent again: its answer was lost
    told = ["agent_stopped a: its last worker has vanished", "agent_spawned a: with worker w2"]
    assert (await _told(crew, *THERE))[2:] == told
    await crew.client.zrem(crew.keys.leases, "w1")
    await crew.queue.leave("w2")
    assert (await _told(crew, *THERE))[4:] == [f"agent_stopped {agent}: its last worker has left" for agent in "ab"]


async def test_of_many_steps_behind_a_failed_one_twenty_are_told_to_be_blocked(crew: Crew) -> None:
    behind = [f"s{number:02}" for number in range(25)]
    await crew.run("r", flow_of([("a", name) for name in behind]))
    await crew.finish("w", await crew.take("w"), "failed", message="it broke")
    told = await crew.events(crew.keys.run_events("r"))
    blocked = [e for e in told if e["event_type"] == "mission_work_blocked"]
    assert [e["task_id"] for e in blocked] == [f"r/{name}" for name in behind[:20]]
    assert {e["message"] for e in blocked} == {"step a has ended as failed"}
    assert [e["message"] for e in told if e["event_type"] == "agent_failed"] == ["it broke"]
    assert "mission_help_needed" not in {e["event_type"] for e in told}


async def test_nothing_behind_the_steps_of_a_cancelled_run_is_told_to_be_blocked(crew: Crew) -> None:
    await crew.run("r", PAIR)
    await control.cancel(crew.client, crew.keys, crew.uid, "r", "never", 60_000)
    told = {e["event_type"] for e in await crew.events(crew.keys.run_events("r"))}
    assert told == {"mission_state_changed", "task_cancelled"}


async def test_a_plain_task_has_no_event_but_its_own(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    await crew.finish("w", await crew.claim("w"))
    assert [e["event_type"] for e in await crew.events()] == ["task_assigned", "task_completed"] * 2


async def test_what_names_an_agent_twice_is_on_its_stream_once(crew: Crew) -> None:
    await crew.submit("t")
    (task,) = await crew.take("w")
    both = Telling(EventType.TASK_DELEGATED, "to one", parent="b", child="b")
    own = Telling(EventType.TASK_DELEGATED, "to itself", parent="a", child="a")
    for number, told in ((1, both), (1, both), (2, own), (2, own)):
        assert await crew.queue.say("w", task, told, number)
    found = {
        agent: [e["message"] for e in await crew.events(crew.keys.agent_events(agent)) if "parent_agent_id" in e]
        for agent in "ab"
    }
    assert found == {"a": ["to one", "to itself"], "b": ["to one"]}
    assert [e["message"] for e in await crew.events() if "parent_agent_id" in e] == ["to one", "to itself"]
