"""What a worker holds in one of its lives: claimed, running, ended and not yet told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from watchbill.store.queue import BATCH, BATCH_BYTES, Claimed, Finished, Wish
from watchbill.worker.execution.attempt import Attempt


@dataclass(slots=True)
class Job:
    """A task that has begun."""

    task: Claimed
    begun: float = 0.0
    claimed: float = 0.0
    reading: asyncio.Task[None] | None = None
    attempt: Attempt | None = None
    emitted: int = 0
    wish: Wish | None = None
    """What it was asked to stop for."""

    def cancel(self) -> None:
        if self.reading is not None:
            self.reading.cancel()
        if self.attempt is not None:
            self.attempt.cancel()


@dataclass(slots=True)
class Incarnation:
    """One incarnation of a worker. One that was taken for dead goes on as another."""

    name: str
    number: int = 0
    """Of its last claim."""
    born: str = ""
    """Since when the store knows the crew, as it was when this life began."""
    jobs: dict[str, Job] = field(default_factory=dict)
    """What runs."""
    held: list[Claimed] = field(default_factory=list)
    """What is claimed, and begins as soon as a slot is free."""
    held_since: float = 0.0
    claimed: dict[str, float] = field(default_factory=dict)
    """When that was, of each of them."""
    unwanted: list[Claimed] = field(default_factory=list)
    """What is claimed, and only to be told the end of: somebody cancelled or interrupted it."""
    unannounced: dict[str, Claimed] = field(default_factory=dict)
    """What runs, and the store counts as begun, but the feeds don't tell yet."""
    finished: list[Finished] = field(default_factory=list)
    """What has ended, and is to be told."""
    sent: list[list[Finished]] = field(default_factory=list)
    """What has ended, by the calls that tell it and aren't answered yet."""
    unloadable: list[tuple[Claimed, str]] = field(default_factory=list)

    def unhold(self, task_id: str, wish: Wish) -> None:
        """Somebody wants this task to stop: it isn't to run, if it is held."""
        self.unwanted += [replace(task, wish=wish) for task in self.held if task.id == task_id]
        self.held = [task for task in self.held if task.id != task_id]
        self.claimed.pop(task_id, None)

    @contextmanager
    def sending(self) -> Iterator[list[Finished]]:
        """Results for one call; in hand again if that fails."""
        batch = _within_bounds(self.finished[:BATCH])
        del self.finished[: len(batch)]
        self.sent.append(batch)
        try:
            yield batch
        except BaseException:
            self.finished[:0] = batch
            raise
        finally:
            self.sent = [other for other in self.sent if other is not batch]

    @property
    def is_idle(self) -> bool:
        """It holds nothing, and has nothing to tell."""
        return not (self.jobs or self.held or self.finished or self.sent or self.unloadable or self.unwanted)

    @property
    def entries(self) -> set[str]:
        """Of all that it holds."""
        tasks = [*(job.task for job in self.jobs.values()), *self.held, *self.unwanted]
        ended = [*self.finished, *(finished for batch in self.sent for finished in batch)]
        tasks += [*(finished.task for finished in ended), *(task for task, _ in self.unloadable)]
        return {task.entry for task in tasks}


def _within_bounds(batch: list[Finished]) -> list[Finished]:
    """As many of the first as one call takes; one at least."""
    room = BATCH_BYTES
    for number, finished in enumerate(batch):
        room -= len(finished.result)
        if room < 0:
            return batch[: max(number, 1)]
    return batch
