"""Heartbeats in a real store: one slot, one task, whatever is sent twice, lost or changed in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from watchbill import connection
from watchbill.api import CrewRef, Heartbeat, HeartbeatSpec, ObjectMeta
from watchbill.errors import Conflict, CrewGone, InvalidInput, NotFound, QueueFull
from watchbill.names import CrewKeys
from watchbill.plan.schedule import next_slot
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode, TaskPolicy
from watchbill.store import definitions, events, heartbeats, runs, submissions
from watchbill.store.queue import Finished, Queue
from watchbill.store.submissions import Submission
from watchbill.tasks import AgentTask, Priority, RunResult, RunState, TaskState

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SLOT = NOON + timedelta(minutes=1)
FOLLOWING = SLOT + timedelta(minutes=1)


def beat(name: str = "hb", **spec: Any) -> Heartbeat:
    spec = {"schedule": "* * * * *", "agent": "a", "prompt": "look", **spec}
    if "intervalSeconds" in spec:
        del spec["schedule"]
    return Heartbeat(metadata=ObjectMeta(name=name), spec=HeartbeatSpec(crewRef=CrewRef(name="crew"), **spec))


def crew_of(*agents: str, mode: ExecutionMode = ExecutionMode.SEQUENTIAL, max_queued: int = 1000) -> CrewDefinition:
    return CrewDefinition(
        crew_id="crew-id",
        name="crew",
        execution_mode=mode,
        agents=[AgentDefinition(agent_id=agent) for agent in agents],
        max_parallel_tasks=1000,
        tasks=TaskPolicy(max_queued=max_queued),
    )


@dataclass
class Crew:
    client: Any  # redis-py types each answer as bytes or str, whatever the connection decodes
    keys: CrewKeys
    uid: str

    async def apply(self, heartbeat: Heartbeat, now: datetime = NOON) -> heartbeats.HeartbeatState:
        return await heartbeats.apply(self.client, self.keys, self.uid, heartbeat, now=now)

    async def define(self, definition: CrewDefinition) -> None:
        await definitions.apply(self.client, self.keys, definition)

    async def fire(
        self, state: heartbeats.HeartbeatState, slot: datetime = SLOT, current: definitions.Current | None = None
    ) -> str:
        current = current or await definitions.current(self.client, self.keys)
        following = next_slot(state.schedule, slot)
        outcome, _ = await heartbeats.fire(
            self.client, self.keys, state, current, slot=slot, following=following, now=slot + timedelta(seconds=2)
        )
        return outcome

    async def run_now(self, token: str, name: str = "hb") -> tuple[str, bool]:
        return await heartbeats.run_now(self.client, self.keys, name, token, now=NOON)

    async def get(self, name: str = "hb") -> heartbeats.HeartbeatState:
        state = await heartbeats.get(self.client, self.keys, name)
        assert state is not None
        return state

    async def queued(self) -> list[str]:
        """The ids on all task streams."""
        entries = [e for stream in self.keys.streams for e in await self.client.xrange(stream)]
        return [fields["id"] for _, fields in entries]

    async def told(self) -> list[str]:
        feed = await events.recent(self.client, self.keys.events, 100)
        return [event.message for _, event in feed if event.event_type == "mission_event"]

    async def payload(self, key: str) -> AgentTask:
        return AgentTask.model_validate_json(str(await self.client.hget(key, "payload")))

    async def dump(self) -> dict[str, Any]:
        """All that the store has of this crew but when it expires."""
        found = {}
        async for key in self.client.scan_iter(match=f"{self.keys.prefix}*".replace("{", "\\{"), count=1000):
            kind = await self.client.type(key)
            read: dict[str, Callable[[str], Any]] = {
                "hash": self.client.hgetall,
                "string": self.client.get,
                "stream": self.client.xrange,
                "list": lambda key: self.client.lrange(key, 0, -1),
                "zset": lambda key: self.client.zrange(key, 0, -1, withscores=True),
                "set": self.client.smembers,
            }
            found[key] = await read[kind](key)
        return found


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
    assert 0 < ttl <= heartbeats.GUARD.total_seconds() * 1000


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
    with pytest.raises(InvalidInput, match="501 agents"):
        await crew.fire(state, FOLLOWING)


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


# ------------------------------------------------------------------ applying


async def test_an_unchanged_heartbeat_keeps_its_next_slot(crew: Crew) -> None:
    first = await crew.apply(beat())
    assert await crew.apply(beat(), now=NOON + timedelta(hours=5)) == first
    assert await crew.get() == first


async def test_a_changed_heartbeat_goes_on_from_now_and_remembers_the_last_slot(crew: Crew) -> None:
    state = await crew.apply(beat())
    await crew.fire(state)
    changed = await crew.apply(beat(schedule="0 * * * *"), now=NOON + timedelta(hours=5))
    assert changed.generation != state.generation
    assert (changed.next, changed.last) == (NOON + timedelta(hours=6), SLOT)


def test_a_generation_depends_on_what_is_said_and_not_on_how() -> None:
    def generation(**spec: Any) -> str:
        return heartbeats.generation(beat(**spec).spec)

    assert generation() == generation(suspend=False, priority="LOW", timeZone="UTC")
    assert generation(metadata={"a": "1", "b": "2"}) == generation(metadata={"b": "2", "a": "1"})
    others: list[dict[str, Any]] = [
        {"prompt": "x"},
        {"agent": None},
        {"suspend": True},
        {"metadata": {"a": "1"}},
        {"priority": "HIGH"},
    ]
    assert len({generation(), *(generation(**other) for other in others)}) == 6


async def test_a_heartbeat_that_can_never_fire_is_refused_and_not_stored(crew: Crew) -> None:
    before = await crew.dump()
    with pytest.raises(InvalidInput, match=r"spec\.schedule"):
        await crew.apply(beat(schedule="0 0 30 2 *"))
    assert await crew.dump() == before


async def test_the_most_metadata_that_is_taken_can_be_fired(crew: Crew) -> None:
    assert await crew.fire(await crew.apply(beat(metadata={str(i): "" for i in range(62)}))) == "fired"
    assert len((await crew.payload(crew.keys.task(heartbeats.task_id("hb", SLOT)))).metadata) == 64


async def test_heartbeats_are_listed_by_name_with_what_they_do(crew: Crew) -> None:
    await crew.apply(beat("nightly", schedule="0 3 * * *", timeZone="Europe/Berlin"))
    await crew.apply(beat("idle", intervalSeconds=5, suspend=True))
    idle, nightly = await heartbeats.all_of(crew.client, crew.keys)
    assert (idle.name, idle.spec.interval_seconds, idle.spec.suspend, idle.next) == ("idle", 5, True, None)
    assert (nightly.name, nightly.schedule.cron, nightly.schedule.zone) == ("nightly", "0 3 * * *", "Europe/Berlin")
    assert nightly.next == datetime(2026, 11, 22, 2, tzinfo=UTC)


async def test_a_spec_with_fields_of_a_later_version_can_be_read(crew: Crew) -> None:
    await crew.apply(beat())
    key = crew.keys.heartbeat("hb")
    later = json.loads(str(await crew.client.hget(key, "spec"))) | {"jitterSeconds": 5}
    await crew.client.hset(key, "spec", json.dumps(later))
    assert (await crew.get()).spec.prompt == "look"


# ------------------------------------------------------------------ run now


@pytest.mark.parametrize("suspend", [False, True])
async def test_run_now_fires_once_for_each_token_and_leaves_the_schedule(crew: Crew, suspend: bool) -> None:
    state = await crew.apply(beat(suspend=suspend))
    assert await crew.run_now("t1") == ("hb-hb-now-t1", True)
    assert await crew.run_now("t1") == ("hb-hb-now-t1", False)
    assert await crew.run_now("t2") == ("hb-hb-now-t2", True)
    assert await crew.queued() == ["hb-hb-now-t1", "hb-hb-now-t2"]
    after = await crew.get()
    assert after.next == state.next
    assert after.last is not None
    assert (await crew.payload(crew.keys.task("hb-hb-now-t1"))).metadata["slot"] == "2026-11-21T12:00:00Z"


async def test_a_token_that_a_former_crew_was_given_fires_for_a_new_one(crew: Crew) -> None:
    await crew.apply(beat())
    await crew.run_now("t")
    assert await definitions.delete(crew.client, crew.keys, crew.uid)
    crew.uid = await definitions.apply(crew.client, crew.keys, crew_of("a"))
    await crew.apply(beat())
    assert await crew.run_now("t") == ("hb-hb-now-t", True)
    assert await crew.queued() == ["hb-hb-now-t"]


async def test_run_now_can_run_the_whole_crew(crew: Crew) -> None:
    await crew.apply(beat(agent=None))
    made, _ = await crew.run_now("t")
    assert await crew.queued() == [f"{made}/a"]


async def test_run_now_says_why_it_could_not(crew: Crew) -> None:
    with pytest.raises(NotFound, match="'hb'"):
        await crew.run_now("t")
    await crew.apply(beat())
    for token in ("", "a/b", "x" * 65, "ü"):
        with pytest.raises(InvalidInput, match="token"):
            await crew.run_now(token)
    await crew.define(crew_of("a", max_queued=1))
    await submissions.submit(crew.client, crew.keys, crew.uid, [Submission("x", "a", "{}")], max_queued=1)
    with pytest.raises(QueueFull, match="maxQueued = 1"):
        await crew.run_now("t")
    assert await crew.queued() == ["x"]


# ------------------------------------------------------------------ missed slots


async def test_missed_slots_are_told_once_and_not_fired_any_more(crew: Crew) -> None:
    state = await crew.apply(beat())
    later = SLOT + timedelta(minutes=3)

    async def tell(first: datetime, following: datetime) -> tuple[str, datetime | None]:
        return await heartbeats.miss(
            crew.client, crew.keys, state, first=first, following=following, count=3, message='missed "three"'
        )

    assert await tell(SLOT, later) == ("told", later)
    assert await tell(SLOT, later) == ("moved", later)
    assert await crew.told() == ['missed "three"']
    assert await crew.fire(state, FOLLOWING) == "already"
    assert await crew.queued() == []
    assert await crew.fire(state, later) == "fired"
    assert (await crew.get()).missed == 3


async def test_a_slot_that_was_fired_is_not_told_as_missed(crew: Crew) -> None:
    state = await crew.apply(beat())
    await crew.fire(state)
    reply = await heartbeats.miss(
        crew.client, crew.keys, state, first=SLOT, following=FOLLOWING, count=1, message="missed"
    )
    assert reply == ("moved", FOLLOWING)
    assert await crew.told() == []


@pytest.mark.parametrize("agent", ["a", None], ids=["task", "run"])
async def test_inputs_are_given_to_each_task_and_slot_and_now_are_times(crew: Crew, agent: str | None) -> None:
    given = {"notes": "of {slot}", "empty": "", "log": "x" * 30_000 if agent else "two words\n"}
    heartbeat = beat(agent=agent, prompt="since {slot}, at {now}", inputs=given, timeZone="Europe/Berlin")
    state = await crew.apply(heartbeat)
    assert await crew.fire(state) == "fired"
    made = heartbeats.task_id("hb", SLOT)
    key = crew.keys.task(made) if agent else crew.keys.run(made)
    assert (await crew.payload(key)).prompt == "since 2026-11-21T13:01:00+01:00, at 2026-11-21T13:01:02+01:00"
    stored = await runs.inputs(crew.client, crew.keys, made, list(given))
    assert stored == {**given, "notes": "of 2026-11-21T13:01:00+01:00"}
    assert (await crew.client.hget(key, "inputs")) == "empty log notes"
    if agent is None:
        assert await crew.client.hlen(crew.keys.run_steps(made)) == len(
            (await definitions.current(crew.client, crew.keys)).definition.agents
        )
    assert await crew.fire(state) == "already"


async def test_a_prompt_that_its_times_make_too_long_is_refused_and_nothing_is_written(crew: Crew) -> None:
    state = await crew.apply(beat(prompt="{now}" * 20_000))
    before = await crew.dump()
    with pytest.raises(InvalidInput, match="the prompt has 500000 bytes"):
        await crew.fire(state)
    assert await crew.dump() == before
