"""The checkpoints of one attempt's task: reads what earlier attempts have stored, once, and adds to it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, Literal, TypeVar

from watchbill import metrics
from watchbill.agents import steps
from watchbill.errors import Fenced, InvalidInput, Problem
from watchbill.store import checkpoints
from watchbill.store.packed import Checkpoint
from watchbill.store.queue import Queue
from watchbill.tasks import Priority
from watchbill.worker.execution.shared_lease import LEASE_POLL_SECONDS, SharedLease
from watchbill.worker.incarnation import Incarnation, Job
from watchbill.worker.lane import JobLane
from watchbill.worker.memory import JobMemory
from watchbill.worker.state import WorkerState

T = TypeVar("T")

_LOOK_SECONDS: Final = 1.0
"""Seconds between two looks of a thread that waits whether its task is still its own."""


class JobCheckpoints:
    """`steps.Checkpoints` over the store. A store that is away is waited for."""

    def __init__(
        self,
        state: WorkerState,
        queue: Queue,
        incarnation: Incarnation,
        job: Job,
        lease: SharedLease,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._state = state
        self._queue = queue
        self._incarnation = incarnation
        self._job = job
        self._lease = lease
        self._loop = loop
        self._reading = asyncio.Lock()
        self._found: dict[str, tuple[int, Checkpoint]] | None = None
        """Name → number and value, of what earlier attempts have stored."""
        self._number = 0
        """The highest number so far."""
        self._size = 0
        """Bytes of all values so far."""

    @property
    def memory(self) -> JobMemory:
        return JobMemory(self._state, self._queue, self._incarnation, self._job)

    @property
    def lane(self) -> JobLane | None:
        if self._job.task.priority != Priority.BACKGROUND:
            return None
        return JobLane(self._state, self._queue, self._incarnation, self._job)

    async def find(self, name: str) -> str | None:
        """Returns the stored JSON; None: the step is to be done. Waits until the lease is surely valid: no step begins
        without."""
        self._check_owner()
        while not self._lease.is_valid:
            await self._state.clock.sleep(LEASE_POLL_SECONDS)
            self._check_owner()
        async with self._reading:
            if self._found is None:
                self._found = await self._read()
        number, known = self._found.pop(name, (0, None))  # each name is asked for once
        if known is None:
            self._check_room()
            return None
        self._count("replayed")
        read = partial(checkpoints.value, self._queue, self._job.task, number)
        return known.value or await self._state.persist_for_agent(read, None)

    async def keep(self, name: str, value: str) -> None:
        self._check_owner()
        self._check_room()  # again: steps may be done at the same time
        size = len(value.encode())
        if self._size + size > steps.ALL_MAX_BYTES:
            reason = f"has steps whose results are more than {steps.ALL_MAX_BYTES} bytes together"
            raise _too_much(reason, "Keep them elsewhere, and return references.")
        self._number += 1
        self._size += size
        number, queue, incarnation, task = self._number, self._queue, self._incarnation.name, self._job.task
        store = partial(checkpoints.store, queue, incarnation, task, number, name, value)
        await self._state.persist_for_agent(store, None)
        self._count("stored")

    def find_in_thread(self, name: str) -> str | None:
        return self._from_thread(self.find(name))

    def keep_in_thread(self, name: str, value: str) -> None:
        self._from_thread(self.keep(name, value))

    async def _read(self) -> dict[str, tuple[int, Checkpoint]]:
        queue, incarnation, task = self._queue, self._incarnation.name, self._job.task
        nothing: dict[int, Checkpoint] = {}
        found = await self._state.persist_for_agent(lambda: checkpoints.stored(queue, incarnation, task), nothing)
        self._number = max(found, default=0)
        self._size = sum(one.size for one in found.values())
        return {one.name: (number, one) for number, one in found.items()}

    def _count(self, outcome: Literal["stored", "replayed"]) -> None:
        metrics.CHECKPOINTS.labels(*metrics.of_crew(self._queue.keys.crew), outcome).inc()

    def _from_thread(self, call: Coroutine[Any, Any, T]) -> T:
        """Returns what the call returns once the loop has made it. It may wait for a store that is away."""
        try:
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError:  # the loop is closed
            call.close()
            raise
        try:
            while True:
                with suppress(TimeoutError):
                    return future.result(_LOOK_SECONDS)
                if future.done():  # the call's own
                    return future.result()
                self._check_owner()
        finally:
            future.cancel()

    def _check_room(self) -> None:
        """Raises InvalidInput where the task may have no further step."""
        if self._number >= steps.STEPS_MAX:
            raise _too_much(f"has {steps.STEPS_MAX} steps already", "Do more in each step.")

    def _check_owner(self) -> None:
        """Raises Fenced once the task has ended for this attempt. A thread may outlive its task."""
        if self._incarnation.jobs.get(self._job.task.id) is not self._job:
            raise Fenced(f"task {self._job.task.id!r} is no longer this attempt's: it begins no further step")


def _too_much(reason: str, fix: str) -> InvalidInput:
    return InvalidInput(Problem(f"the task {reason}", fix, path="step"))
