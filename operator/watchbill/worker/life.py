"""What a worker holds in one of its lives: claimed, running, ended and not yet told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from watchbill.store.queue import Claimed, Finished, Wish
from watchbill.worker.running import Running


@dataclass(slots=True)
class Job:
    """A task that has begun."""

    task: Claimed
    begun: float = 0.0
    claimed: float = 0.0
    reading: asyncio.Task[None] | None = None
    running: Running | None = None
    said: int = 0
    wish: Wish | None = None
    """What it was asked to stop for."""

    def cancel(self) -> None:
        if self.reading is not None:
            self.reading.cancel()
        if self.running is not None:
            self.running.cancel()


@dataclass(slots=True)
class Life:
    """One incarnation of a worker. One that was taken for dead goes on as another."""

    name: str
    number: int = 0
    """Of its last claim."""
    jobs: dict[str, Job] = field(default_factory=dict)
    """What runs."""
    held: list[Claimed] = field(default_factory=list)
    """What is claimed, and begins as soon as a slot is free."""
    held_since: float = 0.0
    claimed: dict[str, float] = field(default_factory=dict)
    """When that was, of each of them."""
    unwanted: list[Claimed] = field(default_factory=list)
    """What is claimed, and only to be told the end of: somebody cancelled or interrupted it."""
    untold: dict[str, Claimed] = field(default_factory=dict)
    """What runs, and the store counts as begun, but the feeds don't tell yet."""
    finished: list[Finished] = field(default_factory=list)
    unloadable: list[tuple[Claimed, str]] = field(default_factory=list)

    @property
    def is_idle(self) -> bool:
        """It holds nothing, and has nothing to tell."""
        return not (self.jobs or self.held or self.finished or self.unloadable or self.unwanted)

    @property
    def entries(self) -> set[str]:
        """Of all that it holds."""
        tasks = [*(job.task for job in self.jobs.values()), *self.held, *self.unwanted]
        tasks += [*(finished.task for finished in self.finished), *(task for task, _ in self.unloadable)]
        return {task.entry for task in tasks}
