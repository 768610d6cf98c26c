"""Limits of models over a real store: requests and tokens keep to their rates, by the store's clock."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from support import Crew

from watchbill import connection
from watchbill.api.limits import ModelLimit
from watchbill.names import CrewKeys
from watchbill.plan import limits
from watchbill.plan.budget import NOTHING, Amount
from watchbill.store import budgets
from watchbill.store.budgets import Later, Request, Reserved, Settlement


def rate(**fields: Any) -> limits.ModelRate:
    found = limits.of_model([ModelLimit.model_validate({"model": "m", **fields})], "m")
    assert found is not None
    return found


def request(keys: CrewKeys, name: str, at: limits.ModelRate, tokens: int = 0, patience_ms: int = 0) -> Request:
    """A request of the task of that name."""
    key, most = keys.task(name), Amount(tokens) if tokens else NOTHING
    return Request(name, "m", key, most, (), keys.reserved(0), rate=at, turn=f"turn:{name}", patience_ms=patience_ms)


async def reserve(crew: Crew, asked: Request, *settled: Settlement, client: Any = None) -> Any:
    digest = crew.definition.digest()
    return await budgets.reserve(client or crew.client, crew.keys, crew.uid, digest, asked, settled)


async def now_us(client: Any) -> int:
    seconds, micros = await client.time()
    return int(seconds) * 1_000_000 + int(micros)


async def test_forty_that_race_go_one_after_the_other_at_the_models_rate(crew: Crew) -> None:
    """Each waits as long as it is told."""
    ids = [f"t{i}" for i in range(40)]
    await crew.submit(*ids)
    at = rate(requests=100, periodSeconds=1, burst=4)

    async def go(name: str) -> None:
        client = connection.connect(crew.url)
        while isinstance(answer := await reserve(crew, request(crew.keys, name, at), client=client), Later):
            await asyncio.sleep(answer.ms / 1000)
        assert isinstance(answer, Reserved)
        await client.aclose()

    await asyncio.gather(*(go(name) for name in ids))
    kept = await crew.client.hgetall(crew.keys.reserved(0))
    assert len(kept) == 40
    times = sorted(int(value.split("\x1e")[0].split()[2]) for value in kept.values())
    assert all(
        times[i + n] - times[i] >= (n + 1 - 4) * 10_000 for i in range(len(times)) for n in range(len(times) - i)
    ), "by the store's clock no window has more than burst + rate * time"


async def test_a_request_that_is_sent_again_counts_once_and_keeps_its_turn(crew: Crew) -> None:
    await crew.submit("t1", "t2", "t3")
    at = rate(requests=1, periodSeconds=10_000)
    one, two, three = (request(crew.keys, name, at) for name in ("t1", "t2", "t3"))
    assert await reserve(crew, one) == Reserved(0)
    assert await reserve(crew, one) == Reserved(0)
    first, other, again = await reserve(crew, two), await reserve(crew, three), await reserve(crew, two)
    assert isinstance(first, Later)
    assert isinstance(other, Later)
    assert isinstance(again, Later)
    assert 9_000_000 < again.ms <= first.ms <= 10_000_000
    assert 19_000_000 < other.ms <= 20_000_000, "behind the one that waits"
    patient = request(crew.keys, "t4", at, patience_ms=10**8)
    assert await reserve(crew, patient) == "lost", "it has no record"


async def test_who_has_its_turn_may_wait_a_little_for_what_went_late(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    at = rate(requests=1, periodSeconds=10_000)
    assert await reserve(crew, request(crew.keys, "t1", at)) == Reserved(0)
    now = await now_us(crew.client)
    await crew.client.hset(crew.keys.task("t2"), "turn:t2", f"{now - 1000} {now} {at.every_us}/1//")
    patient = request(crew.keys, "t2", at, patience_ms=20_000_000)
    answer = await reserve(crew, patient)
    assert isinstance(answer, Reserved)
    assert 9_000_000 < answer.wait_ms <= 10_000_000
    again = await reserve(crew, patient)
    assert 0 <= answer.wait_ms - again.wait_ms < 600_000, "its time stays where the answer was lost"
    assert not await crew.client.hexists(crew.keys.task("t2"), "turn:t2")


async def test_tokens_are_counted_as_they_were_bounded_then_as_they_were(crew: Crew) -> None:
    await crew.submit(*"abcd")
    at = rate(tokens=1000, periodSeconds=10_000)
    first, second, third = (request(crew.keys, name, at, tokens=n) for name, n in (("a", 900), ("b", 200), ("c", 200)))
    assert await reserve(crew, first) == Reserved(0)
    answer = await reserve(crew, second)
    assert isinstance(answer, Later)
    assert 900_000 < answer.ms <= 1_000_000, "100 tokens are missing, at one in ten seconds"
    assert await reserve(crew, third, Settlement(first, Amount(100))) == Reserved(0), "it cost less"
    whole = await reserve(crew, request(crew.keys, "d", at, tokens=5000))
    assert isinstance(whole, Later)
    assert whole.ms > 2_000_000, "what is more than all goes when nothing else is left"
    assert await reserve(crew, replace(second, turn="other"), Settlement(third, Amount(200))) == Reserved(0)


async def test_a_limit_that_changes_and_a_clock_that_goes_back_hold_nobody_for_long(crew: Crew) -> None:
    await crew.submit(*"abcd")
    slow, fast = rate(requests=1, periodSeconds=10_000), rate(requests=100, periodSeconds=1)
    assert await reserve(crew, request(crew.keys, "a", slow)) == Reserved(0)
    answer = await reserve(crew, request(crew.keys, "b", fast))
    assert answer == Reserved(0) or answer.ms <= 10
    key, field = crew.keys.spending, "rate:m"
    ahead = await now_us(crew.client) + 10**12
    await crew.client.hset(key, field, f"20000 {ahead} 10000")
    answer = await reserve(crew, request(crew.keys, "c", fast))
    assert isinstance(answer, Later)
    assert answer.ms <= 30
    assert int((await crew.client.hget(key, field)).split()[1]) < ahead


async def test_turns_of_a_limit_that_was_changed_count_no_more(crew: Crew) -> None:
    await crew.submit("t1", "t2", "t3")
    slow, fast = rate(requests=1, periodSeconds=60_000), rate(requests=10, periodSeconds=60_000)
    assert await reserve(crew, request(crew.keys, "t1", slow)) == Reserved(0)
    waits = [await reserve(crew, request(crew.keys, name, slow)) for name in ("t2", "t3")]
    assert [round(answer.ms, -6) for answer in waits] == [60_000_000, 120_000_000]
    anew = [await reserve(crew, request(crew.keys, name, fast)) for name in ("t3", "t2")]
    assert [round(answer.ms, -6) for answer in anew] == [6_000_000, 12_000_000]


async def test_turns_of_tasks_that_are_gone_hold_nobody_once_none_came(crew: Crew) -> None:
    await crew.submit(*"abcd")
    at = rate(requests=1, periodSeconds=10_000)
    assert await reserve(crew, request(crew.keys, "a", at)) == Reserved(0)
    assert isinstance(await reserve(crew, request(crew.keys, "b", at)), Later)
    now = await now_us(crew.client)
    line = f"{now + 5_000_000_000_000} {now} {at.every_us}/1//"
    await crew.client.hset(
        crew.keys.spending, mapping={"line:m": line, "rate:m": f"0 {now - 15_000_000_000} {at.every_us}"}
    )
    assert await reserve(crew, request(crew.keys, "c", at)) == Reserved(0)
    assert await crew.client.hget(crew.keys.spending, "line:m") == line, "they may be late"
    await crew.client.hset(crew.keys.spending, "rate:m", f"0 {now - 25_000_000_000} {at.every_us}")
    assert await reserve(crew, replace(request(crew.keys, "c", at), id="again")) == Reserved(0)
    answer = await reserve(crew, request(crew.keys, "d", at))
    assert isinstance(answer, Later)
    assert answer.ms <= 10_000_000


async def test_a_line_of_more_than_a_day_gives_no_turn_twice(crew: Crew) -> None:
    await crew.submit(*"abcd")
    at = rate(requests=1, periodSeconds=86_000)
    assert await reserve(crew, request(crew.keys, "a", at)) == Reserved(0)
    turns = [(await reserve(crew, request(crew.keys, name, at))).ms for name in "bcd"]
    again = [(await reserve(crew, request(crew.keys, name, at))).ms for name in "bcd"]
    assert [round(ms / 86_000_000, 2) for ms in (*turns, *again)] == [1, 2, 3, 1, 2, 3]

    ahead = await now_us(crew.client) + 10**13  # the clock goes back
    own = f"{ahead + 60_000_000} {ahead} {at.every_us}/1//"
    await crew.client.hset(crew.keys.task("d"), "turn:d", own)
    assert (await reserve(crew, request(crew.keys, "d", at))).ms <= 60_000
    assert int((await crew.client.hget(crew.keys.task("d"), "turn:d")).split()[1]) < ahead
