"""The tasks that one incarnation of a worker holds: tasks that are claimed, run, or have ended and are not yet
reported."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from watchbill.errors import AgentNotLoadable, NewerRecord
from watchbill.store.queue import BATCH, BATCH_BYTES, Claim, Claimed, Finished, Wish
from watchbill.worker.execution.protocols import RunningAttempt


@dataclass(slots=True)
class Job:
    """A task that has begun. Times are of the worker's monotonic clock."""

    task: Claimed
    begun: float = 0.0
    claimed: float = 0.0
    read: float = 0.0
    """The time at which all that it needs was read; 0: nothing had to be."""
    reading: asyncio.Task[None] | None = None
    attempt: RunningAttempt | None = None
    told: int = 0
    """Number of events that the agent has told."""
    telling: asyncio.Lock | None = None
    """A lock that is held while one is told."""
    wish: Wish | None = None
    """The wish of somebody who asked it to stop."""

    def cancel(self) -> None:
        if self.reading is not None:
            self.reading.cancel()
        if self.attempt is not None:
            self.attempt.cancel()


@dataclass(slots=True)
class Incarnation:
    """One life of a worker in the store's eyes. A worker that was taken for dead goes on as another incarnation."""

    name: str
    number: int = 0
    """The number of its last claim."""
    born: str = ""
    """Since when the store knew the crew, as of the beginning of this incarnation."""
    heard: Claim | None = None
    """A claim that the bell brought, and that the loop has not taken yet."""
    held: list[Claimed] = field(default_factory=list)
    """Claimed tasks that begin as soon as a slot is free."""
    held_since: float = 0.0
    beginning: list[Claimed] = field(default_factory=list)
    """Tasks that were held, and begin when a call to the store is made."""
    claimed: dict[str, float] = field(default_factory=dict)
    """The time at which each held task was claimed."""
    jobs: dict[str, Job] = field(default_factory=dict)
    """Tasks that run."""
    unannounced: dict[str, Claimed] = field(default_factory=dict)
    """Tasks that run and that the store counts as begun, though no feed tells of it yet."""
    unwanted: list[Claimed] = field(default_factory=list)
    """Claimed tasks that somebody cancelled or interrupted: only their end is reported."""
    unloadable: list[tuple[Claimed, AgentNotLoadable | NewerRecord]] = field(default_factory=list)
    """Claimed tasks that this worker can't run, each with the reason. They are to be parked."""
    finished: list[Finished] = field(default_factory=list)
    """Results that are to be reported."""
    sent: list[list[Finished]] = field(default_factory=list)
    """Results that are being reported, by the calls that carry them."""

    def unhold(self, task_id: str, wish: Wish) -> None:
        """Makes a held task an unwanted one, because somebody wants it to stop."""
        self.unwanted += [replace(task, wish=wish) for task in self.held if task.id == task_id]
        self.held = [task for task in self.held if task.id != task_id]
        self.claimed.pop(task_id, None)

    @property
    def to_announce(self) -> list[Claimed]:
        """The tasks of `unannounced` whose agents run: for the others is still read what they need."""
        return [task for task in self.unannounced.values() if (job := self.jobs.get(task.id)) and job.attempt]

    @contextmanager
    def sending(self) -> Iterator[list[Finished]]:
        """Gives the results for one call. If the call fails, they are in `finished` again."""
        batch = _within_bounds(self.finished[:BATCH])
        self.sent.append(batch)  # first: the thread that tells whether the worker is ready must not miss them
        del self.finished[: len(batch)]
        try:
            yield batch
        except BaseException:
            self.finished[:0] = batch
            raise
        finally:
            self.sent = [other for other in self.sent if other is not batch]

    @property
    def is_working(self) -> bool:
        """It runs tasks, or has ends to report. Tasks that are only held need nothing saved."""
        return bool(self.beginning or self.jobs or self.finished or self.sent or self.unloadable or self.unwanted)

    @property
    def is_idle(self) -> bool:
        """It holds nothing, and has nothing to report."""
        return not (self.heard or self.held or self.is_working)  # as tasks move: any thread may ask

    @property
    def entries(self) -> set[str]:
        """The entries of all tasks that it holds."""
        tasks = [*(job.task for job in self.jobs.values()), *self.held, *self.beginning, *self.unwanted]
        ended = [*self.finished, *(finished for batch in self.sent for finished in batch)]
        tasks += [*(finished.task for finished in ended), *(task for task, _ in self.unloadable)]
        tasks += self.heard.tasks if self.heard else ()
        return {task.entry for task in tasks}


def _within_bounds(batch: list[Finished]) -> list[Finished]:
    """The first results of the batch, as many as one call takes; at least one."""
    room = BATCH_BYTES
    for number, finished in enumerate(batch):
        room -= len(finished.result)
        if room < 0:
            return batch[: max(number, 1)]
    return batch
