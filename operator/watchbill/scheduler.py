"""Fires heartbeats. APScheduler runs the timers, plan/schedule computes the slots, the store fires each slot once.

Any number of schedulers may run over one store, without a leader, if their clocks agree to within GRACE. A slot is
fired when it is due. While the store is away or the queue is full, it is tried again until the next slot is due; then
it is missed. A slot that no scheduler found within GRACE is missed too. A heartbeat may ask for another deadline, and
to have missed slots made up for. A missed slot is reported: on the crew's feed, in a metric, in the log. A suspended
heartbeat misses nothing.

This module may not know what is done with the work, nor how the store keeps heartbeats.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import redis.asyncio
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from watchbill import metrics
from watchbill.api import Heartbeat
from watchbill.clock import SYSTEM, Clock
from watchbill.connection import outages
from watchbill.errors import Conflict, InvalidInput, NewerRecord, NotFound
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.plan import schedule
from watchbill.store import definitions, firing, heartbeats
from watchbill.store import fired as history

logger = Logger("watchbill.scheduler")

GRACE: Final = timedelta(seconds=30)
"""A slot that is found this late is still fired: after a restart, or by a scheduler whose clock is behind."""
CHECK_CLOCK: Final = timedelta(seconds=30)
"""The longest time between two reads of the clock: it may have been set, or the machine may have slept."""
FULL_AGAIN_SECONDS: Final = 0.5
UNREADABLE_AGAIN_SECONDS: Final = 2.0

_NOBODY: Final = "no scheduler fired in time"
_AWAY: Final = "the store was away"
_FULL: Final = "the crew's queue was full"


@dataclass(slots=True, eq=False)
class _Timed:
    """A heartbeat that this process fires."""

    keys: CrewKeys
    state: heartbeats.HeartbeatState
    next: datetime
    """The first slot that was neither fired nor missed, as far as this process knows."""
    trying: datetime | None = None
    """The slot that was found in time, and is tried until the next one is due."""
    reason: str = _NOBODY
    """The reason that is given for a slot that is missed now."""
    work: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return f"{self.keys.crew}/{self.state.name}"

    def now(self, clock: Clock) -> datetime:
        """The time by which its slots are due: it is behind the clock by the heartbeat's jitter."""
        return clock.now() - self.state.jitter

    def agenda(self, now: datetime) -> schedule.Agenda:
        spec = self.state.spec
        deadline = timedelta(seconds=spec.starting_deadline_seconds) if spec.starting_deadline_seconds else None
        return schedule.agenda(
            self.state.schedule,
            self.next,
            now,
            deadline=GRACE if deadline is None and spec.missed == "Skip" else deadline,
            most=schedule.MISSED_LIMIT if spec.missed == "All" else 1,
            trying=self.trying if deadline is None else None,
        )

    def go_on(self, following: datetime) -> None:
        self.next, self.reason = following, _NOBODY


class _SlotTrigger(BaseTrigger):  # type: ignore[misc]
    """Wakes at the next slot by our clock, or a little early: the job that is woken computes what is due."""

    def __init__(self, timed: _Timed, clock: Clock) -> None:
        self._timed = timed
        self._clock = clock

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        at = self._timed.now(self._clock)
        return now + min(schedule.next_slot(self._timed.state.schedule, at) - at, CHECK_CLOCK)


