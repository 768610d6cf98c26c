"""The queue of tasks, on a real server: what is submitted, claimed, started, finished and handed back.

All is asserted on what the store holds afterwards.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from support import (
    LEASE_MS,
    MANY,
    SHORT_MS,
    Crew,
    by_class,
    counted,
    finished,
    library,
    next_millisecond,
    payload,
    run_submission,
    server_ms,
    until,
)

from watchbill import connection
from watchbill.errors import Conflict, CrewGone, DefinitionChanged, Fenced, QueueFull, WorkerForgotten
from watchbill.names import WAKE_CHANNEL, CrewKeys
from watchbill.records import ExecutionMode
from watchbill.store import control, definitions, runs, unfinished
from watchbill.store.figures import figures
from watchbill.store.queue import BATCH, BATCH_BYTES, Claimed, Queue
from watchbill.store.submissions import Submission
from watchbill.tasks import Priority, Usage

# ---------------------------------------------------------------- submitting


async def test_a_task_is_stored_once_and_waits_on_the_stream_of_its_class(crew: Crew) -> None:
    await crew.submit("t1", priority=Priority.HIGH, inputs={"log": "line 1\nline 2", "x": ""})
    record = await crew.task("t1")
    assert record["state"] == "waiting"
    assert record["payload"] == payload("t1")
    assert record["input:log"] == "line 1\nline 2"
    assert await runs.inputs(crew.client, crew.keys, "t1", ["log", "x", "none"]) == {"log": "line 1\nline 2", "x": ""}
    entries = await crew.client.xrange(crew.keys.streams[1])
    assert [fields for _, fields in entries] == [
        {"id": "t1", "agent": "a", "payload": payload("t1"), "inputs": "log x"}
    ]
    assert await crew.queued() == 1
    assert await crew.client.lrange(crew.keys.bell, 0, -1) == ["1"]
    assert await unfinished.newest(crew.client, crew.keys) == ["t1"]
    assert await crew.client.ttl(crew.keys.task("t1")) == -1


async def test_an_id_that_is_already_there_is_the_same_task(crew: Crew) -> None:
    await crew.submit("t1", "t1", "t2")
    before = await crew.dump()
    again = await crew.submit_all(
        [Submission("t1", "b", '{"other":1}', Priority.CRITICAL, inputs={"new": "1"})], max_queued=MANY
    )
    assert again == ["t1"]
    assert await crew.dump() == before
    assert await crew.queued() == 2


async def test_a_finished_task_submitted_again_does_not_run_again(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.finish("w", await crew.take("w"))
    await crew.submit("t1")
    assert await crew.queued() == 0
    assert await crew.state("t1") == "completed"


async def test_more_tasks_than_fit_one_call_are_all_stored_in_order(crew: Crew) -> None:
    ids = [f"t{i}" for i in range(2 * BATCH + 7)]
    assert await crew.submit(*ids) == ids
    assert [t.id for t in await crew.claim("w", slots=len(ids) + 1)] == ids


async def test_a_full_queue_takes_nothing_of_a_batch(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    before = await crew.dump()
    more = [Submission(i, "a", payload(i)) for i in ("t3", "t4")]
    with pytest.raises(QueueFull, match="maxQueued = 3"):
        await crew.submit_all(more, max_queued=3)
    assert await crew.client.hget(crew.keys.meta, "refused") == "1"
    await crew.client.hdel(crew.keys.meta, "refused")
    assert await crew.dump() == before, "but for that it is counted"
    assert await crew.submit_all(more, max_queued=4) == ["t3", "t4"]


async def test_running_tasks_and_parked_steps_count_against_the_bound(crew: Crew) -> None:
    await crew.run("r1", library(*"abcd"), parallel=1)  # one on the stream, three parked
    await crew.take("w", slots=1)
    with pytest.raises(QueueFull):
        await crew.submit_all([Submission("t1", "a", "{}")], max_queued=4)
    await crew.submit_all([Submission("t1", "a", "{}")], max_queued=5)
    with pytest.raises(QueueFull):
        await runs.submit(crew.client, crew.keys, crew.uid, run_submission("r2", crew.definition), max_queued=5 + 3)
    assert not await crew.client.exists(crew.keys.run("r2"), crew.keys.run_steps("r2"))


async def test_large_tasks_are_stored_few_to_a_call(crew: Crew) -> None:
    large = [Submission(f"t{i}", "a", "x" * (BATCH_BYTES // 8)) for i in range(20)]
    with pytest.raises(QueueFull) as raised:
        await crew.submit_all(iter(large), max_queued=9)
    assert raised.value.stored == tuple(f"t{i}" for i in range(8))
    assert await crew.queued() == 8


# Else a call sent again after a lost reply is told "nothing was stored" about tasks that are stored and will run.
async def test_tasks_that_are_already_there_need_no_room(crew: Crew) -> None:
    tasks = [Submission(i, "a", payload(i)) for i in ("t1", "t2")]
    await crew.submit_all(tasks, max_queued=2)
    assert await crew.submit_all(tasks, max_queued=2) == ["t1", "t2"]


async def test_the_id_of_a_run_is_a_conflict_for_a_task_and_the_other_way_round(crew: Crew) -> None:
    await crew.submit("x")
    await crew.run("y")
    before = await crew.dump()
    with pytest.raises(Conflict, match="'y' is the id of a run"):
        await crew.submit("y")
    with pytest.raises(Conflict, match="'y' is the id of a run"):
        await crew.submit("new", "y", "other")
    with pytest.raises(Conflict, match="'x' is the id of a task"):
        await crew.run("x")
    assert await crew.dump() == before


async def test_a_dedupe_key_names_one_task_within_its_window(crew: Crew) -> None:
    window = 60_000
    assert await crew.submit("t1", dedupe_key="k", dedupe_ms=window) == ["t1"]
    assert await crew.submit("t1", dedupe_key="k", dedupe_ms=window) == ["t1"]
    assert await crew.submit("t2", dedupe_key="k", dedupe_ms=window) == ["t1"]
    assert await crew.submit("t3", dedupe_key="other", dedupe_ms=window) == ["t3"]
    assert not await crew.client.exists(crew.keys.task("t2"))

    assert 0 < await crew.client.pttl(crew.keys.dedupe("k")) <= window
    await crew.client.pexpire(crew.keys.dedupe("k"), 1)

    async def window_is_over() -> bool:
        return not await crew.client.exists(crew.keys.dedupe("k"))

    await until(window_is_over)
    assert await crew.submit("t2", dedupe_key="k", dedupe_ms=window) == ["t2"]
    assert await crew.queued() == 3


# A window may be longer than a record is kept.
async def test_a_dedupe_key_keeps_its_task_from_being_done_again_when_the_record_has_expired(crew: Crew) -> None:
    await crew.submit("t1", dedupe_key="k", dedupe_ms=60_000)
    await crew.finish("w", await crew.take("w"), ttl_ms=1)
    await _expired(crew, crew.keys.task("t1"))
    assert await crew.submit("t1", dedupe_key="k", dedupe_ms=60_000) == ["t1"]
    assert await crew.submit("t2", dedupe_key="k", dedupe_ms=60_000) == ["t1"]
    assert await crew.queued() == 0
    assert not await crew.client.exists(crew.keys.task("t1"), crew.keys.task("t2"))


async def test_a_dedupe_window_may_be_longer_than_the_store_counts(crew: Crew) -> None:
    assert await crew.submit("t1", dedupe_key="k", dedupe_ms=10**25) == ["t1"]
    assert await crew.submit("t2", dedupe_key="k", dedupe_ms=10**25) == ["t1"]
    assert await crew.bell()


async def test_what_a_dedupe_key_names_already_needs_no_room(crew: Crew) -> None:
    await crew.submit("t1", dedupe_key="k", dedupe_ms=60_000)
    again = Submission("t2", "a", payload("t2"), dedupe_key="k", dedupe_ms=60_000)
    assert await crew.submit_all([again], max_queued=1) == ["t1"]
    new = Submission("t3", "a", payload("t3"), dedupe_key="other", dedupe_ms=60_000)
    with pytest.raises(QueueFull):
        await crew.submit_all([again, new], max_queued=1)
    assert await crew.submit_all([again, new], max_queued=2) == ["t1", "t3"]


async def test_arrival_on_an_empty_queue_wakes_whoever_scales_workers(crew: Crew) -> None:
    async with crew.client.pubsub() as listener:
        await listener.subscribe("wb:wake")
        assert (await listener.get_message(timeout=5))["type"] == "subscribe"
        await crew.submit("t1")
        heard = None
        while heard != crew.keys.crew:  # other crews of this server wake, too
            message = await listener.get_message(timeout=5)
            assert message is not None
            heard = message["data"]


# ---------------------------------------------------------------- a crew that has gone


async def _every_call(crew: Crew, queue: Queue, tasks: Sequence[Claimed], incarnation: str) -> list[str]:
    """Calls everything that an incarnation may send; the names of the errors, one for each."""
    sync = connection.connect_sync(crew.url)
    raised = []
    try:
        for call in (
            lambda: queue.claim(incarnation, 1, 5, lease_ms=LEASE_MS, take_over=True),
            lambda: queue.claim(incarnation, 7, 5, lease_ms=LEASE_MS, take_over=True),
            lambda: queue.start(incarnation, tasks),
            lambda: queue.finish(incarnation, [finished(t) for t in tasks]),
            lambda: queue.finish(
                incarnation, [finished(t) for t in tasks], number=8, slots=5, lease_ms=LEASE_MS, take_over=True
            ),
            lambda: queue.say(incarnation, tasks[0], "hello", 99),
            lambda: queue.hand_back(incarnation, tasks),
            lambda: queue.park(incarnation, tasks, "not in this image"),
            lambda: asyncio.to_thread(queue.renew, sync, incarnation, LEASE_MS, "{}"),
        ):
            try:
                await call()
                raised.append("nothing")
            except (CrewGone, Fenced) as error:
                raised.append(type(error).__name__)
    finally:
        sync.close()
    return raised


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_nothing_is_written_for_a_crew_that_has_gone(crew: Crew, how: str) -> None:
    await crew.submit("t1", "t2")
    await crew.run("r1")
    *tasks, aside = await crew.take("w")
    await crew.queue.park("w", [aside], "no")
    parked = (await crew.queue.parked_agents())[aside.agent]
    if how == "deleted":
        await crew.client.delete(*await crew.client.keys(crew.keys.prefix + "*"))
    else:
        await crew.client.hset(crew.keys.meta, "uid", "another")
    before = await crew.dump()
    assert set(await _every_call(crew, crew.queue, tasks, "w")) == {"CrewGone"}
    assert set(await _every_call(crew, crew.queue, tasks, "new")) == {"CrewGone"}
    for call in (crew.submit("t3"), crew.run("r2"), crew.queue.leave("w")):
        with pytest.raises(CrewGone):
            await call
    with pytest.raises(CrewGone):
        await crew.queue.unpark(parked)
    with suppress(CrewGone):
        await crew.queue.declare_dead(["nobody"])
    assert await crew.dump() == before


async def test_a_definition_for_another_uid_is_refused_and_changes_nothing(crew: Crew) -> None:
    before = await crew.dump()
    with pytest.raises(Conflict, match="another crew of that name"):
        await definitions.apply(crew.client, crew.keys, library("z"), uid="not-ours")
    assert await crew.dump() == before


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
    other = await crew.queue.claim("w2", 1, 5, lease_ms=1900, take_over=True)
    assert other.again_ms == 2000  # its own lease is no reason
    ends = await crew.client.zscore(crew.keys.leases, "w2")
    told = await crew.queue.claim("w1", 2, 5, lease_ms=LEASE_MS, take_over=True)
    assert told.again_ms == ends - told.now_ms + 1
    assert 0 <= await server_ms(crew.client) - other.now_ms < 5000


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


# ---------------------------------------------------------------- starting and finishing


async def test_a_task_that_starts_gives_what_it_is_to_do(crew: Crew) -> None:
    await crew.submit("t1", inputs={"one": "1", "two": "2"})
    tasks = await crew.claim("w")
    assert await crew.state("t1") == "waiting"
    (started,) = await crew.queue.start("w", tasks)
    assert started.state == "ok"
    assert started.payload == payload("t1")
    assert started.definition == crew.definition.digest()
    assert started.inputs == ("one", "two")
    record = await crew.task("t1")
    assert record["state"] == "running"
    assert record["attempt"] == "1"
    assert await crew.client.hgetall(crew.keys.agents) == {"a": "1"}


async def test_a_start_sent_again_tells_the_same_and_counts_once(crew: Crew) -> None:
    await crew.submit("t1")
    tasks = await crew.claim("w")
    first = await crew.queue.start("w", tasks)
    assert await crew.queue.start("w", tasks) == first
    assert await crew.client.hgetall(crew.keys.agents) == {"a": "1"}
    assert [e["event_type"] for e in await crew.events()] == ["agent_state_changed", "task_assigned"]


async def test_a_finished_task_keeps_its_result_for_its_time_and_leaves_the_queue(crew: Crew) -> None:
    await crew.submit("t1")
    (task,) = await crew.take("w")
    before = await server_ms(crew.client)
    done = finished(
        task, output={"n": [1, "zwei"]}, ttl_ms=60_000, usage=Usage(input_tokens=4, output_tokens=3), message="fine"
    )
    assert (await crew.queue.finish("w", [done]))[0] == ["applied"]
    record = await crew.task("t1")
    assert (record["state"], record["result"], record["spent"]) == ("completed", done.result, "4 3 0")
    assert 55_000 < await crew.client.pttl(crew.keys.task("t1")) <= 60_000
    assert before + 60_000 <= await crew.client.zscore(crew.keys.ids, "t1") < before + 120_000
    assert await unfinished.newest(crew.client, crew.keys) == []
    result = await runs.result(crew.client, crew.keys, "t1")
    assert result is not None
    assert result.output == {"n": [1, "zwei"]}
    assert await crew.results() == [{"kind": "task", "id": "t1", "state": "completed", "result": done.result}]
    await crew.assert_idle()


async def test_the_time_to_live_begins_at_the_end_and_not_before(crew: Crew) -> None:
    await crew.submit("t1")
    tasks = await crew.claim("w")
    assert await crew.client.ttl(crew.keys.task("t1")) == -1
    await crew.queue.start("w", tasks)
    assert await crew.client.ttl(crew.keys.task("t1")) == -1
    await crew.finish("w", tasks, ttl_ms=5000)
    assert await crew.client.ttl(crew.keys.task("t1")) > 0


async def test_the_index_forgets_what_has_expired(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    tasks = await crew.take("w")
    await crew.finish("w", tasks[:1], ttl_ms=1)
    await _expired(crew, crew.keys.task("t1"))
    await crew.finish("w", tasks[1:])
    assert await crew.client.zrange(crew.keys.ids, 0, -1) == ["t2"]


# Else it grows for as long as a worker with many slots has enough to do, or work is only ever cancelled.
@pytest.mark.parametrize("how", ["finished", "cancelled"])
async def test_the_index_forgets_as_fast_as_work_ends(crew: Crew, how: str) -> None:
    for number in range(1, 4):
        ids = [f"t{number}-{i}" for i in range(200)]
        await crew.submit(*ids)
        if how == "finished":
            await crew.finish("w", await crew.take("w", number, 200), ttl_ms=1)
        else:
            items = [control.Item(task_id, "a") for task_id in ids]
            await control._stop(crew.client, crew.keys, crew.uid, "cancel", items, "", 1)
        await _expired(crew, crew.keys.task(ids[-1]))
    assert set(await crew.client.zrange(crew.keys.ids, 0, -1)) == set(ids)


async def _expired(crew: Crew, key: str) -> None:
    async def expired() -> bool:
        return not await crew.client.exists(key)

    await until(expired)


async def test_a_finish_sent_again_is_known_and_stores_nothing(crew: Crew) -> None:
    await crew.submit("t1")
    (task,) = await crew.take("w")
    await crew.finish("w", [task])
    before = await crew.dump()
    assert await crew.finish("w", [task]) == ["repeated"]
    assert await crew.finish("w", [task], "failed") == ["repeated"]
    assert await crew.finish("w", [replace(task, fence="1")]) == ["stale"]
    with pytest.raises(WorkerForgotten):  # whoever has never claimed has nothing to finish, or the store has lost it
        await crew.finish("other", [task])
    assert await crew.dump() == before


@pytest.mark.parametrize("what", ["other incarnation", "other fence"])
async def test_whoever_does_not_hold_a_task_changes_nothing_of_it(crew: Crew, what: str) -> None:
    await crew.submit("t1")
    (task,) = await crew.take("w")
    await crew.claim("other")
    name = "other" if what == "other incarnation" else "w"
    wrong = task if what == "other incarnation" else replace(task, fence=str(int(task.fence) - 1))
    before = await crew.dump()
    assert [s.state for s in await crew.queue.start(name, [wrong])] == ["stale"]
    assert await crew.finish(name, [wrong]) == ["stale"]
    assert await crew.queue.hand_back(name, [wrong]) == ["stale"]
    assert not await crew.queue.say(name, wrong, "hello", 1)
    assert await crew.dump() == before


async def test_of_a_batch_each_item_is_judged_by_itself(crew: Crew) -> None:
    await crew.submit("t1", "t2", "t3")
    one, two, three = await crew.take("w")
    await crew.finish("w", [one])
    assert await crew.finish("w", [one, replace(two, fence="1"), three]) == ["repeated", "stale", "applied"]
    assert [await crew.state(t) for t in ("t1", "t2", "t3")] == ["completed", "running", "completed"]
    assert counted(await crew.results()) == {"t1": 1, "t3": 1}


async def test_a_task_whose_record_is_missing_ends_dead_and_is_kept_as_a_dead_letter(crew: Crew) -> None:
    await crew.client.xadd(crew.keys.streams[2], {"id": "ghost", "agent": "a"})
    await crew.client.xadd(crew.keys.streams[2], {"id": "no-run/step", "agent": "b"})
    tasks = await crew.claim("w")
    assert [s.state for s in await crew.queue.start("w", tasks)] == ["missing", "missing"]
    assert await crew.finish("w", tasks, "dead", message="there is no record") == ["applied", "applied"]
    await crew.assert_idle()
    assert [(d["id"], d["reason"]) for d in await crew.dead()] == [
        ("ghost", "there is no record"),
        ("no-run/step", "there is no record"),
    ]
    assert counted(await crew.results()) == {"ghost": 1, "no-run/step": 1}
    assert not await crew.client.exists(crew.keys.task("ghost"), crew.keys.run("no-run"), crew.keys.run_steps("no-run"))
    assert await crew.client.zrange(crew.keys.ids, 0, -1) == []


@pytest.mark.parametrize("outcome", ["completed", "retry", "interrupted"])
async def test_the_id_of_a_task_whose_record_was_lost_is_free_once_it_has_ended(crew: Crew, outcome: Any) -> None:
    await crew.submit("t1")
    tasks = await crew.take("w")
    await crew.client.delete(crew.keys.task("t1"))
    await crew.finish("w", tasks, outcome)
    assert await unfinished.newest(crew.client, crew.keys) == []
    assert [letter["id"] for letter in await crew.dead()] == ["t1"]
    assert await crew.submit("t1") == ["t1"]
    await crew.finish("w", await crew.take("w", 2))
    assert await crew.state("t1") == "completed"
    await crew.assert_idle()


async def test_a_task_given_up_is_dead_and_its_result_says_why(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.finish("w", await crew.take("w"), "dead", message="3 attempts")
    assert await crew.state("t1") == "dead"
    (buried,) = await crew.dead()
    assert (buried["id"], buried["reason"], buried["agent"], buried["attempt"]) == ("t1", "3 attempts", "a", "1")
    result = await runs.result(crew.client, crew.keys, "t1")
    assert result is not None
    assert not result.success


@pytest.mark.parametrize("letter", ["x", "ä"])
async def test_a_large_result_is_on_the_stream_by_reference_only(crew: Crew, letter: str) -> None:
    await crew.submit("small", "large")
    small, large = await crew.take("w")
    empty = len(finished(small, output="").result.encode())
    fits = letter * ((4096 - empty) // len(letter.encode()))
    await crew.queue.finish("w", [finished(small, output=fits), finished(large, output=fits + letter * 3)])
    rows = {row["id"]: row["result"] for row in await crew.results()}
    assert json.loads(rows["small"])["output"] == fits
    assert rows["large"] == ""
    result = await runs.result(crew.client, crew.keys, "large")
    assert result is not None
    assert result.output == fits + letter * 3


async def test_every_client_that_waits_is_told_once(crew: Crew) -> None:
    clients = [crew.keys.reply(name) for name in ("one", "two")]
    task = [Submission("t1", "a", payload("t1"))]
    async with crew.client.pubsub() as listener:
        await listener.subscribe(*clients, crew.keys.reply("three"))
        for _ in range(3):
            assert await listener.get_message(timeout=5)
        for channel in (clients[0], clients[0], clients[1]):
            await crew.submit_all(task, max_queued=MANY, reply_to=channel)
        tasks = await crew.take("w")
        await crew.finish("w", tasks)
        await crew.finish("w", tasks)
        await crew.submit_all(task, max_queued=MANY, reply_to=crew.keys.reply("three"))  # it is over: nobody tells
        await crew.client.publish(clients[0], "the end")
        heard: list[Any] = []
        while not heard or heard[-1][1] != "the end":
            message = await listener.get_message(timeout=5)
            assert message is not None
            heard.append((message["channel"], message["data"]))
    assert sorted((channel, text.split("\x1f")[0]) for channel, text in heard[:-1]) == [
        (c, "t1") for c in sorted(clients)
    ]


async def test_a_client_of_a_crew_with_a_space_in_its_name_is_told(crew: Crew) -> None:
    keys = CrewKeys("test", crew.keys.crew.removeprefix("test/") + " of mine")
    uid = await definitions.apply(crew.client, keys, library())
    other = replace(crew, keys=keys, uid=uid, queue=Queue(crew.client, keys, uid))
    try:
        async with crew.client.pubsub() as listener:
            await listener.subscribe(keys.reply("one"))
            assert await listener.get_message(timeout=5)
            await other.submit_all([Submission("t1", "a", "{}")], max_queued=MANY, reply_to=keys.reply("one"))
            await other.finish("w", await other.take("w"))
            message = await listener.get_message(timeout=5)
            assert message is not None
            assert message["data"].split("\x1f")[0] == "t1"
    finally:
        await crew.client.delete(*await crew.client.keys(keys.prefix + "*"))


async def test_waiting_clients_are_bounded(crew: Crew) -> None:
    for i in range(300):
        task = [Submission("t1", "a", "{}")]
        await crew.submit_all(task, max_queued=MANY, reply_to=crew.keys.reply(f"client-{i}"))
    assert len((await crew.task("t1"))["reply"]) < 4200


async def test_figures_tell_what_waits_runs_and_is_dead(crew: Crew) -> None:
    await crew.submit("t1", "t2", "t3")
    await crew.run("r1", library(*"abc"), parallel=1)
    await crew.client.xadd(crew.keys.streams[0], {"bad": "1"})
    tasks = await crew.take("w", 1, 3)
    now = await figures(crew.client, crew.keys)
    assert (now.waiting, now.running, now.parked, now.dead, now.workers) == (1, 3, 2, 1, 1)
    assert now.oldest_ms is not None
    await crew.queue.hand_back("w", tasks)
    now = await figures(crew.client, crew.keys)
    assert (now.waiting, now.running, now.parked) == (4, 0, 2)
    for number in range(2, 9):
        await crew.finish("w", await crew.take("w", number))
    now = await figures(crew.client, crew.keys)
    assert (now.waiting, now.running, now.parked, now.oldest_ms) == (0, 0, 0, None)


# ---------------------------------------------------------------- taking over


async def _fall_silent(crew: Crew, incarnation: str, number: int, slots: int) -> tuple[Claimed, ...]:
    """Takes tasks under a short lease and lets it run out."""
    tasks = await crew.take(incarnation, number, slots, lease_ms=SHORT_MS)

    async def expired() -> bool:
        score = await crew.client.zscore(crew.keys.leases, incarnation)
        return score is not None and score < await server_ms(crew.client)

    await until(expired)
    return tasks


async def test_what_a_silent_worker_held_is_given_to_another_in_the_order_of_classes(crew: Crew) -> None:
    await crew.submit("n1", "n2", priority=Priority.NORMAL)
    await crew.submit("l1", priority=Priority.LOW)
    await crew.submit("h1", priority=Priority.HIGH)
    held = {t.id: t for t in await _fall_silent(crew, "gone", 1, 4)}
    assert len(held) == 4
    await crew.submit("n3", priority=Priority.NORMAL)
    await crew.submit("c1", priority=Priority.CRITICAL)
    taken = await crew.claim("next")
    assert [t.id for t in taken] == ["c1", "h1", "n1", "n2", "n3", "l1"]
    for task in taken:
        assert task.taken_over == (task.id in held)
        if task.id in held:
            assert int(task.fence) > int(held[task.id].fence)
            assert task.entry == held[task.id].entry
            assert task.attempt == 2
    assert await crew.client.hgetall(crew.keys.agents) == {"a": "4"}  # as before: nothing started, nothing ended
    await crew.queue.start("next", taken)
    assert await crew.client.hgetall(crew.keys.agents) == {"a": "6"}
    await crew.finish("next", taken)
    await crew.assert_idle()
    assert "gone" not in await crew.consumers()


async def test_only_an_attempt_that_was_started_counts(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    tasks = await crew.claim("w1")
    await crew.queue.start("w1", tasks[:1])
    for before, after, attempts in (("w1", "w2", [2, 1]), ("w2", "w3", [2, 1])):
        await crew.queue.declare_dead([before])
        tasks = await crew.claim(after)
        assert [t.attempt for t in tasks] == attempts
    await crew.queue.start("w3", tasks)
    await crew.queue.declare_dead(["w3"])
    assert [t.attempt for t in await crew.take("w4")] == [3, 2]
    assert (await crew.task("t1"))["attempt"] == "3"


async def test_what_a_claim_begins_and_a_finish_begins_counts_and_what_is_only_held_does_not(crew: Crew) -> None:
    await crew.submit("t1", "t2", "t3", "t4")
    claim = await crew.queue.claim("w1", 1, 4, begin=1, lease_ms=LEASE_MS, take_over=True)
    assert [(t.id, t.begun, t.payload) for t in claim.tasks] == [
        (f"t{i}", i == 1, payload(f"t{i}")) for i in range(1, 5)
    ]
    assert {t.definition for t in claim.tasks} == {crew.definition.digest()}
    for _ in range(2):
        await crew.queue.finish("w1", [], begun=claim.tasks[1:2])
    assert await crew.client.hgetall(crew.keys.agents) == {"a": "2"}
    await crew.queue.declare_dead(["w1"])
    again = await crew.claim("w2", 1, 4)
    assert {t.id: t.attempt for t in again} == {"t1": 2, "t2": 2, "t3": 1, "t4": 1}
    with pytest.raises(Fenced):
        await crew.queue.finish("w1", [], begun=claim.tasks[2:])
    await crew.finish("w2", again)
    await crew.assert_idle()


async def test_what_begins_and_ends_in_one_call_is_told_of_once_and_in_order(crew: Crew) -> None:
    await crew.submit("t1")
    claim = await crew.queue.claim("w", 1, 1, begin=1, lease_ms=LEASE_MS, take_over=True)
    assert await crew.events() == []
    for _ in range(2):
        await crew.finish("w", claim.tasks)
    assert [e["event_type"] for e in await crew.events()] == ["task_assigned", "task_completed"]
    await crew.assert_idle()


async def test_a_task_that_still_runs_is_told_of_once_and_its_state_is_seen(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.run("r1", library("b", mode=ExecutionMode.SEQUENTIAL))
    claim = await crew.queue.claim("w", 1, 2, begin=2, lease_ms=LEASE_MS, take_over=True)
    assert [t.begun for t in claim.tasks] == [True, True]
    for _ in range(2):
        await crew.queue.finish("w", [], announced=claim.tasks)
    assert await crew.state("t1") == "running"
    assert await crew.step_states("r1") == {"b": "running"}
    told = [(e["event_type"], e.get("agent_id")) for e in await crew.events()]
    assert told.count(("task_assigned", "a")) == told.count(("task_assigned", "b")) == 1
    assert told.count(("agent_state_changed", "a")) == 1
    await crew.finish("w", claim.tasks)
    assert [e["event_type"] for e in await crew.events(crew.keys.agent_events("a"))] == [
        "agent_state_changed",
        "task_assigned",
        "task_completed",
        "agent_state_changed",
    ]
    await crew.assert_idle()


async def test_a_large_payload_stays_in_the_record_and_is_given_when_the_task_begins(crew: Crew) -> None:
    large = payload("x" * 5000)
    await crew.submit_all([Submission("t1", "a", large)], max_queued=MANY)
    (task,) = (await crew.queue.claim("w", 1, 1, begin=1, lease_ms=LEASE_MS, take_over=True)).tasks
    assert (task.begun, task.payload) == (False, "")
    (started,) = await crew.queue.start("w", [task])
    assert started.payload == large


async def test_a_claim_behind_the_bell_begins_what_comes(crew: Crew) -> None:
    waiting = asyncio.create_task(
        crew.queue.claim_at_bell("w", 1, 3, lease_ms=LEASE_MS, take_over=True, timeout_seconds=5)
    )
    await asyncio.sleep(0.05)
    await crew.submit("t1")
    claim, unheard = await waiting
    assert unheard is None
    assert [(t.id, t.begun) for t in claim.tasks] == [("t1", True)]
    again = await crew.queue.claim(
        "w", 1, 0, lease_ms=LEASE_MS, take_over=True
    )  # its number, as when its reply is lost
    assert again.tasks == claim.tasks
    claim, _ = await crew.queue.claim_at_bell("w", 2, 3, lease_ms=LEASE_MS, take_over=True, timeout_seconds=0.05)
    assert claim.tasks == ()


async def test_a_submitter_with_an_old_definition_is_told_and_nothing_is_stored(crew: Crew) -> None:
    old = crew.definition.digest()
    await crew.submit_all([Submission("t1", "a", payload("t1"))], max_queued=MANY, digest=old)
    await definitions.apply(crew.client, crew.keys, library("b"))
    before = await crew.dump()
    with pytest.raises(DefinitionChanged):
        await crew.submit_all([Submission("t2", "a", payload("t2"))], max_queued=MANY, digest=old)
    assert await crew.dump() == before


# ---------------------------------------------------------------- due later


async def test_what_is_due_later_is_beside_the_streams_until_somebody_moves_it(crew: Crew) -> None:
    now = await server_ms(crew.client)
    due = now + 150
    await crew.submit("b", due_ms=due, priority=Priority.LOW)
    await crew.submit("a", due_ms=due - 50)
    await crew.submit("far", due_ms=now + 3_600_000)
    assert await crew.state("b") == "delayed"
    assert await crew.queued() == 0
    there = await figures(crew.client, crew.keys)
    assert (there.waiting, there.delayed) == (0, 3)
    assert there.due_in_ms is not None
    assert -1000 < there.due_in_ms <= 100
    assert await crew.queue.move_due() in (due - 50, due, now + 3_600_000)

    async def all_moved() -> bool:
        return await crew.queue.move_due() == now + 3_600_000

    await until(all_moved)
    assert await server_ms(crew.client) >= due
    assert await crew.queued() == 2
    tasks = await crew.take("w")
    assert [(t.id, t.priority) for t in tasks] == [("a", 5), ("b", 7)]
    assert await crew.state("b") == "running"
    await crew.finish("w", tasks)
    assert await crew.queue.move_due() == now + 3_600_000


async def test_delayed_work_counts_against_the_bound_and_is_there_once(crew: Crew) -> None:
    later = await server_ms(crew.client) + 3_600_000
    for _ in range(2):
        await crew.submit("t1", due_ms=later)
    with pytest.raises(QueueFull):
        await crew.submit_all([Submission("t2", "a", "{}")], max_queued=1)
    assert await crew.client.zcard(crew.keys.delayed) == 1


async def test_arrival_of_the_next_due_work_rings_the_bell_and_wakes_whoever_looks_after_idle_crews(crew: Crew) -> None:
    now = await server_ms(crew.client)
    await crew.submit("t0")
    async with crew.client.pubsub() as listener:
        await listener.subscribe(WAKE_CHANNEL)
        assert await listener.get_message(timeout=5)
        await crew.submit("later", due_ms=now + 60_000)
        message = await listener.get_message(timeout=5)
        assert message is not None
        assert message["data"] == crew.keys.crew
    assert await crew.client.llen(crew.keys.bell) == 1
    await crew.claim("w", 1)
    await crew.client.delete(crew.keys.bell)
    await crew.submit("much-later", due_ms=now + 120_000)
    assert await crew.client.llen(crew.keys.bell) == 0, "nobody need look sooner"
    assert (await crew.queue.claim("w", 2, 1, lease_ms=LEASE_MS, take_over=True)).again_ms <= 1000


@pytest.mark.parametrize("kind", ["task", "step"])
async def test_an_attempt_that_failed_is_followed_by_another_and_may_be_told_twice(crew: Crew, kind: str) -> None:
    if kind == "task":
        await crew.submit("t1")
    else:
        await crew.run("t1", library("a", mode=ExecutionMode.SEQUENTIAL))
    (task,) = await crew.take("w", 1)
    before = finished(task, "retry", ttl_ms=30, message="attempt 1 failed")
    assert (await crew.queue.finish("w", [before]))[0] == ["applied"]
    stored = await crew.dump()
    assert (await crew.queue.finish("w", [before]))[0] == ["repeated"]
    assert await crew.finish("w", [task]) == ["repeated"], "the attempt is over, whatever is told of it now"
    assert await crew.dump() == stored
    assert await crew.results() == []
    assert await crew.queued() == 0
    assert await crew.client.hgetall(crew.keys.agents) == {}
    again: list[Claimed] = []

    async def due() -> bool:
        again.extend(await crew.take("w", 2 + len(numbers)))
        numbers.append(1)
        return bool(again)

    numbers: list[int] = []
    await until(due)
    assert [(t.id, t.attempt) for t in again] == [(task.id, 2)]
    assert int(again[0].fence) > int(task.fence)
    stored = await crew.dump()
    assert await crew.finish("w", [task]) != ["applied"]
    assert await crew.dump() == stored
    assert await crew.finish("w", again) == ["applied"]
    assert counted(await crew.results())[task.id] == 1
    await crew.assert_idle()


async def test_a_worker_taken_for_dead_can_change_nothing(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    await crew.run("r1")
    old = await _fall_silent(crew, "zombie", 1, 3)
    new = await crew.take("next", 1, 9)
    assert {t.id for t in new} > {t.id for t in old}
    before = await crew.dump()
    assert set(await _every_call(crew, crew.queue, old, "zombie")) == {"Fenced"}
    assert await crew.dump() == before
    assert await crew.finish("next", new) == ["applied"] * 4
    before = await crew.dump()
    assert set(await _every_call(crew, crew.queue, old, "zombie")) == {"Fenced"}
    assert await crew.dump() == before
    await crew.assert_idle()


async def test_a_worker_taken_for_dead_may_leave_and_no_task_is_lost(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    await _fall_silent(crew, "zombie", 1, 2)
    assert len(await crew.take("next", 1, 1)) == 1
    await crew.queue.leave("zombie")
    assert len(await crew.take("next", 2, 1)) == 1
    assert await crew.pending() == 2


async def test_a_claimer_with_few_slots_leaves_the_rest_to_others_and_no_entry_is_destroyed(crew: Crew) -> None:
    ids = {f"t{i}" for i in range(7)}
    await crew.submit(*sorted(ids))
    await crew.take("gone", 1, 7)
    await crew.queue.declare_dead(["gone"])
    await crew.client.delete(crew.keys.bell)
    taken: list[str] = []
    for i, slots in enumerate((2, 3, 1, 5)):
        taken += [t.id for t in await crew.claim(f"w{i}", 1, slots)]
        assert await crew.pending() == 7
        assert ("gone" in await crew.consumers()) == (len(taken) < 7)
        assert await crew.client.llen(crew.keys.bell) == (len(taken) < 7)
        await crew.client.delete(crew.keys.bell)
    assert sorted(taken) == sorted(ids)
    assert await crew.client.zscore(crew.keys.leases, "gone") is None


async def test_many_dead_workers_are_all_replaced(crew: Crew) -> None:
    ids = {f"t{i}" for i in range(20)}
    await crew.submit(*ids)
    names = [f"gone{i}" for i in range(20)]
    for name in names:
        await crew.take(name, 1, 1)
    await crew.queue.declare_dead(names)
    taken: set[str] = set()
    for number in range(1, 6):
        taken |= {t.id for t in await crew.claim("w", number, 20)}
    assert taken == ids
    assert await crew.pending() == 20
    assert await crew.consumers() == {"w"}
    assert await crew.queue.incarnations() == ["w"]


async def test_an_urgent_task_of_the_ninth_dead_worker_comes_before_new_less_urgent_ones(crew: Crew) -> None:
    await crew.submit(*(f"l{i}" for i in range(8)), priority=Priority.LOW)
    for i in range(8):
        await crew.take(f"dead{i}", 1, 1)
    await crew.submit("urgent", priority=Priority.CRITICAL)
    await crew.take("dead9", 1, 1)
    await crew.queue.declare_dead([*(f"dead{i}" for i in range(8)), "dead9"])
    await crew.submit(*(f"h{i}" for i in range(8)), priority=Priority.HIGH)
    picked = [t.id for number in range(1, 5) for t in await crew.claim("w", number, 1)]
    assert "urgent" in picked


async def test_the_bell_is_rung_while_any_dead_worker_still_holds_something(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.take("z-last", 1, 1)
    for i in range(9):
        await crew.claim(f"dead{i}", 1, 1)
    await crew.queue.declare_dead([*(f"dead{i}" for i in range(9)), "z-last"])
    await crew.client.delete(crew.keys.bell)
    claim = await crew.queue.claim("w", 1, 1, lease_ms=LEASE_MS, take_over=True)
    assert claim.tasks or await crew.client.llen(crew.keys.bell) == 1


async def test_a_worker_that_may_not_take_over_leaves_expired_leases_alone(crew: Crew) -> None:
    await crew.submit("t1")
    (task,) = await _fall_silent(crew, "slow", 1, 1)
    assert await crew.claim("cautious", 1, 5, take_over=False) == ()
    assert await crew.finish("slow", [task]) == ["applied"]  # its lease is over, but nobody has fenced it


# The store stood still, all were suspended, or its clock went forward: whoever is back first must not end the others.
@pytest.mark.parametrize("how", ["claim", "finish", "renew"])
async def test_a_worker_whose_own_lease_ran_out_leaves_others_the_time_to_renew_theirs(crew: Crew, how: str) -> None:
    await crew.submit("t1", "t2")
    (mine,), (theirs,) = await crew.take("w1", 1, 1), await crew.take("w2", 1, 1)
    now = await server_ms(crew.client)
    await crew.client.zadd(crew.keys.leases, {"w1": now - 50_000, "w2": now - 50_000})
    if how == "claim":
        assert await crew.claim("w1", 2) == ()
    elif how == "finish":
        options: Any = {"number": 2, "slots": 1, "lease_ms": LEASE_MS, "take_over": True}
        assert (await crew.queue.finish("w1", [finished(mine)], **options))[1].tasks == ()  # type: ignore[union-attr]
    else:
        with connection.connect_sync(crew.url) as sync:
            crew.queue.renew(sync, "w1", LEASE_MS, "{}")
    assert await crew.claim("w1", 3) == ()
    lease = await crew.client.zscore(crew.keys.leases, "w2")
    assert now < lease <= await server_ms(crew.client) + LEASE_MS / 3
    assert await crew.finish("w2", [theirs]) == ["applied"]


@pytest.mark.parametrize("how", ["claim", "renew"])
@pytest.mark.parametrize("left", ["less than a third", "more than a third"])
async def test_a_worker_with_less_than_a_third_of_its_lease_left_gives_others_time(
    crew: Crew, left: str, how: str
) -> None:
    for name in ("w1", "w2"):
        await crew.claim(name, 1, 0)
    now, third = await server_ms(crew.client), LEASE_MS // 3
    rest = third // 2 if left == "less than a third" else 2 * third
    await crew.client.zadd(crew.keys.leases, {"w1": now + rest, "w2": now - 1})
    if how == "claim":
        await crew.claim("w1", 2, 0)
    else:
        with connection.connect_sync(crew.url) as sync:
            crew.queue.renew(sync, "w1", LEASE_MS, "{}")
    lease = await crew.client.zscore(crew.keys.leases, "w2")
    assert lease >= now + third if left == "less than a third" else lease < now


async def test_whoever_does_not_renew_in_that_time_is_replaced(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.claim("w1", 1, 0)
    await crew.take("w2", 1)
    past = await server_ms(crew.client) - 50_000
    await crew.client.zadd(crew.keys.leases, {"w1": past, "w2": past})
    assert await crew.claim("w1", 2, lease_ms=300) == ()

    number = 2

    async def replaced() -> bool:
        nonlocal number
        number += 1
        return [t.id for t in await crew.claim("w1", number, lease_ms=300)] == ["t1"]

    await until(replaced)


async def test_a_worker_declared_dead_is_replaced_at_once_whatever_its_lease(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.take("gone", 1, 1, lease_ms=LEASE_MS)
    assert await crew.claim("w", 1) == ()
    await crew.queue.declare_dead(["gone", "never heard of"])
    assert await crew.queue.incarnations() == ["gone", "w"]
    assert [t.id for t in await crew.claim("w", 2, take_over=False)] == ["t1"]
    with pytest.raises(Fenced):
        await crew.claim("gone", 2)


async def test_a_lease_that_is_renewed_is_not_taken_over(crew: Crew) -> None:
    await crew.submit("t1")
    (task,) = await crew.take("w", 1, 1, lease_ms=1)
    sync = connection.connect_sync(crew.url)
    try:
        await asyncio.to_thread(crew.queue.renew, sync, "w", LEASE_MS, '{"running":1}')
    finally:
        sync.close()
    assert await crew.client.hgetall(crew.keys.workers) == {"w": '{"running":1}'}
    assert await crew.claim("other") == ()
    assert await crew.finish("w", [task]) == ["applied"]


async def test_a_worker_that_leaves_is_forgotten_and_what_it_held_is_free_at_once(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    tasks = await crew.take("w", 1)
    await crew.finish("w", tasks[:1])
    await crew.queue.leave("w")
    await crew.queue.leave("w")
    assert await crew.client.llen(crew.keys.bell) == 1
    assert [t.id for t in await crew.claim("next", take_over=False)] == ["t2"]
    assert await crew.queue.incarnations() == ["next"]
    assert await crew.consumers() == {"next"}
    with pytest.raises(Fenced):
        await crew.claim("w", 2)
    with pytest.raises(Fenced):
        await crew.claim("w", 1)


async def test_a_worker_that_leaves_when_it_had_heard_the_bell_rings_it_for_others(crew: Crew) -> None:
    await crew.claim("w")
    await crew.submit("t1")
    assert await crew.bell()
    await crew.claim("w", 2, slots=0)
    await crew.queue.leave("w")
    assert await crew.bell()


# Else a crew whose workers come and go remembers each of them for ever.
async def test_who_left_is_forgotten_after_a_day_though_others_leave_meanwhile(crew: Crew) -> None:
    for name in ("w1", "w2", "w3"):
        await crew.client.zadd(crew.keys.fenced, {"w1": 1}, xx=True)
        await crew.claim(name)
        await crew.queue.leave(name)
    assert await crew.client.zrange(crew.keys.fenced, 0, -1) == ["w2", "w3"]
    assert 0 < await crew.client.ttl(crew.keys.fenced) <= 86_400
    with pytest.raises(Fenced):
        await crew.claim("w2", 2)


async def test_an_idle_worker_that_leaves_leaves_nothing(crew: Crew) -> None:
    await crew.claim("w")
    await crew.queue.leave("w")
    assert await crew.queue.incarnations() == []
    assert await crew.client.exists(crew.keys.claims, crew.keys.workers, crew.keys.leases) == 0


# ---------------------------------------------------------------- handing back


async def test_tasks_handed_back_keep_their_order_and_their_attempts(crew: Crew) -> None:
    await crew.submit(*(f"t{i}" for i in range(6)))
    tasks = await crew.take("w1", 1, 4)
    await crew.finish("w1", tasks[1:2])
    await crew.submit("t6")
    await crew.client.delete(crew.keys.bell)
    assert await crew.queue.hand_back("w1", [tasks[3], tasks[0], tasks[2]]) == ["applied"] * 3
    assert await crew.queue.hand_back("w1", [tasks[3], tasks[0], tasks[2]]) == ["applied"] * 3
    assert await crew.client.llen(crew.keys.bell) == 1
    assert await crew.state("t0") == "waiting"
    again = await crew.claim("w2", take_over=False)
    assert [t.id for t in again] == ["t0", "t2", "t3", "t4", "t5", "t6"]
    assert {t.attempt for t in again} == {1}
    assert all(int(a.fence) > int(b.fence) for a, b in zip(again[:3], (tasks[0], tasks[2], tasks[3]), strict=True))
    assert await crew.finish("w1", tasks[:1]) == ["stale"]
    assert await crew.queue.hand_back("w1", tasks[:1]) == ["stale"]
    assert await crew.finish("w2", again) == ["applied"] * 6
    await crew.assert_idle()
    assert await crew.queue.incarnations() == ["w1", "w2"]


async def test_handed_back_tasks_of_several_classes_return_to_theirs(crew: Crew) -> None:
    for priority in Priority:
        await crew.submit(f"{priority.value}-old", priority=priority)
    tasks = await crew.take("w1", 1, 5)
    for priority in Priority:
        await crew.submit(f"{priority.value}-new", priority=priority)
    await crew.queue.hand_back("w1", tasks)
    assert by_class(await crew.claim("w2")) == {p.value: [f"{p.value}-old", f"{p.value}-new"] for p in Priority}


async def test_a_step_handed_back_waits_again(crew: Crew) -> None:
    await crew.run("r1")
    tasks = await crew.take("w1")
    assert set((await crew.step_states("r1")).values()) == {"running"}
    await crew.queue.hand_back("w1", tasks)
    assert set((await crew.step_states("r1")).values()) == {"waiting"}
    await crew.finish("w2", await crew.take("w2"))
    assert set((await crew.step_states("r1")).values()) == {"completed"}
    await crew.assert_idle()


# ---------------------------------------------------------------- parking


async def test_tasks_whose_agent_is_not_there_wait_beside_the_queue_until_it_is(crew: Crew) -> None:
    await crew.submit("t1", "t2", agent="b")
    await crew.run("r1", library("c"))
    tasks = await crew.take("w", 1)
    assert await crew.queue.park("w", tasks, "no agent of that class") == ["applied"] * 3
    assert (await crew.queued(), await crew.pending()) == (0, 0)
    assert await crew.client.hgetall(crew.keys.holders) == {}
    assert await crew.client.hgetall(crew.keys.agents) == {}
    assert await crew.state("t1") == "parked"
    assert await crew.step_states("r1") == {"c": "parked"}
    assert (await figures(crew.client, crew.keys)).parked == 3
    assert await crew.finish("w", tasks) == ["stale"] * 3
    said = [e for e in await crew.events() if e["event_type"] == "mission_event"]
    assert [(e["task_id"], e["message"]) for e in said] == [
        (task_id, "no agent of that class") for task_id in ("t1", "t2", "r1/c")
    ]
    parked = await crew.queue.parked_agents()
    assert {agent: len(members) for agent, members in parked.items()} == {"b": 2, "c": 1}
    await crew.client.delete(crew.keys.bell)
    assert await crew.queue.unpark(parked["b"]) == 2
    assert await crew.queue.unpark(parked["b"]) == 0
    assert await crew.client.llen(crew.keys.bell) == 1
    again = await crew.take("w", 2)
    assert [t.id for t in again] == ["t1", "t2"]
    assert all(int(a.fence) > int(b.fence) for a, b in zip(again, tasks, strict=False))
    await crew.finish("w", again)
    await crew.queue.unpark(parked["c"])
    await crew.finish("w", await crew.take("w", 3))
    assert await crew.step_states("r1") == {"c": "completed"}
    await crew.assert_idle()


async def test_a_parked_task_returns_to_its_class(crew: Crew) -> None:
    await crew.submit("low", priority=Priority.LOW)
    await crew.queue.park("w", await crew.claim("w", 1), "no")
    await crew.submit("high", priority=Priority.HIGH)
    await crew.queue.unpark((await crew.queue.parked_agents())["a"])
    assert by_class(await crew.claim("w", 2)) == {3: ["high"], 7: ["low"]}


# Else a task that kills its workers begins at 1 again.
async def test_a_parked_task_keeps_its_attempts(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.take("w1")
    await crew.queue.declare_dead(["w1"])
    tasks = await crew.claim("w2")
    assert [t.attempt for t in tasks] == [2]
    await crew.queue.park("w2", tasks, "no")
    assert await crew.client.hget(crew.keys.task("t1"), "attempt") == "1", "the second hasn't begun"
    await crew.queue.unpark((await crew.queue.parked_agents())["a"])
    assert [t.attempt for t in await crew.claim("w2", 2)] == [2]


async def test_an_agent_with_many_parked_tasks_does_not_hide_the_others(crew: Crew) -> None:
    await crew.submit(*(f"x{i}" for i in range(BATCH)), agent="nowhere")
    await crew.queue.park("w", await crew.claim("w", 1, BATCH), "no")
    await next_millisecond(crew)
    await crew.submit("t1", agent="b")
    await crew.queue.park("w", await crew.claim("w", 2), "no")
    assert "b" in await crew.queue.parked_agents()


async def test_a_park_sent_again_changes_nothing_and_tells_the_same(crew: Crew) -> None:
    await crew.submit("t1")
    tasks = await crew.take("w")
    first = await crew.queue.park("w", tasks, "no")
    before = await crew.dump()
    again = await crew.queue.park("w", tasks, "no")
    assert await crew.dump() == before
    assert again in (first, ["repeated"])


# ---------------------------------------------------------------- what is told of agents


async def test_an_agent_is_told_of_only_when_it_goes_from_idle_to_working_and_back(crew: Crew) -> None:
    await crew.submit("a1", "a2", "a3", agent="a")
    await crew.submit("b1", agent="b")

    async def changes() -> list[str]:
        return [
            f"{e['agent_id']} {e['new_state']}" for e in await crew.events() if e["event_type"] == "agent_state_changed"
        ]

    tasks = {t.id: t for t in await crew.claim("w1", 1)}
    assert await changes() == []
    await crew.queue.start("w1", [tasks["a1"]])
    await crew.queue.start("w1", [tasks["a2"], tasks["b1"]])
    assert await changes() == ["a working", "b working"]
    assert await crew.client.hgetall(crew.keys.agents) == {"a": "2", "b": "1"}
    await crew.finish("w1", [tasks["a1"]])
    await crew.queue.hand_back("w1", [tasks["b1"], tasks["a3"]])  # a3 was never started
    assert await changes() == ["a working", "b working", "b idle"]
    assert await crew.client.hgetall(crew.keys.agents) == {"a": "1"}
    await crew.queue.declare_dead(["w1"])
    rest = await crew.take("w2", 1)
    assert await changes() == ["a working", "b working", "b idle", "b working"]
    await crew.finish("w2", rest)
    assert sorted((await changes())[4:]) == ["a idle", "b idle"]
    await crew.assert_idle()


async def test_what_an_agent_says_is_told_once_and_only_while_the_task_is_its_own(crew: Crew) -> None:
    await crew.submit("t1")
    (task,) = await crew.take("w1", 1)
    for number, text in ((1, "one"), (1, "one"), (2, 'two "quoted"\n'), (1, "one")):
        assert await crew.queue.say("w1", task, text, number)
    await crew.queue.declare_dead(["w1"])
    (again,) = await crew.take("w2", 1)
    assert await crew.queue.say("w2", again, "again", 1)
    with pytest.raises(Fenced):
        await crew.queue.say("w1", task, "three", 3)
    await crew.finish("w2", [again])
    assert not await crew.queue.say("w2", again, "late", 2)
    said = [e["message"] for e in await crew.events() if e["event_type"] == "mission_event"]
    assert said == ["one", 'two "quoted"\n', "again"]
