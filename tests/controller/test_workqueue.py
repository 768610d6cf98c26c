"""The operator's work queue: what is asked for goes before what is reconciled only to make sure."""

from __future__ import annotations

import asyncio

import pytest

from watchbill.controller.workqueue import WorkQueue

pytestmark = pytest.mark.pure


async def reconciled(fill, count: int, *, workers: int = 1) -> list[str]:  # type: ignore[no-untyped-def]
    """The keys in the order in which they are reconciled, after `fill(queue)`."""
    seen: list[str] = []
    done = asyncio.Event()

    async def reconcile(key: str) -> None:
        seen.append(key)
        await asyncio.sleep(0)
        if len(seen) >= count:
            done.set()

    queue: WorkQueue[str] = WorkQueue(reconcile)
    fill(queue)
    running = asyncio.create_task(queue.run(workers))
    try:
        async with asyncio.timeout(5):
            await done.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return seen


async def test_a_woken_crew_does_not_wait_for_a_resync_of_all() -> None:
    def fill(queue: WorkQueue[str]) -> None:
        for i in range(100):
            queue.add(f"idle-{i}", later=True)
        queue.add("woken")

    seen = await reconciled(fill, 101)
    assert seen[0] == "woken"
    assert len(set(seen)) == 101


async def test_a_key_that_waits_for_its_turn_moves_forward_and_is_reconciled_once() -> None:
    def fill(queue: WorkQueue[str]) -> None:
        for key in ("a", "b", "c"):
            queue.add(key, later=True)
        queue.add("c")
        queue.add("c", later=True)

    assert await reconciled(fill, 3) == ["c", "a", "b"]


async def test_a_key_that_is_asked_for_while_it_is_reconciled_is_reconciled_again_at_once() -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def reconcile(key: str) -> None:
        seen.append(key)
        if seen == ["a"]:
            queue.add("a", later=True)
            queue.add("a")
            queue.add("a", later=True)
            queue.add("b", later=True)
        if len(seen) == 3:
            done.set()

    queue: WorkQueue[str] = WorkQueue(reconcile)
    queue.add("a")
    running = asyncio.create_task(queue.run(1))
    async with asyncio.timeout(5):
        await done.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert seen == ["a", "a", "b"]


async def test_the_depth_is_reported_and_ends_at_zero() -> None:
    depths: list[int] = []

    async def reconcile(key: str) -> None: ...

    queue: WorkQueue[str] = WorkQueue(reconcile, depths.append)
    queue.add("a", later=True)
    queue.add("b")
    queue.add("a")
    assert depths[-1] == 2
    running = asyncio.create_task(queue.run(2))
    async with asyncio.timeout(5):
        while depths[-1]:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
