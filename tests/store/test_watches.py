"""What a crew's watches have read of its feed, and the work that an event begins, in a real store."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from support import Crew, library, server_ms

from watchbill import metrics
from watchbill.api.watches import Watch
from watchbill.errors import InvalidInput
from watchbill.event_types import CREW_STREAM_MAX, EventType, TownEvent
from watchbill.plan import flow, given
from watchbill.plan import watches as plan
from watchbill.records import AgentDefinition, CrewDefinition, TaskPolicy
from watchbill.store import definitions, events, runs, suspension, watches
from watchbill.tasks import Priority
from watchbill.worker import watching

FAILED = EventType.TASK_FAILED


def watch(name: str = "mend", **fields: Any) -> Watch:
    return Watch.model_validate({"name": name, "events": ["task_failed"], "agent": "b", "prompt": "do", **fields})


async def watched(crew: Crew, *of: Watch, **fields: Any) -> definitions.Current:
    """Gives the crew these watches."""
    crew.definition = library("a", "b").model_copy(update={"watches": list(of), **fields})
    await definitions.apply(crew.client, crew.keys, crew.definition)
    return await definitions.current(crew.client, crew.keys)


async def tell(crew: Crew, kind: EventType = FAILED, task: str = "t1", why: str = "why") -> str:
    """Puts an event on the crew's feed, and returns its id."""
    event = TownEvent.new(kind, why).with_agent("a").with_task(task)
    ids = await events.emit(crew.client, crew.keys, event, event.model_dump_json(exclude_none=True))
    return ids[crew.keys.events]


async def look(crew: Crew, current: definitions.Current, seen: str = "") -> watches.Looked:
    """Looks as a worker does that comes a pause later."""
    await crew.client.hdel(crew.keys.meta, "looked")
    return await watches.look(crew.client, crew.keys, current, seen)


def watcher_of(crew: Crew) -> Any:
    """What a worker follows the feed with."""

    async def persist(call: Any) -> Any:
        return await call()

    return watching._Watcher(SimpleNamespace(persist=persist), crew.queue)  # type: ignore[arg-type]


async def fire(crew: Crew, current: definitions.Current, of: Watch, event_id: str, *before: str) -> str:
    [(_, event)] = await events.read_from(crew.client, crew.keys.events, event_id, 1, lambda _: None)
    return await watches.fire(crew.client, crew.keys, current, of, event_id, event, before)


async def test_a_watch_begins_at_the_end_of_the_feed_and_gets_what_comes_from_then_on(crew: Crew) -> None:
    await tell(crew)
    current = await watched(crew, watch())
    await tell(crew, EventType.TASK_COMPLETED)
    first, second = await tell(crew), await tell(crew, task="t2")
    third = await tell(crew, EventType.TASK_COMPLETED)
    looked = await look(crew, current)
    assert [event_id for event_id, _ in looked.events] == [first, second]
    assert [event.task_id for _, event in looked.events] == ["t1", "t2"]
    assert (looked.upto, looked.has_gap) == (third, False)
    assert await look(crew, current) == looked, "until somebody has dealt with them"
    assert (await look(crew, current, looked.upto)).entries == ()
    assert (await look(crew, current)).entries == ()


async def test_of_all_that_look_one_gets_an_answer_in_each_pause(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "PAUSE_MS", 3_600_000)
    current = await watched(crew, watch())
    looks = await asyncio.gather(*(watches.look(crew.client, crew.keys, current) for _ in range(5)))
    assert sorted(looked.outcome for looked in looks) == ["early"] * 4 + ["ok"]


async def test_one_event_begins_one_task_whoever_asks_and_however_often(crew: Crew) -> None:
    mend = watch(prompt="mend {event.task_id}: {event.message}", priority="HIGH")
    current = await watched(crew, mend)
    event_id = await tell(crew)
    outcomes = await asyncio.gather(*(fire(crew, current, mend, event_id) for _ in range(10)))
    assert sorted(outcomes) == ["already"] * 9 + ["fired"]
    made = plan.work_id("mend", event_id)
    record = await crew.task(made)
    payload = json.loads(record["payload"])
    assert (record["state"], record["agent"], record["class"]) == ("waiting", "b", str(int(Priority.HIGH)))
    assert payload["prompt"] == "mend t1: why"
    assert payload["metadata"] == {"watches": ["mend"], "event": event_id}
    told = [e for e in await crew.events() if e["event_type"] == "mission_watch_triggered"]
    assert told == [
        {
            "event_type": "mission_watch_triggered",
            "agent_id": "b",
            "task_id": made,
            "message": "watch mend: task_failed of t1",
        }
    ]
    assert told[0] in await crew.events(crew.keys.agent_events("b"))
    await crew.client.delete(crew.keys.task(made))
    await crew.client.zrem(crew.keys.ids, made)
    assert await fire(crew, current, mend, event_id) == "already", "even when the task is long gone"
    assert await crew.queued() == 1


