"""A heartbeat that a process fires: its next slot, and what is known of it. Pure but for its task."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from watchbill.clock import Clock
from watchbill.names import CrewKeys
from watchbill.plan import schedule
from watchbill.store import firing, heartbeats

GRACE: Final = timedelta(seconds=30)
"""A slot that is found this late is still fired: after a restart, or by a scheduler whose clock is behind."""
NOBODY: Final = "no scheduler fired in time"
AWAY: Final = "the store was away"


@dataclass(slots=True, eq=False)
class Timed:
    """A heartbeat that this process fires."""

    keys: CrewKeys
    state: heartbeats.HeartbeatState
    next: datetime
    """The first slot that was neither fired nor missed, as far as this process knows."""
    trying: datetime | None = None
    """The slot that was found in time, and is tried until the next one is due."""
    reason: str = NOBODY
    """The reason that is given for a slot that is missed now."""
    work: asyncio.Task[None] | None = None

    call: firing.Call | None = None
    """Fires `next`, if it is of that slot."""

    @property
    def id(self) -> str:
        return f"{self.keys.crew}/{self.state.name}"

    @property
    def is_at_work(self) -> bool:
        """It is looked at by itself just now."""
        return self.work is not None and not self.work.done()

    @property
    def due(self) -> datetime:
        return self.next + self.state.jitter

    @property
    def deadline(self) -> timedelta | None:
        """The age beyond which a slot is too late; None: it may be fired at any age."""
        spec = self.state.spec
        if spec.starting_deadline_seconds:
            return timedelta(seconds=spec.starting_deadline_seconds)
        return GRACE if spec.missed == "Skip" else None

    def now(self, clock: Clock) -> datetime:
        """The time by which its slots are due: it is behind the clock by the heartbeat's jitter."""
        return clock.now() - self.state.jitter

    def is_ready(self, now: datetime) -> bool:
        """Returns whether its call is there, and does all that is to be done now."""
        if self.call is None or self.call.slot != self.next or not self.next <= now < self.call.following:
            return False
        return self.deadline is None or now - self.next <= self.deadline

    def agenda(self, now: datetime) -> schedule.Agenda:
        spec = self.state.spec
        return schedule.agenda(
            self.state.schedule,
            self.next,
            now,
            deadline=self.deadline,
            most=schedule.MISSED_LIMIT if spec.missed == "All" else 1,
            trying=None if spec.starting_deadline_seconds else self.trying,
        )

    def go_on(self, following: datetime) -> None:
        self.next, self.reason = following, NOBODY


def missed_message(name: str, missed: tuple[datetime, ...], more: bool, reason: str) -> str:
    first, last = heartbeats.iso(missed[0]), heartbeats.iso(missed[-1])
    if more:
        what = f"more than {len(missed)} slots, from {first} on"
    elif len(missed) > 1:
        what = f"{len(missed)} slots, {first} to {last}"
    else:
        what = f"the slot {first}"
    return f"heartbeat {name!r} missed {what}: {reason}"
