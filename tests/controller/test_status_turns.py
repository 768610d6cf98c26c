"""Turns: statuses that many resources share are written eighteen a second, in order, whatever delays the writes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from barriers import settle

from watchbill.controller.cache import Key
from watchbill.controller.memory import Resource
from watchbill.controller.statuses import GRANTED_SECONDS, Turns
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure

TURN = 1 / 18


class CountingClock(FakeClock):
    sleeps = 0

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        await super().sleep(seconds)


class Asking:
    """Resources that ask for a turn, and again when they are woken."""

    def __init__(self) -> None:
        self.clock = CountingClock()
        self.turns = Turns(self.ask, self.clock)
        self.wrote: list[str] = []
        self.woken: list[Key] = []

    def ask(self, key: Key) -> None:
        """The namespace says whether it goes first."""
        self.woken.append(key)
        if self.turns.take(("crews", *key), key, first=key[0] == "first"):
            self.wrote.append("/".join(key))

    @contextmanager
    def running(self) -> Iterator[None]:
        task = asyncio.create_task(self.turns.run())
        try:
            yield
        finally:
            task.cancel()

    async def advance(self, seconds: float) -> list[str]:
        """What was written within these seconds."""
        before = len(self.wrote)
        self.clock.advance(seconds)
        await settle()
        return self.wrote[before:]


async def test_turns_come_eighteen_a_second_and_shared_changes_come_first() -> None:
    asking = Asking()
    with asking.running():
        for key in [("later", "a"), ("later", "b"), ("later", "c"), ("first", "d"), ("first", "e")]:
            asking.ask(key)
        assert asking.wrote == ["later/a"], "the first to ask has nobody before it"
        assert await asking.advance(0.99 * TURN) == []
        assert await asking.advance(0.01 * TURN) == ["first/d"]
        assert await asking.advance(0.99 * TURN) == []
        assert await asking.advance(0.01 * TURN) == ["first/e"]
        assert await asking.advance(TURN) == ["later/b"]
        assert await asking.advance(TURN) == ["later/c"]


async def test_after_a_rest_a_turn_comes_at_once_and_only_one() -> None:
    asking = Asking()
    with asking.running():
        for name in "abc":
            asking.ask(("first", name))
        await asking.advance(TURN)
        await asking.advance(TURN)
        assert asking.wrote == ["first/a", "first/b", "first/c"]
        asking.ask(("first", "d"))
        assert len(asking.wrote) == 3, "a turn was given just now"
        assert await asking.advance(TURN) == ["first/d"]
        await asking.advance(60)
        asking.ask(("first", "e"))
        asking.ask(("first", "f"))
        assert asking.wrote[4:] == ["first/e"]
        assert await asking.advance(TURN) == ["first/f"]


def test_a_turn_comes_at_once_when_the_one_before_it_is_over() -> None:
    asking = Asking()
    asking.ask(("first", "a"))
    asking.clock.advance(TURN)
    asking.ask(("first", "b"))
    assert asking.wrote == ["first/a", "first/b"]


async def test_a_resource_that_waits_keeps_its_place_before_one_that_asks_when_a_turn_is_due() -> None:
    asking = Asking()
    asking.ask(("first", "a"))
    asking.ask(("first", "b"))
    asking.clock.advance(60)  # nobody gives turns yet
    asking.ask(("first", "c"))
    assert asking.wrote == ["first/a"]
    with asking.running():
        await settle()
        assert asking.wrote == ["first/a", "first/b"]
        assert await asking.advance(TURN) == ["first/c"]


async def test_a_resource_with_nothing_to_write_any_more_takes_no_turn() -> None:
    asking = Asking()
    with asking.running():
        for name in "abc":
            asking.ask(("later", name))
        asking.turns.drop(("crews", "later", "b"))
        assert await asking.advance(TURN) == ["later/c"]
        assert asking.woken[3:] == [("later", "c")]


async def test_a_resource_whose_change_became_a_shared_one_moves_forward_and_is_woken_once() -> None:
    asking = Asking()
    resource: Resource = ("crews", "later", "c")
    crew = ("later", "c")
    with asking.running():
        for name in "abc":
            asking.ask(("later", name))
        assert not asking.turns.take(resource, crew, first=True)
        assert await asking.advance(TURN) == ["later/c"]
        assert await asking.advance(TURN) == ["later/b"]
        assert await asking.advance(TURN) == []
        assert asking.woken[3:] == [("later", "c"), ("later", "b")]


async def test_with_nothing_to_write_no_turns_are_given() -> None:
    asking = Asking()
    with asking.running():
        asking.ask(("first", "a"))
        asking.ask(("first", "b"))
        await asking.advance(TURN)
        await asking.advance(TURN)
        sleeps = asking.clock.sleeps
        await asking.advance(60)
        assert asking.clock.sleeps == sleeps, "it would be a busy loop"


async def test_a_turn_that_was_given_is_lost_with_the_change_that_it_was_for() -> None:
    clock = FakeClock()
    woken: list[Key] = []
    turns = Turns(woken.append, clock)
    a: Resource = ("crews", "t", "a")
    b: Resource = ("crews", "t", "b")
    task = asyncio.create_task(turns.run())
    assert turns.take(a, ("t", "a"), first=True)
    assert not turns.take(b, ("t", "b"), first=True)
    clock.advance(TURN)
    await settle()
    assert woken == [("t", "b")]
    turns.drop(b)
    assert not turns.take(b, ("t", "b"), first=True), "it is another change"
    clock.advance(TURN)
    await settle()
    assert turns.take(b, ("t", "b"), first=True)
    assert not turns.take(b, ("t", "b"), first=True), "a turn is for one write"
    task.cancel()


@pytest.mark.parametrize("seed", range(3))
async def test_no_second_has_more_than_eighteen_writes_and_none_is_forgotten(seed: int) -> None:
    """A busy machine: between a turn and its write lies a time that nobody knows, and some resources end in it."""
    chance = random.Random(seed)
    clock, wrote, times, ended = FakeClock(), set[Key](), list[float](), set[Key]()
    late = (0.0, 0.3, 3.0)[seed % 3]

    def wake(key: Key) -> None:
        clock.call_later(chance.uniform(0, late), write, key)

    def write(key: Key) -> None:
        if key in ended:
            turns.drop(("crews", *key))
        elif turns.take(("crews", *key), key, first=key[0] == "first"):
            wrote.add(key)
            times.append(clock.monotonic())

    turns = Turns(wake, clock)
    task = asyncio.create_task(turns.run())
    keys: list[Key] = [(chance.choice(("first", "later")), str(number)) for number in range(120)]
    for key in keys:  # most of them at once, as after an outage
        clock.call_later(chance.choice((0, 0, 0, chance.uniform(0, 9))), write, key)
    for key in chance.sample(keys, 10):
        clock.call_later(chance.uniform(0, 9), ended.add, key)
    while clock.monotonic() < 90 and not wrote >= set(keys) - ended:
        clock.advance(chance.choice((0.001, 0.02)))
        await settle()
    task.cancel()
    assert wrote >= set(keys) - ended
    assert all(later - earlier > 1 - 1e-9 for earlier, later in zip(times, times[18:], strict=False))


async def test_without_delays_writes_come_as_fast_as_they_may() -> None:
    asking = Asking()
    with asking.running():
        for number in range(40):
            asking.ask(("first", str(number)))
        while len(asking.wrote) < 40 and asking.clock.monotonic() < 9:
            await asking.advance(0.002)
    assert asking.clock.monotonic() < 2.4


async def test_a_turn_is_not_kept_for_ever_for_a_resource_that_is_gone() -> None:
    clock = FakeClock()
    turns = Turns(lambda _: None, clock)
    task = asyncio.create_task(turns.run())
    assert turns.take(("crews", "team", "first"), ("team", "first"), first=True)
    for name in ("gone", "later"):
        assert not turns.take(("crews", "team", name), ("team", name), first=True)
        clock.advance(GRANTED_SECONDS if name == "later" else TURN)
        await settle()
    assert list(turns._granted) == [("crews", "team", "later")]
    task.cancel()
