"""The worker of one crew: claims what it has room for, runs it, hands results over, and stops in good order.

One turn of the loop sends the results that are there and claims for the free slots in one call. Between turns it
waits for a task to end, or for the bell; never on the streams. While the store is away nothing is given up: results
are kept, running tasks go on, and who was taken for dead meanwhile learns it from the first answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import redis.asyncio

from watchbill import metrics
from watchbill.agents import aclose_clients
from watchbill.agents.loading import AgentLoader
from watchbill.connection import persist
from watchbill.errors import AgentNotLoadable, CrewGone, Fenced, StoreUnavailable
from watchbill.names import CrewKeys
from watchbill.store import definitions
from watchbill.store.queue import BATCH, Claim, Claimed, Finished, Queue
from watchbill.worker import execute, incarnations
from watchbill.worker.leases import LeaseKeeper
from watchbill.worker.redact import Redactor

logger = logging.getLogger("watchbill.worker")

T = TypeVar("T")

STUCK_SECONDS: Final = 600.0
"""An event loop that stood still for this long is given up: its lease runs out, and others take its tasks."""
UNPARK_SECONDS: Final = 30.0
"""How often a worker looks for parked tasks whose agent it has."""
STORE_SECONDS: Final = 2.0
"""How long after the grace period the store may take to hear of our end."""


@dataclass(slots=True)
class _Job:
    task: Claimed
    handle: asyncio.Task[None] | None = None
    said: int = 0


@dataclass(slots=True)
class _Incarnation:
    """One life of this worker in the store's eyes. A worker that was taken for dead goes on as another."""

    name: str
    number: int = 0
    jobs: dict[str, _Job] = field(default_factory=dict)
    finished: list[Finished] = field(default_factory=list)
    unloadable: list[tuple[Claimed, str]] = field(default_factory=list)


