"""Claiming: what a worker gets and in which order, and entries that can't be read."""

from __future__ import annotations

import asyncio
import itertools
from itertools import pairwise
from typing import Any

import pytest
from support import LEASE_MS, Crew, counted, finished, library, next_millisecond, server_ms

from watchbill.errors import Fenced
from watchbill.store import control
from watchbill.tasks import Priority

# ---------------------------------------------------------------- claiming


async def test_the_most_urgent_come_first_and_within_a_class_the_first(crew: Crew) -> None:
    for priority in (Priority.BACKGROUND, Priority.NORMAL, Priority.CRITICAL, Priority.LOW, Priority.HIGH):
        await crew.submit(*(f"{priority.name}{i}" for i in range(2)), priority=priority)
    claimed = await crew.claim("w", slots=10)
    # ten slots at once: none of them is the sixteenth pick
    assert [t.id for t in claimed] == [f"{p.name}{i}" for p in Priority for i in range(2)]
    assert [t.priority for t in claimed] == [p.value for p in Priority for _ in range(2)]


async def test_a_claim_takes_no_more_than_its_slots(crew: Crew) -> None:
    await crew.submit(*(f"t{i}" for i in range(5)))
    assert len(await crew.claim("w", 1, 2)) == 2
    assert await crew.claim("w", 2, 0) == ()
    assert len(await crew.claim("w", 3, 9)) == 3
    assert await crew.claim("w", 4, 9) == ()


