"""The state that the parts of one worker share: its incarnation, whether it stops or drains, and the event that wakes
its loop.

Makes no call of its own to the store. docs/design/worker.md says which part writes what.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from watchbill.clock import Clock
from watchbill.connection import outages
from watchbill.errors import CrewGone, WorkerForgotten
from watchbill.store import incarnations
from watchbill.worker.incarnation import Incarnation
from watchbill.worker.probes import Known, Probes

T = TypeVar("T")

STORE_SECONDS: Final = 2.0
"""Seconds beyond the grace period for which the worker still waits for the store, to hand its tasks back."""
STILL_SECONDS: Final = 1.5
"""An event loop that has not turned for so long stands still."""
STILL_MOST_SECONDS: Final = 10.0
"""So much of that counts for nothing, and no more: an agent may block the loop for good."""


class WorkerState:
    """The state of one worker, from before it reads its crew until after its end."""

    def __init__(self, grace_seconds: float, clock: Clock, revision: str = "") -> None:
        """`revision`: the template revision of the worker's pod; empty: it is in none of the operator's."""
        self.clock = clock
        self.revision = revision
        self.since_ms = 0
        """The time, by the store's clock, at which the store first knew this worker; 0: it doesn't yet."""
        self.probes: Probes | None = None
        """The answers to the kubelet's probes; None: none can ask."""
        self._grace_seconds = grace_seconds
        self.incarnation = Incarnation(incarnations.fresh())
        self.unrecovered: list[Incarnation] = []
        """Earlier incarnations whose tasks the store has lost, until their results are written."""
        self.wake = asyncio.Event()
        """Set when something has changed that the loop must see."""
        self.may_deliver = asyncio.Event()
        """Set when the crew may have something to deliver, for the part that delivers."""
        self.may_send = asyncio.Event()
        """Set when a request was gathered for a batch, for the part that sends."""
        self.stop_by: float | None = None
        """The end of the grace period, by the clock's `monotonic`; None until somebody stops the worker."""
        self.draining = False
        """The worker claims no more until the drain is taken back."""
        self.has_work = True
        """The crew may have claimable tasks: the last claim got all that it asked for. Otherwise the bell will ring."""
        self.registered = False
        """The store knows this worker. Until then there is nothing to save."""
        self.cut_off = False
        """The store failed to answer, and the worker has not claimed since."""
        self.incarnation_error: Exception | None = None
        """The error with which the incarnation has ended in the store; None while it lives."""
        self.deleted = False
        """Somebody deleted the crew, so it won't come back."""
        self.recycled = False
        """The worker stops by itself, because abandoned agents hold too many slots."""
        self.ended = False
        self._store_ahead = 0.0
        self._turned_at: float | None = None
        self._stood_still = 0.0
        """Seconds beyond the grace period for which the event loop stood still."""

    @property
    def known(self) -> Known | None:
        """The worker's readiness as its kubelet knows it; None: no kubelet can ask. Any thread may read it."""
        return self.probes.known if self.probes is not None else None

    @property
    def stopping(self) -> bool:
        return self.stop_by is not None

    @property
    def drained(self) -> bool:
        """The worker holds nothing and won't claim again: it has stopped, or it drains."""
        return self.ended or (self.draining and self.incarnation.is_idle and not self.unrecovered)

    @property
    def is_done(self) -> bool:
        """The worker is to stop, and has nothing left to do or no time left for it."""
        if self.stop_by is None:
            return False
        if not (self.incarnation.is_working or self.unrecovered):
            self.stop_by = min(self.stop_by, self.clock.monotonic())  # nothing to save: not worth waiting for a store
            return True
        return self.clock.monotonic() >= self.stop_by

    @property
    def is_overdue(self) -> bool:
        """The grace period is over, and so is the time that the store has beyond it."""
        if self.stop_by is None:
            return False
        if not self.registered:  # nothing to save: not worth waiting for a store
            self.stop_by = min(self.stop_by, self.clock.monotonic())
        # The store may know us as soon as it was asked to, though its answer was lost; then we take our leave.
        was_asked = self.incarnation.number > 0
        late = self.clock.monotonic() - self.stop_by - min(self._stood_still + self._still(), STILL_MOST_SECONDS)
        return not was_asked or late > STORE_SECONDS

    def turn(self) -> None:
        """Notes that the event loop turns. While it stands still, because the machine gives the process no time, the
        store can't be heard, and so has none. Called at least once a second."""
        self._stood_still += self._still()
        self._turned_at = self.clock.monotonic()

    def _still(self) -> float:
        """Returns the seconds beyond the grace period for which the loop has not turned; 0 as long as it should."""
        if self._turned_at is None or self.stop_by is None:
            return 0.0
        now = self.clock.monotonic()
        if now - self._turned_at < STILL_SECONDS:
            return 0.0
        return min(now - self._turned_at, max(now - self.stop_by, 0.0))

    def stop(self, *, now: bool = False) -> None:
        """Sets the end of the grace period (`now`: at once). May be called again, to hurry."""
        by = self.clock.monotonic() + (0.0 if now else self._grace_seconds)
        self.stop_by = by if self.stop_by is None else min(by, self.stop_by)
        self.wake.set()

    def end_incarnation(self, incarnation: str, error: Exception) -> None:
        """Records that the store has ended this incarnation. The loop then reincarnates, or ends."""
        if incarnation == self.incarnation.name and self.incarnation_error is None:
            self.incarnation_error = error
            self.wake.set()

    def reincarnate(self) -> Incarnation:
        """Begins a new incarnation, of which the store doesn't know yet."""
        self.incarnation, self.incarnation_error = Incarnation(incarnations.fresh()), None
        return self.incarnation

    def set_store_time(self, now_ms: int) -> None:
        """Notes the store's time, as a claim told it this moment."""
        self._store_ahead = now_ms / 1000 - self.clock.monotonic()

    def store_time(self) -> datetime:
        """The time by the store's clock: this machine's may be wrong."""
        return datetime.fromtimestamp(self._store_ahead + self.clock.monotonic(), UTC)

    def store_ms(self) -> int:
        """Returns the store's time in ms since 1970. Any thread may ask."""
        return int((self._store_ahead + self.clock.monotonic()) * 1000)

    async def persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Calls the store until it answers; once the worker stops, until `is_overdue`. Raises StoreUnavailable then."""

        def wait(_: float) -> None:
            self.cut_off = True

        return await outages.persist(call, until=lambda: self.is_overdue, on_wait=wait)

    async def persist_for_agent(self, call: Callable[[], Awaitable[T]], lost: T) -> T:
        """As `persist`, for what an agent at work asks. Returns `lost` where the store has lost the crew or this
        worker: the agent goes on, as its result still counts. Whoever learns that the crew is gone for good ends it."""
        try:
            return await self.persist(call)
        except (CrewGone, WorkerForgotten):
            return lost