class Scheduler:
    """The heartbeats of any number of crews in one store."""

    def __init__(self, client: redis.asyncio.Redis, clock: Clock = SYSTEM) -> None:
        self._client = client
        self._clock = clock
        self._timed: dict[str, _Timed] = {}
        self._definitions: dict[str, definitions.Current] = {}
        self._timers: AsyncIOScheduler | None = None

    async def start(self) -> None:
        """Begins to fire, first the slots that are due already."""
        if self._timers is None:
            self._timers = AsyncIOScheduler(timezone=UTC)
            self._timers.start()
            for timed in self._timed.values():
                self._arm(timed)

    async def stop(self) -> None:
        """Ends firing. A slot that was being fired may have been fired or not; the store knows which."""
        if self._timers is not None:
            self._timers.shutdown(wait=False)
            self._timers = None
            await asyncio.sleep(0)  # APScheduler shuts down in a callback of the loop
        for timed in self._timed.values():
            await _cancel(timed)

    async def add(self, keys: CrewKeys, uid: str, heartbeat: Heartbeat, *, fired: datetime | None = None) -> None:
        """Stores the heartbeat and fires it from now on; a heartbeat that is known gets its new spec. `fired`: the
        newest slot that was fired, as the caller remembers it.

        It may be called again with the same heartbeat, and waits while the store is away. Raises InvalidInput when the
        heartbeat could never fire, CrewGone.
        """
        await self._report_missed_of_replaced(keys, uid, heartbeat)
        state = await outages.persist(
            lambda: heartbeats.apply(self._client, keys, uid, heartbeat, now=self._clock.now(), fired=fired)
        )
        await self.follow(keys, state, fired=fired)

    async def follow(self, keys: CrewKeys, state: heartbeats.HeartbeatState, *, fired: datetime | None = None) -> None:
        """Fires a heartbeat from now on as the store has it, and writes nothing: another process stores it. May be
        called again; a heartbeat that is removed from the store, or changed there, ends by itself. `fired`: as in
        `add`. Raises NewerRecord.
        """
        timed = _Timed(keys, state, state.next or schedule.EPOCH)
        if fired and timed.next <= fired:  # the store has lost that, and its next slot is not mended yet
            timed.next = schedule.next_slot(state.schedule, fired)
        known = self._timed.get(timed.id)
        if known and known.state.uid == state.uid and known.state.generation == state.generation:
            return
        await self._drop(timed.id)
        if state.next is not None:  # it is not suspended
            self._timed[timed.id] = timed
            self._arm(timed)

    async def remove(self, keys: CrewKeys, uid: str, name: str) -> None:
        """Removes the heartbeat from the store: no scheduler fires it any more."""
        await self._drop(f"{keys.crew}/{name}")
        await outages.persist(lambda: heartbeats.remove(self._client, keys, uid, name))

    # ------------------------------------------------------------ timers

    def _arm(self, timed: _Timed) -> None:
        if self._timers is None:
            return
        self._timers.add_job(
            self._wake,
            _SlotTrigger(timed, self._clock),
            [timed],
            id=timed.id,
            replace_existing=True,
            coalesce=True,
            misfire_grace_time=None,  # plan/schedule decides what is too late
        )
        self._begin(timed)

    async def _wake(self, timed: _Timed) -> None:
        self._begin(timed)

    def _begin(self, timed: _Timed) -> None:
        # A task of our own, because APScheduler logs a job that is cancelled as one that failed.
        if timed.work is None or timed.work.done():
            timed.work = asyncio.create_task(self._work(timed), name=f"heartbeat {timed.id}")

    async def _drop(self, timed_id: str) -> None:
        if timed := self._timed.pop(timed_id, None):
            self._disarm(timed)
            await _cancel(timed)

    def _disarm(self, timed: _Timed) -> None:
        if self._timers is not None and self._timers.get_job(timed.id):
            self._timers.remove_job(timed.id)

    async def _work(self, timed: _Timed) -> None:
        def on_wait(_: float) -> None:
            timed.reason = _AWAY

        try:
            while await outages.persist(lambda: self._step(timed), on_wait=on_wait):
                pass
        except Exception:
            logger.exception(
                "heartbeat %s: firing failed, and is tried again within %d s", timed.id, CHECK_CLOCK.total_seconds()
            )

    # ------------------------------------------------------------ slots

    async def _step(self, timed: _Timed) -> bool:
        """Fires or reports the oldest slots that are due. False: no slot is due any more."""
        agenda = timed.agenda(timed.now(self._clock))
        if agenda.ready is not None:
            timed.trying = agenda.ready
        if agenda.missed:
            return await self._report_missed(timed, agenda.missed, agenda.more, agenda.following)
        return agenda.ready is not None and await self._fire(timed, agenda.ready)

    async def _fire(self, timed: _Timed, slot: datetime) -> bool:
        state, crew = timed.state, timed.keys.crew
        following = schedule.next_slot(state.schedule, slot)
        try:
            if crew not in self._definitions:
                self._definitions[crew] = await definitions.current(self._client, timed.keys)
            fired = await firing.fire(
                self._client,
                timed.keys,
                state,
                self._definitions[crew],
                slot=slot,
                following=following,
                now=self._clock.now(),
            )
        except NotFound:
            return self._end(timed, "gone")
        except NewerRecord as error:
            self._definitions.pop(crew, None)
            if timed.reason != str(error):
                logger.error("heartbeat %s: the slot is tried until the next one is due: %s", timed.id, error)
            timed.reason = str(error)
            await self._clock.sleep(UNREADABLE_AGAIN_SECONDS)
            return True
        except (Conflict, InvalidInput) as error:
            timed.reason = str(error)
            return await self._report_missed(timed, (slot,), False, following)
        if state.spec.concurrency_policy != "Allow" and fired.work != state.work:
            timed.state = replace(state, work=fired.work)
        match fired.outcome:
            case "fired" | "already":
                if fired.outcome == "fired":
                    metrics.HEARTBEATS_FIRED.labels(crew, state.name).inc()
                    logger.info("heartbeat %s: fired the slot %s", timed.id, heartbeats.iso(slot))
                timed.go_on(fired.next or following)
                if fired.outcome == "fired":
                    await history.trim(self._client, timed.keys, timed.state)
            case "busy":
                timed.reason = f"{fired.work} has not ended, and concurrencyPolicy is Forbid"
                return await self._report_missed(timed, (slot,), False, following)
            case "changed":
                del self._definitions[crew]
            case "full":
                if timed.reason != _FULL:
                    logger.warning(
                        "heartbeat %s: the queue is full; the slot is tried until the next one is due", timed.id
                    )
                timed.reason = _FULL
                await self._clock.sleep(FULL_AGAIN_SECONDS)
            case "stale" | "gone":
                return self._end(timed, fired.outcome)
        return True

    async def _report_missed(
        self, timed: _Timed, missed: tuple[datetime, ...], more: bool, following: datetime
    ) -> bool:
        message = _missed_message(timed.state.name, missed, more, timed.reason)
        outcome, stored = await heartbeats.miss(
            self._client,
            timed.keys,
            timed.state,
            first=missed[0],
            following=following,
            count=len(missed),
            message=message,
        )
        if stored is None:
            return self._end(timed, outcome)
        if outcome == "told":
            metrics.HEARTBEATS_MISSED.labels(timed.keys.crew, timed.state.name).inc(len(missed))
            logger.warning("crew %s: %s", timed.keys.crew, message)
        timed.go_on(stored)
        return True

    async def _report_missed_of_replaced(self, keys: CrewKeys, uid: str, heartbeat: Heartbeat) -> None:
        """Reports what was missed under a spec that is about to be replaced, because it can't be computed later."""
        replaced = await outages.persist(lambda: heartbeats.get(self._client, keys, heartbeat.name))
        if replaced is None or replaced.uid != uid or replaced.generation == heartbeats.generation(heartbeat.spec):
            return
        if replaced.next is not None:
            timed = _Timed(keys, replaced, replaced.next)
            try:
                now = timed.now(self._clock)
                following = schedule.next_slot(replaced.schedule, now)
            except NewerRecord:
                return
            while timed.next <= now:
                missed, more = schedule.due(replaced.schedule, timed.next - schedule.TICK, now)
                if not await outages.persist(partial(self._report_missed, timed, missed, more, following)):
                    return

    def _end(self, timed: _Timed, outcome: str) -> bool:
        if self._timed.get(timed.id) is timed:
            del self._timed[timed.id]
            self._disarm(timed)
            self._definitions.pop(timed.keys.crew, None)
            why = "the crew was deleted or replaced" if outcome == "gone" else "another process changed or removed it"
            logger.info("heartbeat %s: this process no longer fires it, because %s", timed.id, why)
        return False


async def _cancel(timed: _Timed) -> None:
    if timed.work is not None:
        timed.work.cancel()
        await asyncio.gather(timed.work, return_exceptions=True)


def _missed_message(name: str, missed: tuple[datetime, ...], more: bool, reason: str) -> str:
    first, last = heartbeats.iso(missed[0]), heartbeats.iso(missed[-1])
    if more:
        what = f"more than {len(missed)} slots, from {first} on"
    elif len(missed) > 1:
        what = f"{len(missed)} slots, {first} to {last}"
    else:
        what = f"the slot {first}"
    return f"heartbeat {name!r} missed {what}: {reason}"
