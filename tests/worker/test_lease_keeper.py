"""The lease keeper by itself: whom it keeps alive, and whom no longer."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hands
import pytest
import redis
from workshop import Crew, Make, agent

from waiting import until
from watchbill import connection
from watchbill.clock import SYSTEM
from watchbill.errors import Fenced
from watchbill.names import CrewKeys
from watchbill.redaction import Redactor
from watchbill.store.queue import Queue, Renewed
from watchbill.testing import FakeClock
from watchbill.worker import lease_keeper
from watchbill.worker.execution.shared_lease import SharedLease
from watchbill.worker.lease_keeper import BLOCKED_SECONDS, POLL_SECONDS, LeaseKeeper
from watchbill.worker.state import WorkerState

LEASE_MS = 600


class LateBadNews(Queue):
    """A queue whose "you were taken for dead" takes its time on the way to the keeper."""

    def __init__(self, crew: Crew) -> None:
        super().__init__(crew.redis, crew.keys, crew.uid)
        self.on_its_way, self.arrives = threading.Event(), threading.Event()

    def renew(self, client: redis.Redis, incarnation: str, lease_ms: int, description: str) -> Renewed:
        try:
            return super().renew(client, incarnation, lease_ms, description)
        except Fenced:
            self.on_its_way.set()
            self.arrives.wait(180)
            raise


async def is_alive(crew: Crew, incarnation: str) -> bool:
    seconds, micros = await crew.redis.time()
    expires = await crew.redis.zscore(crew.keys.leases, incarnation)
    return expires is not None and float(expires) > int(seconds) * 1000 + int(micros) / 1000


async def _lives_longer(crew: Crew, incarnation: str, than: float) -> bool:
    return float(await crew.redis.zscore(crew.keys.leases, incarnation)) > float(than)


async def test_news_of_an_old_incarnations_death_do_not_end_the_care_for_the_new_one(make_crew: Make) -> None:
    """The loop may learn of it first (from a claim), and go on as another, while the keeper's answer is on its way."""
    crew = await make_crew({"a": "Brief"})
    queue = LateBadNews(crew)
    state = WorkerState(0.0, SYSTEM)
    state.incarnation.name = "old"
    keeper = LeaseKeeper(
        connection.Store(crew.url),
        queue,
        state,
        lease=SharedLease(),
        lease_ms=LEASE_MS,
        describe=lambda: "{}",
        on_renewed=lambda *_: None,
    )
    await queue.claim("old", 1, 0, lease_ms=LEASE_MS, take_over=False)
    keeper.guard("old")
    keeper.start()
    try:
        await queue.leave("old")
        await until(queue.on_its_way.is_set, what="the refusal of a renewal")
        await queue.claim("new", 1, 0, lease_ms=LEASE_MS, take_over=False)
        keeper.guard("new")
        queue.arrives.set()
        await until(lambda: state.incarnation_error is not None)
        for _ in range(5):
            expires = await crew.redis.zscore(crew.keys.leases, "new")
            await until(lambda e=expires: _lives_longer(crew, "new", e), what="a renewal")  # type: ignore[misc]
    finally:
        queue.arrives.set()
        await keeper.stop()


async def test_a_loop_that_stands_still_for_too_long_loses_its_lease(make_crew: Make) -> None:
    """Past that, others must have its work: it will not wake."""
    crew = await make_crew({"a": "Brief"})
    keeper = LeaseKeeper(
        connection.Store(crew.url),
        crew.queue,
        WorkerState(0.0, SYSTEM),
        lease=SharedLease(),
        lease_ms=LEASE_MS,
        stuck_seconds=2.0,
        describe=lambda: "{}",
        on_renewed=lambda *_: None,
    )
    await crew.queue.claim("w", 1, 0, lease_ms=LEASE_MS, take_over=False)
    keeper.guard("w")
    keeper.start()
    try:
        await asyncio.sleep(2 * LEASE_MS / 1000)
        await until(lambda: is_alive(crew, "w"), what="a renewal")
        deadline = time.monotonic() + 180
        with redis.Redis.from_url(crew.url) as store:  # asked while the loop stands still
            while float(store.zscore(crew.keys.leases, "w")) > store.time()[0] * 1000:
                assert time.monotonic() < deadline, "the lease never ended"
                threading.Event().wait(0.05)
    finally:
        await keeper.stop()