@pytest.mark.parametrize("slots", [1, 3, 16, 40])
async def test_one_pick_in_sixteen_goes_to_the_oldest_so_that_nothing_starves(crew: Crew, slots: int) -> None:
    await crew.submit("low0", "low1", priority=Priority.LOW)
    await next_millisecond(crew)
    await crew.submit("background", priority=Priority.BACKGROUND)
    await next_millisecond(crew)
    picked: list[str] = []
    for number in range(1, 1 + max(4, 64 // slots)):  # always more urgent work than slots
        urgent = [f"u{number}-{i}" for i in range(slots)]
        await crew.submit(*urgent, priority=Priority.HIGH)
        await crew.submit(*(f"n{number}-{i}" for i in range(slots)))
        tasks = await crew.take("w", number, slots)
        assert len(tasks) == slots
        picked += [t.id for t in tasks]
        await crew.finish("w", tasks)
    rare = [i for i, task_id in enumerate(picked) if task_id.startswith(("low", "background"))]
    assert [picked[i] for i in rare] == ["low0", "low1", "background"]
    assert all(later - earlier >= min(slots, 15) for earlier, later in pairwise(rare))


@pytest.mark.parametrize("how", ["handed back", "taken over"])
async def test_a_less_urgent_task_that_returned_does_not_starve(crew: Crew, how: str) -> None:
    await crew.submit("low", priority=Priority.LOW)
    tasks = await crew.take("first")
    if how == "handed back":
        await crew.queue.hand_back("first", tasks)
    else:
        await crew.queue.declare_dead(["first"])
    picked: set[str] = set()
    for number in range(1, 70):
        await crew.submit(f"u{number}", f"v{number}", priority=Priority.HIGH)
        claimed = await crew.claim("w", number, 1)
        picked |= {t.id for t in claimed}
        await crew.finish("w", claimed)
    assert "low" in picked


async def test_nothing_is_picked_in_place_of_a_critical_task_and_what_is_owed_comes_right_after(crew: Crew) -> None:
    await crew.submit("low", priority=Priority.LOW)
    await next_millisecond(crew)
    await crew.submit(*(f"h{i}" for i in range(3)), priority=Priority.HIGH)
    for number in range(1, 40):  # one slot, and always a critical task for it
        await crew.submit(f"c{number}", priority=Priority.CRITICAL)
        tasks = await crew.take("w", number, 1)
        assert [t.id for t in tasks] == [f"c{number}"]
        await crew.finish("w", tasks)
    await crew.submit("last", priority=Priority.CRITICAL)
    assert [t.id for t in await crew.take("w", 40, 3)] == ["last", "low", "h0"]


async def test_a_claim_sent_again_gets_the_same_tasks(crew: Crew) -> None:
    await crew.submit(*(f"t{i}" for i in range(4)))
    first = await crew.claim("w", 1, 2)
    before = await crew.dump()
    assert await crew.claim("w", 1, 2) == first
    after = await crew.dump()
    assert {name for name in before if before[name] != after[name]} <= {crew.keys.leases}
    assert [t.id for t in await crew.claim("w", 2, 2)] == ["t2", "t3"]


async def test_a_finish_with_a_claim_sent_again_gets_the_same_tasks(crew: Crew) -> None:
    await crew.submit(*(f"t{i}" for i in range(4)))
    done = [finished(t) for t in await crew.take("w", 1, 2)]
    options: dict[str, Any] = {"number": 2, "slots": 2, "lease_ms": LEASE_MS, "take_over": True}
    first, claim = await crew.queue.finish("w", done, **options)
    second, again = await crew.queue.finish("w", done, **options)
    assert first == ["applied", "applied"]
    assert second == ["repeated", "repeated"]
    assert claim is not None
    assert again is not None
    assert again.tasks == claim.tasks
    assert [t.id for t in claim.tasks] == ["t2", "t3"]
    assert counted(await crew.results()) == {"t0": 1, "t1": 1}


async def test_an_incarnation_that_the_store_does_not_know_must_begin_with_one(crew: Crew) -> None:
    await crew.submit("t1")
    before = await crew.dump()
    with pytest.raises(Fenced):
        await crew.claim("stranger", 2)
    assert await crew.dump() == before
    assert [t.id for t in await crew.claim("stranger", 1)] == ["t1"]


async def test_the_bell_holds_one_token_and_is_rung_again_while_work_is_left(crew: Crew) -> None:
    for i in range(3):
        await crew.submit(f"t{i}")
    assert await crew.client.llen(crew.keys.bell) == 1
    assert await crew.bell()
    assert await crew.client.llen(crew.keys.bell) == 0
    await crew.claim("w", 1, 1)
    assert await crew.client.llen(crew.keys.bell) == 1  # two are left
    assert await crew.bell()
    await crew.claim("w", 2, 2)
    assert await crew.client.llen(crew.keys.bell) == 0  # all are taken
    assert not await crew.bell(0.05)


async def test_many_that_ring_at_once_leave_one_token(crew: Crew) -> None:
    await asyncio.gather(*(crew.client.ping() for _ in range(20)))  # a connection for each
    await asyncio.gather(*(crew.submit(f"t{i}") for i in range(20)))
    assert await crew.client.llen(crew.keys.bell) == 1


async def test_a_finish_that_makes_work_ready_rings_the_bell(crew: Crew) -> None:
    await crew.run("r1", library("a", "b", "c"), parallel=1)
    task = await crew.take("w", 1, 1)
    await crew.client.delete(crew.keys.bell)
    await crew.finish("w", task)
    assert await crew.client.llen(crew.keys.bell) == 1


# Else idle workers hear of the ready step only when they look again by themselves, up to 2 s later.
async def test_a_finish_that_claims_for_no_slot_rings_the_bell_for_others(crew: Crew) -> None:
    await crew.run("r1", library("a", "b", "c"), parallel=1)
    task = await crew.take("w", 1, 1)
    await crew.client.delete(crew.keys.bell)
    done = [finished(t, definition=crew.definition.digest()) for t in task]
    await crew.queue.finish("w", done, number=2, slots=0, lease_ms=LEASE_MS, take_over=True)
    assert await crew.client.llen(crew.keys.bell) == 1


async def test_when_to_look_again_is_told(crew: Crew) -> None:
    alone = await crew.queue.claim("w1", 1, 5, lease_ms=LEASE_MS, take_over=True)
    assert alone.again_ms == 2000
    for number in itertools.count(2):
        other = await crew.queue.claim(f"w{number}", 1, 5, lease_ms=1900, take_over=True)
        assert other.again_ms == 2000  # its own lease is no reason
        ends = await crew.client.zscore(crew.keys.leases, f"w{number}")
        told = await crew.queue.claim("w1", number, 5, lease_ms=LEASE_MS, take_over=True)
        if told.now_ms < ends:  # on a busy machine it may have ended by then
            break
    assert told.again_ms == ends - told.now_ms + 1
    assert await server_ms(crew.client) - other.now_ms >= 0


# ---------------------------------------------------------------- malformed entries


HUGE = "x" * 600

MALFORMED: dict[str, dict[str | bytes, str | bytes]] = {
    "no field that we know": {"foo": "bar", "baz": "1"},
    "no id": {"agent": "a"},
    "no agent": {"id": "x"},
    "empty id": {"id": "", "agent": "a"},
    "empty agent": {"id": "x", "agent": ""},
    "control characters": {"id": "x\n\x00y", "agent": "a"},
    "our separators": {"id": "x\x1fy", "agent": "a\x1e"},
    "a huge id": {"id": HUGE, "agent": "a"},
    "an id that some would take for a step's": {"id": "/x", "agent": "a"},
    # Lua's tonumber takes "inf" for a number, int() does not: the claim's answer can't be read, the same at
    # each repeat, and with it all tasks beside this one hang.
    "an attempt that is no number": {"id": "x", "agent": "a", "attempt": "inf"},
    "many fields": {f"f{i}": str(i) for i in range(100)},
    "bytes that are no text": {b"\xff\xfe": b"\x80\x00\xc3("},
    "an id that is no text": {b"id": b"x\xff", b"agent": b"a"},
    "an agent that is no text": {b"id": b"x", b"agent": b"a\xff\xfe"},
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_entry_is_dead_lettered_with_its_bytes_and_good_ones_run(
    crew: Crew, fields: dict[str | bytes, str | bytes]
) -> None:
    await crew.submit("good1")
    entry = await crew.client.xadd(crew.keys.streams[2], fields)
    await crew.submit("good2")
    tasks = await crew.take("w")
    assert [t.id for t in tasks] == ["good1", "good2"]
    (buried,) = await crew.dead()
    assert buried["reason"].startswith("malformed entry")
    assert buried["entry"] == entry
    assert buried["class"] == "5"
    for name, value in list(fields.items())[:50]:
        assert buried["raw:" + _text(name)] == _text(value)
    await crew.finish("w", tasks)
    await crew.assert_idle()
    assert await crew.claim("w", 2) == ()
    assert await crew.client.llen(crew.keys.bell) <= 1
    assert len(await crew.events()) > 0


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="surrogateescape")


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"a": "x" * 300_000, "b": "y"}, {"raw:a": "x" * 65_535}),
        ({"n": "1", "x" * 300_000: "y"}, {"raw:n": "1", "raw:" + "x" * 65_534: ""}),
        ({"a": "bc", "ü": "€" * 100_000}, {"raw:a": "bc", "raw:ü": "€" * 21_843}),
        ({"a": "x" * 65_535}, {"raw:a": "x" * 65_535}),
    ],
    ids=["value", "name", "characters", "all of it"],
)
async def test_of_a_large_malformed_entry_the_letter_has_the_beginning_and_the_size(
    crew: Crew, fields: dict[Any, Any], kept: dict[str, str]
) -> None:
    await crew.client.xadd(crew.keys.streams[2], fields)
    assert await crew.claim("w") == ()
    (buried,) = await crew.dead()
    assert {name: value for name, value in buried.items() if name.startswith("raw:")} == kept
    size = sum(len(text.encode()) for field in fields.items() for text in field)
    assert buried.get("raw_bytes") == (None if size == 65_536 else str(size))
    await crew.assert_idle()


