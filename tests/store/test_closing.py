"""A crew that somebody has closed, because it is to be deleted: it takes no work, and what it has goes on."""

from __future__ import annotations

import pytest
from beating import FOLLOWING, NOON, SLOT, beat
from support import MANY, Crew, flow_of, run_submission

from watchbill.connection import scripts
from watchbill.errors import Closed, CrewGone, QuotaExceeded
from watchbill.store import control, dead, definitions, firing, heartbeats, runs, suspension, why


async def close(crew: Crew, *, on: bool = True) -> bool:
    return await suspension.close(crew.client, crew.keys, crew.uid, on=on)


async def test_whatever_brings_work_is_refused_and_what_is_there_goes_on(crew: Crew) -> None:
    await crew.submit("dead", "t1")
    taken = await crew.take("w", 1, 1)
    await crew.finish("w", taken, "dead")
    (letter,) = [letter async for letter in dead.letters(crew.client, crew.keys)]
    await crew.run("r1", flow_of([("a", "b")]))
    state = await heartbeats.apply(crew.client, crew.keys, crew.uid, beat(), now=NOON)
    current = await definitions.current(crew.client, crew.keys)

    assert await close(crew)
    assert not await close(crew), "it is closed"
    for refused in (
        crew.submit("t2"),
        crew.run("r2"),
        dead.replay(crew.client, crew.keys, crew.uid, [letter], max_queued=MANY),
        firing.run_now(crew.client, crew.keys, "hb", "1", now=NOON),
    ):
        with pytest.raises(Closed, match=r"takes no work: it is deleted once its work has ended\. To open it again"):
            await refused
    call = firing.prepare(crew.keys, state, current, slot=SLOT, following=FOLLOWING, now=NOON)
    assert (await firing.fire(crew.client, call)).outcome == "already", "the slot passes"
    held = await definitions.identity(crew.client, crew.keys)
    assert (held.hold, held.suspended) == ("", "")
    assert (await why.seen(crew.client, crew.keys, "t1")).hold == ""
    for number in range(2, 5):
        if taken := await crew.take("w", number):
            await crew.finish("w", taken)
    assert await crew.state("t1") == "completed"
    assert await crew.step_states("r1") == {"a": "completed", "b": "completed"}

    assert await close(crew, on=False)
    assert not await close(crew, on=False)
    await crew.submit("t2")


async def test_nobody_else_opens_it(crew: Crew) -> None:
    of = (crew.client, crew.keys, crew.definition)
    await close(crew)
    await definitions.apply(*of, uid=crew.uid, suspended=False, hold="", deletion="Drain 60")  # as the operator does
    for hold in ("there is no room", ""):
        await suspension.suspend(crew.client, crew.keys, crew.uid, on=bool(hold), hold=hold)
    with pytest.raises(Closed):
        await crew.submit("t1")
    await suspension.suspend(crew.client, crew.keys, crew.uid, on=True, hold="there is no room")
    await close(crew, on=False)
    with pytest.raises(QuotaExceeded, match="there is no room"):
        await crew.submit("t1")
    await close(crew)
    await control.call(crew.client, crew.keys, "close", crew.keys.fixed, [crew.uid])  # its Crew is deleted
    await close(crew, on=False)
    with pytest.raises(CrewGone):
        await crew.submit("t1")


async def test_a_run_that_has_begun_to_come_in_is_taken_whole(crew: Crew) -> None:
    crew.definition = flow_of([(f"s{i}", f"s{i + 1}") for i in range(600)])
    await definitions.apply(crew.client, crew.keys, crew.definition)
    calls = runs.script_call(crew.keys, crew.uid, run_submission("r1", crew.definition), MANY, "")
    assert len(calls) == 2
    answers = []
    for call in calls:
        answers.append(await scripts.run(crew.client, "submit_run", *call))
        await close(crew)
    assert answers == [["ok", "submitted"]] * 2
    assert (await runs.status(crew.client, crew.keys, "r1")).status.value == "running"
