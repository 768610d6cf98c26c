"""Limits of agents over a real store: how many tasks of one run at once, and how often one starts."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
import redis.exceptions
from asks import ask_to_cancel, ask_to_interrupt
from support import LEASE_MS, SHORT_MS, Crew, finished, limit, server_ms

from waiting import until
from watchbill import connection
from watchbill.api.limits import RateLimit
from watchbill.errors import Fenced
from watchbill.names import LIMITED
from watchbill.plan.why import Reason, explain
from watchbill.store import figures, packed, why
from watchbill.store.queue import Claimed, Queue
from watchbill.tasks import Priority

STOPS = {"cancelled": ask_to_cancel, "interrupted": ask_to_interrupt}

_numbers = itertools.count(100)


async def taken(crew: Crew, worker: str) -> tuple[Claimed, ...]:
    """The next claim of a worker."""
    return await crew.take(worker, next(_numbers))


async def holders(crew: Crew) -> dict[str, packed.Holder]:
    return {name: packed.Holder.unpack(text) for name, text in (await crew.client.hgetall(crew.keys.holders)).items()}


async def test_no_more_run_at_once_and_others_go_by(crew: Crew) -> None:
    await limit(crew, max_concurrent=2)
    await crew.submit("a1", "a2", "a3", "a4", "a5")
    await crew.submit("b1", "b2", agent="b")
    assert [t.id for t in await crew.take("w", 1, 4)] == ["a1", "a2", "b1", "b2"], "a slot isn't lost to what waits"
    assert await crew.take("v", 1) == ()
    seen = await figures.figures(crew.client, crew.keys)
    assert (seen.waiting, seen.running, seen.parked_by["limit"]) == (0, 4, 3)

    held = await holders(crew)
    assert [held[name].incarnation for name in ("a3", "a4", "a5")] == [f"{LIMITED}a"] * 3
    tasks = {name: one for name, one in held.items() if one.incarnation == "w"}
    assert set(tasks) == {"a1", "a2", "b1", "b2"}


async def test_the_place_of_one_that_ends_goes_to_the_next_in_the_same_call(crew: Crew) -> None:
    await limit(crew, max_concurrent=1)
    await crew.submit("a1", "a2", "a3")
    (first,) = await crew.take("w")
    await crew.submit("urgent", priority=Priority.HIGH)
    assert await crew.take("w", 2) == ()
    await crew.client.delete(crew.keys.bell)
    await crew.finish("w", [first])
    assert await crew.bell(), "nobody claimed with it"
    (second,) = await crew.take("w", 3)
    assert (second.id, second.attempt, second.payload) == ("urgent", 1, '{"prompt":"urgent"}'), "it begins at once"
    order = []
    number, tasks = 4, [second]
    while tasks:
        await crew.finish("w", tasks)
        tasks = list(await crew.take("w", number))
        order += [t.id for t in tasks]
        number += 1
    assert order == ["a2", "a3"]
    await crew.assert_idle()


@pytest.mark.parametrize("how", ["later", "retry", "handed back", "parked", "interrupted", "cancelled"])
async def test_whatever_becomes_of_a_task_its_place_comes_free(crew: Crew, how: str) -> None:
    await limit(crew, max_concurrent=1)
    await crew.submit("a1", "a2")
    (first,) = await crew.take("w")
    assert await crew.take("w", 2) == ()
    match how:
        case "later" | "retry":
            await crew.finish("w", [first], how, ttl_ms=60_000)
        case "handed back":
            await crew.queue.hand_back("w", [first])
        case "parked":
            await crew.queue.park("w", [first], "no such agent")
        case _:
            await STOPS[how](crew, "a1")
            await crew.finish("w", [first], how)  # type: ignore[arg-type]
    assert [t.id for t in await crew.take("w", 3)] == ["a1" if how == "handed back" else "a2"]
    assert await crew.client.hget(crew.keys.meta, "held:a") == "1"


@pytest.mark.parametrize("what", ["cancelled", "interrupted"])
async def test_what_waits_for_a_limit_is_stopped_at_once(crew: Crew, what: str) -> None:
    await limit(crew, max_concurrent=1)
    await crew.submit("a1", "a2", "a3")
    (first,) = await crew.take("w")
    await STOPS[what](crew, "a2")
    assert await crew.state("a2") == what
    await crew.finish("w", [first])
    assert [t.id for t in await crew.take("w", 2)] == ["a3"]


async def test_a_dead_workers_place_comes_free_with_its_lease_and_its_attempt_counts(crew: Crew) -> None:
    await limit(crew, max_concurrent=1)
    await crew.submit("a1", "a2")
    assert [t.id for t in await crew.take("w", lease_ms=SHORT_MS)] == ["a1"]
    assert await crew.take("v", 1, take_over=False) == (), "its lease runs"

    (again,) = await until(lambda: taken(crew, "v"))
    assert (again.id, again.attempt) == ("a1", 2)
    assert await taken(crew, "v") == ()
    await crew.finish("v", [again])
    assert [t.id for t in await taken(crew, "v")] == ["a2"]


async def test_limits_may_come_change_and_go_while_tasks_run_and_wait(crew: Crew) -> None:
    await crew.submit(*(f"a{i}" for i in range(6)))
    running = list(await crew.take("w", 1, 3))
    await limit(crew, max_concurrent=2)
    assert await crew.take("w", 2) == (), "three run already"
    await crew.finish("w", running[:1])
    assert await crew.take("w", 3) == ()
    await limit(crew, max_concurrent=3)
    assert [t.id for t in await crew.take("w", 4)] == ["a3"]
    await limit(crew)
    assert sorted(t.id for t in await crew.take("w", 5)) == ["a4", "a5"]
    await limit(crew)
    meta = await crew.client.hgetall(crew.keys.meta)
    assert [name for name in meta if name.startswith(("limit", "held:", "rate:"))] == [], "nothing is left of it"


async def test_less_urgent_tasks_of_a_limited_agent_do_not_starve(crew: Crew) -> None:
    await limit(crew, max_concurrent=1)
    await crew.submit("rare", priority=Priority.BACKGROUND)
    await crew.submit("n0")
    (task,) = await crew.take("w", 1)
    order = [task.id]
    for number in range(2, 40):
        await crew.submit(f"n{number}")
        await crew.finish("w", [task])
        (task,) = await crew.take("w", number, 2)
        order.append(task.id)
    assert 1 <= order.index("rare") <= 17


async def test_starts_keep_to_the_rate_by_the_servers_clock(crew: Crew) -> None:
    """Twenty workers race. The fence of a task tells when it was given to one, in us."""
    rate = RateLimit.model_validate({"requests": 100, "periodSeconds": 1, "burst": 5})
    await limit(crew, rate_limit=rate)
    ids = [f"t{i}" for i in range(40)]
    await crew.submit(*ids)
    given: dict[str, int] = {}

    async def work(name: str) -> None:
        client = connection.connect(crew.url)
        queue, number = Queue(client, crew.keys, crew.uid), 0
        while len(given) < len(ids):
            number += 1
            claim = await queue.claim(name, number, 3, lease_ms=LEASE_MS, take_over=True, begin=3)
            for task in claim.tasks:
                assert task.id not in given
                given[task.id] = int(task.fence)
            if claim.tasks:
                await queue.finish(name, [finished(task) for task in claim.tasks])
            elif claim.again_ms > 11:  # else it is told when the next may start
                assert (await figures.figures(client, crew.keys)).parked_by["limit"] == 0
            await asyncio.sleep(min(claim.again_ms, 11) / 1000)
        await client.aclose()

    await asyncio.gather(*(work(f"w{i}") for i in range(20)))
    at = sorted(given.values())
    every = 10_000
    assert all(at[i + n] - at[i] >= (n + 1 - 5) * every for i in range(len(at)) for n in range(len(at) - i))
    assert sorted(given, key=given.__getitem__) == ids, "the oldest first"


async def test_a_claim_that_is_sent_again_counts_one_start(crew: Crew) -> None:
    await limit(crew, rate_limit=RateLimit.model_validate({"requests": 1, "periodSeconds": 60, "burst": 2}))
    await crew.submit("t1", "t2", "t3")
    assert [t.id for t in await crew.claim("w", 1, 1)] == ["t1"]
    assert [t.id for t in await crew.claim("w", 1, 1)] == ["t1"]
    assert [t.id for t in await crew.claim("w", 2, 5)] == ["t2"]
    seen = await figures.figures(crew.client, crew.keys)
    assert (seen.waiting, seen.running, seen.parked_by["limit"]) == (0, 2, 1)
    assert seen.due_in_ms is not None
    assert 0 < seen.due_in_ms <= 60_000
    due = await crew.queue.move_due()
    assert due is not None
    assert abs(due - seen.due_in_ms - seen.now_ms) <= 1, "whoever scales looks then"
    await limit(crew, rate_limit=RateLimit.model_validate({"requests": 1000, "periodSeconds": 1, "burst": 9}))
    await until(lambda: taken(crew, "w"), what="the start of t3")


async def test_a_dead_workers_task_starts_again_when_its_rate_lets_it(crew: Crew) -> None:
    await limit(crew, rate_limit=RateLimit.model_validate({"requests": 1, "periodSeconds": 60}))
    await crew.submit("t1")
    assert [t.id for t in await crew.take("w", lease_ms=SHORT_MS)] == ["t1"]

    assert await crew.take("v", take_over=False) == ()

    async def parked() -> Any:
        assert await taken(crew, "v") == ()
        return (await figures.figures(crew.client, crew.keys)).parked_by["limit"]

    await until(parked)
    (held,) = (await holders(crew)).values()
    assert (held.attempt, held.incarnation) == (2, f"{LIMITED}a")
    assert await crew.client.hgetall(crew.keys.agents) == {}
    await limit(crew)
    (again,) = await taken(crew, "v")
    assert (again.id, again.attempt) == ("t1", 2)


async def test_a_rate_that_comes_back_after_a_turned_clock_lets_tasks_start(crew: Crew) -> None:
    rate = RateLimit.model_validate({"requests": 1, "periodSeconds": 60})
    await limit(crew, max_concurrent=2, rate_limit=rate)
    await crew.submit("t1")
    assert [t.id for t in await crew.take("w")] == ["t1"]
    await limit(crew, max_concurrent=2)
    assert not await crew.client.hexists(crew.keys.meta, "rate:a"), "there is none"

    ahead = await server_ms(crew.client) + 3_600_000
    await crew.client.hset(crew.keys.meta, "rate:a", f"60000000 {ahead}000 60000000")
    await crew.submit("t2")
    assert [t.id for t in await taken(crew, "w")] == ["t2"]
    assert "nan" not in str(kept := await crew.client.hget(crew.keys.meta, "rate:a"))
    assert not str(kept).endswith(" 0"), "us for each start, by which it is divided"
    await crew.client.hset(crew.keys.meta, "rate:a", f"0 {ahead}000 0")  # as a release before kept it
    await limit(crew, max_concurrent=3, rate_limit=rate)
    await crew.submit("t3")
    assert [t.id for t in await taken(crew, "w")] == ["t3"]


async def test_results_that_the_store_refuses_leave_no_place(crew: Crew) -> None:
    await limit(crew, max_concurrent=2)
    await crew.submit("a1", "a2")
    tasks = await crew.take("w")
    await crew.client.delete(damaged := crew.keys.task("a2"))
    await crew.client.set(damaged, "no hash")
    for _ in range(2):
        with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
            await crew.finish("w", tasks)
    assert await crew.client.hget(crew.keys.meta, "held:a") == "2"
    await crew.finish("w", tasks[:1])
    assert await crew.client.hget(crew.keys.meta, "held:a") == "1"


async def test_places_that_a_worker_of_the_release_before_did_not_free_come_free(crew: Crew) -> None:
    await limit(crew, max_concurrent=1)
    await crew.submit("a1")
    await crew.client.hset(crew.keys.meta, "held:a", "1")
    assert await crew.take("w") == (), "it was counted a moment ago"
    await crew.client.hset(crew.keys.meta, "recounted", str(await server_ms(crew.client) - 60_000))
    assert [t.id for t in await taken(crew, "w")] == ["a1"]

    await crew.client.hset(crew.keys.meta, "held:a", "5")
    await limit(crew, max_concurrent=1)
    assert await crew.client.hget(crew.keys.meta, "held:a") == "1", "whoever applies it again counts"


async def test_work_beside_what_waits_for_a_limit_wakes_whoever_scales_workers(crew: Crew) -> None:
    await limit(crew, rate_limit=RateLimit.model_validate({"requests": 1, "periodSeconds": 3600}))
    await crew.submit("a1", "a2")
    (first,) = await crew.take("w")
    await crew.finish("w", [first])
    await crew.client.hset(crew.keys.meta, "woken", "0")
    await crew.submit("b1", agent="b")
    assert await crew.client.hget(crew.keys.meta, "woken") == "0", "a worker is there"
    await crew.client.delete(crew.keys.leases)
    await crew.submit("b2", agent="b")
    assert await crew.client.hget(crew.keys.meta, "woken") != "0"


async def test_what_waits_says_which_limit_it_waits_for(crew: Crew) -> None:
    async def told(task_id: str) -> tuple[Reason, str, str]:
        found = explain(await why.seen(crew.client, crew.keys, task_id))
        assert found.state == "waiting"
        return found.reason, found.message, found.starts

    await limit(crew, max_concurrent=1)
    await crew.submit("a1", "a2", "a3")
    await crew.take("w")
    full = "1 tasks of its agent 'a' run, and maxConcurrent allows 1"
    at_end = "unknown: when a task of the agent ends"
    assert await told("a2") == (Reason.LIMITED, full, at_end)
    assert await told("a3") == (Reason.LIMITED, f"{full}; 1 of its tasks come first", at_end)

    await limit(crew, rate_limit=RateLimit.model_validate({"requests": 1, "periodSeconds": 600}))
    await crew.take("w", 2)
    reason, message, starts = await told("a3")
    assert (reason, message) == (Reason.LIMITED, "rateLimit of its agent 'a' lets one task start every 10m00s")
    assert re.fullmatch(r"not before (10m00s|9m\d\ds) from now, if a slot is free then", starts)
    found = explain(await why.seen(crew.client, crew.keys, "a3"))
    assert found.starts_in_seconds is not None
    assert 540 < found.starts_in_seconds <= 600


async def test_with_workers_killed_no_more_than_allowed_run_and_none_is_lost(crew: Crew) -> None:
    """Forty tasks of a limited agent and ten others, over workers that vanish at any moment."""
    rng = random.Random(4)
    await limit(crew, max_concurrent=3)
    mine, others = [f"a{i}" for i in range(30)], [f"b{i}" for i in range(8)]
    await crew.submit(*mine, priority=Priority.LOW)
    await crew.submit(*others, agent="b")
    ends: Counter[str] = Counter()
    most = 0

    async def life(name: str) -> None:
        number = 0
        while rng.random() < 0.9 and len(ends) < len(mine) + len(others):
            number += 1
            claim = await crew.queue.claim(name, number, rng.randint(1, 4), lease_ms=SHORT_MS, take_over=True, begin=2)
            await asyncio.sleep(0.001)
            if claim.tasks and rng.random() < 0.8:
                for task, answer in zip(
                    claim.tasks, (await crew.queue.finish(name, [finished(t) for t in claim.tasks]))[0], strict=True
                ):
                    ends[task.id] += answer == "applied"
            elif claim.tasks:
                return  # it is killed
            else:
                await asyncio.sleep(0.005)

    async def watch() -> None:
        nonlocal most
        while len(ends) < len(mine) + len(others):
            held = [one for one in (await holders(crew)).values() if not one.incarnation.startswith(LIMITED)]
            most = max(most, sum(one.agent == "a" for one in held))
            assert int(await crew.client.hget(crew.keys.meta, "held:a") or 0) <= 3
            await asyncio.sleep(0.001)

    async def lives(place: int) -> None:
        count = 0
        while len(ends) < len(mine) + len(others):
            count += 1
            with suppress(Fenced):  # a busy machine let its lease run out, and others have its tasks
                await life(f"w{place}-{count}")

    async with asyncio.timeout(180):
        await asyncio.gather(watch(), *(lives(i) for i in range(6)))
    assert most == 3
    assert set(ends) == {*mine, *others}
    assert set(ends.values()) == {1}
    await crew.assert_idle()
    assert await crew.client.hget(crew.keys.meta, "held:a") == "0"
