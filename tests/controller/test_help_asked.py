"""The operator asks for help for a crew whose ready work makes no progress, and bothers the store when it is due."""

from __future__ import annotations

import pytest
from test_figures_shown import PrivateRedis, give, store, synced

from watchbill.controller import stuck
from watchbill.controller.memory import CrewMemory
from watchbill.store import events, help_requests
from watchbill.store.figures import figures
from watchbill.testing import FakeClock


async def test_help_is_asked_for_when_it_is_due_and_the_store_is_left_alone_until_then(
    private_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(help_requests, "INTERVALS_SECONDS", (0.0, 3600.0))
    clock, memory = FakeClock(), CrewMemory()
    async with store(private_redis) as (client, stored):
        keys = await synced(stored, "stuck")

        async def ask() -> float | None:
            return await stuck.ask(client, keys, "uid-of-stuck", await figures(client, keys), memory, clock)

        assert await ask() is None
        await give(client, keys, "t1")
        assert await ask() == pytest.approx(3600, abs=60)
        (told,) = [event for _, event in await events.recent(client, keys.events)]
        assert (told.event_type, told.task_id) == ("mission_help_needed", "t1")

        await client.hdel(keys.meta, "stuck")  # were the store asked, it would tell it again
        clock.advance(1800)
        assert await ask() == pytest.approx(1800, abs=60)
        assert len(await events.recent(client, keys.events)) == 1
        clock.advance(1801)
        await ask()
        assert len(await events.recent(client, keys.events)) == 2


async def test_a_reconciliation_comes_again_when_help_is_due(private_redis: PrivateRedis) -> None:
    async with store(private_redis) as (client, stored):
        keys = await synced(stored, "stuck")
        await give(client, keys, "t1")
        seen = {"metadata": {"uid": "uid-of-stuck", "generation": 1}}
        state = await stored.sync(("team", "stuck"), seen, None, [], CrewMemory())
        assert state is not None
        assert state.help_in == pytest.approx(60, abs=60)
