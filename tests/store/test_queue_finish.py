"""Starting and finishing tasks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from queue_calls import expired
from support import MANY, Crew, counted, finished, library, payload, server_ms

from watchbill.errors import WorkerForgotten
from watchbill.names import CrewKeys
from watchbill.store import control, definitions, runs, unfinished
from watchbill.store.figures import figures
from watchbill.store.queue import Queue
from watchbill.store.submissions import Submission
from watchbill.tasks import Usage


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
    assert 0 < await crew.client.pttl(crew.keys.task("t1")) <= 60_000
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
    await crew.finish("w", tasks, ttl_ms=60_000)
    assert await crew.client.ttl(crew.keys.task("t1")) > 0


async def test_the_index_forgets_what_has_expired(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    tasks = await crew.take("w")
    await crew.finish("w", tasks[:1], ttl_ms=1)
    await expired(crew, crew.keys.task("t1"))
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
        await expired(crew, crew.keys.task(ids[-1]))
    assert set(await crew.client.zrange(crew.keys.ids, 0, -1)) == set(ids)


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
            assert await listener.get_message(timeout=180)
        for channel in (clients[0], clients[0], clients[1]):
            await crew.submit_all(task, max_queued=MANY, reply_to=channel)
        tasks = await crew.take("w")
        await crew.finish("w", tasks)
        await crew.finish("w", tasks)
        await crew.submit_all(task, max_queued=MANY, reply_to=crew.keys.reply("three"))  # it is over: nobody tells
        await crew.client.publish(clients[0], "the end")
        heard: list[Any] = []
        while not heard or heard[-1][1] != "the end":
            message = await listener.get_message(timeout=180)
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
            assert await listener.get_message(timeout=180)
            await other.submit_all([Submission("t1", "a", "{}")], max_queued=MANY, reply_to=keys.reply("one"))
            await other.finish("w", await other.take("w"))
            message = await listener.get_message(timeout=180)
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
