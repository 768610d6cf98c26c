"""One run of a worker: its parts, all made at once, and the loop that they serve.

One turn of the loop sends results, announces what has begun, and claims, in one call. While tasks are brief, the worker
holds one batch more than it has slots for, so that agents run while the store answers; what ends meanwhile is sent by a
second call. Between turns the loop waits for the end of a task or for the bell; never on the streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

import redis

from watchbill import background
from watchbill.clock import Timer
from watchbill.connection import Store
from watchbill.errors import CrewGone, Fenced, NewerRecord, StoreUnavailable
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.redaction import redact
from watchbill.store import definitions
from watchbill.store.queue import BATCH, Claimed, Queue
from watchbill.worker import retention
from watchbill.worker.bell import Bell
from watchbill.worker.claims import READ_SECONDS, Claims
from watchbill.worker.counts import Counts
from watchbill.worker.execution import left_children, results
from watchbill.worker.execution.protocols import Executes
from watchbill.worker.execution.shared_lease import SharedLease
from watchbill.worker.incarnation import Incarnation
from watchbill.worker.jobs import BRIEF_SECONDS, Jobs
from watchbill.worker.lease_keeper import LeaseKeeper
from watchbill.worker.lifecycle import Lifecycle
from watchbill.worker.orders import Orders
from watchbill.worker.reports import Reports
from watchbill.worker.slots import Slots
from watchbill.worker.state import WorkerState
from watchbill.worker.store_loss import StoreLoss

logger = Logger("watchbill.worker")

ANNOUNCE_SECONDS: Final = 0.003
"""A task that still runs after this is announced; of a briefer one, beginning and end are told in one call."""


class Work(Protocol):
    """The work of a shift: tasks of agents, or deliveries."""

    counts: Counts
    poll_seconds: float
    """Seconds between two checks of the lease keeper."""

    def executor(self, state: WorkerState, uid: str, slots: Slots, lease: SharedLease) -> Executes:
        """Returns what begins attempts. Called once. `uid`: the crew's."""
        ...

    def start_beside(
        self, state: WorkerState, queue: Queue, tasks_parked: asyncio.Event, /
    ) -> list[asyncio.Task[None]]:
        """Starts what goes on beside the loop."""
        ...

    async def close(self) -> None:
        """Closes what attempts used, after the last of them."""
        ...