class Worker:
    """Runs tasks of one crew until it is stopped, or the crew is gone."""

    def __init__(
        self,
        url: str,
        client: redis.asyncio.Redis,
        keys: CrewKeys,
        loader: AgentLoader,
        *,
        concurrency: int | None = None,
        grace_seconds: float = 30.0,
        redact: Redactor | None = None,
    ) -> None:
        """`client` is shared with nobody that blocks; `concurrency` default: the crew's."""
        self._url = url
        self._client = client
        self._keys = keys
        self._loader = loader
        self._concurrency = concurrency
        self._grace_seconds = grace_seconds
        self._redact = redact or Redactor(os.environ)
        self._executor = execute.Executor(client, keys, loader, self._redact)
        self._me = _Incarnation(incarnations.fresh())
        self._wake = asyncio.Event()
        self._has_room = asyncio.Event()
        self._look = True
        self._again = 2.0
        self._stop_by: float | None = None
        self._lost: Exception | None = None
        self._cut_off = False
        """The store didn't answer, and since then we haven't claimed."""
        self.drained = False
        """True once it has stopped, and holds nothing."""

    @property
    def running(self) -> int:
        return len(self._me.jobs)

    def stop(self, *, now: bool = False) -> None:
        """Claim no more, finish within the grace period (`now`: none), hand back the rest. May be called again."""
        by = time.monotonic() + (0.0 if now else self._grace_seconds)
        self._stop_by = by if self._stop_by is None else min(by, self._stop_by)
        self._wake.set()

    async def run(self) -> None:
        """Until `stop`. Raises CrewGone when the crew was deleted or replaced, NotFound when it isn't there."""
        current = await self._persist(lambda: definitions.current(self._client, self._keys))
        policy = current.definition.tasks
        self._slots = self._concurrency or current.definition.concurrency
        self._lease_ms = policy.lease_seconds * 1000
        self._queue = Queue(self._client, self._keys, current.uid)
        self._keeper = LeaseKeeper(
            self._url,
            self._queue,
            lease_ms=self._lease_ms,
            stuck_seconds=STUCK_SECONDS,
            describe=self._describe,
            on_lost=self._on_lost,
        )
        self._keeper.start()
        background = [asyncio.create_task(self._listen()), asyncio.create_task(self._unpark())]
        working = asyncio.create_task(self._work())
        try:
            while not (await asyncio.wait({working}, timeout=0.2 if self._stopping else 1.0))[0]:
                if self._overdue():
                    raise StoreUnavailable("the store doesn't answer, and the grace period is over")
            await working
        except StoreUnavailable:
            logger.warning("stopped without the store: what was running will be taken over when the lease ends")
        finally:
            for task in (working, *background):
                task.cancel()
            for job in self._me.jobs.values():
                if job.handle:
                    job.handle.cancel()
            await asyncio.gather(working, *background, return_exceptions=True)
            await self._executor.close()
            await self._keeper.stop()
            await aclose_clients()

    async def _work(self) -> None:
        await self._give_others_time()
        await self._register()
        while not await self._stopped():
            await self._turn()
        await self._end()

    # ------------------------------------------------------------ turns

    async def _turn(self) -> None:
        me = self._me
        try:
            if me.unloadable:
                await self._park(me)
            room = 0 if self._stopping else max(self._slots - len(me.jobs), 0)
            if me.finished or (room and self._look):
                claim = await self._exchange(me, room)
                if claim is not None:
                    await self._begin(me, claim)
            else:
                self._has_room.set() if room else self._has_room.clear()
                await self._wait()
        except Fenced as error:
            self._on_lost(me.name, error)
        if self._lost is not None:
            await self._recover()

    async def _exchange(self, me: _Incarnation, room: int) -> Claim | None:
        """Results in, new tasks out, in one call."""
        self._look = False
        batch = me.finished[:BATCH]
        slots = -1 if self._stopping else min(room, BATCH)
        me.number += 1
        number = me.number
        try:
            outcomes, claim = await self._persist(
                lambda: self._queue.finish(
                    me.name,
                    batch,
                    number=number,
                    slots=slots,
                    lease_ms=self._lease_ms,
                    # asked anew for each try: while the store was away, everyone's lease ran out
                    take_over=self._keeper.may_take_over and not self._cut_off,
                )
            )
        except (redis.exceptions.ResponseError, redis.exceptions.DataError):
            if not batch:
                raise
            logger.exception("a batch of %d results was refused; sending them one by one", len(batch))
            await self._finish_singly(me, batch)
            return None
        if self._cut_off:
            self._cut_off = False
            self._keeper.wait_before_take_over(self._lease_ms / 3000)
        del me.finished[: len(batch)]
        for finished, outcome in zip(batch, outcomes, strict=True):
            self._account(finished, outcome)
        if me.finished:
            self._wake.set()
        return claim

    async def _finish_singly(self, me: _Incarnation, batch: Sequence[Finished]) -> None:
        for finished in batch:
            for attempt in (finished, execute.refused(finished)):
                try:
                    outcomes, _ = await self._persist(lambda f=attempt: self._queue.finish(me.name, [f]))  # type: ignore[misc]
                except (redis.exceptions.ResponseError, redis.exceptions.DataError) as error:
                    logger.error("the store refuses the result of task %s: %s", finished.task.id, error)
                    continue
                self._account(attempt, outcomes[0])
                break
            me.finished.remove(finished)

    def _account(self, finished: Finished, outcome: str) -> None:
        task = finished.task
        if outcome == "stale":
            metrics.TASKS.labels(self._keys.crew, task.agent, "stale").inc()
            logger.warning("task %s ended here, but is no longer ours: nothing was stored", task.id)
        else:
            metrics.TASKS.labels(self._keys.crew, task.agent, finished.outcome).inc()

    async def _begin(self, me: _Incarnation, claim: Claim) -> None:
        self._again = max(claim.again_ms, 50) / 1000
        if not claim.tasks:
            return
        for task in claim.tasks:
            me.jobs[task.id] = _Job(task)
        taken_over = sum(task.taken_over for task in claim.tasks)
        if taken_over:
            metrics.TAKEOVERS.labels(self._keys.crew).inc(taken_over)
            logger.info("took over %d tasks of %s", taken_over, self._keys.crew)
        started = await self._persist(lambda: self._queue.start(me.name, claim.tasks))
        for task, start in zip(claim.tasks, started, strict=True):
            job = me.jobs.get(task.id)
            if job is None:  # lost meanwhile
                continue
            if start.state == "ok":
                metrics.TASKS_RUNNING.labels(self._keys.crew).inc()
                job.handle = asyncio.create_task(self._run(me, job, start), name=f"task {task.id}")
                continue
            del me.jobs[task.id]
            if start.state == "missing":
                me.finished.append(execute.missing(task))

    async def _run(self, me: _Incarnation, job: _Job, started: Any) -> None:
        async def say(message: str) -> None:
            if me.jobs.get(job.task.id) is not job:
                return  # a thread that outlived its task, or even us: nobody would close what it opened
            job.said += 1
            number, text = job.said, self._redact(message)[: execute.MESSAGE_MAX]
            await self._persist(lambda: self._queue.say(me.name, job.task, text, number))

        try:
            me.finished.append(await self._executor.run(job.task, started, say))
        except AgentNotLoadable as error:
            me.unloadable.append((job.task, execute.unloadable(job.task, error)))
        except (Fenced, CrewGone) as error:  # learnt while reading
            self._on_lost(me.name, error)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # our own fault: still the task's end, and told in full
            logger.exception("task %s could not be run", job.task.id)
            me.finished.append(execute.broken(job.task, started, self._redact(f"{type(error).__name__}: {error}")))
        finally:
            metrics.TASKS_RUNNING.labels(self._keys.crew).dec()
            me.jobs.pop(job.task.id, None)
            self._wake.set()

    async def _park(self, me: _Incarnation) -> None:
        parked, me.unloadable = me.unloadable, []
        for task, reason in parked:
            logger.warning("%s", reason)
            await self._persist(lambda t=task, r=reason: self._queue.park(me.name, [t], self._redact(r)))  # type: ignore[misc]

    async def _wait(self) -> None:
        timeout = None if self._stop_by is None else max(self._stop_by - time.monotonic(), 0)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        self._wake.clear()

    # ------------------------------------------------------------ beside the turns

    async def _listen(self) -> None:
        """Blocks on the bell while there is room. Who takes the bell's token without having room rings it again."""
        while True:
            await self._has_room.wait()
            try:
                rang = await self._persist(lambda: self._queue.bell(self._again))
            except redis.exceptions.RedisError:  # a right that was taken away, say: it may come back
                logger.exception("can't hear the bell; looking every %.0f s instead", self._again)
                await asyncio.sleep(self._again)
                rang = False
            if len(self._me.jobs) < self._slots and not self._stopping:
                self._look = True
                self._has_room.clear()
                self._wake.set()
            elif rang:
                self._has_room.clear()
                await self._persist(self._queue.ring)

    async def _unpark(self) -> None:
        """Brings back what other workers parked, where this one has the agent."""
        while True:
            with suppress(CrewGone, redis.exceptions.RedisError):
                for agent, members in (await self._persist(self._queue.parked_agents)).items():
                    if await self._has(agent):
                        await self._persist(lambda m=members: self._queue.unpark(m))  # type: ignore[misc]
            await asyncio.sleep(UNPARK_SECONDS)

    async def _has(self, agent: str) -> bool:
        crew = (await self._persist(lambda: definitions.current(self._client, self._keys))).definition
        definition = crew.agent(agent)
        if definition is None:
            return True  # it will fail, and say so
        try:
            self._loader.load(crew, definition)
            self._loader.tools(crew, definition)
        except AgentNotLoadable:
            return False
        return True

    def _describe(self) -> str:
        return json.dumps({"running": len(self._me.jobs), "slots": self._slots, "draining": self._stopping})

    # ------------------------------------------------------------ beginning and end

    async def _give_others_time(self) -> None:
        """After a restart of the store its workers must have the chance to renew before they are taken for dead."""
        uptime = (await self._persist(lambda: self._client.info("server"))).get("uptime_in_seconds", 0)
        third = self._lease_ms / 3000
        if uptime < third:
            self._keeper.wait_before_take_over(third - uptime)

    async def _register(self) -> None:
        me = self._me
        me.number = 1
        await self._persist(lambda: self._queue.claim(me.name, 1, 0, lease_ms=self._lease_ms, take_over=False))
        self._keeper.guard(me.name)
        self._look = True

    def _on_lost(self, incarnation: str, error: Exception) -> None:
        if incarnation == self._me.name and self._lost is None:
            self._lost = error
            self._wake.set()

    async def _recover(self) -> None:
        """Drops everything that is no longer ours, and goes on as a new incarnation."""
        error, self._lost = self._lost, None
        me, self._me = self._me, _Incarnation(incarnations.fresh())
        for job in list(me.jobs.values()):
            if job.handle:
                job.handle.cancel()
        if isinstance(error, CrewGone):
            raise error
        metrics.FENCED.labels(self._keys.crew).inc()
        logger.warning(
            "this worker was silent for longer than its lease, so its %d tasks were given to others. "
            "Nothing of them was written here; going on as %s",
            len(me.jobs) + len(me.finished),
            self._me.name,
        )
        await self._register()

    @property
    def _stopping(self) -> bool:
        return self._stop_by is not None

    async def _stopped(self) -> bool:
        if self._stop_by is None:
            return False
        if not self._me.jobs and not self._me.finished and not self._me.unloadable:
            return True
        return time.monotonic() >= self._stop_by

    async def _end(self) -> None:
        me = self._me
        left = [job.task for job in me.jobs.values()]
        for job in list(me.jobs.values()):
            if job.handle:
                job.handle.cancel()
        if me.finished:
            with suppress(Fenced, CrewGone):
                await self._exchange(me, 0)
        with suppress(Fenced, CrewGone):
            if left:
                logger.warning("handing back %d tasks that did not end in time", len(left))
                await self._persist(lambda: self._queue.hand_back(me.name, left))
            await self._persist(lambda: self._queue.leave(me.name))
        self.drained = True

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """For as long as we run; when stopping, until the grace period is over."""

        def wait(_: float) -> None:
            self._cut_off = True

        return await persist(call, until=self._overdue, on_wait=wait)

    def _overdue(self) -> bool:
        return self._stop_by is not None and time.monotonic() > self._stop_by + STORE_SECONDS
