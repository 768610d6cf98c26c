"""Claims tasks: how many a worker asks for, which of them begin or are held, and which go back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from watchbill.loggers import Logger
from watchbill.names import STEP_SEPARATOR
from watchbill.store import pending
from watchbill.store.queue import BATCH, Claim, Claimed, Finished, Queue
from watchbill.worker.bell import Bell
from watchbill.worker.counts import Counts
from watchbill.worker.execution import results
from watchbill.worker.incarnation import Incarnation
from watchbill.worker.jobs import Jobs
from watchbill.worker.orders import Orders
from watchbill.worker.slots import Slots
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

READ_SECONDS: Final = 0.1
"""The end of a step whose data take longer to be read is not waited for: its connection may be dead."""


class Claims:
    """The claims of one worker."""

    def __init__(
        self, state: WorkerState, queue: Queue, bell: Bell, orders: Orders, slots: Slots, jobs: Jobs, counts: Counts
    ) -> None:
        self._state = state
        self._now = state.clock.monotonic
        self._queue = queue
        self._bell = bell
        self._orders = orders
        self._slots = slots
        self._jobs = jobs
        self._counts = counts

    @property
    def may_claim(self) -> bool:
        """True if the crew may have tasks, and no other claim is under way."""
        return self._state.has_work and not self._bell.is_waiting

    def will_ask(self, incarnation: Incarnation) -> bool:
        """Returns whether the end of a brief step is awaited, whose call will be a claim. Then the bell needn't be
        heard, which would only cost another call. A step that takes long is announced, and not waited for any more;
        nor is one whose data take long to be read."""
        since = self._now() - READ_SECONDS
        return self._jobs.go_on_alone and any(
            STEP_SEPARATOR in task_id
            and (job := incarnation.jobs.get(task_id)) is not None
            and (job.attempt is not None or job.begun > since)
            for task_id in incarnation.unannounced
        )

    def ask(self, incarnation: Incarnation, batch: Sequence[Finished], room: int, *, is_busy: bool) -> int:
        """Returns how many tasks the call that is about to be made asks for, and makes that call a claim. -1: the call
        is none. A busy worker holds one batch more than it has slots for, while tasks are brief and the last claim got
        all it asked for. `batch`: the ends that the call tells; those of steps make others ready."""
        state = self._state
        has_work = self.may_claim or (
            not self._bell.is_waiting and any(STEP_SEPARATOR in finished.task.id for finished in batch)
        )
        can_hold = self.may_claim and is_busy and self._jobs.are_brief  # else the bell rings for what has no slot
        spare = self._slots.capacity - len(incarnation.held) if can_hold else 0
        if not has_work or state.stopping or state.draining or room + spare <= 0:
            return -1
        state.has_work = False
        incarnation.number += 1
        return min(room + spare, BATCH)

    def take(self, incarnation: Incarnation, claim: Claim) -> None:
        """Begins the tasks that a claim has begun, and holds the rest."""
        self._state.set_store_time(claim.now_ms)
        self._bell.again_seconds = max(claim.again_ms, 50) / 1000
        if claim.draining:
            self._orders.drain(True)
        if not claim.tasks:
            return
        taken_over = sum(task.taken_over for task in claim.tasks)
        if taken_over:
            self._counts.taken_over.inc(taken_over)
            logger.info("took over %d tasks of %s", taken_over, self._queue.keys.crew)
        now = incarnation.held_since = self._now()
        for task in claim.tasks:
            if task.wish is not None:
                incarnation.unwanted.append(task)
                continue
            if not task.taken_over:
                self._counts.waited(max(claim.now_ms - task.queued_ms, 0) / 1000)
            if not task.begun or not task.payload or self._state.stopping:
                incarnation.held.append(task)
                incarnation.claimed[task.id] = now
            else:
                incarnation.unannounced[task.id] = task
                self._jobs.begin(incarnation, task)
        incarnation.held.sort(key=lambda task: task.priority)

    async def with_payloads(self, incarnation: Incarnation, tasks: Sequence[Claimed]) -> list[Claimed]:
        """Reads payloads that were too large to come with the claim. Returns the tasks that may begin; a task that has
        no record ends."""
        started = await self._state.persist(lambda: self._queue.start(incarnation.name, tasks))
        complete = []
        for task, start in zip(tasks, started, strict=True):
            if start.state == "ok":
                known = replace(task, payload=start.payload, definition=start.definition, inputs=start.inputs)
                complete.append(replace(known, usage=start.usage) if start.usage else known)
                continue
            incarnation.claimed.pop(task.id, None)
            if start.state == "missing":
                incarnation.finished.append(results.missing(task))
        return complete

    async def end_unwanted(self, incarnation: Incarnation, ttl_ms: int) -> None:
        """Makes the results of tasks that somebody stopped before they ran. Where the payload didn't come with the
        claim, the definition didn't either."""
        unwanted = list(incarnation.unwanted)
        n = len(unwanted)
        if without := [task for task in unwanted if not task.payload]:
            unwanted = [task for task in unwanted if task.payload] + await self.with_payloads(incarnation, without)
        incarnation.finished += [results.stopped(task, task.wish or "cancel", ttl_ms) for task in unwanted]
        del incarnation.unwanted[:n]  # only now: until then the worker holds them

    async def drop_heard(self, incarnation: Incarnation) -> None:
        """Stops the bell, and drops a claim that it brought for an incarnation that has ended."""
        await self._bell.stop()
        incarnation.heard = None

    async def claim_no_more(self, incarnation: Incarnation) -> None:
        """Silences the bell, and hands back what is held."""
        await self._bell.silence(incarnation)
        await self.hand_back_held(incarnation)

    async def hand_back_held(self, incarnation: Incarnation) -> None:
        held, incarnation.held = incarnation.held, []
        incarnation.claimed.clear()
        if held:
            await self._state.persist(lambda: self._queue.hand_back(incarnation.name, held))

    async def hand_back_unknown(self, incarnation: Incarnation) -> None:
        """Hands back tasks that the store counts as ours and we know nothing of, since it lost what we wrote
        (store/pending.py). Call it while no claim is under way."""
        queue, known = self._queue, incarnation.entries
        tasks = await self._state.persist(lambda: pending.unknown(queue.client, queue.keys, incarnation.name, known))
        if tasks:
            logger.warning("the store lost what this worker wrote of %d tasks; they are done again", len(tasks))
            await self._state.persist(lambda: queue.hand_back(incarnation.name, tasks))
