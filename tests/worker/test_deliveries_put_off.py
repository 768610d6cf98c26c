"""Thousands of results for a receiver that is dead: they cost the worker and the store next to nothing."""

from __future__ import annotations

import pytest
from receiver import receiving
from workshop import Make

from waiting import until
from watchbill.plan import deliveries as plan
from watchbill.settings import Settings
from watchbill.store import circuits, deliveries
from watchbill.worker.delivering.options import Delivering


async def test_what_waits_for_a_destination_that_fails_is_put_off_without_being_claimed(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = Delivering(schedule=(0.02,) * 9, slots=32, settings=Settings(delivery_allow="127.0.0.0/8"))
    async with receiving(always=500) as receiver:
        monkeypatch.setattr(plan, "CIRCUIT_SECONDS", 0.1)
        # What waits comes back so much later, unless a trial that succeeds brings it forward.
        monkeypatch.setattr("watchbill.worker.delivering.sending.SEND_SECONDS", 600)
        crew = await make_crew({"a": "Gate"}, delivery=[receiver.destination()])
        key = circuits.key(receiver.destination())

        async def three_trials() -> bool:
            return (await circuits.read(crew.redis, crew.keys, [key]))[0].failures >= plan.CIRCUIT_FAILURES + 3

        async def all_delivered() -> bool:
            found = await deliveries.listed(crew.redis, crew.keys, 1000)
            return {one.state for one in found} == {"completed"}

        await crew.client.submit_many(crew.name, "a", ["x"] * 300)
        await crew.client.cancel_all(crew.name)
        while await deliveries.move(crew.redis, crew.keys, crew.uid):
            pass
        async with crew.in_process(delivering=how):
            await until(three_trials)
            keys = crew.keys.deliveries()
            fences = [
                await crew.redis.hget(keys.task(str(i)), "fence") for i in await crew.redis.zrange(keys.ids, 0, -1)
            ]
            assert sum(fence is not None for fence in fences) < 100, "so many were ever claimed"
            receiver.always = 204
            await until(all_delivered)
        assert len(set(receiver.ids)) == 300
