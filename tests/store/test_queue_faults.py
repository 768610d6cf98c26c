"""The queue when things go wrong: replies are lost, calls come twice or late, workers die and come back.

Whatever happens, at the end each task has ended exactly once, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import redis.asyncio
from support import (
    LEASE_MS,
    MANY,
    Crew,
    Feed,
    counted,
    expected_run,
    finished,
    flow_of,
    library,
    opened,
    payload,
    random_flow,
    run_submission,
    workers,
)

from waiting import until
from watchbill import connection
from watchbill.connection import client as connections
from watchbill.connection import outages
from watchbill.plan import flow
from watchbill.records import CrewDefinition, ExecutionMode
from watchbill.store import definitions, runs, unfinished
from watchbill.store.queue import Claimed, Outcome, Queue
from watchbill.store.submissions import Submission
from watchbill.tasks import Priority


def _fate(task: Claimed) -> Outcome:
    """How a task ends in these tests, by its id."""
    return ("failed", "dead", *["completed"] * 8)[zlib.crc32(task.id.encode()) % 10]  # type: ignore[return-value]


def _outcome_of(task_id: str) -> str:
    return _fate(Claimed(task_id, "", 1, "", "", 5, False))


def _run_definitions() -> dict[str, CrewDefinition]:
    return {
        "sequential": library(*(f"q{i}" for i in range(5)), mode=ExecutionMode.SEQUENTIAL),
        "parallel": library(*(f"p{i}" for i in range(30))),
        "flow": random_flow(random.Random(1), 40),
        "diamond": flow_of([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]),
    }


async def _everything_ends_once(crew: Crew, through: Sequence[Crew], tasks: int, **options: Any) -> None:
    """Drives tasks and runs to their end by three workers through these clients; looks for what is lost or doubled."""
    definitions_ = _run_definitions()
    reached: Counter[str] = Counter()
    states: dict[str, str] = {}
    for run_id, definition in definitions_.items():
        steps = flow.steps(definition)
        failing = {s.name for s in steps if _outcome_of(f"{run_id}/{s.name}") != "completed"}
        state, expected = expected_run(steps, failing)
        states[run_id] = state.value
        reached += Counter(f"{run_id}/{name}" for name, is_now in expected.items() if is_now != "skipped")
    ids = [f"t{i}" for i in range(tasks)]
    expected_results = Counter(ids) + reached + Counter(definitions_.keys())

    async def all_there() -> bool:
        return len(await crew.results()) >= len(expected_results)

    first = through[0]
    async with Feed(crew).following() as feed, workers(3, through, outcome=_fate, **options):
        for i in range(0, tasks, 10):
            batch = [
                Submission(t, "ab"[j % 2], payload(t), list(Priority)[j % 5]) for j, t in enumerate(ids[i : i + 10])
            ]
            await outages.persist(lambda b=batch: first.submit_all(b, max_queued=MANY))  # type: ignore[misc]
        for run_id, definition in definitions_.items():
            await outages.persist(lambda d=definition: definitions.apply(first.client, first.keys, d))  # type: ignore[misc]
            submission = run_submission(run_id, definition, parallel=7)
            await outages.persist(
                lambda s=submission: runs.submit(first.client, first.keys, first.uid, s, max_queued=MANY)  # type: ignore[misc]
            )
        await until(all_there)
    assert counted(await crew.results()) == expected_results
    assert feed.terminal() == Counter(ids) + reached
    assert feed.ended_runs() == Counter(states.keys())
    for run_id, ended in states.items():
        assert (await runs.status(crew.client, crew.keys, run_id)).status == ended
    for task_id in ids:
        assert await crew.state(task_id) == _outcome_of(task_id)
    started = Counter(e.task_id for e in feed.events if e.event_type == "task_assigned")
    assert started == Counter(ids) + reached  # nobody died, so nothing began twice
    assert counted(await crew.dead()) == Counter(
        task_id for task_id in [*ids, *reached] if _outcome_of(task_id) == "dead"
    )
    assert await crew.queue.incarnations() == []
    assert await crew.consumers() == set()
    assert await unfinished.newest(crew.client, crew.keys) == []
    await crew.assert_idle()


# ---------------------------------------------------------------- calls that come twice


def _send_twice(client: redis.asyncio.Redis, patch: pytest.MonkeyPatch) -> Counter[str]:
    """Every script is executed twice in a row; the caller gets the second answer."""
    sent: Counter[str] = Counter()
    for name in ("evalsha", "eval"):
        once = getattr(client, name)

        async def twice(*args: Any, once: Callable[..., Awaitable[Any]] = once, name: str = name) -> Any:
            await once(*args)
            sent[name] += 1
            return await once(*args)

        patch.setattr(client, name, twice)
    return sent


def _send_late(client: redis.asyncio.Redis, patch: pytest.MonkeyPatch, rng: random.Random) -> Counter[str]:
    """Every script is executed a second time, up to four calls of the same client later."""
    sent: Counter[str] = Counter()
    once = client.evalsha
    waiting: list[tuple[int, Any]] = []

    async def late(*args: Any) -> Any:
        reply = await once(*args)
        sent["calls"] += 1
        waiting.append((sent["calls"] + rng.randint(1, 4), args))
        due = [item for item in waiting if item[0] <= sent["calls"]]
        waiting[:] = [item for item in waiting if item not in due]
        for _, again in due:
            await once(*again)
            sent["late"] += 1
        return reply

    patch.setattr(client, "evalsha", late)
    return sent


@asynccontextmanager
async def _clients(crew: Crew, count: int, url: str = "") -> AsyncIterator[list[Crew]]:
    """The same crew through clients of their own."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            client = await stack.enter_async_context(connection.connected(url or crew.url))
            found.append(replace(crew, client=client, queue=Queue(client, crew.keys, crew.uid)))
        yield found


