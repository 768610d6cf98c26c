"""The operator's work queue: which key is reconciled when."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from barriers import settle
from prometheus_client import REGISTRY

from watchbill.controller.workqueue import Lane, WorkQueue
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure


async def reconciled(fill: Callable[[WorkQueue[str]], None], count: int, *, workers: int = 1) -> list[str]:
    """The keys in the order in which they are reconciled, after `fill(queue)`."""
    seen: list[str] = []
    done = asyncio.Event()

    async def reconcile(key: str) -> None:
        seen.append(key)
        await asyncio.sleep(0)
        if len(seen) >= count:
            done.set()

    queue: WorkQueue[str] = WorkQueue()
    fill(queue)
    running = asyncio.create_task(queue.run(reconcile, workers))
    try:
        async with asyncio.timeout(180):
            await done.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return seen


async def test_a_woken_crew_does_not_wait_for_a_resync_of_all() -> None:
    def fill(queue: WorkQueue[str]) -> None:
        for i in range(100):
            queue.add(f"idle-{i}", Lane.RESYNC)
        queue.add("woken")

    seen = await reconciled(fill, 101)
    assert seen[0] == "woken"
    assert len(set(seen)) == 101


async def test_a_key_that_waits_for_its_turn_moves_forward_and_is_reconciled_once() -> None:
    def fill(queue: WorkQueue[str]) -> None:
        for key in ("a", "b", "c"):
            queue.add(key, Lane.RESYNC)
        queue.add("c")
        queue.add("c", Lane.RESYNC)

    assert await reconciled(fill, 3) == ["c", "a", "b"]


async def test_a_key_that_is_asked_for_while_it_is_reconciled_is_reconciled_again_at_once() -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def reconcile(key: str) -> None:
        seen.append(key)
        if seen == ["a"]:
            queue.add("a", Lane.RESYNC)
            queue.add("a")
            queue.add("a", Lane.RESYNC)
            queue.add("b", Lane.RESYNC)
        if len(seen) == 3:
            done.set()

    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    running = asyncio.create_task(queue.run(reconcile, 1))
    async with asyncio.timeout(180):
        await done.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert seen == ["a", "a", "b"]


async def test_the_depth_is_reported_and_ends_at_zero() -> None:
    depths: list[int] = []

    async def reconcile(key: str) -> None: ...

    queue: WorkQueue[str] = WorkQueue(depths.append)
    queue.add("a", Lane.RESYNC)
    queue.add("b")
    queue.add("a")
    assert depths[-1] == 2
    running = asyncio.create_task(queue.run(reconcile, 2))
    async with asyncio.timeout(180):
        while depths[-1]:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_change_waits_neither_for_new_crews_nor_for_a_resync_and_starves_neither() -> None:
    def fill(queue: WorkQueue[str]) -> None:
        for i in range(100):
            queue.add(f"resync-{i}", Lane.RESYNC)
            queue.add(f"new-{i}", Lane.ROUTINE)
        for i in range(300):
            queue.add(f"change-{i}", Lane.CHANGE)

    seen = await reconciled(fill, 400)
    first = [key.partition("-")[0] for key in seen[:80]]
    assert first[0] == "change"
    assert (first.count("change"), first.count("new"), first.count("resync")) == (60, 10, 10)
    for kind in ("change", "new", "resync"):
        numbers = [int(key.partition("-")[2]) for key in seen if key.startswith(kind)]
        assert numbers == sorted(numbers), "each lane keeps the order in which keys came"


async def test_a_new_crew_goes_before_a_resync() -> None:
    def fill(queue: WorkQueue[str]) -> None:
        for i in range(10):
            queue.add(f"resync-{i}", Lane.RESYNC)
        queue.add("new", Lane.ROUTINE)
        queue.add("resync-5", Lane.ROUTINE)

    assert (await reconciled(fill, 11))[:2] == ["new", "resync-5"]


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_comes_when_each_key_is_reconciled_after_it_was_last_added(seed: int) -> None:
    chance = random.Random(seed)
    asked: dict[int, int] = {}
    """Key → how often it was added; and how often it had been when it was last reconciled."""
    seen: dict[int, int] = {}

    async def reconcile(key: int) -> None:
        seen[key] = asked[key]
        for _ in range(chance.randint(0, 5)):
            await asyncio.sleep(0)
        if chance.random() < 0.1:
            raise ValueError("it comes again later, or when it is added")

    queue: WorkQueue[int] = WorkQueue(clock=FakeClock())
    running = asyncio.create_task(queue.run(reconcile, chance.randint(1, 6)))
    for _ in range(300):
        key = chance.randint(0, 30)
        asked[key] = asked.get(key, 0) + 1
        queue.add(key, chance.choice(list(Lane)))
        for _ in range(chance.choice([0, 0, 1, 5, 20])):
            await asyncio.sleep(0)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert seen == asked
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# ------------------------------------------------------------------ later


class Recurring:
    """Keys that are reconciled again after the pauses that are set, by a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.queue: WorkQueue[str] = WorkQueue(clock=self.clock)
        self.again: float | None = None
        self.error: BaseException | None = None
        self.seen: list[str] = []

    async def reconcile(self, key: str) -> float | None:
        self.seen.append(key)
        if self.error is not None:
            raise self.error
        return self.again

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.queue.run(self.reconcile, 2))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def after(self, seconds: float) -> list[str]:
        """What was reconciled within these seconds."""
        before = len(self.seen)
        self.clock.advance(seconds)
        await settle()
        return self.seen[before:]


