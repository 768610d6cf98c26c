"""Kubernetes Events: series instead of repetitions, and no flood. An API server in memory; time is turned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from barriers import settle

from watchbill import background
from watchbill.controller.events import BURST, SERIES_SECONDS, TOKEN_SECONDS, WAITING_MOST, WINDOW_SECONDS, Events
from watchbill.errors import KubernetesUnavailable, NotFound
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan.events import Told
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure


class ApiServer:
    """Events in memory."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.writes = 0
        self.error: Exception | None = None

    async def create_event(self, event: dict[str, Any]) -> None:
        self.writes += 1
        if self.error is not None:
            raise self.error
        self.events[event["metadata"]["name"]] = event

    async def count_event(self, namespace: str, name: str, series: dict[str, Any]) -> None:
        self.writes += 1
        if name not in self.events:
            raise NotFound(name)
        self.events[name] = {**self.events[name], "series": series}


class Room:
    """The Events of one operator, which run."""

    def __init__(self) -> None:
        self.clock, self.server = FakeClock(), ApiServer()
        self.events = Events(cast(KubernetesApi, self.server), "operator-0", self.clock)

    def tell(self, note: str = "n", reason: str = "Scaled", name: str = "blog") -> None:
        metadata = {"namespace": "team", "name": name, "uid": f"uid-{name}"}
        self.events.tell("crews", metadata, [Told(reason, "Scale", note)])

    async def turn(self, seconds: float, writes: int = 2) -> None:
        """Turns the clock in steps, in each of which one write may go out."""
        for _ in range(writes):
            await settle()
            self.clock.advance(seconds / writes)
        await settle()

    @property
    def written(self) -> list[tuple[str, str, int]]:
        """For each Event its reason, note and count."""
        found = self.server.events.values()
        return [(e["reason"], e["note"], e.get("series", {}).get("count", 1)) for e in found]


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    made = Room()
    running = asyncio.create_task(made.events.run())
    yield made
    await background.end(running)


async def test_an_event_says_what_happened_to_which_object(room: Room) -> None:
    room.tell("é" * 2000)
    await settle()
    (event,) = room.server.events.values()
    assert event["note"] == "é" * 512, "the bound of the API server is in bytes"
    assert event["regarding"] == {
        "apiVersion": "watchbill.dev/v1alpha1",
        "kind": "Crew",
        "namespace": "team",
        "name": "blog",
        "uid": "uid-blog",
    }
    assert (event["type"], event["action"], event["reportingInstance"]) == ("Normal", "Scale", "operator-0")
    assert event["eventTime"] == "2026-01-01T00:00:00.000000Z"


async def test_a_repetition_within_the_window_counts_up_one_series_with_few_writes(room: Room) -> None:
    for _ in range(100):
        room.tell()
        await room.turn(1, writes=1)
    await room.turn(SERIES_SECONDS)
    assert room.written == [("Scaled", "n", 100)]
    assert 3 <= room.server.writes <= 2 + 100 / SERIES_SECONDS
    await room.turn(WINDOW_SECONDS + 1)
    room.tell()
    await room.turn(1)
    assert room.written == [("Scaled", "n", 100), ("Scaled", "n", 1)]


async def test_a_hundred_different_changes_of_an_object_are_few_events_and_it_has_more_later(room: Room) -> None:
    for i in range(100):
        room.tell(f"{i} workers")
    room.tell("other", name="other")
    await room.turn(SERIES_SECONDS + 5, writes=20)
    assert room.written == [
        *(("Scaled", f"{i} workers", 1) for i in range(BURST - 1)),
        ("Scaled", f"{BURST - 1} workers", 101 - BURST),
        ("Scaled", "other", 1),
    ]
    assert room.server.writes == BURST + 1
    await room.turn(TOKEN_SECONDS)
    room.tell("later")
    await room.turn(1)
    assert room.written[-1] == ("Scaled", "later", 1)


async def test_many_objects_wait_their_turn_and_too_many_are_dropped(room: Room) -> None:
    for i in range(WAITING_MOST + 50):
        room.tell(name=f"crew-{i}")
    await room.turn(1, writes=20)
    assert 5 <= room.server.writes <= 11, "ten a second"
    while room.clock.sleepers:
        room.clock.advance(room.clock.sleepers[0])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert room.server.writes == WAITING_MOST


async def test_an_event_that_can_t_be_written_is_dropped_and_the_next_is_a_new_one(room: Room) -> None:
    room.server.error = KubernetesUnavailable("away")
    room.tell()
    await room.turn(1)
    room.server.error = None
    room.tell()
    await room.turn(1)
    assert room.written == [("Scaled", "n", 1)]
    room.server.events.clear()  # its time is over
    room.tell()
    await room.turn(SERIES_SECONDS + 1)
    assert room.written == []
    room.tell()
    await room.turn(1)
    assert room.written == [("Scaled", "n", 1)]
