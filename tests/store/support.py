"""What the tests of the queue share: a crew in a real store, simple workers, and ways to look at all that is stored.

May not stand in for any part of the store: everything here goes through the public calls, or reads Redis itself.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio

from waiting import until
from watchbill import connection
from watchbill.names import WORKERS_GROUP, CrewKeys
from watchbill.plan import flow, given
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode, FlowRelation
from watchbill.store import definitions, events, packed, runs, submissions
from watchbill.store.queue import Claim, Claimed, Finished, Outcome, Queue
from watchbill.store.submissions import Submission
from watchbill.tasks import RUN_TERMINAL, TRANSITIONS, Priority, RunState, TaskResult, TaskState

LEASE_MS = 60_000
"""A lease that no test outlives."""
SHORT_MS = 120
"""A lease that tests wait for."""
MANY = 1_000_000


@dataclass
class Crew:
    """A crew in a store, and one uid's queue of it."""

    client: Any  # redis-py types each answer as bytes or str, whatever the connection decodes
    keys: CrewKeys
    uid: str
    definition: CrewDefinition
    queue: Queue

    @property
    def url(self) -> str:
        """Where the store is: for clients of other kinds."""
        options = self.client.connection_pool.connection_kwargs
        if "path" in options:
            return f"unix://{options['path']}?db={options.get('db') or 0}"
        return f"redis://{options['host']}:{options['port']}/{options.get('db') or 0}"

    async def submit(
        self, *ids: str, priority: Priority = Priority.NORMAL, agent: str = "a", **options: Any
    ) -> list[str]:
        tasks = [Submission(i, agent, payload(i), priority, **options) for i in ids]
        return await self.submit_all(tasks, max_queued=MANY)

    async def submit_all(self, tasks: Iterable[Submission], **options: Any) -> list[str]:
        return await submissions.submit(self.queue.client, self.queue.keys, self.queue.uid, tasks, **options)

    async def bell(self, seconds: float = 1.0) -> bool:
        """Takes its token, as an idle worker does."""
        return await self.client.blpop([self.keys.bell], timeout=seconds) is not None

    async def claim(
        self, incarnation: str, number: int = 1, slots: int = 10, *, lease_ms: int = LEASE_MS, take_over: bool = True
    ) -> tuple[Claimed, ...]:
        return (await self.queue.claim(incarnation, number, slots, lease_ms=lease_ms, take_over=take_over)).tasks

    async def take(
        self, incarnation: str, number: int = 1, slots: int = 10, *, lease_ms: int = LEASE_MS, take_over: bool = True
    ) -> tuple[Claimed, ...]:
        """Claims and starts."""
        tasks = await self.claim(incarnation, number, slots, lease_ms=lease_ms, take_over=take_over)
        if tasks:
            await self.queue.start(incarnation, tasks)
        return tasks

    async def finish(
        self, incarnation: str, tasks: Iterable[Claimed], outcome: Outcome = "completed", **options: Any
    ) -> list[str]:
        options.setdefault("definition", self.definition.digest())
        done = [finished(task, outcome, **options) for task in tasks]
        return list((await self.queue.finish(incarnation, done))[0])

    async def run(self, run_id: str, definition: CrewDefinition | None = None, **options: Any) -> str:
        """Submits a run of the crew's definition, or of one that is applied first."""
        if definition is not None:
            self.definition = definition
            await definitions.apply(self.client, self.keys, definition)
        submission = run_submission(run_id, self.definition, **options)
        return await runs.submit(self.client, self.keys, self.uid, submission, max_queued=MANY)

    async def dump(self) -> dict[str, tuple[str, int]]:
        """Everything that the store holds of this crew: key → (its bytes, when it expires)."""
        names = sorted(await self.client.keys(self.keys.prefix + "*"))
        async with self.client.pipeline(transaction=True) as pipe:
            for name in names:
                pipe.dump(name)
                pipe.pexpiretime(name)
            replies = await pipe.execute()
        return {name: (replies[2 * i], replies[2 * i + 1]) for i, name in enumerate(names)}

    async def streams(self) -> list[str]:
        """Those that there are: one is made when it is first needed."""
        return [stream for stream in self.keys.streams if await self.client.exists(stream)]

    async def pending(self) -> int:
        """Entries that some consumer holds, on all streams."""
        return sum([int((await self.client.xpending(s, WORKERS_GROUP))["pending"]) for s in await self.streams()])

    async def consumers(self) -> set[str]:
        found: set[str] = set()
        for stream in await self.streams():
            found.update(str(c["name"]) for c in await self.client.xinfo_consumers(stream, WORKERS_GROUP))
        return found

    async def queued(self) -> int:
        return sum([int(await self.client.xlen(stream)) for stream in self.keys.streams])

    async def results(self) -> list[dict[str, str]]:
        return [fields for _, fields in await self.client.xrange(self.keys.results)]

    async def dead(self) -> list[dict[str, str]]:
        return [fields for _, fields in await self.client.xrange(self.keys.dead)]

    async def events(self, key: str | None = None) -> list[dict[str, Any]]:
        """The events of a stream (the crew's) without their times, oldest first."""
        found = await events.recent(self.client, key or self.keys.events, MANY)
        return [event.model_dump(mode="json", exclude_none=True, exclude={"timestamp"}) for _, event in found]

    async def task(self, task_id: str) -> dict[str, str]:
        return await self.client.hgetall(self.keys.task(task_id))

    async def state(self, task_id: str) -> str | None:
        return await self.client.hget(self.keys.task(task_id), "state")

    async def step_states(self, run_id: str) -> dict[str, str]:
        return {s.name: s.status.value for s in (await runs.status(self.client, self.keys, run_id)).steps}

    async def assert_idle(self) -> None:
        """Nothing is left that would make a crew look busy: no entry, nobody pending, no counter, nothing parked."""
        keys = self.keys
        assert await self.queued() == 0
        assert await self.pending() == 0
        assert await self.client.hgetall(keys.holders) == {}
        assert await self.client.hgetall(keys.agents) == {}
        assert await self.client.hgetall(keys.wishes) == {}
        assert await self.client.zrange(keys.parked_concurrency, 0, -1) == []
        assert await self.client.zrange(keys.parked_agent, 0, -1) == []
        assert await self.client.zrange(keys.delayed, 0, -1) == []
        meta = await self.client.hgetall(keys.meta)
        assert [name for name in meta if name.startswith("ref:")] == []


