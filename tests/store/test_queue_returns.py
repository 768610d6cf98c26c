"""Work that is due later, handed back or parked."""

from __future__ import annotations

import pytest
from support import LEASE_MS, Crew, by_class, counted, finished, library, next_millisecond, server_ms

from waiting import until
from watchbill.errors import QueueFull
from watchbill.records import ExecutionMode
from watchbill.store.figures import figures
from watchbill.store.queue import BATCH, Claimed
from watchbill.store.submissions import Submission
from watchbill.tasks import Priority

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
    assert there.due_in_ms == due - 50 - there.now_ms
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
        await listener.subscribe(crew.keys.wake)
        assert await listener.get_message(timeout=180)
        await crew.submit("later", due_ms=now + 60_000)
        message = await listener.get_message(timeout=180)
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