async def test_it_ends_though_agents_have_filled_the_event_loops_threads(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    free = threading.Event()
    loop = asyncio.get_running_loop()
    calls = [loop.run_in_executor(None, free.wait, 600) for _ in range(64)]
    try:
        async with asyncio.timeout(180), leased(crew):
            pass
        assert not any(thread.name == "watchbill-lease" for thread in threading.enumerate())
    finally:
        free.set()
        await asyncio.gather(*calls)


# ---------------------------------------------------------------- who blocks the event loop


@asynccontextmanager
async def leased(crew: Crew) -> AsyncIterator[LeaseKeeper]:
    keeper = LeaseKeeper(
        connection.Store(crew.url),
        crew.queue,
        WorkerState(0.0, SYSTEM),
        lease=SharedLease(),
        lease_ms=60_000,
        stuck_seconds=60.0,
        describe=lambda: "{}",
        on_renewed=lambda *_: None,
    )
    keeper.start()
    try:
        yield keeper
    finally:
        await keeper.stop()


def blamed(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for record in caplog.records if "has been blocked" in (text := record.getMessage())]


def stand_still(caplog: pytest.LogCaptureFixture, *, until_blamed: int) -> None:
    deadline = time.monotonic() + 180
    while len(blamed(caplog)) < until_blamed and time.monotonic() < deadline:
        threading.Event().wait(0.1)


async def test_who_blocks_the_loop_is_told_of_once_with_where_it_stands(
    make_crew: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_keeper, "BLOCKED_SECONDS", 1.0)
    crew = await make_crew({"a": "Brief"})
    async with leased(crew):
        stand_still(caplog, until_blamed=1)
        (told,) = blamed(caplog)
        assert "in stand_still" in told
        assert re.search(r"blocked for \d+ s\. Make", told), "nobody's agent"


@pytest.mark.parametrize("kind", ["LongOnLoop", "long_in_thread", "LongApart"])
async def test_long_texts_are_searched_for_secrets_beside_the_loop(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Which takes as long as there are secrets, and would hold up all others. Only its beginning is kept."""
    here = threading.get_ident()
    searched: list[tuple[bool, int]] = []
    search = Redactor.__call__

    def counted(self: Redactor, text: str) -> str:
        searched.append((threading.get_ident() == here, len(text)))
        return search(self, text)

    monkeypatch.setattr(Redactor, "__call__", counted)
    crew = await make_crew([agent("a", kind, notes=False)], tasks={"max_attempts": 1})
    async with crew.in_process():
        await crew.submit("t", "a")
        error = (await crew.result("t")).error
    assert error is not None
    assert (error[:20], len(error)) == ("ValueError: eeeeeeee", 16_000)
    assert max(size for on_loop, size in searched if on_loop) <= 100_000
    if kind != "LongApart":
        assert any(size > hands.LONG for on_loop, size in searched if not on_loop), "no secret is cut in two"


def unstarted(clock: FakeClock) -> LeaseKeeper:
    """A keeper whose looks the test makes itself, in place of its thread."""
    store = connection.Store("redis://127.0.0.1:1")
    return LeaseKeeper(
        store,
        Queue(store.client, CrewKeys("test", "crew"), "uid"),
        WorkerState(0.0, clock),
        lease=SharedLease(monotonic=clock.monotonic),
        lease_ms=60_000,
        describe=lambda: "{}",
        on_renewed=lambda *_: None,
    )


def poll(keeper: LeaseKeeper, clock: FakeClock, seconds: float) -> None:
    """Makes looks for that long, in which the loop doesn't turn."""
    for _ in range(round(seconds / POLL_SECONDS)):
        clock.advance(POLL_SECONDS)
        keeper._watch()


@pytest.mark.pure
async def test_a_loop_is_blamed_once_until_it_turns_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    keeper = unstarted(clock)
    poll(keeper, clock, BLOCKED_SECONDS - POLL_SECONDS)
    assert blamed(caplog) == []
    poll(keeper, clock, POLL_SECONDS)
    assert len(blamed(caplog)) == 1
    poll(keeper, clock, 3 * BLOCKED_SECONDS)
    assert len(blamed(caplog)) == 1
    keeper._turned_at = clock.monotonic()
    poll(keeper, clock, BLOCKED_SECONDS)
    assert len(blamed(caplog)) == 1, "the poll that saw it turn counts nothing"
    poll(keeper, clock, POLL_SECONDS)
    assert len(blamed(caplog)) == 2


@pytest.mark.pure
async def test_nobody_is_blamed_for_time_that_the_whole_process_stood_still(caplog: pytest.LogCaptureFixture) -> None:
    """As after SIGSTOP: the keeper may poll before the loop has had a chance to turn."""
    clock = FakeClock()
    keeper = unstarted(clock)
    for _ in range(5):
        clock.advance(100.0)
        keeper._watch()
    assert blamed(caplog) == []


@pytest.mark.pure
async def test_after_an_outage_nothing_is_taken_over_until_others_could_renew() -> None:
    clock = FakeClock()
    keeper = unstarted(clock)
    state, third = keeper._state, 20.0
    assert keeper.may_take_over
    keeper.store_answered()
    assert keeper.may_take_over, "there was no outage"
    state.cut_off = True
    assert not keeper.may_take_over
    keeper.store_answered()
    clock.advance(third - 0.1)
    assert not keeper.may_take_over
    clock.advance(0.1)
    assert keeper.may_take_over
    clock.advance(third)
    assert not keeper.may_take_over, "its own lease may be over"


async def test_a_worker_tells_what_it_does_long_before_its_first_third_of_a_lease(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, lease_seconds=600)
    await crew.submit("t", "a")
    async with crew.in_process():
        await crew.started("t")

        async def told() -> bool:
            (worker,) = await crew.client.workers(crew.name)
            return (worker.running, worker.slots > 0) == (1, True)

        await until(told)
        crew.open()