def library(*agents: str, mode: ExecutionMode = ExecutionMode.PARALLEL, **fields: Any) -> CrewDefinition:
    """A definition with these agents."""
    return CrewDefinition(
        name="test", execution_mode=mode, agents=[AgentDefinition(agent_id=a) for a in agents or ("a", "b")], **fields
    )


def flow_of(edges: Iterable[tuple[str, str]], agents: Sequence[str] = ()) -> CrewDefinition:
    """A flow over these edges; `agents` are all in order, where not all of them have an edge."""
    edges = list(edges)
    names = list(agents) or list(dict.fromkeys(name for edge in edges for name in edge))
    relations = [FlowRelation(source=s, target=t) for s, t in edges]
    return library(*names, mode=ExecutionMode.FLOW, flow_relations=relations)


def lenient(definition: CrewDefinition, *agents: str) -> CrewDefinition:
    """The definition with `onError: Continue` for these agents."""
    changed = [
        one.model_copy(update={"on_error": "Continue"}) if one.agent_id in agents else one for one in definition.agents
    ]
    return definition.model_copy(update={"agents": changed})


def random_flow(rng: random.Random, nodes: int, most_sources: int = 3) -> CrewDefinition:
    names = [f"n{i}" for i in range(nodes)]
    edges = [
        (names[source], names[i])
        for i in range(1, nodes)
        for source in rng.sample(range(max(0, i - 30), i), rng.randint(0, min(most_sources, i)))
    ]
    rng.shuffle(names)
    return flow_of(edges, names)


def run_submission(run_id: str, definition: CrewDefinition, **options: Any) -> runs.RunSubmission:
    options.setdefault("parallel", definition.max_parallel_tasks)
    return runs.RunSubmission(
        run_id, payload(run_id), definition.digest(), definition.execution_mode, given.steps(definition), **options
    )


def payload(text: str) -> str:
    return f'{{"prompt":"{text}"}}'


def finished(
    task: Claimed, outcome: Outcome = "completed", *, output: Any = None, definition: str = "", **options: Any
) -> Finished:
    good = outcome == "completed"
    result = TaskResult(
        task_id=task.id,
        agent_name=task.agent,
        success=good,
        output=task.id if output is None else output,
        error=None if good else "it broke",
        attempt=task.attempt,
    )
    return Finished(task, outcome, result.model_dump_json(), definition=definition, **options)


async def limit(crew: Crew, **limits: Any) -> None:
    """Gives these limits to agent `a`; `b` has none."""
    first, second = library("a", "b").agents
    agents = [first.model_copy(update=limits), second]
    crew.definition = crew.definition.model_copy(update={"agents": agents})
    await definitions.apply(crew.client, crew.keys, crew.definition)


