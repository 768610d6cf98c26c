"""Fires heartbeats. APScheduler keeps the time; which slots there are is plan/schedule's, firing once is the store's.

Any number of schedulers may run over one store, without a leader, if their clocks agree to within GRACE. A slot is
fired when it is due or, where the store is away or the queue full, as soon as they allow, until the next slot is due:
then it is missed. So is one that nobody was there to find within GRACE. What is missed is not made up, but told: on the
crew's feed, in a metric, in the log. A suspended heartbeat misses nothing.

May not know what is done with the work, nor where heartbeats are written down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import redis.asyncio
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from watchbill import metrics
from watchbill.api import Heartbeat
from watchbill.connection import outages
from watchbill.errors import Conflict, InvalidInput, NewerRecord, NotFound
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.plan import schedule
from watchbill.store import definitions, heartbeats

logger = Logger("watchbill.scheduler")

GRACE: Final = timedelta(seconds=30)
"""A slot that is found this late is still fired: a restart, or another scheduler's clock, may be between."""
LOOK_AGAIN: Final = timedelta(seconds=30)
"""At most this long without a look at the clock: it may have been set, or the machine have slept."""
FULL_AGAIN_SECONDS: Final = 0.5
UNREADABLE_AGAIN_SECONDS: Final = 2.0

_NOBODY: Final = "no scheduler was running"
_AWAY: Final = "the store was away"
_FULL: Final = "the crew's queue was full"


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the shell's clock, unless it is given another


@dataclass(slots=True, eq=False)
class _Timed:
    """A heartbeat that this process fires."""

    keys: CrewKeys
    state: heartbeats.State
    next: datetime
    """The first slot that is not dealt with, as far as we know."""
    trying: datetime | None = None
    """The slot that was found in time, and that we try to fire until the next one is due."""
    reason: str = _NOBODY
    """Why a slot that is missed now was missed."""
    work: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return f"{self.keys.crew}/{self.state.name}"

    def go_on(self, following: datetime) -> None:
        self.next, self.reason = following, _NOBODY


class _SlotTrigger(BaseTrigger):  # type: ignore[misc]
    """Wakes at the next slot by our clock. Never too early for long: whoever is woken looks what is due."""

    def __init__(self, timed: _Timed, clock: Callable[[], datetime]) -> None:
        self._schedule = timed.state.schedule
        self._clock = clock

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        at = self._clock()
        return now + min(schedule.next_slot(self._schedule, at) - at, LOOK_AGAIN)