async def test_a_stream_full_of_malformed_entries_is_cleared_and_what_is_behind_runs(crew: Crew) -> None:
    for _ in range(30):
        await crew.client.xadd(crew.keys.streams[2], {"what": "ever"})
    await crew.submit("good")
    number = 0
    found: list[Any] = []
    while not found:
        number += 1
        assert number < 20
        found = [t.id for t in await crew.claim("w", number, 4)]
        assert found or await crew.client.llen(crew.keys.bell) == 1
    assert found == ["good"]
    assert len(await crew.dead()) == 30
    assert await crew.queued() == 1


# Else the first entry stays pending for ever, XLEN never returns to 0, and the bell is rung at every claim.
async def test_a_second_entry_with_the_id_of_a_running_task_leaves_nothing_behind(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.client.xadd(crew.keys.streams[2], {"id": "t1", "agent": "a"})
    tasks = await crew.take("w", 1)
    await crew.finish("w", tasks)
    tasks = await crew.take("w", 2)
    if tasks:
        await crew.finish("w", tasks)
    await crew.queue.leave("w")
    if tasks := await crew.take("w2", 1):
        await crew.finish("w2", tasks)
    assert counted(await crew.results()) == {"t1": 1}
    await crew.assert_idle()


async def test_a_finished_task_is_not_started_again_by_a_stray_entry(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.finish("w", await crew.take("w", 1))
    await crew.client.xadd(crew.keys.streams[2], {"id": "t1", "agent": "a"})
    if tasks := await crew.take("w", 2):
        assert await crew.state("t1") == "completed"
        await crew.finish("w", tasks, "failed")
    assert await crew.state("t1") == "completed"
    await crew.assert_idle()


async def test_the_worker_that_holds_a_task_may_finish_it_though_its_entry_was_deleted(crew: Crew) -> None:
    await crew.submit("t1")
    tasks = await crew.take("w")
    await crew.client.xdel(crew.keys.streams[2], tasks[0].entry)
    assert await crew.finish("w", tasks) == ["applied"]
    assert await crew.state("t1") == "completed"
    await crew.assert_idle()


# Else it counts as running for ever, and the crew never has nothing to do.
@pytest.mark.parametrize("wish", [False, True])
async def test_what_is_handed_back_though_its_entry_was_deleted_leaves_nothing_behind(crew: Crew, wish: bool) -> None:
    await crew.submit("t1")
    tasks = await crew.take("w")
    await crew.client.xdel(crew.keys.streams[2], tasks[0].entry)
    if wish:
        await control.cancel(crew.client, crew.keys, crew.uid, "t1", "", 1000)
    await crew.queue.hand_back("w", tasks)
    await crew.queue.leave("w")
    assert await crew.claim("w2") == ()
    assert await crew.client.hlen(crew.keys.wishes) == 0
    await crew.assert_idle()
    assert await control.cancel(crew.client, crew.keys, crew.uid, "t1", "", 1000)


# A pending entry that nobody clears makes every claim ring the bell, and idle workers spin.
@pytest.mark.parametrize("others", [0, 1])
async def test_an_entry_deleted_under_a_dead_worker_leaves_nothing_behind(crew: Crew, others: int) -> None:
    await crew.submit("t1")
    tasks = await crew.take("w")
    await crew.client.xdel(crew.keys.streams[2], tasks[0].entry)
    await crew.submit(*(f"o{i}" for i in range(others)))
    await crew.queue.declare_dead(["w"])
    for number in range(1, 4):
        await crew.finish("w2", await crew.take("w2", number))
    await crew.client.delete(crew.keys.bell)
    assert await crew.claim("w2", 4) == ()
    assert await crew.client.llen(crew.keys.bell) == 0
    await crew.assert_idle()
