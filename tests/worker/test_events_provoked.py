"""Every type of event, provoked as a user would: by clients, runs and workers. It is on each stream where it belongs,
and on no other, and the table of causes names those streams.

A new type fails here until something provokes it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import pytest
from workshop import Crew, Make, agent

from waiting import until
from watchbill.api import CrewRef, Heartbeat, HeartbeatSpec, ObjectMeta
from watchbill.api.watches import Watch
from watchbill.event_causes import CAUSES
from watchbill.events import EventStream, EventType, TownEvent
from watchbill.records import AgentDefinition, ExecutionMode
from watchbill.store.events import bounds
from watchbill.tasks import TaskState

Provoke = Callable[[Make], Awaitable[Crew]]


async def _state(crew: Crew, task_id: str, state: TaskState) -> None:
    async def has_it() -> bool:
        return await crew.client.state(crew.name, task_id) is state

    await until(has_it, what=f"{task_id} is {state}")


async def _run_completes(make_crew: Make) -> Crew:
    crew = await make_crew({"a": "SayingGate", "b": "Brief"}, mode=ExecutionMode.SEQUENTIAL)
    async with crew.in_process():
        await crew.submit("r")
        await crew.started("r/a")  # it doesn't begin and end within one call
        await _state(crew, "r/a", TaskState.RUNNING)
        crew.open()
        assert (await crew.run_result("r")).success
    return crew


async def _step_fails(make_crew: Make) -> Crew:
    crew = await make_crew({"a": "Fails", "b": "Brief"}, mode=ExecutionMode.SEQUENTIAL)
    async with crew.in_process():
        await crew.submit("r")
        assert not (await crew.run_result("r")).success
    return crew


async def _agent_is_missing(make_crew: Make) -> Crew:
    crew = await make_crew([AgentDefinition(agent_id="a", agent_class="nowhere:Nobody")])
    async with crew.in_process():
        await crew.submit("r")
        await _state(crew, "r/a", TaskState.PARKED)
    return crew


async def _step_asks(make_crew: Make) -> Crew:
    crew = await make_crew({"a": "Brief"}, mode=ExecutionMode.SEQUENTIAL, requires_approval=["a"])
    async with crew.in_process():
        await crew.submit("r")
        await _state(crew, "r/a", TaskState.APPROVAL)
    return crew


async def _agent_tells(make_crew: Make) -> Crew:
    partners = AgentDefinition(agent_id="a", agent_class="partners:on_loop"), AgentDefinition(agent_id="b")
    crew = await make_crew(partners)
    async with crew.in_process():
        await crew.submit("r")
        await crew.result("r/a")
    return crew


async def _heartbeat_and_watch_fire(make_crew: Make) -> Crew:
    crew = await make_crew({"a": "Brief"})
    spec = HeartbeatSpec(crewRef=CrewRef(name=crew.name.partition("/")[2]), schedule="0 0 1 1 *", prompt="look")
    await crew.client.apply(Heartbeat(metadata=ObjectMeta(name="hb", namespace="test"), spec=spec))
    await crew.client.fire(crew.name, "hb")
    await crew.define(watches=[Watch(name="w", events=["task_completed"], agent="a", prompt="look")])
    async with crew.in_process():
        await crew.submit("t", "a")
        await until(lambda: _told_of(crew, "watch w: task_completed of t"), what="the watch has begun a task")
    return crew


async def _step_is_set_aside(make_crew: Make) -> Crew:
    crew = await make_crew([agent("a", "Gate")])
    async with crew.in_process():
        await crew.submit("r")
        await crew.started("r/a")
        await crew.client.interrupt(crew.name, "r/a")
        await _state(crew, "r/a", TaskState.INTERRUPTED)
        await crew.client.resume(crew.name, "r/a")
        crew.open()
        await crew.run_result("r")
    return crew


async def _step_is_cancelled(make_crew: Make) -> Crew:
    crew = await make_crew({"a": "Brief"})
    await crew.submit("r")
    await crew.client.cancel(crew.name, "r/a")
    return crew


async def _told_of(crew: Crew, message: str) -> bool:
    return message in [event.message for event in await _told(crew, EventType.MISSION_WATCH_TRIGGERED)]


async def _worker_dies(make_crew: Make) -> Crew:
    crew = await make_crew({"a": "Brief"}, lease_seconds=1)
    worker = await crew.worker()
    await until(lambda: crew.redis.hlen(crew.keys.workers), what="it says of itself that it is there")
    worker.kill()
    async with crew.in_process():
        await until(lambda: _told(crew, EventType.WORKER_LOST), what="somebody finds it dead")
    return crew


_E = EventType
PROVOCATIONS: Final[Mapping[EventType, Provoke]] = {
    _E.AGENT_STATE_CHANGED: _run_completes,
    _E.AGENT_SPAWNED: _run_completes,
    _E.AGENT_STOPPED: _run_completes,
    _E.TASK_ASSIGNED: _run_completes,
    _E.TASK_COMPLETED: _run_completes,
    _E.TASK_FAILED: _step_fails,
    _E.TASK_CANCELLED: _step_is_cancelled,
    _E.MISSION_STATE_CHANGED: _run_completes,
    _E.MISSION_WORK_PROMOTED: _run_completes,
    _E.MISSION_WORK_ASSIGNED: _run_completes,
    _E.MISSION_WORK_COMPLETED: _run_completes,
    _E.MISSION_WORK_BLOCKED: _agent_is_missing,
    _E.MISSION_HELP_NEEDED: _step_asks,
    _E.MISSION_WATCH_TRIGGERED: _heartbeat_and_watch_fire,
    _E.MISSION_EVENT: _run_completes,
    _E.TASK_DELEGATED: _agent_tells,
    _E.AGENT_INTERRUPTED: _step_is_set_aside,
    _E.AGENT_RESUMED: _step_is_set_aside,
    _E.AGENT_COMPLETED: _run_completes,
    _E.AGENT_FAILED: _step_fails,
    _E.REVIEWER_HANDOFF: _agent_tells,
    _E.REVIEWER_APPROVAL: _agent_tells,
    _E.CONDUCTOR_ESCALATION: _agent_tells,
    _E.WORKER_LOST: _worker_dies,
}


async def _told(crew: Crew, kind: EventType) -> list[TownEvent]:
    found = await EventStream.of_crew(crew.redis, crew.name).read_town_events(count=1000)
    return [event for _, event in found if event.event_type is kind]


@pytest.mark.parametrize("kind", EventType)
async def test_each_type_is_provoked_by_use_and_read_from_every_stream_where_it_belongs(
    make_crew: Make, kind: EventType
) -> None:
    crew = await PROVOCATIONS[kind](make_crew)
    belongs: dict[str, list[TownEvent]] = {}
    named: set[str] = set()
    for event in await _told(crew, kind):
        for key in bounds(crew.keys, event):
            belongs.setdefault(key, []).append(event)
        of = {"agent": event.agent_id, "parent": event.parent_agent_id, "child": event.child_agent_id}
        named |= {role for role, name in (of | {"run": event.mission_id}).items() if name}
    assert named == set(CAUSES[kind].streams), "the table of causes says so"
    assert belongs.pop(crew.keys.events)

    stream = EventStream.of_crew(crew.redis, crew.name)
    prefix = crew.keys.events + ":"
    for key in await crew.redis.keys(prefix + "*"):
        which, _, name = key.removeprefix(prefix).partition(":")
        read = stream.read_agent_events if which == "agent" else stream.read_mission_events
        found = [event for _, event in await read(name, count=1000) if event.event_type is kind]
        assert found == belongs.pop(key, []), key
    assert not belongs, "these streams lack it"
