"""How many of the operator's reconciliations are of which lane, while all places are taken."""

from __future__ import annotations

import asyncio

import pytest
from barriers import settle

from watchbill.controller.workqueue import Lane, WorkQueue

pytestmark = pytest.mark.pure


async def test_only_changes_take_the_other_half_of_the_places() -> None:
    begun: list[str] = []
    gates: dict[str, asyncio.Event] = {}

    async def reconcile(key: str) -> None:
        begun.append(key)
        await gates.setdefault(key, asyncio.Event()).wait()

    async def end(key: str) -> list[str]:
        """Returns what begins once that key has been reconciled."""
        before = len(begun)
        gates[key].set()
        await settle()
        return begun[before:]

    queue: WorkQueue[str] = WorkQueue()
    for i in range(3):
        queue.add(f"new-{i}", Lane.ROUTINE)
        queue.add(f"resync-{i}", Lane.RESYNC)
    running = asyncio.create_task(queue.run(reconcile, 4))
    await settle()
    assert begun == ["new-0", "new-1"]
    for i in range(3):
        queue.add(f"change-{i}")
    await settle()
    assert begun[2:] == ["change-0", "change-1"]
    assert await end("change-0") == ["change-2"]
    assert await end("change-1") == [], "two of the four are not changes"
    assert await end("new-0") == ["new-2"]
    assert await end("new-1") == ["resync-0"]
    queue.add("resync-1")
    await settle()
    assert begun[-1] == "resync-1", "somebody has changed it"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("takes", range(1, 9))
async def test_no_lane_waits_for_ever_however_long_those_before_it_take(takes: int) -> None:
    """A new crew takes as long as so many changes. Whatever number that is, a resync gets its turn."""
    begun: list[str] = []
    changes = 0

    async def reconcile(key: str) -> None:
        nonlocal changes
        begun.append(key)
        if key.startswith("change"):
            changes += 1
        ends = changes + takes
        while key.startswith("new") and changes < ends and "resync" not in begun:
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    def fill(queue: WorkQueue[str]) -> None:
        queue.add("resync", Lane.RESYNC)
        for i in range(100):
            queue.add(f"new-{i}", Lane.ROUTINE)
        for i in range(1000):
            queue.add(f"change-{i}")

    queue: WorkQueue[str] = WorkQueue()
    fill(queue)
    running = asyncio.create_task(queue.run(reconcile, 2))
    while "resync" not in begun and changes < 500:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert "resync" in begun, begun[:60]
