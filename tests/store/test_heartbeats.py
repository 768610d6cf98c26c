"""Heartbeats in a real store: one slot, one task, whatever is sent twice, lost or changed in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from beating import FOLLOWING, NOON, SLOT, Crew, beat, crew_of

from watchbill import connection
from watchbill.errors import Conflict, CrewGone, InvalidInput, NotFound
from watchbill.names import CrewKeys
from watchbill.plan import flow, given
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode
from watchbill.store import definitions, firing, heartbeats, runs, submissions
from watchbill.store.queue import Finished, Queue
from watchbill.store.submissions import Submission
from watchbill.tasks import AgentTask, Priority, RunResult, RunState, TaskState


@pytest.fixture
async def crew(redis_url: str, crew_name: str) -> AsyncIterator[Crew]:
    async with connection.connected(redis_url) as client:
        keys = CrewKeys("team", crew_name)
        yield Crew(client, keys, await definitions.apply(client, keys, crew_of("a", "b")))


# ------------------------------------------------------------------ firing


async def test_a_slot_becomes_a_task_that_says_where_it_comes_from(crew: Crew) -> None:
    state = await crew.apply(beat(priority="HIGH", metadata={"team": "sea"}))
    assert state.next == SLOT

    assert await crew.fire(state) == "fired"

    assert await crew.queued() == ["hb-hb-1795262460"]
    assert await crew.client.xlen(crew.keys.streams[1]) == 1, "HIGH"
    task = await crew.payload(crew.keys.task("hb-hb-1795262460"))
    assert (task.agent_name, task.prompt, task.priority) == ("a", "look", Priority.HIGH)
    assert task.metadata == {"team": "sea", "heartbeat": "hb", "slot": "2026-11-21T12:01:00Z"}
    after = await crew.get()
    assert (after.next, after.last, after.missed) == (FOLLOWING, SLOT, 0)


async def test_a_fired_task_can_be_worked_off(crew: Crew) -> None:
    await crew.fire(await crew.apply(beat()))
    queue = Queue(crew.client, crew.keys, crew.uid)
    assert await crew.client.llen(crew.keys.bell) == 1, "the bell was rung"
    claim = await queue.claim("w", 1, 5, lease_ms=10_000, take_over=True)
    [started] = await queue.start("w", claim.tasks)
    assert AgentTask.model_validate_json(started.payload).prompt == "look"


async def test_for_a_role_it_goes_to_an_agent_that_has_room(crew: Crew) -> None:
    made = [AgentDefinition(agent_id=name, roles=["guard"], max_concurrent=1) for name in ("a", "b")]
    await crew.define(crew_of("a").model_copy(update={"agents": made}))
    state = await crew.apply(beat(agent=None, role="guard"))
    assert state.spec.agent == "role:guard", "of which a release without roles makes a task, and no run of all agents"
    assert await crew.fire(state) == "fired"
    task = await crew.payload(crew.keys.task("hb-hb-1795262460"))
    assert (task.agent_name, task.role) == ("", "guard")
    busy = Submission("busy", "a", "{}", Priority.CRITICAL)
    await submissions.submit(crew.client, crew.keys, crew.uid, [busy], max_queued=9)
    queue = Queue(crew.client, crew.keys, crew.uid)
    claim = await queue.claim("w", 1, 5, lease_ms=10_000, take_over=True)
    assert [(task.id, task.agent) for task in claim.tasks] == [("busy", "a"), ("hb-hb-1795262460", "b")]


async def test_for_a_role_that_no_agent_has_it_fires_nothing(crew: Crew) -> None:
    state = await crew.apply(beat(agent=None, role="guard"))
    why = r"spec\.role: crew '.*' has no agent of role 'guard'\. Give an agent the role"
    with pytest.raises(InvalidInput, match=why):
        await crew.fire(state)
    with pytest.raises(InvalidInput, match=why):
        await crew.run_now("once")
    assert await crew.queued() == []


@pytest.mark.parametrize(
    ("mode", "waiting", "left"),
    [(ExecutionMode.SEQUENTIAL, ["a"], ["b", "c"]), (ExecutionMode.PARALLEL, ["a", "b", "c"], [])],
)
async def test_without_an_agent_the_whole_crew_runs(
    crew: Crew, mode: ExecutionMode, waiting: list[str], left: list[str]
) -> None:
    await crew.define(crew_of("a", "b", "c", mode=mode))
    state = await crew.apply(beat(agent=None, metadata={"k": "v"}))

    assert await crew.fire(state) == "fired"

    run_id = heartbeats.task_id("hb", SLOT)
    assert await crew.queued() == [f"{run_id}/{step}" for step in waiting]
    assert await crew.client.xlen(crew.keys.streams[3]) == len(waiting), "LOW, the default"
    status = await runs.status(crew.client, crew.keys, run_id)
    assert status.status is RunState.RUNNING
    assert [step.name for step in status.steps] == [*waiting, *left]
    assert {step.status for step in status.steps} == {TaskState.WAITING}
    run = await crew.payload(crew.keys.run(run_id))
    assert (run.agent_name, run.prompt, run.metadata["heartbeat"], run.metadata["k"]) == ("", "look", "hb", "v")


async def test_a_fired_run_can_be_worked_off_to_its_end(crew: Crew) -> None:
    await crew.fire(await crew.apply(beat(agent=None)))
    queue = Queue(crew.client, crew.keys, crew.uid)
    digest = crew_of("a", "b").digest()
    for number, agent in enumerate(("a", "b"), 1):
        claim = await queue.claim("w", number, 5, lease_ms=10_000, take_over=True)
        [started] = await queue.start("w", claim.tasks)
        assert started.definition == digest
        [task] = claim.tasks
        assert task.agent == agent
        result = json.dumps({"task_id": task.id, "agent_name": agent, "success": True, "output": agent})
        await queue.finish("w", [Finished(task, "completed", result, definition=digest)])
    done = await runs.result(crew.client, crew.keys, heartbeats.task_id("hb", SLOT))
    assert isinstance(done, RunResult)
    assert (done.status, done.output) == (RunState.COMPLETED, "b")


@pytest.mark.parametrize("agent", ["a", None])
async def test_a_slot_fired_twice_is_one_task(crew: Crew, agent: str | None) -> None:
    state = await crew.apply(beat(agent=agent))
    assert await crew.fire(state) == "fired"
    before = await crew.dump()
    assert await crew.fire(state) == "already"
    assert await crew.dump() == before


async def test_of_many_that_fire_one_slot_at_once_one_does(crew: Crew, redis_url: str) -> None:
    state = await crew.apply(beat())
    current = await definitions.current(crew.client, crew.keys)

    async def fire_alone() -> str:
        async with connection.connected(redis_url) as client:
            return await Crew(client, crew.keys, crew.uid).fire(state, current=current)

    outcomes = await asyncio.gather(*(fire_alone() for _ in range(20)))
    assert sorted(outcomes) == ["already"] * 19 + ["fired"]
    assert len(await crew.queued()) == 1


async def test_nothing_is_lost_or_doubled_when_every_reply_is_lost_once(crew: Crew, proxy: Any) -> None:
    losing = await proxy()
    losing.drop_every_reply_once = True
    async with connection.connected(losing.url) as client:
        far = Crew(client, crew.keys, crew.uid)
        one, all_of_them = await far.apply(beat()), await far.apply(beat("all", agent=None))
        assert await far.fire(one) == "already", "the first call did it, its answer was lost"
        assert await far.fire(all_of_them) == "already"
        made, _ = await far.run_now("t")
        await heartbeats.miss(
            client, far.keys, one, first=FOLLOWING, following=FOLLOWING + timedelta(hours=1), count=60, message="missed"
        )
    assert losing.dropped > 6
    assert sorted(await crew.queued()) == sorted([heartbeats.task_id("hb", SLOT), "hb-all-1795262460/a", made])
    assert await crew.told() == ["missed"]
    assert (await crew.get()).missed == 60


async def test_a_slot_is_remembered_when_a_change_of_the_heartbeat_would_bring_it_back(crew: Crew) -> None:
    assert await crew.fire(await crew.apply(beat())) == "fired"
    changed = await crew.apply(beat(prompt="other"), now=NOON)  # by a clock that is behind
    assert changed.next == SLOT
    assert await crew.fire(changed) == "already"
    assert (await crew.get()).next == FOLLOWING
    assert len(await crew.queued()) == 1


async def test_the_guard_of_a_slot_expires(crew: Crew) -> None:
    await crew.fire(await crew.apply(beat()))
    ttl = await crew.client.pttl(crew.keys.fire("hb", "1795262460"))
    assert 0 < ttl <= firing.GUARD.total_seconds() * 1000


async def test_a_full_queue_leaves_the_slot_to_be_fired_later(crew: Crew) -> None:
    await crew.define(crew_of("a", "b", max_queued=2))
    queue = Queue(crew.client, crew.keys, crew.uid)
    await submissions.submit(queue.client, queue.keys, queue.uid, [Submission("x", "a", "{}")], max_queued=2)
    one, both = await crew.apply(beat()), await crew.apply(beat("both", agent=None))
    before = await crew.dump()
    assert await crew.fire(both) == "full", "two steps, and room for one"
    assert await crew.dump() == before
    assert await crew.fire(one) == "fired"
    assert await crew.fire(one, FOLLOWING) == "full"

    await crew.define(crew_of("a", "b", max_queued=9))
    assert await crew.fire(both) == "fired"
    assert await crew.fire(one, FOLLOWING) == "fired"


async def test_a_run_for_which_the_queue_never_has_room_is_refused_and_waits_for_none(crew: Crew) -> None:
    """It would be tried until the next slot, and so would each slot."""
    state = await crew.apply(beat(agent=None))
    await crew.define(crew_of("a", "b", max_queued=1))
    with pytest.raises(InvalidInput, match="has 2 steps, and its maxQueued allows 1 at most"):
        await crew.fire(state)


async def test_what_fires_is_the_definition_of_that_moment(crew: Crew) -> None:
    state = await crew.apply(beat(agent=None))
    old = await definitions.current(crew.client, crew.keys)
    await crew.define(crew_of("c"))
    before = await crew.dump()
    assert await crew.fire(state, current=old) == "changed"
    assert await crew.dump() == before
    assert await crew.fire(state) == "fired"
    assert await crew.queued() == [f"{heartbeats.task_id('hb', SLOT)}/c"]


async def test_an_agent_is_found_by_its_display_name(crew: Crew) -> None:
    await crew.define(CrewDefinition(name="crew", agents=[AgentDefinition(agent_id="a", name="Ann")]))
    await crew.fire(await crew.apply(beat(agent="Ann")))
    assert (await crew.payload(crew.keys.task(heartbeats.task_id("hb", SLOT)))).agent_name == "a"


async def test_an_id_that_is_taken_is_said_and_nothing_is_written(crew: Crew) -> None:
    state = await crew.apply(beat(agent=None))
    squatter = heartbeats.task_id("hb", SLOT)
    await submissions.submit(crew.client, crew.keys, crew.uid, [Submission(squatter, "a", "{}")], max_queued=9)
    before = await crew.dump()
    with pytest.raises(Conflict, match=squatter):
        await crew.fire(state)
    assert await crew.dump() == before


async def test_a_crew_of_500_agents_fires_and_a_larger_one_is_refused(crew: Crew) -> None:
    state = await crew.apply(beat(agent=None))
    await crew.define(crew_of(*(f"a{i}" for i in range(500)), mode=ExecutionMode.PARALLEL))
    assert await crew.fire(state) == "fired"
    assert len(await crew.queued()) == 500
    await crew.define(crew_of(*(f"a{i}" for i in range(501))))
    with pytest.raises(InvalidInput, match="has 501 steps, and a heartbeat can start at once 500"):
        await crew.fire(state, FOLLOWING)


async def test_what_a_run_reads_is_planned_once_and_not_for_a_crew_that_is_refused(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[CrewDefinition] = []
    really = given.steps

    def counted(definition: CrewDefinition, *known: Any) -> tuple[flow.Step, ...]:
        planned.append(definition)
        return really(definition, *known)

    monkeypatch.setattr(given, "steps", counted)
    state = await crew.apply(beat(agent=None, concurrencyPolicy="Allow"))
    await crew.define(crew_of("a", "b"))
    current = await definitions.current(crew.client, crew.keys)
    assert [await crew.fire(state, slot, current) for slot in (SLOT, FOLLOWING)] == ["fired", "fired"]
    assert len(planned) == 1
    await crew.define(crew_of(*(f"a{i}" for i in range(501))))
    with pytest.raises(InvalidInput, match="has 501 steps, and a heartbeat can start at once 500"):
        await crew.fire(state, FOLLOWING)
    assert len(planned) == 1


# ------------------------------------------------------------------ who may fire


async def test_a_changed_heartbeat_is_not_fired_by_who_has_the_old_one(crew: Crew) -> None:
    old = await crew.apply(beat())
    new = await crew.apply(beat(prompt="new"))
    assert await crew.fire(old) == "stale"
    assert await crew.queued() == []
    assert await crew.fire(new) == "fired"


async def test_a_suspended_heartbeat_fires_no_slot_and_waits_for_none(crew: Crew) -> None:
    state = await crew.apply(beat(suspend=True))
    assert state.next is None
    assert await crew.fire(state) == "stale"
    resumed = await crew.apply(beat(), now=NOON + timedelta(hours=3))
    assert resumed.next == NOON + timedelta(hours=3, minutes=1)


async def test_a_removed_heartbeat_fires_no_more(crew: Crew) -> None:
    state = await crew.apply(beat())
    for _ in range(2):
        await heartbeats.remove(crew.client, crew.keys, crew.uid, "hb")
        assert await crew.fire(state) == "stale"
    assert await heartbeats.get(crew.client, crew.keys, "hb") is None
    assert await heartbeats.all_of(crew.client, crew.keys) == []
    assert await crew.queued() == []


async def test_a_deleted_or_recreated_crew_is_left_alone(crew: Crew) -> None:
    state = await crew.apply(beat())
    current = await definitions.current(crew.client, crew.keys)
    await crew.client.hset(crew.keys.meta, "uid", "another")
    before = await crew.dump()
    assert await crew.fire(state, current=current) == "gone"
    assert await heartbeats.miss(
        crew.client, crew.keys, state, first=SLOT, following=FOLLOWING, count=1, message="m"
    ) == ("gone", None)
    with pytest.raises(CrewGone, match="deleted, or replaced"):
        await crew.apply(beat(prompt="new"))
    with pytest.raises(NotFound):
        await crew.run_now("t")
    await heartbeats.remove(crew.client, crew.keys, crew.uid, "hb")
    assert await crew.dump() == before
    assert await heartbeats.all_of(crew.client, crew.keys) == [], "those of the former crew are not the new one's"

    crew.uid = "another"
    fresh = await crew.apply(beat(), now=NOON + timedelta(hours=1))
    assert (fresh.uid, fresh.next, fresh.last) == ("another", NOON + timedelta(hours=1, minutes=1), None)
