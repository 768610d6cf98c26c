"""Destinations that take long: thousands of results for one hold up no other, and all of them arrive once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack

import outgoing
import pytest
from receiver import Receiver, receiving
from workshop import Crew, Make

from waiting import until
from watchbill.api.delivery import Destination
from watchbill.clock import SYSTEM
from watchbill.names import RECEIVER
from watchbill.settings import Settings
from watchbill.store import circuits
from watchbill.testing import FakeClock
from watchbill.worker.delivering import shares
from watchbill.worker.delivering.options import Delivering
from watchbill.worker.delivering.shares import Shares
from watchbill.worker.slots import Slots
from watchbill.worker.state import WorkerState

SLOTS = 32
HOW = Delivering(slots=SLOTS, settings=Settings(delivery_allow="127.0.0.0/8"))
MANY = 2000
OPS = Destination.model_validate({"name": "ops", "webhook": {"url": "https://example.com"}})


@pytest.fixture
async def slow() -> AsyncIterator[Receiver]:
    async with receiving(hangs=True) as found:
        yield found


async def ever_claimed(crew: Crew, name: str) -> int:
    """Deliveries for this destination that a worker has put off or sent."""
    keys = crew.keys.deliveries()
    async with crew.redis.pipeline(transaction=False) as pipe:
        for i in range(MANY):
            pipe.hget(keys.task(f"{name}-{i}"), "fence")
        return sum(fence is not None for fence in await pipe.execute())


async def test_thousands_for_a_slow_destination_hold_up_no_other(
    make_crew: Make, slow: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "LATE_SECONDS", 0.05)
    async with receiving() as healthy:
        crew = await make_crew({"a": "Gate"}, delivery=[slow.destination("slow"), healthy.destination("healthy")])
        await outgoing.enqueue(crew, "slow", MANY)
        await outgoing.enqueue(crew, "healthy", 40)
        async with crew.in_process(delivering=HOW):
            await until(lambda: len(healthy.got) == 40)
            assert await ever_claimed(crew, "slow") < 10 * SLOTS, "the rest was set aside together"
            assert len(slow.got) <= 2 * SLOTS
        left = await outgoing.found(crew)
    assert len(set(healthy.ids)) == 40
    assert {i: n for i, n in left.items() if i.startswith("slow-")} == {f"slow-{i}": 1 for i in range(MANY)}


async def test_while_a_destination_stays_slow_the_next_takes_the_place_of_each_that_ends(
    make_crew: Make, slow: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was set aside would be due in half a minute at the earliest. Once the destination is quick, all of it is
    sent."""
    monkeypatch.setattr(shares, "LATE_SECONDS", 0.05)
    crew = await make_crew({"a": "Gate"}, delivery=[slow.destination("slow")])
    await outgoing.enqueue(crew, "slow", 150)
    async with crew.in_process(delivering=HOW):
        await until(lambda: slow.got)
        await until(lambda: _is_aside(crew, 150 - len(slow.got)))
        before, sent = len(slow.got), slow.let_go
        slow.renew()
        sent.set()
        share = SLOTS // shares.SHARE
        await until(lambda: len(slow.got) >= before + share)
        assert len(slow.got) <= before + share, "and no more at once"
        monkeypatch.setattr(shares, "LATE_SECONDS", 3600.0)
        slow.hangs = False
        slow.let_go.set()
        await until(lambda: outgoing.ended(crew, "completed", 150))
    assert len(slow.ids) == len(set(slow.ids)) == 150


async def _is_aside(crew: Crew, n: int) -> bool:
    return int(await crew.redis.zcard(crew.keys.deliveries().delayed)) == n


async def test_a_late_message_lends_its_slot_and_a_quick_one_ends_the_bound(make_crew: Make) -> None:
    crew, clock = await make_crew({"a": "Gate"}, delivery=[OPS]), FakeClock()
    state = WorkerState(0.0, clock)
    slots = Slots(state, 8, recycle=False)
    known = Shares(crew.redis, crew.keys, crew.uid, state, slots)
    first, second = known.sending(OPS), known.sending(OPS)
    first.__enter__()
    clock.advance(shares.LATE_SECONDS)
    assert slots.capacity == 9
    assert known.room(OPS) > 0, "one late message doesn't make a destination slow"
    second.__enter__()
    clock.advance(shares.LATE_SECONDS)
    assert slots.capacity == 10
    assert known.room(OPS) <= 0
    for each in (first, second):
        each.__exit__(None, None, None)
    assert slots.capacity == 8
    assert known.room(OPS) > 0
    with known.sending(OPS), known.sending(OPS):
        assert known.room(OPS) <= 0, "it is known to be slow"
    with known.sending(OPS), known.sending(OPS):
        assert known.room(OPS) > 0, "two have ended soon"


async def test_lent_slots_are_bounded() -> None:
    slots = Slots(WorkerState(0.0, SYSTEM), 8, recycle=False)
    slots.lend(1000)
    assert slots.capacity == 4 * 8
    slots.lend(-1000)
    assert slots.capacity == 8


async def test_what_is_set_aside_comes_back_by_itself_and_retries_keep_their_time(make_crew: Make) -> None:
    """A worker may die that has set something aside."""
    crew = await make_crew({"a": "Gate"}, delivery=[OPS])
    await outgoing.enqueue(crew, "ops", 3)
    seconds, _ = await crew.redis.time()
    state = WorkerState(0.0, SYSTEM)
    state.set_store_time(seconds * 1000)
    known = Shares(crew.redis, crew.keys, crew.uid, state, Slots(state, 8, recycle=False))
    delayed = crew.keys.deliveries().delayed
    retry_ms = seconds * 1000 + 10_000
    await crew.redis.zadd(delayed, {"to:ops\x1f5\x1f2\x1fretry": retry_ms})
    with ExitStack() as sending:
        for _ in range(2):
            sending.enter_context(known.sending(OPS))
        known._shares[circuits.key(OPS)].is_slow = True
        due_ms = await known.set_aside(OPS, RECEIVER + "ops")
    assert shares.PERIOD_MS - 1000 < due_ms - seconds * 1000 <= 2 * shares.PERIOD_MS
    due = [int(at) for _, at in await crew.redis.zrange(delayed, 0, -1, withscores=True)]
    assert due[0] == retry_ms
    assert due[1:] == [due_ms] * 3
