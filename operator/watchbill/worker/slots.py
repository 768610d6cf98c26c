"""The slots of a worker: its tasks at once, less those that abandoned agents hold. If they hold too many, it stops."""

from __future__ import annotations

import json
from typing import Final

from watchbill.loggers import Logger
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

LENT_MOST: Final = 3
"""A worker lends no more slots than so many times its own."""


class Slots:
    """The slots of one worker. Each running task holds one, and so does each abandoned agent."""

    def __init__(self, state: WorkerState, total: int, *, recycle: bool) -> None:
        """`recycle`: something starts this process again when it ends."""
        self._state = state
        self._recycle = recycle
        self._abandoned = 0
        self._lent = 0
        self.total = total

    @property
    def capacity(self) -> int:
        """The slots that neither abandoned agents hold nor tasks that the store has lost, and those that are lent."""
        lent = min(self._lent, LENT_MOST * self.total)
        return self.total + lent - self._abandoned - sum(len(old.jobs) for old in self._state.unrecovered)

    def lend(self, slots: int) -> None:
        """Gives so many slots more, for tasks that keep theirs for long and cost next to nothing meanwhile; a negative
        number takes them back."""
        self._lent += slots
        self._state.wake.set()

    def set_abandoned(self, abandoned: int, overdue: int) -> None:
        """Notes how many agents are abandoned, and how many of them had their time to clean up. Stops the worker when
        the overdue ones hold all slots; where it is started again, half of them are enough."""
        self._abandoned = abandoned
        self._state.wake.set()  # a slot may be free again
        if not self._state.stopping and overdue and overdue * (2 if self._recycle else 1) >= self.total:
            logger.error(
                "%d of %d slots are held by agents that did not stop when they were told to: this worker takes no more",
                overdue,
                self.total,
            )
            self._state.recycled = True
            self._state.stop()

    def describe(self) -> str:
        """Returns the report of this worker for `watchbill workers` and the operator's scaling, as JSON. Any thread may
        call it."""
        state, known = self._state, self._state.known
        recovering = sum(len(old.jobs) + len(old.finished) for old in list(state.unrecovered))
        return json.dumps(
            {
                "running": len(state.incarnation.jobs),
                "slots": self.total,
                "abandoned": self._abandoned,
                "draining": state.stopping or state.draining,
                "revision": state.revision,
                "since": state.since_ms,
                **({"recovering": recovering} if recovering else {}),
                **({"ready": known.ready, "ready_since": known.since_ms} if known else {}),
            }
        )
