"""A crew for which its namespace has no room: it takes no work, none of it begins, and all of it stays."""

from __future__ import annotations

import pytest
from beating import FOLLOWING, NOON, SLOT, beat
from support import Crew, flow_of

from watchbill.errors import CrewGone, QuotaExceeded
from watchbill.store import control, definitions, firing, heartbeats, suspension, why

WHY = "the quota of namespace 'team' allows 3 crews, and as many are older"


async def hold(crew: Crew, text: str) -> None:
    await suspension.suspend(crew.client, crew.keys, crew.uid, on=bool(text), hold=text)


async def test_submissions_are_refused_with_the_reason_and_what_was_queued_is_kept(crew: Crew) -> None:
    await crew.submit("t1")
    await hold(crew, WHY)
    for refused in (crew.submit("t2"), crew.run("r1", flow_of([("a", "b")]))):
        with pytest.raises(QuotaExceeded, match="takes no work: the quota of namespace 'team' allows 3 crews"):
            await refused
    assert not await crew.claim("w")
    seen = await why.seen(crew.client, crew.keys, "t1")
    assert (seen.hold, seen.suspended) == (WHY, True)
    assert (await definitions.identity(crew.client, crew.keys)).hold == WHY

    await hold(crew, "")
    await crew.submit("t2")
    assert {task.id for task in await crew.claim("w", 2)} == {"t1", "t2"}
    told = [event["message"] for event in await crew.events() if event["event_type"] == "mission_event"]
    assert told == [f"no task begins and none is taken: {WHY}", "the crew is resumed: tasks begin again"]


async def test_a_new_crew_without_room_never_takes_work(crew: Crew) -> None:
    await crew.client.delete(*await crew.client.keys(crew.keys.prefix + "*"))
    of = (crew.client, crew.keys, crew.definition)
    await definitions.apply(*of, uid=crew.uid, suspended=True, hold=WHY, deletion="Drain 60")
    with pytest.raises(QuotaExceeded):
        await crew.submit("t1")
    await definitions.apply(*of, uid=crew.uid, suspended=False, hold="", deletion="Drain 60")
    await crew.submit("t1")


async def test_its_heartbeats_do_not_fire_and_nobody_has_them_fired(crew: Crew) -> None:
    state = await heartbeats.apply(crew.client, crew.keys, crew.uid, beat(), now=NOON)
    await hold(crew, WHY)
    current = await definitions.current(crew.client, crew.keys)
    call = firing.prepare(crew.keys, state, current, slot=SLOT, following=FOLLOWING, now=NOON)
    assert (await firing.fire(crew.client, call)).outcome == "already", "the slot passes"
    with pytest.raises(QuotaExceeded, match="allows 3 crews"):
        await firing.run_now(crew.client, crew.keys, "hb", "1", now=NOON)


async def test_a_crew_without_room_that_is_deleted_is_gone_as_any_other(crew: Crew) -> None:
    await hold(crew, WHY)
    await control.call(crew.client, crew.keys, "close", crew.keys.fixed, [crew.uid])
    with pytest.raises(CrewGone):
        await crew.submit("t1")
    await hold(crew, WHY)
    with pytest.raises(CrewGone):
        await crew.submit("t1")