async def test_a_key_is_reconciled_again_after_its_pause_and_without_one_never() -> None:
    recurring = Recurring()
    async with recurring.running():
        recurring.again = 5
        recurring.queue.add("a")
        assert await recurring.after(0) == ["a"]
        assert await recurring.after(4.75) == []
        recurring.again = None
        assert await recurring.after(0.25) == ["a"]
        assert await recurring.after(3600) == []
        assert recurring.clock.sleepers == []


async def test_a_key_that_something_asks_for_does_not_come_back_for_its_former_pause() -> None:
    recurring = Recurring()
    async with recurring.running():
        recurring.queue.add_after("a", 5)
        await settle()
        recurring.queue.add("a")
        assert await recurring.after(0) == ["a"]
        assert await recurring.after(5) == []
        recurring.queue.add_after("a", 5)
        await settle()
        recurring.queue.add_after("a", 2)
        await settle()
        assert recurring.clock.sleepers == [2]
        assert await recurring.after(2) == ["a"]
        assert await recurring.after(3) == []


async def test_a_key_that_waits_already_needs_no_later_turn() -> None:
    recurring = Recurring()
    recurring.queue.add("a")
    recurring.queue.add("b", Lane.RESYNC)
    recurring.queue.add_after("a", 1)
    recurring.queue.add_after("b", 1)
    async with recurring.running():
        assert await recurring.after(0) == ["a", "b"]
        assert await recurring.after(1) == []


async def test_a_key_that_fails_comes_back_with_growing_pauses_and_the_third_time_it_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)
    caplog.set_level(logging.INFO, "watchbill.operator")
    recurring = Recurring()
    recurring.error = ValueError("stale")
    async with recurring.running():
        recurring.queue.add("a")
        assert await recurring.after(0) == ["a"]
        for pause in (0.5, 1, 2, 4, 8, 16, 32, 60):
            assert await recurring.after(pause - 0.25) == [], pause
            assert await recurring.after(0.25) == ["a"], pause
        recurring.error = None
        assert await recurring.after(60) == ["a"]
        recurring.error = ValueError("stale again")
        recurring.queue.add("a")
        assert await recurring.after(0) == ["a"]
        assert await recurring.after(0.5) == ["a"], "a success was between"
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "INFO", *["WARNING"] * 7, "INFO", "INFO"]
    assert "a: ValueError: stale; again in 0.5 s" in caplog.text


async def test_a_key_whose_reconciliation_a_library_cancels_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)
    recurring = Recurring()
    recurring.error = asyncio.CancelledError()
    async with recurring.running():
        recurring.queue.add("a")
        assert await recurring.after(0) == ["a"]
        recurring.error = None
        assert await recurring.after(0.5) == ["a"]


async def test_the_wait_in_each_lane_is_measured_and_retries_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def waited(lane: str) -> tuple[float, float]:
        count, total = (
            REGISTRY.get_sample_value(f"watchbill_operator_workqueue_wait_seconds_{what}", {"lane": lane}) or 0.0
            for what in ("count", "sum")
        )
        return count, total

    def passed(lane: str, before: tuple[float, float]) -> tuple[float, float]:
        now = waited(lane)
        return now[0] - before[0], now[1] - before[1]

    def retries() -> float:
        return REGISTRY.get_sample_value("watchbill_operator_workqueue_retries_total") or 0.0

    monkeypatch.setattr(random, "random", lambda: 0.5)
    recurring = Recurring()
    changes, resyncs, tried = waited("change"), waited("resync"), retries()
    assert recurring.queue.oldest_seconds == 0
    recurring.queue.add("a", Lane.RESYNC)
    recurring.clock.advance(3)
    recurring.queue.add("b", Lane.RESYNC)
    recurring.queue.add("c")
    recurring.clock.advance(1)
    recurring.queue.add("b", Lane.RESYNC)
    assert recurring.queue.oldest_seconds == 4
    async with recurring.running():
        await recurring.after(0)
        assert passed("resync", resyncs) == (2, 5)
        assert passed("change", changes) == (1, 1)
        assert (recurring.queue.oldest_seconds, retries() - tried) == (0, 0)
        recurring.error = ValueError("stale")
        recurring.queue.add("a")
        await recurring.after(0)
        await recurring.after(0.5)
        assert retries() - tried == 2


async def test_nothing_of_a_queue_that_has_ended_comes_later() -> None:
    recurring = Recurring()
    async with recurring.running():
        recurring.queue.add_after("a", 1)
        await settle()
    await settle()
    assert recurring.clock.sleepers == []


async def test_a_queue_that_is_run_again_with_another_function_gives_it_what_waits_and_what_is_added() -> None:
    queue: WorkQueue[str] = WorkQueue()
    seen: list[str] = []
    blocked = asyncio.Event()

    async def first(key: str) -> None:
        seen.append(f"first {key}")
        await blocked.wait()

    async def second(key: str) -> None:
        seen.append(f"second {key}")

    for key in ("a", "b"):
        queue.add(key)
    running = asyncio.create_task(queue.run(first, 1))
    await settle()
    queue.add("a")  # while it is reconciled
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    queue.add("a")
    running = asyncio.create_task(queue.run(second, 1))
    await settle()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert seen == ["first a", "second b", "second a"]
