"""Crews with work, and idle ones whose wake-up was lost, seen by one call for all of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest
import redis.asyncio
from test_figures_shown import NoHeartbeats, evalshas, give, no_crew

from watchbill import connection
from watchbill.connection import scripts
from watchbill.controller.autoscaler import AT_ONCE, IDLE_PARTS, SWEEP_SECONDS, Autoscaler
from watchbill.controller.cache import Key
from watchbill.controller.memory import CrewMemory, Memory
from watchbill.controller.stored import Stored, StoreState
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import sweep
from watchbill.testing import FakeClock

ACTIVE, IDLE = 50, 300


class Room(NamedTuple):
    client: redis.asyncio.Redis
    stored: Stored
    memory: Memory
    scaler: Autoscaler
    clock: FakeClock
    added: list[Key]
    woken: list[Key]
    keys: list[Key]

    async def sync(self, name: str) -> StoreState:
        """Stores and reads the crew as a reconciliation does."""
        key, seen = ("team", name), {"metadata": {"uid": f"uid-of-{name}", "generation": 1}}
        definition = CrewDefinition(name=name, agents=[AgentDefinition(agent_id="a", agent_class="EchoAgent")])
        memory = self.memory.of(key)
        state = await self.stored.sync(key, seen, definition, [], memory)
        assert state is not None
        memory.watch = "changes" if not state.load.none else ""
        memory.outdate()
        return state

    async def give(self, *keys: Key, task: str) -> None:
        for key in keys:
            await give(self.client, CrewKeys(*key), task)

    async def look(self) -> tuple[list[Key], list[Key]]:
        """Returns which crews that look has reconciled because of a change, and because work has come."""
        self.added.clear()
        self.woken.clear()
        await self.scaler.look()
        return sorted(self.added), sorted(self.woken)


@pytest.fixture
async def room(private_redis: Callable[[], Awaitable[Any]]) -> AsyncIterator[Room]:
    server = await private_redis()
    async with connection.connected(server.url) as client:
        clock, memory, added, woken = FakeClock(), Memory(), list[Key](), list[Key]()
        names = [f"busy-{i}" for i in range(ACTIVE)] + [f"idle-{i}" for i in range(IDLE)]
        keys = [("team", name) for name in names]
        scaler = Autoscaler(client, lambda: keys, memory, lambda key, _: added.append(key), woken.append, clock)
        made = Room(
            client,
            Stored(client, NoHeartbeats(), "me", no_crew, clock=clock),
            memory,
            scaler,
            clock,
            added,
            woken,
            keys,
        )
        for _, name in keys[:ACTIVE]:
            await made.sync(name)
        yield made


async def test_crews_with_work_are_read_by_few_calls_and_reconciled_when_they_have_changed(room: Room) -> None:
    busy = sorted(("team", f"busy-{i}") for i in range(ACTIVE))
    await room.give(*busy, task="t1")
    for _, name in busy:
        await room.sync(name)
    assert await room.look() == ([], []), "nothing has changed since their reconciliations read it"
    await room.give(*busy, task="t2")
    before = await evalshas(room.client)
    assert await room.look() == (busy, [])
    for _, name in busy:
        assert (await room.sync(name)).load.waiting == 2
    calls = await evalshas(room.client) - before
    assert calls <= 3, "2 for 50 crews, 1 for a part of the idle ones; each alone needs 1"
    assert await room.look() == ([], []), "nothing has changed"
    await room.give(("team", "busy-7"), task="t3")
    assert await room.look() == ([("team", "busy-7")], [])
    state = await room.sync("busy-7")
    assert (state.load.waiting, state.is_swept) == (3, True)
    assert not (await room.sync("busy-7")).is_swept, "it serves once"


async def test_a_crew_that_waits_for_its_first_worker_is_reconciled_ever_more_rarely_and_once_it_changes(
    room: Room,
) -> None:
    waiting = sorted(("team", f"busy-{i}") for i in range(8))
    for key in room.keys[:ACTIVE]:
        room.memory.of(key).watch = "rarely" if key in waiting else ""

    async def looks(seconds: float) -> dict[Key, list[float]]:
        """When each crew is reconciled within so many seconds."""
        found: dict[Key, list[float]] = {key: [] for key in waiting}
        end = room.clock.monotonic() + seconds
        while room.clock.monotonic() < end:
            room.clock.advance(SWEEP_SECONDS)
            for key in (await room.look())[0]:
                found[key].append(room.clock.monotonic())
        return found

    began = room.clock.monotonic()
    found = await looks(600)
    for times in found.values():
        pauses = [after - before for before, after in itertools.pairwise([began, *times])]
        for pause, seconds in zip(pauses, (10, 20, 40, *[60] * len(pauses)), strict=False):
            assert 0.75 * seconds <= pause <= 1.25 * seconds + 2 * SWEEP_SECONDS, pauses
        assert len(times) >= 8
    assert len({times[5] for times in found.values()}) > 1, "they began together, and don't go on so"
    await room.give(waiting[0], task="t1")
    room.clock.advance(SWEEP_SECONDS)
    assert waiting[0] in (await room.look())[0]
    await room.sync("busy-0")
    room.memory.of(waiting[0]).watch = "rarely"
    assert (await looks(20))[waiting[0]], "after a change its pauses begin anew"


async def test_a_look_at_thousands_of_crews_lets_others_go_on_meanwhile(room: Room) -> None:
    room.keys.extend(("team", f"more-{i}") for i in range(5 * AT_ONCE))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    going_on = asyncio.create_task(others())
    await room.scaler._sorted()
    going_on.cancel()
    assert turns >= 5


async def test_a_reading_that_was_asked_for_before_work_came_or_long_ago_serves_nobody(room: Room) -> None:
    key = ("team", "busy-0")
    await room.give(key, task="t1")
    await room.sync("busy-0")

    async def read(task: str) -> None:
        await room.give(key, task=task)
        assert await room.look() == ([key], [])

    await read("t2")
    room.memory.on_work(key)
    assert not (await room.sync("busy-0")).is_swept
    await read("t3")
    room.clock.advance(1)
    assert not (await room.sync("busy-0")).is_swept
    await read("t4")
    assert (await room.sync("busy-0")).is_swept


async def test_a_look_that_takes_long_gives_readings_that_are_new_enough(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = room.keys[:ACTIVE]
    await room.give(*busy, task="t1")
    for _, name in busy:
        await room.sync(name)
    await room.give(*busy, task="t2")
    run = scripts.run

    async def slow(*args: Any) -> Any:
        answer = await run(*args)
        room.clock.advance(0.3)
        return answer

    monkeypatch.setattr(sweep, "WHOLE_AT_ONCE", 10)
    with monkeypatch.context() as patched:
        patched.setattr(scripts, "run", slow)
        await room.look()
    assert [(await room.sync(f"busy-{i}")).is_swept for i in (0, ACTIVE - 1)] == [False, True]


async def test_an_idle_crew_that_is_gone_is_forgotten(room: Room) -> None:
    await room.sync("idle-3")
    await give(room.client, CrewKeys("team", "idle-3"), "t1")
    for _ in range(IDLE_PARTS):
        await room.look()
    room.memory.pop(("team", "idle-3"))
    room.keys.remove(("team", "idle-3"))
    await room.look()
    assert ("team", "idle-3") not in vars(room.memory)["_crews"]


async def test_work_of_which_no_message_told_is_found_and_told_once(room: Room) -> None:
    await room.sync("idle-3")
    await give(room.client, CrewKeys("team", "idle-3"), "t1")
    found = [await room.look() for _ in range(2 * IDLE_PARTS)]
    assert [woken for _, woken in found if woken] == [[("team", "idle-3")]]


async def test_crews_that_can_not_be_read_together_are_reconciled_one_by_one(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    await give(room.client, CrewKeys("team", "busy-0"), "t1")
    await room.sync("busy-0")
    await room.client.hdel(CrewKeys("team", "busy-0").meta, "uid")  # somebody flushed it
    assert await room.look() == ([("team", "busy-0")], [])
    await room.client.execute_command("ACL", "SETUSER", "default", "-evalsha")
    for _ in range(2):
        assert await room.look() == ([("team", "busy-0")], [])
    assert [record.message for record in caplog.records if "one by one" in record.message][1:] == []
    assert "evalsha" in caplog.text


def test_a_crew_that_is_reconciled_meanwhile_keeps_no_reading() -> None:
    memory = CrewMemory(reading=(0.0, None))  # type: ignore[arg-type]
    memory.outdate()
    assert (memory.reading, memory.take(0.0), memory.swept) == (None, None, None)


async def test_a_look_remembers_nothing_of_crews_that_are_gone(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, idle = room.keys[:ACTIVE], room.keys[ACTIVE:]
    for key in busy:
        room.memory.of(key).watch = "closely"
    read = sweep.read

    async def slow(*arguments: Any) -> AsyncIterator[tuple[str, Any]]:
        async for found in read(*arguments):
            for key in busy:
                room.memory.pop(key)  # as their reconciliation does
            yield found

    monkeypatch.setattr(sweep, "read", slow)
    for _ in range(IDLE_PARTS):
        await room.look()
    assert [key for key in (*busy, *idle) if room.memory.known(key) is not None] == []
