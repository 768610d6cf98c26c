"""Figures of crews for people and metrics: counts and ages by class, workers, and what they run.

Only reads. One command per crew, whatever waits there; the clock is the server's.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis
import redis.asyncio

from watchbill import connection
from watchbill.connection import outages, scripts
from watchbill.names import CLASSES, CrewKeys
from watchbill.store import packed
from watchbill.tasks import Priority

CREWS_AT_ONCE: Final = 100
"""Crews that are asked for in one trip."""
RESULTS_SEEN: Final = 100
"""Maximum of results that are read since the last reading. Of more, the newest ones give the share of failures."""
_PAGE: Final = 1000
_COUNTS: Final = ("running", "slots", "abandoned")
"""The counts that a worker reports."""


@dataclass(frozen=True, slots=True)
class OfClass:
    """The figures of one priority."""

    name: str
    """The name of the priority, such as `critical`."""
    waiting: int
    running: int
    oldest_ms: int | None
    """Age of the entry that has waited longest; None when nothing waits."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The work that has ended, as the results say."""

    results: int
    """Number of results of tasks, steps and runs since the stream of results began."""
    last_id: str
    seen: int = 0
    """Number of results that were read: the newest 100 since the last read. The next two counts are of these."""
    completed: int = 0
    """Tasks and steps."""
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Deliveries:
    """The deliveries of a crew."""

    waiting: int
    """Results that are to be sent now, also those that are not on the delivery queue yet."""
    running: int
    """Messages that are being sent."""
    delayed: int
    """Messages that are tried again later, or wait for a destination that fails."""
    due_in_ms: int | None
    """Milliseconds until the next of them is due (negative: it is due); None where there is none."""
    dead: int
    oldest_ms: int | None
    """Age of the one that has waited longest; None when nothing waits."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The amount of work that a crew has, and its workers."""

    waiting: int = 0
    running: int = 0
    """Claimed: begun, or held by a worker that begins it within milliseconds."""
    parked: int = 0
    dead: int = 0
    workers: int = 0
    """Incarnations with a live lease."""
    oldest_ms: int | None = None
    """Age of the entry that has waited longest; None when nothing waits."""
    delayed: int = 0
    due_in_ms: int | None = None
    """Milliseconds until the next of them is due (negative: it is due); None where there is none."""
    draining: int = 0
    """Workers that claim no more."""
    suspended: bool = False
    """No task of the crew begins until it is resumed."""
    has_batches: bool = False
    """Requests to models wait for batches of their providers, which a worker looks after."""
    slots: int = 0
    """Number of tasks that the workers can run at once. A worker reports it within a second of its start."""
    parked_by: Mapping[str, int] = field(default_factory=dict)
    """By reason: concurrency (the run's own bound), agent (no worker has it), interrupt (until it is resumed),
    limit (its agent has limits)."""
    classes: tuple[OfClass, ...] = tuple(OfClass(Priority(c).name.lower(), 0, 0, None) for c in CLASSES)
    """Most urgent first."""
    refused: int = 0
    """Submissions that were ever refused because the queue was full."""
    trimmed: int = 0
    """Dead letters that ever fell off their end."""
    now_ms: int = 0
    """The time of the figures, by the server's clock."""
    ended: Ended | None = None
    """The ended work; None where it was not asked for, or nothing has ended."""
    deliveries: Deliveries | None = None
    """None: the crew has never delivered anything."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One worker that has a lease."""

    name: str
    running: int
    slots: int
    draining: bool
    lease_ms: int
    """Milliseconds left of its lease; negative: the time since its end, while nobody has taken over yet."""
    abandoned: int = 0
    """Agents that still run, though they were told to stop; each holds a slot."""


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A task that has begun."""

    task_id: str
    agent: str
    incarnation: str
    priority: int
    attempt: int
    running_ms: int


async def figures(client: redis.asyncio.Redis, keys: CrewKeys) -> Figures:
    """All of it as of one moment; zeros where there is no such crew."""
    async for _, found in each(client, [keys]):
        return found or Figures()
    return Figures()


async def each(
    client: redis.asyncio.Redis, crews: Sequence[CrewKeys], since: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[str, Figures | None]]:
    """Crew → figures, a hundred in one trip; None where there is no such crew.

    `since`: also what has ended, and for the crews in it what has ended behind that id of their results.
    """
    most = 0 if since is None else RESULTS_SEEN
    source = iter(crews)
    while batch := list(itertools.islice(source, CREWS_AT_ONCE)):
        replies = await _ask(client, [(keys, most, (since or {}).get(keys.crew, "")) for keys in batch])
        deliver = [keys for keys, reply in zip(batch, replies, strict=True) if reply and reply[-1]]
        queues = dict(zip(deliver, await _ask(client, [(k.deliveries(), 0, "") for k in deliver]), strict=True))
        for keys, reply in zip(batch, replies, strict=True):
            yield keys.crew, parsed(reply, queues.get(keys))


async def _ask(client: redis.asyncio.Redis, asked: Sequence[tuple[CrewKeys, int, str]]) -> list[Any]:
    """The script's answers, in one trip. `asked`: a queue's keys, how many results to read, and behind which id."""
    if not asked:
        return []
    _, digest = scripts.source("figures")
    with outages.translated():
        async with client.pipeline(transaction=False) as pipe:
            for keys, *given in asked:
                pipe.execute_command("EVALSHA", digest, len(keys.fixed), *keys.fixed, *given)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
        for i, (keys, *given) in enumerate(asked):
            if isinstance(replies[i], redis.exceptions.NoScriptError):
                replies[i] = await scripts.run(client, "figures", keys.fixed, given)
            if isinstance(replies[i], Exception):
                raise replies[i]
    return replies


async def incarnations(client: redis.asyncio.Redis, keys: CrewKeys) -> list[WorkerInfo]:
    """The workers of a crew, the busiest first. Their own figures are up to a third of a lease old."""
    with outages.translated():
        async with client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.zrangebyscore(keys.leases, "(0", "+inf", withscores=True)
            pipe.hgetall(keys.workers)
            (seconds, micros), leases, reports = await pipe.execute()
        fields = [f"drain:{name.rpartition('.')[0] or name}" for name, _ in leases]
        told = await client.hmget(keys.meta, fields) if fields else []
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    found = []
    for (worker, until_ms), drain in zip(leases, told, strict=True):
        said = says(reports.get(worker, ""), drain)
        counts = {name: said[name] for name in _COUNTS}
        found.append(WorkerInfo(worker, draining=said["draining"], lease_ms=int(until_ms) - now_ms, **counts))
    return sorted(found, key=lambda one: (-one.running, one.name))


async def running_longest(client: redis.asyncio.Redis, keys: CrewKeys, most: int) -> list[RunningTask]:
    """Returns the tasks that have been running for longest. Reads all that runs, in pages, so that the server is never
    held for long."""
    with outages.translated():
        now_ms = await connection.now_ms(client, keys.meta)
        found: dict[str, RunningTask] = {}
        async for task_id, text in client.hscan_iter(keys.holders, count=_PAGE):
            holder = packed.Holder.unpack(text)
            if holder.started_ms:
                running_ms = max(now_ms - holder.started_ms, 0)
                of_task = holder.agent, holder.incarnation, holder.priority, holder.attempt
                found[task_id] = RunningTask(task_id, *of_task, running_ms)
    return heapq.nsmallest(most, found.values(), key=lambda task: (-task.running_ms, task.task_id))


def says(text: str, told: object) -> dict[str, Any]:
    """Parses the report of a worker, which another version may write in another form, and whether it drains."""
    try:
        said = json.loads(text or "{}")
    except ValueError:
        said = {}
    said = said if isinstance(said, dict) else {}
    counts = {name: said[name] if isinstance(said.get(name), int) else 0 for name in _COUNTS}
    return {**counts, "draining": bool(told) or said.get("draining") is True}


def _deliveries(queue: Figures, outbox: Sequence[Any]) -> Deliveries:
    entries, head = outbox
    ages = [] if queue.oldest_ms is None else [queue.oldest_ms]
    ages += [max(queue.now_ms - int(head.partition("-")[0]), 0)] if head else []
    return Deliveries(
        waiting=queue.waiting + entries,
        running=queue.running,
        delayed=queue.delayed,
        due_in_ms=queue.due_in_ms,
        dead=queue.dead,
        oldest_ms=max(ages, default=None),
    )


def parsed(reply: Sequence[Any], deliveries: Sequence[Any] | None = None) -> Figures | None:
    """Returns the figures of an answer of figures.lua; None: there is no such crew. `deliveries`: the answer for the
    crew's delivery queue."""
    if not reply:
        return None
    now_ms, due, delayed, running, concurrency, agent, interrupt, limit, *rest = reply
    dead, refused, trimmed, suspended, batched, flat, workers, ended, outbox = rest
    queue = parsed(deliveries) if deliveries else None
    parked = {"concurrency": concurrency, "agent": agent, "interrupt": interrupt, "limit": limit}
    classes = []
    for number, (waiting, runs, head) in zip(CLASSES, packed.rows(flat, 3), strict=True):
        age = max(now_ms - int(head.partition("-")[0]), 0) if head else None
        classes.append(OfClass(Priority(number).name.lower(), waiting, runs, age))
    reports = [says(text, told) for text, told in packed.rows(workers, 2)]
    return Figures(
        waiting=sum(c.waiting for c in classes),
        running=max(running, 0),
        parked=sum(parked.values()),
        dead=dead,
        workers=len(reports),
        oldest_ms=max((c.oldest_ms for c in classes if c.oldest_ms is not None), default=None),
        delayed=delayed,
        due_in_ms=int(float(due)) - now_ms if due else None,
        draining=sum(worker["draining"] for worker in reports),
        suspended=bool(suspended),
        has_batches=bool(batched),
        slots=sum(worker["slots"] for worker in reports),
        parked_by=parked,
        classes=tuple(classes),
        refused=refused,
        trimmed=trimmed,
        now_ms=now_ms,
        ended=Ended(*ended) if ended else None,
        deliveries=_deliveries(queue, outbox) if queue and outbox else None,
    )