class Shift:
    """The parts of one worker under one definition's slots and lease, and its loop."""

    def __init__(
        self,
        state: WorkerState,
        store: Store,
        keys: CrewKeys,
        work: Work,
        current: definitions.Current,
        *,
        slots: int,
        recycle: bool,
    ) -> None:
        policy = current.definition.tasks
        clock = state.clock
        self._state = state
        self._now = clock.monotonic
        self._duty = work
        self._current = current
        self._lease_ms = policy.lease_seconds * 1000
        self._ttl_ms = policy.result_ttl_seconds * 1000
        self._recall_at = self._now() + policy.lease_seconds
        """The time at which to compare the store's account of our tasks with our own."""
        self._parked = asyncio.Event()
        """Set when tasks were parked."""
        self._queue = queue = Queue(store.client, keys, current.uid)
        queue.role_feeds.take_up(current.definition, current.digest)
        self._counts = work.counts
        self._slots = Slots(state, slots, recycle=recycle)
        lease = SharedLease(monotonic=clock.monotonic)
        self._executor = work.executor(state, current.uid, self._slots, lease)
        self._reports = Reports(state, queue, self._counts)
        self._jobs = Jobs(state, queue, self._executor, self._slots, self._counts, self._reports)
        self._orders = Orders(state, queue, self._jobs, self._lease_ms)
        self._keeper = LeaseKeeper(
            store,
            queue,
            state,
            lease=lease,
            lease_ms=self._lease_ms,
            poll_seconds=work.poll_seconds,
            describe=self._slots.describe,
            on_renewed=self._orders.renewed,
        )
        self._bell = Bell(state, queue, self._keeper)
        self._claims = Claims(state, queue, self._bell, self._orders, self._slots, self._jobs, self._counts)
        self._store_loss = StoreLoss(state, queue, self._reports, self._executor.lost, current.born)
        self._lifecycle = Lifecycle(
            state, queue, self._keeper, self._claims, self._jobs, self._reports, self._store_loss, self._counts
        )

    async def run(self) -> None:
        """Works until the worker has stopped. Raises CrewGone when the crew was deleted or replaced."""
        state = self._state
        self._keeper.start()
        state.turn()
        beside = self._start_beside()
        working = asyncio.create_task(self._work())
        try:
            while not (await asyncio.wait({working}, timeout=0.2 if state.stopping else left_children.SECONDS))[0]:
                left_children.reap()
                state.turn()
                if state.is_overdue:
                    raise StoreUnavailable("the store doesn't answer, and the grace period is over")
            await working
        except StoreUnavailable:
            if state.registered:
                logger.warning("stopped without the store: what it had claimed will be taken over when the lease ends")
        finally:
            ending = [working, *beside]
            for task in ending:
                task.cancel()
            for incarnation in (state.incarnation, *state.unrecovered):
                self._jobs.drop(incarnation)
            self._counts.show(len(state.incarnation.jobs))
            await asyncio.gather(*ending, self._bell.stop(), self._reports.settle(cancel=True), return_exceptions=True)
            await self._executor.close()
            await self._keeper.stop()
            await self._duty.close()

    def _start_beside(self) -> list[asyncio.Task[None]]:
        """Starts what goes on beside the loop."""
        state, queue = self._state, self._queue
        return [
            *self._duty.start_beside(state, queue, self._parked),
            background.start("retention", lambda: retention.trim(state, queue, self._reports, self._current)),
            background.start("control", self._orders.listen),
        ]

    async def _work(self) -> None:
        await self._lifecycle.begin(self._current.definition)
        while not self._state.is_done:
            await self._turn()
        await self._lifecycle.end()

    async def _turn(self) -> None:
        state, claims = self._state, self._claims
        own = state.incarnation
        try:
            if state.unrecovered:
                await self._store_loss.write()
            if own.unloadable:
                await self._park(own)
            if (heard := own.heard) is not None:
                claims.take(own, heard)
                own.heard = None
            if state.stopping:
                await claims.claim_no_more(own)
            if state.draining:
                await claims.hand_back_held(own)
            if own.unwanted:
                await claims.end_unwanted(own, self._ttl_ms)
            if not self._bell.is_waiting and self._now() >= self._recall_at:
                self._recall_at = self._now() + self._lease_ms / 1000
                await claims.hand_back_unknown(own)
            free = max(self._slots.capacity - len(own.jobs), 0)
            begin = own.held[:free]
            room = 0 if state.stopping or state.draining else free - len(begin)
            if own.finished or begin or (room and claims.may_claim):
                await self._exchange(own, begin, room)
            elif self._jobs.fresh:  # a brief task may end before anything else needs to be done
                await self._let_run(own)
            else:
                if room and not claims.will_ask(own):
                    self._bell.wait(own, room)
                await self._wait(own)
        except (Fenced, CrewGone) as error:
            state.end_incarnation(own.name, error)
        if state.incarnation_error is not None:
            await self._lifecycle.replace()
            self._counts.show(len(state.incarnation.jobs))

    async def _let_run(self, incarnation: Incarnation) -> None:
        self._jobs.fresh = False
        for _ in range(3):
            await asyncio.sleep(0)
            if incarnation.finished:
                return

    async def _exchange(
        self,
        incarnation: Incarnation,
        begin: Sequence[Claimed] = (),
        room: int = 0,
        announced: Sequence[Claimed] = (),
    ) -> None:
        """Exchanges results for new tasks, in one call. `begin`: held tasks, which begin once the call is on its way,
        so that the store counts an attempt that kills this process. `announced`: running tasks to announce."""
        incarnation.beginning += begin  # first: the thread that tells whether the worker is ready must not miss them
        del incarnation.held[: len(begin)]
        if without := [task for task in begin if not task.payload]:
            for task in await self._claims.with_payloads(incarnation, without):
                self._jobs.begin(incarnation, task)
            begin = [task for task in begin if task.payload]
        waiting = list(begin)

        def sent() -> None:
            for task in waiting:
                incarnation.unannounced[task.id] = task
                self._jobs.begin(incarnation, task)
            waiting.clear()
            incarnation.beginning.clear()

        state = self._state
        with incarnation.sending() as batch:
            asked = self._claims.ask(incarnation, batch, room, is_busy=bool(batch or begin))
            number = incarnation.number
            try:
                outcomes, claim = await state.persist(
                    lambda: self._queue.finish(
                        incarnation.name,
                        batch,
                        begun=begin,
                        announced=announced,
                        number=number,
                        slots=asked,
                        begin=room,
                        lease_ms=self._lease_ms,
                        # asked anew for each try: while the store was away, everyone's lease ran out
                        take_over=self._keeper.may_take_over,
                        sent=sent,
                    )
                )
            except (redis.exceptions.ResponseError, redis.exceptions.DataError) as refusal:
                if not batch:
                    raise
                incarnation.held[:0] = waiting
                incarnation.beginning.clear()
                state.has_work = state.has_work or asked >= 0
                await self._reports.send_singly(incarnation, batch, refusal)
                return
        self._keeper.store_answered()
        for task in announced:
            incarnation.unannounced.pop(task.id, None)
        self._reports.account(batch, outcomes)
        if claim is not None:
            state.has_work = len(claim.tasks) >= asked
            self._claims.take(incarnation, claim)
        self._counts.show(len(state.incarnation.jobs))

    async def _park(self, incarnation: Incarnation) -> None:
        while incarnation.unloadable:
            task, error = incarnation.unloadable[0]
            reason, waits = results.unloadable(task, error)
            park = partial(self._queue.park, incarnation.name, [task], redact(reason), waits)
            (outcome,) = await self._state.persist(partial(park, lacks_all=isinstance(error, NewerRecord)))
            results.log_unloadable(task, reason, waits, outcome)
            del incarnation.unloadable[0]
        self._parked.set()

    async def _wait(self, incarnation: Incarnation) -> None:
        """Waits for the end of a task or for the bell; and no longer than until something is due: an announcement, the
        return of held tasks that found no slot, the bell because data take long to be read, the end."""
        state, now = self._state, self._now()
        timer: Timer | None = None
        due = [state.stop_by - now] if state.stop_by is not None else []
        if not self._bell.is_waiting:
            due.append(self._recall_at - now)
            if self._claims.will_ask(incarnation):
                due.append(READ_SECONDS)
        if incarnation.to_announce:
            due.append(ANNOUNCE_SECONDS)
        if incarnation.held:
            due.append(incarnation.held_since + BRIEF_SECONDS - now)
        if due:
            timer = state.clock.call_later(max(min(due), 0), state.wake.set)
        try:
            await state.wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
        state.wake.clear()
        if incarnation.finished or incarnation.unwanted or incarnation.heard or state.incarnation_error is not None:
            return
        if self._jobs.fresh:  # of what it needed was read
            return
        if announced := incarnation.to_announce:
            await self._exchange(incarnation, announced=announced[:BATCH])
        if incarnation.held and self._now() >= incarnation.held_since + BRIEF_SECONDS:
            self._jobs.assume_long()
            await self._claims.hand_back_held(incarnation)
