"""A drained worker leaves work that waits to others."""

from __future__ import annotations

from workshop import Make, shift_of

from waiting import until
from watchbill.store import control


async def test_a_worker_that_drains_makes_no_claim_though_it_has_room_and_there_is_work(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, lease_seconds=3600)
    async with crew.in_process(concurrency=2) as worker:
        await crew.submit("t1", "a")
        await crew.started("t1")
        incarnation, bell = worker._state.incarnation, shift_of(worker)._bell
        await until(crew.is_heard, what="a worker that listens")
        await control.drain(crew.redis, crew.keys, crew.uid, incarnation.name.rpartition(".")[0], on=True)
        await until(lambda: worker._state.draining, what="the drain")
        claims = incarnation.number
        await crew.submit("t2", "a")
        await until(lambda: not bell.is_waiting or incarnation.number > claims, what="the bell that t2 rings")
        crew.open("t1")
        await crew.result("t1")  # a turn of the loop after that bell has sent it
        assert incarnation.number == claims
        assert await crew.waits(1)