async def stopped(task: asyncio.Task[Any]) -> None:
    """Cancels a task until it ends: asyncio.wait_for of Python 3.11, which redis-py uses, swallows cancellations."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.01)


async def server_ms(client: redis.asyncio.Redis) -> int:
    seconds, micros = await client.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def next_millisecond(crew: Crew) -> None:
    """Waits until entries of the streams get another time than those before."""
    now = await server_ms(crew.client)
    while await server_ms(crew.client) <= now:
        pass


async def made(client: redis.asyncio.Redis, name: str, definition: CrewDefinition | None = None) -> Crew:
    keys = CrewKeys("test", name)
    definition = definition or library()
    uid = await definitions.apply(client, keys, definition)
    return Crew(client, keys, uid, definition, Queue(client, keys, uid))


@asynccontextmanager
async def opened(url: str, name: str, definition: CrewDefinition | None = None) -> AsyncIterator[Crew]:
    """A new crew, with all its keys removed in the end."""
    async with connection.connected(url) as client:
        yield await made(client, name, definition)
        if left := await client.keys(CrewKeys("test", name).prefix + "*"):
            await client.delete(*left)


async def work(
    crew: Crew,
    incarnation: str,
    stop: asyncio.Event,
    *,
    slots: int = 5,
    lease_ms: int = LEASE_MS,
    outcome: Callable[[Claimed], Outcome] = lambda task: "completed",
    seen: Callable[[Claim], Awaitable[None]] | None = None,
) -> None:
    """A worker as simple as can be: claims, starts, finishes all at once, until told to stop."""
    queue, number = crew.queue, 1
    claim: Claim | None = await queue.claim(incarnation, number, slots, lease_ms=lease_ms, take_over=True)
    while not stop.is_set():
        assert claim is not None
        number += 1
        if seen:
            await seen(claim)
        if not claim.tasks:
            await crew.bell(0.05)
            claim = await queue.claim(incarnation, number, slots, lease_ms=lease_ms, take_over=True)
            continue
        started = await queue.start(incarnation, claim.tasks)
        done = [
            finished(task, outcome(task) if s.state == "ok" else "dead", definition=s.definition)
            for task, s in zip(claim.tasks, started, strict=True)
            if s.state != "stale"
        ]
        _, claim = await queue.finish(incarnation, done, number=number, slots=slots, lease_ms=lease_ms, take_over=True)
    await queue.hand_back(incarnation, claim.tasks if claim else ())
    await queue.leave(incarnation)


@asynccontextmanager
async def workers(count: int, crews: Sequence[Crew], **options: Any) -> AsyncIterator[None]:
    """So many workers for the length of a block; worker i goes through `crews[i % len(crews)]`."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for i in range(count):
            group.create_task(work(crews[i % len(crews)], f"worker-{i}", stop, **options))
        try:
            yield
        finally:
            stop.set()


class Feed:
    """Follows the crew's events from their beginning, so that not even a trimmed one is missed."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.events: list[Any] = []
        self.last = events.BEGINNING

    async def _follow(self) -> None:
        async for entry_id, event in events.follow(self.crew.client, self.crew.keys.events):
            self.events.append(event)
            self.last = entry_id

    @asynccontextmanager
    async def following(self) -> AsyncIterator[Feed]:
        task = asyncio.create_task(self._follow())
        try:
            yield self
            await until(self._caught_up)
        finally:
            await stopped(task)

    async def _caught_up(self) -> bool:
        return self.last == await events.last_id(self.crew.client, self.crew.keys.events)

    def terminal(self) -> Counter[str]:
        """Task and step id → how often it was told to have ended."""
        return Counter(e.task_id for e in self.events if e.event_type in ("task_completed", "task_failed"))

    def ended_runs(self) -> Counter[str]:
        return Counter(e.mission_id for e in self.events if e.new_state in RUN_TERMINAL)


@dataclass
class Watch:
    """Looks at the states of tasks and steps again and again, and fails on a move that is not in the table."""

    crew: Crew
    states: dict[str, str] = field(default_factory=dict)
    moves: set[tuple[str, str]] = field(default_factory=set)

    async def look(self, tasks: Iterable[str] = (), run_ids: Iterable[str] = ()) -> None:
        now: dict[str, str] = {}
        for run_id in run_ids:
            for name, text in (await self.crew.client.hgetall(self.crew.keys.run_steps(run_id))).items():
                now[f"{run_id}/{name}"] = packed.Step.unpack(text).state
        tasks = list(tasks)
        async with self.crew.client.pipeline(transaction=False) as pipe:
            for task in tasks:
                pipe.hget(self.crew.keys.task(task), "state")
            now |= {task: state for task, state in zip(tasks, await pipe.execute(), strict=True) if state}
        for name, state in now.items():
            before = self.states.get(name)
            if before is not None and before != state:
                assert TaskState(state) in TRANSITIONS[TaskState(before)], f"{name}: {before} → {state}"
                self.moves.add((before, state))
        self.states |= now


def counted(rows: Iterable[Mapping[str, str]]) -> Counter[str]:
    return Counter(row["id"] for row in rows)


def expected_run(
    steps: Sequence[flow.Step], failing: set[str], passed: Collection[str] = ()
) -> tuple[RunState, dict[str, str]]:
    """What must become of a run in which exactly these steps fail, and these are passed over by their own conditions,
    if they are reached."""
    states: dict[str, str] = {}
    lenient = {step.name for step in steps if step.lenient}
    for step in steps:  # each after all that it depends on
        before = [
            states[name] in ("completed", "passed") or (states[name] == "failed" and name in lenient)
            for name in step.after
        ]
        if not all(before):
            states[step.name] = "skipped"
        elif step.name in failing:
            states[step.name] = "failed"
        else:
            states[step.name] = "passed" if step.name in passed else "completed"
    if all(state in ("completed", "passed") for state in states.values()):
        return RunState.COMPLETED, states
    ends_well = any(not step.successors and states[step.name] in ("completed", "passed") for step in steps)
    return RunState.PARTIAL if ends_well else RunState.FAILED, states


def by_class(tasks: Iterable[Claimed]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for task in tasks:
        found[task.priority].append(task.id)
    return dict(found)
