"""Workers that die and come back: each task ends once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from support import LEASE_MS, Crew, Feed, Watch, counted, expected_run, finished, random_flow

from watchbill.errors import Fenced
from watchbill.plan import flow
from watchbill.records import CrewDefinition
from watchbill.store import runs, unfinished
from watchbill.store.queue import Claimed, Outcome
from watchbill.tasks import Priority, TaskState


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
