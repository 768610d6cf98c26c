"""The worker of one crew: claims what it has room for, runs it, hands results over, and stops in good order.

One turn of the loop sends the results that are there, tells what begins, and claims, in one call. While tasks are brief
it holds one batch more than it has slots for, so that agents run while the store answers, and what they come to is sent
by a second call, so that neither waits for the other. Between turns it waits for a
task to end, or for the bell; never on the streams. While the store is away nothing is given up: results are kept,
running tasks go on, and who was taken for dead meanwhile learns it from the first answer.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import redis.asyncio

from watchbill import background, connection
from watchbill.agents import aclose_clients
from watchbill.agents.loading import AgentLoader
from watchbill.connection import outages
from watchbill.errors import CrewGone, Fenced, NewerRecord, StoreUnavailable, WatchbillError
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.redaction import redact
from watchbill.store import control, definitions, incarnations, pending
from watchbill.store.queue import BATCH, Claim, Claimed, Forgotten, Queue, Renewed, crew_gone
from watchbill.worker import parked, preload, retention
from watchbill.worker.bell import Bell
from watchbill.worker.counts import Counts
from watchbill.worker.execution import executor, results
from watchbill.worker.execution.shared_lease import SharedLease
from watchbill.worker.incarnation import Incarnation
from watchbill.worker.jobs import BRIEF_SECONDS, Jobs
from watchbill.worker.lease_keeper import LeaseKeeper
from watchbill.worker.reports import Reports
from watchbill.worker.store_loss import StoreLoss

logger = Logger("watchbill.worker")

T = TypeVar("T")

STUCK_SECONDS: Final = 600.0
"""An event loop that stood still for this long is given up: its lease runs out, and others take its tasks."""
WORTH_A_CALL: Final = 5
"""So many results, and half of the slots' at least, don't wait for a call that is on its way: they get their own."""
ANNOUNCE_SECONDS: Final = 0.003
"""A task that still runs after this is told to have begun; of a briefer one, beginning and end are told in one call."""
HEAR_AGAIN_SECONDS: Final = 60.0
"""When a worker that may not listen tries again: the right may be given meanwhile."""
UNREADABLE_AGAIN_SECONDS: Final = 2.0
"""How often a worker that starts looks whether it can read the crew's definition by now."""
STORE_SECONDS: Final = 2.0
"""How long after the grace period the store may take to hear of our end."""


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
        recycle: bool = False,
    ) -> None:
        """`client` is shared with nobody that blocks; `concurrency` default: the crew's. `recycle`: this process is
        started anew when it ends, so it may stop by itself once abandoned agents hold half of the slots."""
        self._url = url
        self._client = client
        self._keys = keys
        self._loader = loader
        self._concurrency = concurrency
        self._grace_seconds = grace_seconds
        self._recycle = recycle
        self._counts = Counts(keys.crew)
        self._lease = SharedLease()
        self._executor = executor.Executor(
            client,
            keys,
            loader,
            self._on_abandoned,
            self._lease,
            self._store_time,
            self._counts.ran,
        )
        self._ahead = 0.0
        """Seconds by which the store's clock is ahead of our monotonic one, as the last claim told."""
        self._me = Incarnation(incarnations.fresh())
        self._wake = asyncio.Event()
        self._parked = asyncio.Event()
        """Set when tasks were set aside."""
        self._registered = False
        """Whether the store has ever heard of us. Until then there is nothing to save."""
        self._bell = Bell(self._claim_at_bell, on_change=self._wake.set, on_lost=self._on_lost)
        self._stop_by: float | None = None
        self._stopping = asyncio.Event()
        self._draining = False
        """Claim no more, until that is taken back."""
        self._deleted = False
        self._ended = False
        self._lost: Exception | None = None
        self._cut_off = False
        """The store didn't answer, and since then we haven't claimed."""
        self.recycled = False
        """True once it stops by itself, because of abandoned agents."""

    @property
    def drained(self) -> bool:
        """True once it holds nothing, and won't claim again: it has stopped, or was told to drain."""
        return self._ended or (self._draining and self._me.is_idle and not self._bell.has_heard)

    @property
    def stopping(self) -> bool:
        return self._stop_by is not None

    @property
    def running(self) -> int:
        return len(self._me.jobs)

    def stop(self, *, now: bool = False) -> None:
        """Claim no more, finish within the grace period (`now`: none), hand back the rest. May be called again."""
        by = time.monotonic() + (0.0 if now else self._grace_seconds)
        self._stop_by = by if self._stop_by is None else min(by, self._stop_by)
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Until `stop`, or until it recycles. Raises CrewGone when the crew was deleted or replaced, NotFound when it
        isn't there, WatchbillError when abandoned agents hold all slots and it may not recycle."""
        current = await self._crew()
        if current is None:
            self._ended = True
            return
        policy = current.definition.tasks
        self._slots = self._concurrency or current.definition.concurrency
        self._lease_ms = policy.lease_seconds * 1000
        self._ttl_ms = policy.result_ttl_seconds * 1000
        self._queue = Queue(self._client, self._keys, current.uid)
        self._jobs = Jobs(
            self._queue,
            self._executor,
            self._counts,
            self._persist,
            on_change=self._wake.set,
            on_over=self._on_over,
            on_lost=self._on_lost,
        )
        self._reports = Reports(
            self._queue, self._counts, self._persist, on_change=self._wake.set, on_lost=self._on_lost
        )
        self._store_loss = StoreLoss(self._queue, self._persist, self._reports.account, current.born)
        self._keeper = LeaseKeeper(
            self._url,
            self._queue,
            lease=self._lease,
            lease_ms=self._lease_ms,
            stuck_seconds=STUCK_SECONDS,
            describe=self._describe,
            on_renewed=self._on_renewed,
            on_lost=self._on_lost,
        )
        self._keeper.start()
        self._recall_at = time.monotonic() + self._lease_ms / 1000
        beside = [
            background.start(
                "parked", lambda: parked.bring_back(self._queue, self._loader, self._persist, self._parked)
            ),
            background.start(
                "retention", lambda: retention.trim(self._queue, current, self._persist, lambda: self._reports.reported)
            ),
            background.start("control", self._hear),
            background.start(
                "agents", lambda: preload.preload(self._queue, self._loader, self._persist, lambda: self._me.is_idle)
            ),
        ]
        working = asyncio.create_task(self._work())
        try:
            while not (await asyncio.wait({working}, timeout=0.2 if self.stopping else 1.0))[0]:
                if self._overdue():
                    raise StoreUnavailable("the store doesn't answer, and the grace period is over")
            await working
        except StoreUnavailable:
            if self._registered:
                logger.warning("stopped without the store: what it had claimed will be taken over when the lease ends")
        finally:
            ending = [working, *beside]
            for task in ending:
                task.cancel()
            for life in (self._me, *self._store_loss.formers):
                self._jobs.drop(life)
            self._counts.show(len(self._me.jobs))
            await asyncio.gather(*ending, self._bell.stop(), self._reports.settle(cancel=True), return_exceptions=True)
            await self._executor.close()
            await self._keeper.stop()
            await aclose_clients()
        if self.recycled and not self._recycle:
            raise WatchbillError(
                f"the worker of {self._keys.crew} stopped: agents that did not end when they were told to hold all of "
                f"its slots ({self._slots}). The log names them. What they had to do is kept; mend them and start again"
            )

    async def _crew(self) -> definitions.Current | None:
        """The crew, once it is readable. None: stopped before."""
        asking = asyncio.create_task(self._readable())
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({asking, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else None
        finally:
            for task in (asking, stopped):
                task.cancel()
            await asyncio.gather(asking, stopped, return_exceptions=True)

    async def _readable(self) -> definitions.Current:
        told = ""
        while True:
            current = await self._persist(lambda: definitions.current(self._client, self._keys))
            try:
                if current.definition:
                    return current
            except NewerRecord as error:
                if current.digest != told:
                    told = current.digest
                    logger.error("waiting until the crew can be read: %s", error)
            await asyncio.sleep(UNREADABLE_AGAIN_SECONDS * random.uniform(0.5, 1.5))

    async def _work(self) -> None:
        await self._give_others_time()
        await self._register()
        while not self._stopped():
            await self._turn()
        await self._end()

    # ------------------------------------------------------------ turns

    async def _turn(self) -> None:
        me = self._me
        try:
            if self._store_loss.formers:
                await self._store_loss.write()
            if me.unloadable:
                await self._park(me)
            if (heard := self._bell.take()) is not None:
                self._took(me, heard)
            if self.stopping:
                await self._take_no_more(me)
            if self._draining:
                await self._hand_back_held(me)
            if me.unwanted:
                await self._end_unwanted(me)
            if not self._bell.is_waiting and time.monotonic() >= self._recall_at:
                await self._give_back_unknown(me)
            free = max(self._capacity - len(me.jobs), 0)
            begin = me.held[:free]
            room = 0 if self.stopping or self._draining else free - len(begin)
            if me.finished or begin or (room and self._bell.may_claim):
                await self._exchange(me, begin, room)
            elif self._jobs.fresh:  # a brief task may end before anything else needs to be done
                self._jobs.fresh = False
                for _ in range(3):
                    await asyncio.sleep(0)
                    if me.finished:
                        break
            else:
                if room:
                    self._bell.wait(me, room)
                await self._wait(me)
        except (Fenced, CrewGone) as error:
            self._on_lost(me.name, error)
        if self._lost is not None:
            await self._reincarnate()
            self._counts.show(len(self._me.jobs))

    async def _exchange(
        self, me: Incarnation, begin: Sequence[Claimed] = (), room: int = 0, announced: Sequence[Claimed] = ()
    ) -> None:
        """Results in, new tasks out, in one call. `begin`: of those held; they begin once the call is on its way, so
        that the store counts an attempt that kills this process. `announced`: running tasks to announce."""
        del me.held[: len(begin)]
        if without := [task for task in begin if not task.payload]:
            for task in await self._with_payloads(me, without):
                self._jobs.begin(me, task)
            begin = [task for task in begin if task.payload]
        waiting = list(begin)

        def sent() -> None:
            for task in waiting:
                me.unannounced[task.id] = task
                self._jobs.begin(me, task)
            waiting.clear()

        with me.sending() as batch:
            slots = self._to_claim(me, room, is_busy=bool(batch or begin))
            number = me.number
            try:
                outcomes, claim = await self._persist(
                    lambda: self._queue.finish(
                        me.name,
                        batch,
                        begun=begin,
                        announced=announced,
                        number=number,
                        slots=slots,
                        begin=room,
                        lease_ms=self._lease_ms,
                        # asked anew for each try: while the store was away, everyone's lease ran out
                        take_over=self._may_take_over,
                        sent=sent,
                    )
                )
            except (redis.exceptions.ResponseError, redis.exceptions.DataError):
                if not batch:
                    raise
                logger.exception("a batch of %d results was refused; sending them one by one", len(batch))
                me.held[:0] = waiting
                self._bell.has_work = self._bell.has_work or slots >= 0
                await self._reports.send_singly(me, batch)
                return
        self._answered()
        for task in announced:
            me.unannounced.pop(task.id, None)
        self._reports.account(batch, outcomes)
        if claim is not None:
            self._bell.has_work = len(claim.tasks) >= slots
            self._took(me, claim)
        self._counts.show(len(self._me.jobs))

    def _to_claim(self, me: Incarnation, room: int, *, is_busy: bool) -> int:
        """How many tasks the call that is about to be made asks for; it is a claim then. -1: it is none."""
        spare = self._capacity - len(me.held) if is_busy and self._jobs.are_brief else 0
        if not self._bell.may_claim or self.stopping or self._draining or room + spare <= 0:
            return -1
        self._bell.has_work = False
        me.number += 1
        return min(room + spare, BATCH)

    def _on_over(self, me: Incarnation) -> None:
        if me.sent and len(me.finished) >= max(WORTH_A_CALL, self._capacity / 2):
            self._reports.send_beside(me)

    @property
    def _may_take_over(self) -> bool:
        return self._keeper.may_take_over and not self._cut_off

    def _answered(self) -> None:
        if self._cut_off:
            self._cut_off = False
            self._keeper.wait_before_take_over(self._lease_ms / 3000)

    def _took(self, me: Incarnation, claim: Claim) -> None:
        """What a claim gave begins, or is held."""
        self._ahead = claim.now_ms / 1000 - time.monotonic()
        self._bell.again_seconds = max(claim.again_ms, 50) / 1000
        if claim.draining:
            self._drain(True)
        if not claim.tasks:
            return
        taken_over = sum(task.taken_over for task in claim.tasks)
        if taken_over:
            self._counts.taken_over.inc(taken_over)
            logger.info("took over %d tasks of %s", taken_over, self._keys.crew)
        now = me.held_since = time.monotonic()
        for task in claim.tasks:
            if task.wish is not None:
                me.unwanted.append(task)
                continue
            if not task.taken_over:
                self._counts.waited(max(claim.now_ms - task.queued_ms, 0) / 1000)
            if not task.begun or not task.payload or self.stopping:
                me.held.append(task)
                me.claimed[task.id] = now
            else:
                me.unannounced[task.id] = task
                self._jobs.begin(me, task)
        me.held.sort(key=lambda task: task.priority)

    async def _with_payloads(self, me: Incarnation, tasks: Sequence[Claimed]) -> list[Claimed]:
        """Tasks whose payload was too large to travel along, with it, if they may begin. What has no record ends."""
        started = await self._persist(lambda: self._queue.start(me.name, tasks))
        told = []
        for task, start in zip(tasks, started, strict=True):
            if start.state == "ok":
                known = replace(task, payload=start.payload, definition=start.definition, inputs=start.inputs)
                told.append(replace(known, usage=start.usage) if start.usage else known)
                continue
            me.claimed.pop(task.id, None)
            if start.state == "missing":
                me.finished.append(results.missing(task))
        return told

    async def _end_unwanted(self, me: Incarnation) -> None:
        """Tells the end of what is not to run. Where the payload didn't come along, the definition didn't either."""
        unwanted, me.unwanted = me.unwanted, []
        if without := [task for task in unwanted if not task.payload]:
            unwanted = [task for task in unwanted if task.payload] + await self._with_payloads(me, without)
        me.finished += [results.stopped(task, task.wish or "cancel", self._ttl_ms) for task in unwanted]

    async def _park(self, me: Incarnation) -> None:
        parked, me.unloadable = me.unloadable, []
        for task, reason in parked:
            logger.warning("%s", reason)
            await self._persist(lambda t=task, r=reason: self._queue.park(me.name, [t], redact(r)))  # type: ignore[misc]
        self._parked.set()

    async def _wait(self, me: Incarnation) -> None:
        """For a task to end or the bell; and no longer than what is due: to tell what began, to give back what is held
        and found no slot, to end."""
        timer: asyncio.TimerHandle | None = None
        due = [self._stop_by - time.monotonic()] if self._stop_by is not None else []
        if not self._bell.is_waiting:
            due.append(self._recall_at - time.monotonic())
        if me.unannounced:
            due.append(ANNOUNCE_SECONDS)
        if me.held:
            due.append(me.held_since + BRIEF_SECONDS - time.monotonic())
        if due:
            timer = asyncio.get_running_loop().call_later(max(min(due), 0), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._wake.clear()
        if me.finished or me.unwanted or self._bell.has_heard or self._lost is not None:
            return
        if me.unannounced:
            await self._exchange(me, announced=list(me.unannounced.values())[:BATCH])
        if me.held and time.monotonic() >= me.held_since + BRIEF_SECONDS:
            self._jobs.take_long()
            await self._hand_back_held(me)

    async def _hand_back_held(self, me: Incarnation) -> None:
        held, me.held = me.held, []
        me.claimed.clear()
        if held:
            await self._persist(lambda: self._queue.hand_back(me.name, held))

    async def _give_back_unknown(self, me: Incarnation) -> None:
        """What the store says that we hold, and we know nothing of: it lost what we wrote (store/pending.py)."""
        self._recall_at = time.monotonic() + self._lease_ms / 1000
        unknown = await self._persist(lambda: pending.forgotten(self._client, self._keys, me.name, me.entries))
        if unknown:
            logger.warning("the store lost what this worker wrote of %d tasks; they are done again", len(unknown))
            await self._persist(lambda: self._queue.hand_back(me.name, unknown))

    async def _claim_at_bell(
        self, me: Incarnation, number: int, slots: int, timeout_seconds: float
    ) -> tuple[Claim, Exception | None]:
        answer = await self._persist(
            lambda: self._queue.claim_at_bell(
                me.name,
                number,
                slots,
                lease_ms=self._lease_ms,
                take_over=self._may_take_over,
                timeout_seconds=timeout_seconds,
            )
        )
        self._answered()
        return answer

    async def _take_no_more(self, me: Incarnation) -> None:
        """What the bell brings from now on, and what is held, goes back."""
        if await self._bell.stop():
            heard = self._bell.take()
            if heard is None:
                # Its claim may have been made all the same: asked again under its number, it tells; else it never is.
                number = me.number
                heard = await self._persist(
                    lambda: self._queue.claim(me.name, number, 0, lease_ms=self._lease_ms, take_over=False)
                )
            me.held += heard.tasks
        await self._hand_back_held(me)

    # ------------------------------------------------------------ what people ask for

    async def _hear(self) -> None:
        """What is said to the crew's workers. What isn't heard while the store is away, the next renewal tells."""
        while True:
            try:
                async for what, ids in control.heard(self._client, self._keys):
                    if what == "look":
                        self._drain(await self._persist(self._is_draining))
                    elif what == "gone":
                        if ids == [self._queue.uid] and await self._persist(self._is_gone):
                            self._deleted = True
                            self._on_lost(self._me.name, crew_gone(self._keys))
                    elif what in results.STOPPED:  # else it is from a newer version, or from a stranger
                        await self._stop_wished(ids)
            except redis.exceptions.RedisError as error:  # a right that is missing, say
                seconds = self._lease_ms / 3000
                logger.error("can't listen, so what is cancelled is heard of every %.3g s: %s", seconds, error)
            await asyncio.sleep(HEAR_AGAIN_SECONDS)

    async def _stop_wished(self, ids: Sequence[str]) -> None:
        if ours := [task_id for task_id in ids if task_id in self._me.jobs or task_id in self._me.claimed]:
            wishes = await self._persist(lambda: control.wishes(self._client, self._keys, ours))
            self._jobs.stop(self._me, wishes)

    async def _is_gone(self) -> bool:
        return await control.is_gone(self._client, self._keys, self._queue.uid)

    async def _is_draining(self) -> bool:
        return await control.is_draining(self._client, self._keys, incarnations.worker(self._me.name))

    def _on_renewed(self, incarnation: str, renewed: Renewed) -> None:
        if incarnation == self._me.name:
            self._drain(renewed.draining)
            self._jobs.stop(self._me, renewed.wishes)

    def _drain(self, on: bool) -> None:
        if on is self._draining:
            return
        self._draining = on
        self._bell.has_work = self._bell.has_work or not on
        if on:
            logger.warning("told to drain: claiming no more, until it is taken back (watchbill drain --off)")
        else:
            logger.warning("told to go on: claiming again")
        self._wake.set()

    def _store_time(self) -> datetime:
        return datetime.fromtimestamp(self._ahead + time.monotonic(), UTC)

    def _describe(self) -> str:
        return json.dumps(
            {
                "running": len(self._me.jobs),
                "slots": self._slots,
                "abandoned": self._executor.abandoned,
                "draining": self.stopping or self._draining,
            }
        )

    @property
    def _capacity(self) -> int:
        """Slots that no abandoned agent holds, and none whose task the store has lost."""
        return self._slots - self._executor.abandoned - self._store_loss.running

    def _on_abandoned(self) -> None:
        self._wake.set()  # a slot may be free again
        overdue = self._executor.overdue
        if not self.stopping and overdue and overdue * (2 if self._recycle else 1) >= self._slots:
            logger.error(
                "%d of %d slots are held by agents that did not stop when they were told to: this worker takes no more",
                overdue,
                self._slots,
            )
            self.recycled = True
            self.stop()

    # ------------------------------------------------------------ beginning and end

    async def _give_others_time(self) -> None:
        """After a restart of the store its workers must have the chance to renew before they are taken for dead."""

        async def ask() -> Mapping[str, Any]:
            return await (await connection.home(self._client, self._keys.meta)).info("server")

        uptime = (await self._persist(ask)).get("uptime_in_seconds", 0)
        third = self._lease_ms / 3000
        if uptime < third:
            # negative where its clock was set back since it started
            self._keeper.wait_before_take_over(third - max(uptime, 0))

    async def _register(self) -> None:
        me = self._me
        me.number = 1
        await self._persist(lambda: self._queue.claim(me.name, 1, 0, lease_ms=self._lease_ms, take_over=False))
        # Only now: had the store lost the crew before, it would have lost this life, which then claims nothing.
        me.born = await self._persist(lambda: definitions.born(self._client, self._keys))
        self._keeper.guard(me.name)
        self._registered = True
        self._bell.has_work = True

    def _on_lost(self, incarnation: str, error: Exception) -> None:
        if incarnation == self._me.name and self._lost is None:
            self._lost = error
            self._wake.set()

    async def _reincarnate(self) -> None:
        """Drops everything that is no longer ours, and goes on as a new incarnation."""
        # Lost until there is a new life: what else learns of the old one's end meanwhile must not end the new one.
        error, me = self._lost, self._me
        await self._bell.stop()
        self._bell.take()
        await self._reports.settle(cancel=True)
        if isinstance(error, CrewGone | Forgotten):
            await self._outlast(me, error)
            return
        self._me, self._lost = Incarnation(incarnations.fresh()), None
        tasks = len(me.entries)
        self._jobs.drop(me)
        self._counts.fenced.inc()
        logger.warning(
            "this worker was silent for longer than its lease, so its %d tasks were given to others. "
            "Nothing of them was written here; going on as %s",
            tasks,
            self._me.name,
        )
        await self._begin_anew()

    async def _outlast(self, me: Incarnation, error: CrewGone | Forgotten) -> None:
        """The store may have lost all it had. Raises the error when the crew doesn't come back, or was deleted."""
        logger.warning("%s. Unless it was deleted, the store has lost it, and it may come back", error)
        if not await self._store_loss.crew_is_back(self._wake, lambda: self._deleted or self.stopping):
            self._jobs.drop(me)
            raise error
        self._me, self._lost = Incarnation(incarnations.fresh()), None
        lost = len(me.held) + len(me.unwanted) + len(me.unloadable)
        logger.warning("the store has the crew back, without its tasks: %d that were not begun are lost", lost)
        self._store_loss.formers.append(me)
        await self._begin_anew()

    async def _begin_anew(self) -> None:
        try:
            await self._store_loss.write()
            await self._register()
        except (Fenced, CrewGone) as error:  # lost once more, in this moment: that is no reason to end what runs
            self._on_lost(self._me.name, error)

    def _stopped(self) -> bool:
        if self._stop_by is None:
            return False
        me = self._me
        if not (me.jobs or me.finished or me.sent or me.unloadable or me.unwanted or self._store_loss.formers):
            self._stop_by = min(self._stop_by, time.monotonic())  # nothing to save: not worth waiting for a store
            return True
        return time.monotonic() >= self._stop_by

    async def _end(self) -> None:
        me = self._me
        with suppress(Fenced, CrewGone):
            await self._take_no_more(me)
        left = [job.task for job in me.jobs.values()]
        self._jobs.drop(me)
        await self._reports.settle()
        while me.finished:
            with suppress(Fenced, CrewGone):
                await self._exchange(me)
                continue
            break
        with suppress(Fenced, CrewGone):
            if left:
                logger.warning("handing back %d tasks that did not end in time", len(left))
                await self._persist(lambda: self._queue.hand_back(me.name, left))
            await self._persist(lambda: self._queue.leave(me.name))
        self._ended = True

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """For as long as we run; when stopping, until the grace period is over."""

        def wait(_: float) -> None:
            self._cut_off = True

        return await outages.persist(call, until=self._overdue, on_wait=wait)

    def _overdue(self) -> bool:
        if self._stop_by is None:
            return False
        if not self._registered:  # nothing to save: not worth waiting for a store
            self._stop_by = min(self._stop_by, time.monotonic())
        was_asked = self._me.number > 0  # to know us: it may, though its answer was lost, and then we take our leave
        return not was_asked or time.monotonic() > self._stop_by + STORE_SECONDS