@pytest.mark.parametrize("agent", ["b", None])
async def test_an_event_gives_its_work_inputs_that_cite_it(crew: Crew, agent: str | None) -> None:
    mend = watch(agent=agent, inputs={"what": "{event.task_id}: {event.message}", "how": "{{event.x}} soon"})
    current = await watched(crew, mend)
    event_id = await tell(crew)
    assert await fire(crew, current, mend, event_id) == "fired"
    task = (await crew.take("w"))[0]
    given = await runs.inputs(crew.client, crew.keys, task.id, task.inputs)
    assert given == {"what": "t1: why", "how": "{event.x} soon"}


async def test_inputs_that_an_event_makes_too_long_begin_nothing(crew: Crew) -> None:
    mend = watch(inputs={"what": "{event.message}" * 2000})
    current = await watched(crew, mend)
    event_id = await tell(crew, why="x" * 10_000)
    with pytest.raises(InvalidInput, match="input 'what' has 20000000 bytes"):
        await fire(crew, current, mend, event_id)


async def test_an_event_begins_a_task_of_a_role(crew: Crew) -> None:
    mend = watch(agent=None, role="mender")
    given = [AgentDefinition(agent_id=name, agent_class="EchoAgent", roles=["mender"]) for name in ("a", "b")]
    current = await watched(crew, mend, agents=given)
    crew.queue.role_feeds.take_up(crew.definition, crew.definition.digest())
    event_id = await tell(crew)
    assert await fire(crew, current, mend, event_id) == "fired"
    made = plan.work_id("mend", event_id)
    payload = json.loads((await crew.task(made))["payload"])
    assert (payload["agent_name"], payload["role"]) == ("", "mender")
    (told,) = [e for e in await crew.events() if e["event_type"] == "mission_watch_triggered"]
    assert "agent_id" not in told, "nobody has it yet"
    tasks = await crew.take("w")
    assert [(task.id, task.agent) for task in tasks] == [(made, "a")]
    await crew.finish("w", tasks)


async def test_an_event_begins_a_run_of_the_whole_crew(crew: Crew) -> None:
    mend = watch(agent=None)
    current = await watched(crew, mend)
    event_id = await tell(crew)
    assert await fire(crew, current, mend, event_id) == "fired"
    made = plan.work_id("mend", event_id)
    assert [task.id for task in await crew.take("w")] == [f"{made}/a", f"{made}/b"]
    kinds = [e["event_type"] for e in await crew.events(crew.keys.run_events(made))]
    assert kinds[:2] == ["mission_watch_triggered", "mission_state_changed"]


async def test_two_watches_of_one_event_begin_one_work_each(crew: Crew) -> None:
    both = watch("one"), watch("two")
    current = await watched(crew, *both)
    event_id = await tell(crew)
    assert [await fire(crew, current, of, event_id) for of in (*both, *both)] == ["fired"] * 2 + ["already"] * 2
    assert await crew.queued() == 2


async def test_a_full_queue_holds_the_event_until_there_is_room(crew: Crew) -> None:
    mend = watch()
    current = await watched(crew, mend, tasks=TaskPolicy(max_queued=1))
    await crew.submit("t1")
    event_id = await tell(crew)
    assert await fire(crew, current, mend, event_id) == "full"
    assert [found for found, _ in (await look(crew, current)).events] == [event_id]
    await crew.finish("w", await crew.take("w"))
    assert await fire(crew, current, mend, event_id) == "fired"


async def test_what_came_before_an_event_that_waits_for_room_is_not_gone_through_again(crew: Crew) -> None:
    """By every look, as long as the queue is full."""
    current = await watched(crew, watch(), tasks=TaskPolicy(max_queued=1))
    first, second = await tell(crew), await tell(crew, task="t2")
    watcher = watcher_of(crew)
    assert await watcher.turn() == await watcher.turn() == watching.LOOK_SECONDS
    assert await crew.client.hget(crew.keys.meta, "watched") == first
    assert [found for found, _ in (await look(crew, current)).events] == [second]
    of_crew = metrics.of_crew(crew.keys.crew)
    await crew.client.hdel(crew.keys.meta, "looked")
    await watcher.turn()
    counted = [metrics.WATCH_EVENTS.labels(*of_crew, "mend", what)._value.get() for what in ("begun", "waits")]
    assert counted == [1, 1], "it waits once, however often it is tried"


