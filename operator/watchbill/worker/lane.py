"""The way to the batches of providers for one attempt's task."""

from __future__ import annotations

from functools import partial

from watchbill.plan.batches import Group
from watchbill.plan.budget import Amount
from watchbill.store import batches, budgets
from watchbill.store.packed import Batched
from watchbill.store.queue import Queue
from watchbill.worker.incarnation import Incarnation, Job
from watchbill.worker.state import WorkerState


class JobLane:
    """`agents.batching.Lane` over the store. A store that is away is waited for; one that has lost all takes none."""

    def __init__(self, state: WorkerState, queue: Queue, incarnation: Incarnation, job: Job) -> None:
        self._state = state
        self._queue = queue
        self._incarnation = incarnation
        self._job = job

    def now_ms(self) -> int:
        return int(self._state.store_time().timestamp() * 1000)

    async def find(self) -> tuple[Batched | None, str]:
        queue, task = self._queue, self._job.task
        return await self._state.persist(lambda: batches.of_task(queue.client, queue.keys, task.id))

    async def gather(self, own: Batched, call: str, body: str, group: Group, seal_ms: int) -> bool:
        queue, incarnation, task = self._queue, self._incarnation.name, self._job.task

        async def gather() -> bool:
            await batches.gather(queue, incarnation, task, own, call, body, group, seal_ms)
            return True

        is_gathered = await self._state.persist_for_agent(gather, False)
        self._state.may_send.set()
        return is_gathered

    async def leave(self, own: Batched) -> None:
        queue, incarnation, task = self._queue, self._incarnation.name, self._job.task
        call = await self._state.persist_for_agent(lambda: batches.leave(queue, incarnation, task, own), "")
        if call:  # it was not sent, so it costs nothing
            unsent = batches.settlement(queue.keys, task.id, call, Amount())
            settle = partial(budgets.settle, queue.client, queue.keys, queue.uid, [unsent])
            await self._state.persist_for_agent(settle, None)