class Scheduler:
    """The heartbeats of any number of crews in one store. `clock` gives the time, aware."""

    def __init__(self, client: redis.asyncio.Redis, *, clock: Callable[[], datetime] = _now) -> None:
        self._client = client
        self._clock = clock
        self._timed: dict[str, _Timed] = {}
        self._definitions: dict[str, definitions.Current] = {}
        self._timers: AsyncIOScheduler | None = None

    async def start(self) -> None:
        """Begins to fire, with what is due already."""
        if self._timers is None:
            self._timers = AsyncIOScheduler(timezone=UTC)
            self._timers.start()
            for timed in self._timed.values():
                self._arm(timed)

    async def stop(self) -> None:
        """Ends firing. A slot that is being fired is fired or not, and whoever comes next knows which."""
        if self._timers is not None:
            self._timers.shutdown(wait=False)
            self._timers = None
            await asyncio.sleep(0)  # it shuts down in a callback of the loop
        for timed in self._timed.values():
            await _cancel(timed)

    async def add(self, keys: CrewKeys, uid: str, heartbeat: Heartbeat) -> None:
        """Stores the heartbeat and fires it from now on. One that is known takes up its new spec; adding twice is fine.

        Waits for the store while it is away. Raises InvalidInput when it could never fire, CrewGone.
        """
        await self._report_former_missed(keys, uid, heartbeat)
        state = await outages.persist(lambda: heartbeats.apply(self._client, keys, uid, heartbeat, now=self._clock()))
        timed = _Timed(keys, state, state.next or schedule.EPOCH)
        known = self._timed.get(timed.id)
        if known and known.state.uid == state.uid and known.state.generation == state.generation:
            return
        await self._drop(timed.id)
        if state.next is not None:  # else it is suspended
            self._timed[timed.id] = timed
            self._arm(timed)

    async def remove(self, keys: CrewKeys, uid: str, name: str) -> None:
        """The heartbeat fires no more, here or anywhere."""
        await self._drop(f"{keys.crew}/{name}")
        await outages.persist(lambda: heartbeats.remove(self._client, keys, uid, name))

    # ------------------------------------------------------------ within

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
            misfire_grace_time=None,  # how late is too late is plan/schedule's to say
        )
        self._begin(timed)

    async def _wake(self, timed: _Timed) -> None:
        self._begin(timed)

    def _begin(self, timed: _Timed) -> None:
        # In a task of our own, because APScheduler logs a job that is cancelled as one that failed.
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
        def away(_: float) -> None:
            timed.reason = _AWAY

        try:
            while await outages.persist(lambda: self._step(timed), on_wait=away):
                pass
        except Exception:
            logger.exception("heartbeat %s: failed, tried again within %d s", timed.id, LOOK_AGAIN.total_seconds())

    async def _step(self, timed: _Timed) -> bool:
        """Deals with the oldest of what is due. False when nothing is left."""
        agenda = schedule.agenda(timed.state.schedule, timed.next, self._clock(), grace=GRACE, trying=timed.trying)
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
            outcome, stored = await heartbeats.fire(
                self._client,
                timed.keys,
                state,
                self._definitions[crew],
                slot=slot,
                following=following,
                now=self._clock(),
            )
        except NotFound:
            return self._end(timed, "gone")
        except NewerRecord as error:
            self._definitions.pop(crew, None)
            if timed.reason != str(error):
                logger.error("heartbeat %s: trying until the next slot is due: %s", timed.id, error)
            timed.reason = str(error)
            await asyncio.sleep(UNREADABLE_AGAIN_SECONDS)
            return True
        except (Conflict, InvalidInput) as error:
            timed.reason = str(error)
            return await self._report_missed(timed, (slot,), False, following)
        match outcome:
            case "fired" | "already":
                if outcome == "fired":
                    metrics.HEARTBEATS_FIRED.labels(crew, state.name).inc()
                    logger.info("heartbeat %s: fired the slot %s", timed.id, heartbeats.iso(slot))
                timed.go_on(stored or following)
            case "changed":
                del self._definitions[crew]
            case "full":
                if timed.reason != _FULL:
                    logger.warning("heartbeat %s: the queue is full, trying until the next slot is due", timed.id)
                timed.reason = _FULL
                await asyncio.sleep(FULL_AGAIN_SECONDS)
            case "stale" | "gone":
                return self._end(timed, outcome)
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

    async def _report_former_missed(self, keys: CrewKeys, uid: str, heartbeat: Heartbeat) -> None:
        """What was missed under a spec that is about to be replaced; nobody can tell it later."""
        former = await outages.persist(lambda: heartbeats.get(self._client, keys, heartbeat.name))
        if former is None or former.uid != uid or former.generation == heartbeats.generation(heartbeat.spec):
            return
        if former.next is not None:
            now = self._clock()
            timed = _Timed(keys, former, former.next)
            try:
                following = schedule.next_slot(former.schedule, now)
            except NewerRecord:
                return
            while timed.next <= now:
                missed, more = schedule.due(former.schedule, timed.next - schedule.TICK, now)
                if not await outages.persist(partial(self._report_missed, timed, missed, more, following)):
                    return

    def _end(self, timed: _Timed, outcome: str) -> bool:
        if self._timed.get(timed.id) is timed:
            del self._timed[timed.id]
            self._disarm(timed)
            self._definitions.pop(timed.keys.crew, None)
            why = (
                "the crew was deleted or replaced" if outcome == "gone" else "it was changed or removed by someone else"
            )
            logger.warning("heartbeat %s: no longer fired here, %s", timed.id, why)
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
