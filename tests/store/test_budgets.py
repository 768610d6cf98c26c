"""Budgets in a real store: none is exceeded, whoever reserves, and whatever becomes of them."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest
from support import Crew, finished, flow_of, server_ms

from watchbill import connection
from watchbill.api.budgets import Budget
from watchbill.plan import budget
from watchbill.plan.budget import Amount, Limit, Span
from watchbill.store import budgets, definitions, why
from watchbill.store.budgets import Full, Moved, Paused, Request, Settlement


def limit(span: Span | None = None, **fields: Any) -> Limit:
    one = Budget.model_validate({"name": "all", "tokens": 100, **fields})
    return Limit(one, "", span or Span(0, budget.NEVER_MS))


def request(crew: Crew, name: str, tokens: int, *limits: Limit, nano: int = 0, task: str = "t") -> Request:
    return Request(name, "m", crew.keys.task(task), Amount(tokens, nano), limits or (limit(),), crew.keys.reserved(0))


async def reserve(crew: Crew, asked: Request, *settled: Settlement, client: Any = None) -> Any:
    digest = crew.definition.digest()
    return await budgets.reserve(client or crew.client, crew.keys, crew.uid, digest, asked, settled)


async def settle(crew: Crew, asked: Request, tokens: int, nano: int = 0) -> None:
    await budgets.settle(crew.client, crew.keys, crew.uid, [Settlement(asked, Amount(tokens, nano))])


async def spent(crew: Crew, field: str = "budget:all:") -> tuple[Amount, Amount]:
    counter = (await budgets.counted(crew.client, crew.keys)).counters[field]
    return counter.spent, counter.held


async def test_twenty_that_race_never_exceed_a_budget(crew: Crew) -> None:
    """Each on a connection of its own reserves more than it spends, again and again, until nothing fits any more."""
    whole, chance = limit(tokens=10_000, usd="1"), random.Random(7)
    spends = {f"w{i}/{n}": chance.randint(1, 400) for i in range(20) for n in range(200)}
    under_way: dict[str, int] = {}
    made: dict[str, int] = {}
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        client = connection.connect(crew.url)
        settled: list[Settlement] = []
        for n in range(200):
            asked = request(crew, f"w{number}/{n}", 400, whole, nano=40_000_000)
            answer = await reserve(crew, asked, *settled, client=client)
            settled = []
            if answer != budgets.Reserved(0):
                assert isinstance(answer, Full)
                break
            under_way[asked.id] = 400
            most = max(most, sum(made.values()) + sum(under_way.values()))
            await asyncio.sleep(0)
            under_way.pop(asked.id)
            made[asked.id] = spends[asked.id]
            settled = [Settlement(asked, Amount(spends[asked.id], spends[asked.id] * 100_000))]
        if settled:
            await budgets.settle(client, crew.keys, crew.uid, settled)
        await client.aclose()

    await asyncio.gather(*(work(i) for i in range(20)))
    total = sum(made.values())
    assert await spent(crew) == (Amount(total, total * 100_000), Amount())
    assert 10_000 - 400 * 20 < total <= most <= 10_000
    assert len(made) > 25  # more than fit by their upper bounds: settling makes room


async def test_a_call_that_is_sent_again_counts_once(crew: Crew) -> None:
    asked, other = request(crew, "a", 60), request(crew, "b", 30)
    for _ in range(2):
        assert await reserve(crew, asked) == budgets.Reserved(0)
    assert await spent(crew) == (Amount(60), Amount(60))
    for _ in range(2):
        assert await reserve(crew, other, Settlement(asked, Amount(5))) == budgets.Reserved(0)
    assert await spent(crew) == (Amount(35), Amount(30))
    await settle(crew, asked, 1)
    assert await spent(crew) == (Amount(35), Amount(30))


async def test_the_reservation_of_a_dead_worker_counts_as_spent(crew: Crew) -> None:
    assert await reserve(crew, request(crew, "dies", 80)) == budgets.Reserved(0)
    answer = await reserve(crew, request(crew, "next", 30))
    assert [(one.is_exhausted, one.spent) for one in answer.found] == [(False, Amount(80))]  # it may live
    text = str(await crew.client.hget(crew.keys.spending, "budget:all:")).split("\x1f")
    text[7] = str(int(text[7]) - 600_000)  # ten minutes later
    await crew.client.hset(crew.keys.spending, "budget:all:", "\x1f".join(text))
    answer = await reserve(crew, request(crew, "next", 30))
    assert [one.is_exhausted for one in answer.found] == [True]
    assert await reserve(crew, request(crew, "small", 20)) == budgets.Reserved(0)


async def test_all_budgets_have_room_or_none_counts(crew: Crew) -> None:
    tight, wide = limit(name="tight", usd="0.00000001"), limit(name="wide", tokens=1000)
    answer = await reserve(crew, request(crew, "a", 10, wide, tight, nano=11))
    assert [one.limit.budget.name for one in answer.found] == ["tight"]
    assert "budget:wide:" not in (await budgets.counted(crew.client, crew.keys)).counters
    assert await reserve(crew, request(crew, "a", 10, wide, tight, nano=10)) == budgets.Reserved(0)


async def test_a_window_that_begins_has_all_again_and_hears_nothing_of_the_last(crew: Crew) -> None:
    now = await server_ms(crew.client)
    old = limit(Span(now - 1000, now + 60_000), window="Hourly")
    asked = request(crew, "a", 100, old)
    assert await reserve(crew, asked) == budgets.Reserved(0)
    new = limit(Span(now, now + 60_000), window="Hourly")
    assert await reserve(crew, request(crew, "b", 70, new)) == budgets.Reserved(0)
    await settle(crew, asked, 1)
    assert await spent(crew) == (Amount(70), Amount(70))
    # a clock that went back finds no room that was spent
    assert isinstance(await reserve(crew, request(crew, "c", 40, old)), Full)
    past = limit(Span(now - 2000, now - 1000), window="Hourly")
    answer = await reserve(crew, request(crew, "d", 1, past))
    assert isinstance(answer, Moved)
    assert answer.now_ms >= now


async def test_limits_of_an_old_definition_are_refused(crew: Crew) -> None:
    raised = crew.definition.model_copy(update={"budgets": [limit(tokens=500).budget]})
    await definitions.apply(crew.client, crew.keys, raised)
    assert await reserve(crew, request(crew, "a", 10)) == "redefined"
    crew.definition = raised
    assert await reserve(crew, request(crew, "a", 10)) == budgets.Reserved(0)


async def test_a_run_has_a_budget_of_its_own_in_its_record(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b")]))
    await crew.run("r2", flow_of([("a", "b")]))
    own = limit(scope="Run")
    asks = [
        Request(f"{n}", "m", crew.keys.run(n[:2]), Amount(80), (own,), crew.keys.reserved(1))
        for n in ("r1a", "r1b", "r2a")
    ]
    answers = [await reserve(crew, asked) for asked in asks]
    assert [isinstance(answer, budgets.Reserved) for answer in answers] == [True, False, True]
    await settle(crew, asks[0], 10)
    assert await reserve(crew, asks[1]) == budgets.Reserved(0)
    gone = Request("x", "m", crew.keys.run("none"), Amount(1), (own,), crew.keys.reserved(1))
    assert await reserve(crew, gone) == "lost"
    assert not await crew.client.exists(crew.keys.run("none"))


async def test_what_was_refused_is_known_until_something_fits(crew: Crew) -> None:
    async def is_exhausted() -> bool:
        found = await budgets.counted(crew.client, crew.keys)
        (state,) = budget.states([limit().budget], found.counters, found.now_ms)
        return state.is_exhausted

    asked = request(crew, "a", 90)
    await reserve(crew, asked)
    assert not await is_exhausted()
    await settle(crew, asked, 90)
    await reserve(crew, request(crew, "b", 20))
    assert await is_exhausted()
    await reserve(crew, request(crew, "c", 10))
    assert not await is_exhausted()


async def test_a_task_that_waits_says_why_and_goes_on_at_once_when_the_budgets_change(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    await crew.run("r", flow_of([("a", "b")]), parallel=1)
    due = await server_ms(crew.client) + 3_600_000
    tasks = await crew.take("w")
    ends = [finished(t, "later" if t.id != "t2" else "retry", ttl_ms=-due, message="no room") for t in tasks]
    await crew.queue.finish("w", ends)
    for task in ("t1", "r/a"):
        seen = await why.seen(crew.client, crew.keys, task)
        assert (seen.state, seen.postponed, seen.attempt, seen.aside_ms) == ("delayed", "no room", 0, due)
    assert (await why.seen(crew.client, crew.keys, "t2")).postponed == ""
    told = [event["event_type"] for event in await crew.events() if event.get("message") == "no room"]
    assert sorted(told) == ["mission_event", "mission_event", "mission_work_blocked"]

    while await crew.bell(0.01):
        pass
    same = crew.definition.model_copy(update={"description": "other"})
    await definitions.apply(crew.client, crew.keys, same)
    assert await crew.take("w", 2) == ()
    raised = same.model_copy(update={"budgets": [limit().budget]})
    await definitions.apply(crew.client, crew.keys, raised)
    assert await crew.bell()
    assert sorted((t.id, t.attempt) for t in await crew.take("w", 3)) == [("r/a", 1), ("t1", 1)]


async def test_a_pause_that_a_provider_asks_for_keeps_all_from_its_model(crew: Crew) -> None:
    asked, other = request(crew, "a", 1), replace(request(crew, "b", 1), model="n")
    await budgets.settle(crew.client, crew.keys, crew.uid, [], {"m": 60_000})
    answer = await reserve(crew, asked)
    assert isinstance(answer, Paused)
    assert 0 < answer.ms <= 60_000
    assert "budget:all:" not in (await budgets.counted(crew.client, crew.keys)).counters
    digest = crew.definition.digest()
    assert await budgets.reserve(crew.client, crew.keys, crew.uid, digest, other, pauses={"m": 5}) == budgets.Reserved(
        0
    )
    answer = await reserve(crew, asked)
    assert isinstance(answer, Paused), "a shorter pause ends no longer one"
    assert answer.ms > 5
    # a clock that went back makes no pause longer
    await crew.client.hset(crew.keys.spending, "pause:m", await server_ms(crew.client) + 10**8)
    assert await reserve(crew, asked) == budgets.Reserved(0)


async def test_a_deleted_crew_leaves_nothing_of_its_budgets(crew: Crew) -> None:
    asked = request(crew, "a", 10)
    await reserve(crew, asked)
    await definitions.delete(crew.client, crew.keys, crew.uid)
    with pytest.raises(Exception, match="was deleted"):
        await settle(crew, asked, 1)
    assert not await crew.client.keys(crew.keys.root + "*")
