"""How many crews stand, read in one call."""

from __future__ import annotations

import dataclasses

from support import Crew, library, made, payload, server_ms

from watchbill.names import CrewKeys
from watchbill.store import control, definitions, figures, submissions, sweep, workers
from watchbill.store.queue import Queue
from watchbill.store.submissions import Submission
from watchbill.store.sweep import Whole


async def whole(*crews: Crew) -> list[Whole]:
    found = {crew: how async for crew, how in sweep.read(crews[0].client, [crew.keys for crew in crews], [])}
    assert list(found) == [crew.keys.crew for crew in crews]
    return [how for how in found.values() if isinstance(how, Whole)]


async def brief(crew: Crew) -> object:
    ((_, how),) = [one async for one in sweep.read(crew.client, [], [crew.keys])]
    return how


async def test_a_crew_is_read_as_its_own_scripts_read_it(crew: Crew, crew_name: str) -> None:
    other = await made(crew.client, f"{crew_name}-other", library("c"))
    await crew.submit("t1", "t2", "t3")
    await crew.submit("later", due_ms=await server_ms(crew.client) + 3_600_000)
    await crew.take("pod-1.aaaa", 1, 2)
    await control.drain_for_scaling(crew.client, crew.keys, crew.uid, ["pod-1"], on=True)
    await Queue(crew.client, crew.keys.deliveries(), crew.uid).claim("pod-1.b", 1, 0, lease_ms=60_000, take_over=False)
    await crew.client.hset(crew.keys.meta, "delivers", "1")
    await crew.client.xadd(crew.keys.outbox, {"id": "x"})
    for swept, one in zip(await whole(crew, other), (crew, other), strict=True):
        asked = await figures.figures(one.client, one.keys)
        identity = await definitions.identity(one.client, one.keys)
        assert dataclasses.asdict(swept.identity) == dataclasses.asdict(identity)
        assert swept.identity.definition == one.definition.digest()
        assert swept.workers.of_crew == (await workers.workers(one.client, one.keys, one.uid)).of_crew
        assert (swept.figures.waiting, swept.figures.running) == (asked.waiting, asked.running)
        assert (swept.figures.workers, swept.figures.delayed) == (asked.workers, asked.delayed)
        assert (swept.figures.deliveries is None) == (asked.deliveries is None)
    (swept,) = await whole(crew)
    assert (swept.figures.waiting, swept.figures.running, swept.figures.delayed) == (1, 2, 1)
    assert swept.figures.deliveries is not None
    assert swept.figures.deliveries.waiting == 1


async def test_only_what_matters_to_a_plan_is_a_change(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    (first,) = await whole(crew)
    (second,) = await whole(crew)
    assert second.figures.now_ms >= first.figures.now_ms
    assert second.substance == first.substance
    (task,) = await crew.take("pod-1.aaaa", 1, 1)
    (third,) = await whole(crew)
    assert third.substance != second.substance
    await crew.finish("pod-1.aaaa", [task])
    (fourth,) = await whole(crew)
    assert fourth.substance != third.substance


async def test_work_of_a_crew_that_was_idle_is_seen(crew: Crew) -> None:
    assert await brief(crew) == sweep.NOTHING
    await crew.submit("later", due_ms=await server_ms(crew.client) + 3_600_000)
    delayed = await brief(crew)
    assert delayed not in (sweep.NOTHING, None)
    await crew.submit("t1")
    assert await brief(crew) not in (delayed, sweep.NOTHING)
    await crew.finish("w", await crew.take("w", 1, 1))
    assert await brief(crew) == delayed
    keys = crew.keys.deliveries()
    await submissions.submit(crew.client, keys, crew.uid, [Submission("d", "to:hook", payload("x"))], max_queued=9)
    await crew.client.hset(crew.keys.meta, "delivers", "1")
    assert await brief(crew) not in (delayed, sweep.NOTHING)


async def test_a_crew_that_is_not_there_has_nothing_to_do(crew: Crew) -> None:
    nobody = CrewKeys("team", "nobody")
    found = {name: how async for name, how in sweep.read(crew.client, [nobody], [CrewKeys("team", "none")])}
    assert found == {"team/nobody": None, "team/none": sweep.NOTHING}