async def test_what_a_run_reads_is_planned_once_and_not_for_a_crew_that_is_refused(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[CrewDefinition] = []
    really = given.steps

    def counted(definition: CrewDefinition, *known: Any) -> tuple[flow.Step, ...]:
        planned.append(definition)
        return really(definition, *known)

    monkeypatch.setattr(given, "steps", counted)
    mend = watch(agent=None)
    current = await watched(crew, mend)
    assert [await fire(crew, current, mend, await tell(crew)) for _ in range(2)] == ["fired", "fired"]
    assert len(planned) == 1
    current = await watched(crew, mend, tasks=TaskPolicy(max_queued=1))
    with pytest.raises(InvalidInput, match="has 2 steps"):
        await fire(crew, current, mend, await tell(crew))
    assert len(planned) == 1


async def test_a_run_for_which_the_queue_never_has_room_does_not_hold_up_what_comes_after_it(crew: Crew) -> None:
    mend = watch(agent=None)
    current = await watched(crew, mend, tasks=TaskPolicy(max_queued=1))
    event_id = await tell(crew)
    with pytest.raises(InvalidInput, match="has 2 steps, and its maxQueued allows 1 at most"):
        await fire(crew, current, mend, event_id)


async def test_nothing_begins_while_the_crew_is_suspended_and_no_event_is_lost(crew: Crew) -> None:
    mend = watch()
    current = await watched(crew, mend)
    await suspension.suspend(crew.client, crew.keys, crew.uid, on=True)
    event_id = await tell(crew)
    assert (await look(crew, current)).outcome == "rest"
    assert await fire(crew, current, mend, event_id) == "rest"
    await suspension.suspend(crew.client, crew.keys, crew.uid, on=False)
    assert [found for found, _ in (await look(crew, current)).events] == [event_id]


async def test_what_left_the_feed_unread_is_told_once(crew: Crew) -> None:
    await tell(crew)
    current = await watched(crew, watch())
    await tell(crew)
    await crew.client.xtrim(crew.keys.events, maxlen=0, approximate=False)
    event_id = await tell(crew)
    looked = [await look(crew, current) for _ in range(3)]
    assert [one.has_gap for one in looked] == [True, False, False]
    assert [[found for found, _ in one.events] for one in looked] == [[event_id]] * 3
    told = [e["message"] for e in await crew.events() if e["event_type"] == "mission_event"]
    assert told == ["events have left the feed before the watches had read them, and begin nothing"]


async def test_a_worker_that_finds_that_events_are_gone_counts_that_once(crew: Crew) -> None:
    await tell(crew)
    await watched(crew, watch())
    await tell(crew)
    await crew.client.xtrim(crew.keys.events, maxlen=0, approximate=False)
    await tell(crew, EventType.TASK_COMPLETED)
    watcher = watcher_of(crew)
    for _ in range(3):
        await crew.client.hdel(crew.keys.meta, "looked")
        await watcher.turn()
    assert metrics.WATCH_GAPS.labels(*metrics.of_crew(crew.keys.crew))._value.get() == 1


async def test_a_feed_that_expired_and_began_anew_is_read_from_its_beginning(crew: Crew) -> None:
    mend = watch()
    await tell(crew)
    current = await watched(crew, mend)
    await crew.client.delete(crew.keys.events)
    assert (await look(crew, current)).entries == ()
    data = TownEvent.new(FAILED, "").with_task("t1").model_dump_json(exclude_none=True)
    fields = {"event_type": FAILED.value, "data": data}
    old_id = await crew.client.xadd(crew.keys.events, fields, id="5-0")  # by a server whose clock is behind
    assert [found for found, _ in (await look(crew, current)).events] == [old_id]
    assert await fire(crew, current, mend, old_id) == "fired"


DAY_MS = 86_400_000


@pytest.mark.parametrize("looked_ms_ago", [2 * DAY_MS, DAY_MS // 2])
async def test_a_feed_that_expired_unread_is_told_once(crew: Crew, looked_ms_ago: int) -> None:
    """Whoever looked within a day saw all that it had: it outlives its last event by a day."""
    now = await server_ms(crew.client)
    await crew.client.xadd(crew.keys.events, {"event_type": "task_failed", "data": "{}"}, id=f"{now - 3 * DAY_MS}-0")
    current = await watched(crew, watch())
    await look(crew, current)
    await crew.client.delete(crew.keys.events)
    event_id = await tell(crew)
    await crew.client.hset(crew.keys.meta, "looked", now - looked_ms_ago)
    first = await watches.look(crew.client, crew.keys, current)
    await crew.client.hset(crew.keys.meta, "looked", now - watches.PAUSE_MS)
    again = await watches.look(crew.client, crew.keys, current)
    told = [e["message"] for e in await crew.events() if e["event_type"] == "mission_event"]
    expected = "the feed has expired since the watches read it last: what has happened in between, if anything, begins "
    is_unknown = looked_ms_ago > DAY_MS
    assert told == [expected + "nothing"] * is_unknown
    assert expected + "nothing" == watching.EXPIRED, "the log says the same"
    assert [(one.has_gap, one.has_expired) for one in (first, again)] == [(False, is_unknown), (False, False)]
    assert [[found for found, _ in one.events] for one in (first, again)] == [[event_id]] * 2


async def test_a_busy_feed_is_read_in_parts(crew: Crew) -> None:
    current = await watched(crew, watch())
    sent = [await tell(crew, task=f"t{i}") for i in range(120)]
    found: list[str] = []
    looked = await look(crew, current)
    while looked.entries:
        found += [event_id for event_id, _ in looked.entries]
        looked = await watches.look(crew.client, crew.keys, current, looked.upto)
    assert found == sent
    for _ in range(CREW_STREAM_MAX // 2 + 100):
        await tell(crew, EventType.TASK_COMPLETED)
    last = await tell(crew)
    looked = await look(crew, current)
    assert (looked.entries, looked.is_more) == ((), True), "whoever looks only once in a pause would never come up"
    looked = await watches.look(crew.client, crew.keys, current, looked.upto)
    assert ([event_id for event_id, _ in looked.entries], looked.is_more) == ([last], False)


async def test_watches_that_change_keep_their_places_and_new_ones_begin_at_the_end(crew: Crew) -> None:
    old, new = watch("old"), watch("new")
    current = await watched(crew, old)
    event_id = await tell(crew)
    both = await watched(crew, old, new)
    assert (await look(crew, current)).outcome == "changed"
    assert await fire(crew, current, old, event_id) == "changed"
    assert [found for found, _ in (await look(crew, both)).events] == [event_id]
    assert [await fire(crew, both, of, event_id) for of in (new, old)] == ["already", "fired"]
    await watched(crew)
    assert await watches.is_defined_anew(crew.client, crew.keys, both.digest)
    assert await crew.client.hmget(crew.keys.meta, ["watches", "watched", "looked"]) == [None] * 3
    await tell(crew)
    again = await watched(crew, old)
    assert (await look(crew, again)).entries == (), "it begins anew"


async def test_an_id_that_is_taken_begins_nothing_and_the_feed_says_so(crew: Crew) -> None:
    mend = watch()
    current = await watched(crew, mend)
    event_id = await tell(crew)
    await crew.submit(plan.work_id("mend", event_id))
    assert [await fire(crew, current, mend, event_id) for _ in range(2)] == ["taken", "already"]
    told = [e["message"] for e in await crew.events() if e["event_type"] == "mission_event"]
    assert told == [f"watch mend: task_failed of t1 begins nothing: watch-mend-{event_id} is the id of other work"]


async def test_the_feed_tells_why_once_and_the_watch_goes_on(crew: Crew) -> None:
    mend = watch()
    current = await watched(crew, mend)
    event_id, following = await tell(crew), await tell(crew)
    say = (crew.client, crew.keys, current, mend, event_id, "no")
    assert [await watches.tell(*say) for _ in range(2)] == ["told", "already"]
    assert [e["message"] for e in await crew.events() if e["event_type"] == "mission_event"] == ["no"]
    assert await fire(crew, current, mend, following) == "fired"


@pytest.mark.parametrize("call", ["watch_look", "watch_fire"])
async def test_a_deleted_crew_is_not_written_to(crew: Crew, call: str) -> None:
    current = await watched(crew, watch())
    event_id = await tell(crew)
    keys = crew.keys
    await definitions.delete(crew.client, keys, crew.uid)
    if call == "watch_look":
        assert (await watches.look(crew.client, keys, current)).outcome == "gone"
    else:
        assert await watches.tell(crew.client, keys, current, watch(), event_id, "no") == "gone"
    assert [key for key in await crew.client.keys(keys.root + "*") if ":sent:" not in key] == []


async def test_the_payload_of_what_an_event_is_about_is_found(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.run("r1", library("a"))
    new = TownEvent.new(FAILED, "").with_task
    for event in (new("t1"), new("r1/a"), TownEvent.new(FAILED, "").with_mission("r1")):
        assert json.loads(await watches.payload(crew.client, crew.keys, event) or "")["prompt"] in ("t1", "r1")
    assert await watches.payload(crew.client, crew.keys, new("gone")) is None
