"""How soon a status is written, and whose turn it is."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from watchbill.controller.cache import Key
from watchbill.controller.statuses import Turns, urgency


def status(reason: str = "Available", **more: Any) -> dict[str, Any]:
    ready = {
        "type": "Ready",
        "status": "True" if reason in ("Available", "StoreEvicts") else "False",
        "reason": reason,
        "message": "m",
    }
    return {"observedGeneration": 1, "conditions": [ready], "replicas": 1, "waiting": 3, "running": 0, **more}


@pytest.mark.pure
@pytest.mark.parametrize(
    ("after", "soon"),
    [
        (status(waiting=4), "figures"),
        (status(waiting=0), "now"),
        (status(running=1), "now"),
        (status(replicas=2), "now"),
        (status("FlowCycle"), "now"),
        (status("StoreUnavailable"), "shared"),
        (status("StoreUnavailable", observedGeneration=2), "now"),
        (status("StoreEvicts"), "shared"),
        (status("StoreEvicts", observedGeneration=2), "now"),
        (status(lastFireTime="2026-03-01T12:00:00Z"), "figures"),
        (status(conditions=[{**status()["conditions"][0], "message": "other"}]), "figures"),
    ],
    ids=str,
)
def test_what_concerns_one_is_written_at_once_and_what_many_share_in_turns(after: dict[str, Any], soon: str):
    assert urgency(status(), after) == soon


@pytest.mark.pure
def test_the_way_back_is_shared_too():
    assert urgency(status("StoreUnavailable"), status()) == "shared"
    assert urgency(status("StoreEvicts"), status()) == "shared"


@pytest.mark.pure
def test_with_a_store_that_evicts_too_what_concerns_one_is_written_at_once():
    assert urgency(status("StoreEvicts"), status("StoreEvicts", waiting=0)) == "now"
    assert urgency(status("StoreEvicts"), status("FlowCycle")) == "now"
    assert urgency(status("Progressing"), status("StoreEvicts")) == "now"


async def _write_all(count: int, per_second: float) -> list[tuple[float, str]]:
    """Each asks at once, and again when it is woken. Returns after how many seconds each wrote."""
    wrote: list[tuple[float, str]] = []
    done = asyncio.Event()

    def ask(key: Key) -> None:
        if turns.take(("crews", *key), key, first=key[0] == "first"):
            wrote.append((time.monotonic() - began, key[0]))
            if len(wrote) == count:
                done.set()

    turns = Turns(ask, per_second)
    began = time.monotonic()
    for i in range(count):
        ask(("later" if i < count // 2 else "first", f"c{i}"))
    async with asyncio.timeout(30):
        await done.wait()
    return wrote


async def test_turns_come_no_faster_than_they_should_and_transitions_come_first():
    wrote = await _write_all(21, per_second=50)
    assert wrote[-1][0] >= 20 / 50 * 0.95
    # the very first to ask had nobody before it
    assert [what for _, what in wrote[1:12]] == ["first"] * 11
    assert {what for _, what in wrote[12:]} == {"later"}


async def test_who_has_nothing_to_write_any_more_takes_no_turn():
    woken: list[Key] = []
    turns = Turns(woken.append, per_second=100)
    assert turns.take(("crews", "t", "a"), ("t", "a"), first=True)
    assert not turns.take(("crews", "t", "b"), ("t", "b"), first=True)
    assert not turns.take(("crews", "t", "c"), ("t", "c"), first=True)
    turns.drop(("crews", "t", "b"))
    async with asyncio.timeout(5):
        while not woken:
            await asyncio.sleep(0.01)
    assert woken == [("t", "c")]
    assert turns.take(("crews", "t", "c"), ("t", "c"), first=True)