async def test_every_call_may_be_sent_twice(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _clients(crew, 3) as through:
        sent = [_send_twice(one.client, monkeypatch) for one in through]
        await _everything_ends_once(crew, through, 250)
    assert sum(s["evalsha"] for s in sent) > 100


async def test_every_reply_may_be_lost_once(crew: Crew, proxy: Callable[..., Awaitable[Any]]) -> None:
    lossy = await proxy(crew.url)
    lossy.drop_every_reply_once = True
    async with _clients(crew, 3, lossy.url) as through:
        await _everything_ends_once(crew, through, 120)
    assert lossy.dropped > 50


# On a connection that was given up, a call may still be on its way while the worker goes on by another one. A late
# claim must take nothing: nobody would know of its tasks for as long as the worker lives.
async def test_every_call_may_arrive_a_second_time_later(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _clients(crew, 3) as through:
        sent = [_send_late(one.client, monkeypatch, random.Random(i)) for i, one in enumerate(through)]
        await _everything_ends_once(crew, through, 100)
    assert sum(s["late"] for s in sent) > 50


async def test_an_old_claim_that_arrives_late_takes_nothing(crew: Crew) -> None:
    await crew.submit("t1", "t2", "t3")
    await crew.take("w", 1, 1)
    await crew.take("w", 2, 1)
    assert await crew.claim("w", 1, 1) == ()  # sent on a connection that was slow, answered to nobody
    assert [t.id for t in await crew.claim("w", 3, 1)] == ["t3"]


async def test_an_old_claim_that_found_nothing_takes_nothing_when_it_arrives_late(crew: Crew) -> None:
    for number in (1, 2, 3):
        assert await crew.claim("w", number, 1) == ()
    await crew.submit("t1")
    assert await crew.claim("w", 2, 1) == ()
    assert [t.id for t in await crew.claim("w", 4, 1)] == ["t1"]


async def test_a_renewal_may_be_sent_twice(crew: Crew) -> None:
    await crew.claim("w")
    with connection.connect_sync(crew.url) as client:
        for _ in range(2):
            await asyncio.to_thread(crew.queue.renew, client, "w", LEASE_MS, "{}")
    assert await crew.client.hgetall(crew.keys.workers) == {"w": "{}"}


async def test_a_lost_reply_to_each_single_call_changes_nothing(
    crew: Crew, proxy: Callable[..., Awaitable[Any]]
) -> None:
    lossy = await proxy(crew.url)
    async with _clients(crew, 1, lossy.url) as (one,):

        async def lost(call: Awaitable[Any]) -> Any:
            before = lossy.dropped
            lossy.drop_next_reply()
            answer = await call
            assert lossy.dropped == before + 1
            return answer

        await one.client.ping()
        assert await lost(one.submit("t1", "t2", dedupe_key="k", dedupe_ms=60_000)) == ["t1", "t1"]
        assert await lost(one.run("r1", dedupe_key="l", dedupe_ms=60_000)) == "r1"
        tasks = await lost(one.claim("w"))
        assert [t.id for t in tasks] == ["t1", "r1/a", "r1/b"]
        assert {s.state for s in await lost(one.queue.start("w", tasks))} == {"ok"}
        assert await lost(one.queue.say("w", tasks[0], "hello", 1))
        assert await lost(one.queue.hand_back("w", tasks[2:])) == ["applied"]
        done = [finished(t, definition=crew.definition.digest()) for t in tasks[:2]]
        outcomes, claim = await lost(one.queue.finish("w", done, number=2, slots=3, lease_ms=LEASE_MS, take_over=True))
        assert outcomes == ["repeated", "repeated"]
        assert [t.id for t in claim.tasks] == ["r1/b"]
        await one.queue.start("w", claim.tasks)
        assert await lost(one.finish("w", claim.tasks)) == ["repeated"]
        await lost(one.queue.leave("w"))
        digest = library("new").digest()
        await lost(definitions.apply(one.client, one.keys, library("new")))
    assert (await definitions.current(crew.client, crew.keys)).digest == digest
    assert counted(await crew.results()) == {"t1": 1, "r1/a": 1, "r1/b": 1, "r1": 1}
    told = Counter(e["event_type"] for e in await crew.events())
    assert told["mission_event"] == 1
    assert told["task_completed"] == 3
    assert told["mission_state_changed"] == 2
    await crew.assert_idle()


async def test_a_server_that_stands_still_gets_calls_again_and_again_and_nothing_is_doubled(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients give up waiting and send again, so that the server finds every call several times when it goes on."""
    server = await private_redis()
    gave_up = 0

    def on_wait(_: float) -> None:
        nonlocal gave_up
        gave_up += 1

    persist = partial(outages.persist, on_wait=on_wait)
    async with opened(server.url, crew_name) as crew, _clients(crew, 3) as through:
        ids = [f"t{i}" for i in range(60)]
        await crew.submit(*ids)
        stop = asyncio.Event()

        async def patient(one: Crew, name: str) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                tasks = await persist(lambda n=number: one.claim(name, n, 3))  # type: ignore[misc]
                if not tasks:
                    await asyncio.sleep(0.01)
                    continue
                await persist(lambda t=tasks: one.queue.start(name, t))  # type: ignore[misc]
                await persist(lambda t=tasks: one.finish(name, t))  # type: ignore[misc]

        monkeypatch.setattr(connections, "REPLY_TIMEOUT_SECONDS", 0.2)
        async with asyncio.TaskGroup() as group:
            for i, one in enumerate(through):
                group.create_task(patient(one, f"w{i}"))
            for _ in range(3):
                await asyncio.sleep(0.01)
                server.pause()
                await asyncio.sleep(0.6)
                server.resume()

            async def all_done() -> bool:
                return len(await persist(crew.results)) >= len(ids)

            await until(all_done, 180)
            stop.set()
        monkeypatch.undo()
        assert gave_up
        assert counted(await crew.results()) == Counter(ids)
        await crew.assert_idle()
