"""The session of one attempt's task: the turns before, and the one that it adds."""

from __future__ import annotations

from collections.abc import Sequence

from watchbill.agents.memory import Turn
from watchbill.store import sessions
from watchbill.store.queue import Queue
from watchbill.worker.incarnation import Incarnation, Job
from watchbill.worker.state import WorkerState


class JobMemory:
    """`agents.memory.Memory` over the store. A store that is away is waited for."""

    def __init__(self, state: WorkerState, queue: Queue, incarnation: Incarnation, job: Job) -> None:
        self._state = state
        self._queue = queue
        self._incarnation = incarnation
        self._job = job

    async def turns(self, session_id: str, follows: str, most: int, most_bytes: int) -> Sequence[Turn]:
        queue, task = self._queue, self._job.task
        found = await self._state.persist(
            lambda: sessions.before(
                queue.client,
                queue.keys,
                task.agent,
                session_id,
                task_id=task.id,
                follows=follows,
                most=most,
                most_bytes=most_bytes,
            )
        )
        return [Turn(turn.prompt, turn.answer) for turn in found]

    async def remember(self, session_id: str, follows: str, turn: Turn, seconds: float) -> None:
        queue, incarnation, task = self._queue, self._incarnation.name, self._job.task
        ttl_ms = max(int(seconds * 1000), 1)
        await self._state.persist_for_agent(
            lambda: sessions.add(queue, incarnation, task, session_id, turn, follows=follows, ttl_ms=ttl_ms), None
        )
