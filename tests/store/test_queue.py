"""The queue of tasks, on a real server: what is submitted, crews that have gone, and agents at work.

All is asserted on what the store holds afterwards.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from queue_calls import every_call, expired
from support import LEASE_MS, MANY, Crew, library, payload, run_submission

from waiting import until
from watchbill import connection
from watchbill.errors import Conflict, CrewGone, Fenced, QueueFull
from watchbill.store import definitions, runs, unfinished
from watchbill.store.queue import BATCH, BATCH_BYTES
from watchbill.store.submissions import Submission
from watchbill.tasks import Priority

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
    await expired(crew, crew.keys.task("t1"))
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
        await listener.subscribe(crew.keys.wake)
        assert (await listener.get_message(timeout=60))["type"] == "subscribe"
        await crew.submit("t1")
        heard = None
        while heard != crew.keys.crew:  # other crews of this server wake, too
            message = await listener.get_message(timeout=180)
            assert message is not None
            heard = message["data"]


async def test_a_worker_that_has_come_wakes_whoever_scales_workers_once(crew: Crew) -> None:
    """In a rollout one of the old revision may leave then."""
    async with crew.client.pubsub() as listener:
        await listener.subscribe(crew.keys.wake)
        assert (await listener.get_message(timeout=60))["type"] == "subscribe"
        with connection.connect_sync(crew.url) as sync:
            for incarnation, number in (("w1", 1), ("w1", 2), ("w2", 1)):
                await crew.claim(incarnation, number)
                await asyncio.to_thread(crew.queue.renew, sync, incarnation, LEASE_MS, "{}")
        await crew.client.publish(crew.keys.wake, "the end")
        heard: list[str] = []
        while "the end" not in heard:
            heard.append((await listener.get_message(timeout=180))["data"])
    assert heard == [crew.keys.crew, crew.keys.crew, "the end"]


# ---------------------------------------------------------------- a crew that has gone


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
    assert set(await every_call(crew, crew.queue, tasks, "w")) == {"CrewGone"}
    assert set(await every_call(crew, crew.queue, tasks, "new")) == {"CrewGone"}
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
