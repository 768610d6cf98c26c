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
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import redis.asyncio
from support import (
    LEASE_MS,
    MANY,
    Crew,
    Feed,
    Watch,
    counted,
    expected_run,
    finished,
    flow_of,
    library,
    opened,
    payload,
    random_flow,
    run_submission,
    until,
    workers,
)

from watchbill import connection
from watchbill.connection import client as connections
from watchbill.connection import outages
from watchbill.errors import Fenced
from watchbill.plan import flow
from watchbill.records import CrewDefinition, ExecutionMode
from watchbill.store import definitions, runs, unfinished
from watchbill.store.queue import Claimed, Outcome, Queue
from watchbill.store.submissions import Submission
from watchbill.tasks import Priority, TaskState


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

            await until(all_done, 60)
            stop.set()
        monkeypatch.undo()
        assert gave_up
        assert counted(await crew.results()) == Counter(ids)
        await crew.assert_idle()


# ---------------------------------------------------------------- workers that die and come back


@dataclass
class _Worker:
    name: str
    lease_ms: int
    number: int = 0
    held: dict[str, Claimed] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    said: Counter[str] = field(default_factory=Counter)
    must_be_fenced: bool = False


class _Model:
    """What must be true of a crew to which random things happen, one at a time, so that nothing is left to chance."""

    AGENTS = ("a", "b", "c")

    def __init__(self, crew: Crew, seed: int) -> None:
        self.crew = crew
        self.rng = random.Random(seed)
        self.watch = Watch(crew)
        self.tasks: list[str] = []
        self.runs: dict[str, CrewDefinition] = {}
        self.owner: dict[str, tuple[str, str]] = {}
        self.fences: dict[str, int] = {}
        self.attempts: Counter[str] = Counter()
        self.begun: set[str] = set()
        self.ended: dict[str, str] = {}
        self.parked: set[str] = set()
        self.fenced_calls = 0
        self.made = 0
        self.workers = [self._worker() for _ in range(4)]

    def _worker(self) -> _Worker:
        self.made += 1
        return _Worker(f"w{self.made}", self.rng.choice((15, LEASE_MS, LEASE_MS)))

    async def happen(self) -> None:
        worker = self.rng.choice(self.workers)
        if self.rng.random() < 0.25 and len(self.tasks) < 40:
            await self._submit()
        elif self.rng.random() < 0.06:
            await self.crew.queue.declare_dead([worker.name])
        elif await self.crew.client.zscore(self.crew.keys.fenced, worker.name) is not None:
            await self._as_zombie(worker)
        elif worker.number == 0:  # the store doesn't know it yet
            await self._claim(worker)
        else:
            assert not worker.must_be_fenced, "its work was given to another, and it can still write"
            actions = (
                [self._claim] * 3
                + [self._start, self._finish, self._finish] * 2
                + [self._hand_back, self._say, self._park]
            )
            await (self._leave if self.rng.random() < 0.04 else self.rng.choice(actions))(worker)
        await self.watch.look(self.tasks, self.runs)

    async def _submit(self) -> None:
        if self.rng.random() < 0.1 and len(self.runs) < 3:
            run_id = f"r{len(self.runs)}"
            self.runs[run_id] = random_flow(self.rng, self.rng.randint(2, 8))
            await self.crew.run(run_id, self.runs[run_id], parallel=self.rng.randint(1, 4))
            return
        new = [f"t{len(self.tasks) + i}" for i in range(self.rng.randint(1, 4))]
        self.tasks += new
        priority, agent = self.rng.choice(list(Priority)), self.rng.choice(self.AGENTS)
        await self.crew.submit(*new, *self.rng.sample(self.tasks, 1), priority=priority, agent=agent)

    async def _claim(self, worker: _Worker) -> None:
        worker.number += 1
        slots = self.rng.randint(0, 4)
        args = (worker.name, worker.number, slots)
        options: dict[str, Any] = {"lease_ms": worker.lease_ms, "take_over": self.rng.random() < 0.8}
        tasks = await self.crew.claim(*args, **options)
        if self.rng.random() < 0.2 and tasks:
            assert await self.crew.claim(*args, **options) == tasks
        assert len(tasks) <= slots
        self._got(worker, tasks)

    def _got(self, worker: _Worker, tasks: Sequence[Claimed]) -> None:
        for task in tasks:
            assert task.id not in self.ended, "it has ended"
            before = self.owner.get(task.id)
            self.parked.discard(task.id)
            if before is not None:
                assert task.taken_over
                previous = next((w for w in self.workers if w.name == before[0]), None)
                if previous is not None:
                    assert previous is not worker
                    previous.must_be_fenced = True
                if task.id in self.begun:
                    self.attempts[task.id] += 1
            assert task.attempt == self.attempts[task.id] + 1
            assert int(task.fence) > self.fences.get(task.id, 0)
            self.begun.discard(task.id)
            self.fences[task.id] = int(task.fence)
            self.owner[task.id] = (worker.name, task.fence)
            worker.held[task.id] = task

    async def _start(self, worker: _Worker) -> None:
        tasks = self._some(worker)
        if not tasks:
            return
        for _ in range(self.rng.randint(1, 2)):
            assert {s.state for s in await self.crew.queue.start(worker.name, tasks)} == {"ok"}
        worker.started.update(t.id for t in tasks)
        self.begun.update(t.id for t in tasks)

    async def _finish(self, worker: _Worker) -> None:
        tasks = [t for t in self._some(worker) if t.id in worker.started]
        bad: list[Outcome] = ["failed", "dead"]
        outcomes: list[Outcome] = [self.rng.choice(bad) if self.rng.random() < 0.2 else "completed" for _ in tasks]
        done = []
        for task, outcome in zip(tasks, outcomes, strict=True):
            digest = self.runs[task.run_id].digest() if task.run_id else ""
            done.append(finished(task, outcome, output=f"{task.id} by {worker.name}", definition=digest))
        options: dict[str, Any] = {}
        if self.rng.random() < 0.6:
            worker.number += 1
            options = {"number": worker.number, "slots": self.rng.randint(0, 3), "lease_ms": worker.lease_ms}
        answers, claim = await self.crew.queue.finish(worker.name, done, **options)
        assert answers == ["applied"] * len(tasks)
        if self.rng.random() < 0.2:
            options = options if claim and claim.tasks else {}  # else it would be a new claim
            answers, again = await self.crew.queue.finish(worker.name, done, **options)
            assert answers == ["repeated"] * len(tasks)
            assert not again or not claim or again.tasks == claim.tasks
        for task, outcome in zip(tasks, outcomes, strict=True):
            self.ended[task.id] = outcome
            del self.owner[task.id], worker.held[task.id]
        if claim:
            self._got(worker, claim.tasks)

    async def _hand_back(self, worker: _Worker) -> None:
        tasks = self._some(worker)
        for _ in range(self.rng.randint(1, 2)):
            assert await self.crew.queue.hand_back(worker.name, tasks) == ["applied"] * len(tasks)
        for task in tasks:
            self.owner[task.id] = ("returned", task.fence)
            self.begun.discard(task.id)
            worker.started.discard(task.id)
            del worker.held[task.id]

    async def _park(self, worker: _Worker) -> None:
        """Sets some aside, and brings back some of all that are."""
        tasks = self._some(worker)
        assert await self.crew.queue.park(worker.name, tasks, "no such agent") == ["applied"] * len(tasks)
        for task in tasks:
            del self.owner[task.id], worker.held[task.id]
            self.begun.discard(task.id)
            worker.started.discard(task.id)
            self.parked.add(task.id)
        await self.watch.look(self.tasks, self.runs)
        members = [m for of_agent in (await self.crew.queue.parked_agents()).values() for m in of_agent]
        assert {member.task_id for member in members} <= self.parked
        assert await self.crew.queue.unpark(self.rng.sample(members, self.rng.randint(0, len(members)))) >= 0

    async def _say(self, worker: _Worker) -> None:
        for task in self._some(worker):
            worker.said[task.fence] += 1
            assert await self.crew.queue.say(worker.name, task, "hello", worker.said[task.fence])

    async def _leave(self, worker: _Worker) -> None:
        await self.crew.queue.leave(worker.name)
        self.workers.remove(worker)
        self.workers.append(self._worker())

    async def _as_zombie(self, worker: _Worker) -> None:
        """It was taken for dead: whatever it calls is refused and changes nothing."""
        queue, name, held = self.crew.queue, worker.name, list(worker.held.values())
        claim: dict[str, Any] = {"lease_ms": worker.lease_ms, "take_over": True}
        done = [finished(t, "failed", output="from a zombie") for t in held]
        call: Callable[[], Awaitable[Any]] = self.rng.choice(
            [
                lambda: queue.claim(name, worker.number + 1, 3, **claim),
                lambda: queue.claim(name, 1, 3, **claim),
                lambda: queue.start(name, held),
                lambda: queue.finish(name, done),
                lambda: queue.finish(name, done, number=worker.number + 1, slots=2, **claim),
                lambda: queue.hand_back(name, held),
                lambda: queue.park(name, held, "no such agent"),
                lambda: queue.say(name, held[0], "boo", 99) if held else queue.start(name, held),
            ]
        )
        before = await self.crew.dump()
        with pytest.raises(Fenced):
            await call()
        assert await self.crew.dump() == before
        self.fenced_calls += 1
        if self.rng.random() < 0.5:  # it notices, and begins anew
            self.workers.remove(worker)
            self.workers.append(self._worker())

    def _some(self, worker: _Worker) -> list[Claimed]:
        held = list(worker.held.values())
        return self.rng.sample(held, self.rng.randint(0, len(held)))

    async def end(self) -> None:
        """A last worker does what is left."""
        await self.crew.queue.declare_dead(await self.crew.queue.incarnations())
        last = _Worker("last", LEASE_MS)
        members = [m for of_agent in (await self.crew.queue.parked_agents()).values() for m in of_agent]
        await self.crew.queue.unpark(members)
        await self.watch.look(self.tasks, self.runs)
        while await self.crew.queued():
            await self._claim(last)
            await self.crew.queue.start("last", list(last.held.values())) if last.held else None
            last.started.update(last.held)
            self.begun.update(last.held)
            await self.watch.look(self.tasks, self.runs)
            await self._finish(last)
            await self.watch.look(self.tasks, self.runs)

    async def check(self) -> None:
        crew = self.crew
        assert counted(await crew.results()) == Counter([*self.ended, *self.runs])
        for task_id in self.tasks:
            record = await crew.task(task_id)
            assert record["state"] == self.ended[task_id]
            assert record["attempt"] == str(self.attempts[task_id] + 1)
            assert "zombie" not in record["result"]
            assert await crew.client.ttl(crew.keys.task(task_id)) > 0
        for run_id, definition in self.runs.items():
            steps = flow.steps(definition)
            failing = {s.name for s in steps if self.ended.get(f"{run_id}/{s.name}", "completed") != "completed"}
            state, expected = expected_run(steps, failing)
            status = await runs.status(crew.client, crew.keys, run_id)
            assert status.status is state
            assert {s.name: s.status.value.replace("dead", "failed") for s in status.steps} == expected
            for step in status.steps:
                assert step.status is TaskState.SKIPPED or step.attempt == self.attempts[f"{run_id}/{step.name}"] + 1
        await crew.assert_idle()
        assert await unfinished.newest(crew.client, crew.keys) == []


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_happens_each_task_ends_exactly_once(crew: Crew, seed: int) -> None:
    model = _Model(crew, seed)
    async with Feed(crew).following() as feed:
        for _ in range(220):
            await model.happen()
        await model.end()
    await model.check()
    assert feed.terminal() == Counter(model.ended.keys())
    assert feed.ended_runs() == Counter(model.runs.keys())
    assert model.fenced_calls > 0
    assert {("waiting", "running"), ("running", "completed")} <= model.watch.moves
    changes = [e for e in feed.events if e.event_type == "agent_state_changed"]
    for agent in model.AGENTS:
        own = [e.new_state for e in changes if e.agent_id == agent]
        assert own == ["working", "idle"] * (len(own) // 2)
