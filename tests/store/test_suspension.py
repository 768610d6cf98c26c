"""A suspended crew: no task is claimed, whatever asks; all else goes on."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count

import pytest
from beating import FOLLOWING, NOON, SLOT, beat
from support import LEASE_MS, SHORT_MS, Crew, finished, server_ms

from waiting import until
from watchbill.errors import Fenced
from watchbill.names import WORKERS_GROUP
from watchbill.store import definitions, figures, firing, heartbeats, suspension, why
from watchbill.store.queue import Queue


async def suspend(crew: Crew, *, on: bool = True) -> bool:
    return await suspension.suspend(crew.client, crew.keys, crew.uid, on=on)


async def test_a_suspended_crew_takes_work_and_no_worker_gets_any_of_it_until_it_is_resumed(crew: Crew) -> None:
    await crew.submit("runs", "waits")
    (running,) = await crew.take("w", 1, 1)
    assert [await suspend(crew), await suspend(crew)] == [True, False]
    await crew.submit("comes")
    await crew.submit("due", due_ms=await server_ms(crew.client) + 1)
    await crew.bell()

    _, claim = await crew.queue.finish("w", [finished(running)], number=2, slots=5, lease_ms=LEASE_MS, take_over=True)
    assert claim is not None
    assert claim.tasks == ()
    assert await crew.state("runs") == "completed"

    numbers = count(3)

    async def rests() -> bool:
        claim = await crew.queue.claim("w", next(numbers), 5, lease_ms=LEASE_MS, take_over=True)
        assert (claim.tasks, claim.draining) == ((), False)
        return claim.again_ms == 2000

    await until(rests)
    assert not await crew.client.exists(crew.keys.bell), "idle workers would turn in circles"
    now = await figures.figures(crew.client, crew.keys)
    assert (now.suspended, now.waiting, now.running, now.delayed) == (True, 3, 0, 0), "what is due waits on its stream"

    async with crew.client.pubsub(ignore_subscribe_messages=True) as heard:
        await heard.subscribe(crew.keys.wake)
        assert await suspend(crew, on=False)
        assert await crew.bell(), "a worker looks at once"
        message = await until(lambda: heard.get_message(timeout=1))
    assert message["data"] == crew.keys.crew, "and the operator"
    assert {task.id for task in await crew.claim("w", next(numbers))} == {"waits", "comes", "due"}
    told = [event["message"] for event in await crew.events() if event["event_type"] == "mission_event"]
    assert told == [
        "the crew is suspended: no task begins until it is resumed",
        "the crew is resumed: tasks begin again",
    ]


async def test_a_definition_leaves_a_crew_suspended_unless_it_says_otherwise_and_so_does_a_new_store(
    crew: Crew,
) -> None:
    async def is_suspended() -> bool:
        return bool((await definitions.identity(crew.client, crew.keys)).suspended)

    await suspend(crew)
    changed = crew.definition.model_copy(update={"description": "another"})
    for suspended, then in ((None, True), (False, False), (True, True)):
        await definitions.apply(crew.client, crew.keys, changed, suspended=suspended)
        assert await is_suspended() is then
    await crew.client.delete(*await crew.client.keys(crew.keys.prefix + "*"))
    await definitions.apply(crew.client, crew.keys, changed, uid=crew.uid, was_there=True, suspended=True)
    await crew.submit("t1")
    assert not await crew.claim("w"), "there was no moment in which it was not suspended"


async def test_what_a_dead_worker_held_waits_again_and_its_attempt_counts(crew: Crew) -> None:
    async def returned(*names: str) -> int:
        return await suspension.return_dead(crew.client, crew.keys, crew.uid, names)

    await crew.submit("begun", "held")
    await crew.claim("alive", 1, 0)  # now: later, it could take over from the other
    taken = await crew.claim("dead", 1, 2, lease_ms=SHORT_MS)
    await crew.queue.start("dead", taken[:1])
    assert await returned("dead") == 0, "it is not suspended: a claim takes over"
    await suspend(crew)
    await until(lambda: suspension.silent(crew.client, crew.keys))
    assert not await crew.claim("alive", 2), "no claim takes anything over"
    told = await why.seen(crew.client, crew.keys, "begun")
    assert told.suspended
    assert told.holder is not None
    assert not told.holder.returned

    assert await returned("alive", "dead") == 2
    assert await returned("dead") == 0
    now = await figures.figures(crew.client, crew.keys)
    assert (now.waiting, now.running) == (2, 0)
    with pytest.raises(Fenced):
        await crew.finish("dead", taken[:1])
    await suspend(crew, on=False)
    assert [(task.id, task.attempt) for task in await crew.claim("alive", 3)] == [("begun", 2), ("held", 1)]


async def test_deliveries_of_a_suspended_crew_are_made(crew: Crew) -> None:
    keys = crew.keys.deliveries()
    await suspend(crew)
    await crew.client.xgroup_create(keys.streams[2], WORKERS_GROUP, mkstream=True)
    await crew.client.xadd(keys.streams[2], {"id": "d1", "agent": "to:ops"})
    claim = await Queue(crew.client, keys, crew.uid).claim("w", 1, 5, lease_ms=LEASE_MS, take_over=True)
    assert [task.id for task in claim.tasks] == ["d1"]


async def test_slots_of_a_suspended_crews_heartbeats_pass_and_a_person_may_fire_them(crew: Crew) -> None:
    async def fire(slot: datetime) -> str:
        state = await heartbeats.get(crew.client, crew.keys, "hb")
        assert state is not None
        current = await definitions.current(crew.client, crew.keys)
        following = slot + timedelta(minutes=1)
        call = firing.prepare(crew.keys, state, current, slot=slot, following=following, now=slot)
        fired = await firing.fire(crew.client, call)
        assert fired.next == following
        return fired.outcome

    await heartbeats.apply(crew.client, crew.keys, crew.uid, beat(missed="All"), now=NOON)
    await suspend(crew)
    assert await fire(SLOT) == "already"
    assert (await firing.run_now(crew.client, crew.keys, "hb", "token", now=SLOT))[1]
    await suspend(crew, on=False)
    assert await fire(FOLLOWING) == "fired"
    state = await heartbeats.get(crew.client, crew.keys, "hb")
    assert state is not None
    assert (state.missed, state.slot) == (0, FOLLOWING)
