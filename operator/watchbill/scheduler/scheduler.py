"""Fires heartbeats. A heap has the times at which they are due, APScheduler wakes us at the next of them (alarm.py),
plan/schedule computes the slots, the store fires each slot once.

Any number of schedulers may run over one store, without a leader, if their clocks agree to within GRACE. A slot is
fired when it is due: its call is made some seconds before, and all calls of one moment are sent in batches. A scheduler
that finds its slots fired by another stands back from then on: it looks a little later, and fires what is left. So one
does the work, and the next takes over at once when that one dies.

Whatever is not fired that way is looked at by itself, until no slot of that heartbeat is due. While the store is away
or the queue is full, a slot is tried again until the next one is due; then it is missed. A slot that no scheduler found
within GRACE is missed too. A heartbeat may ask for another deadline, and to have missed slots made up for. A missed
slot is reported: on the crew's feed, in a metric, in the log. A suspended heartbeat misses nothing.

This module may not know what is done with the work, nor how the store keeps heartbeats.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import redis.asyncio

from watchbill import metrics
from watchbill.api import Heartbeat
from watchbill.clock import SYSTEM, Clock
from watchbill.connection import outages
from watchbill.errors import Conflict, InvalidInput, NewerRecord, NotFound, WatchbillError
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.plan import schedule
from watchbill.scheduler.alarm import Alarm
from watchbill.scheduler.timed import AWAY, Timed, missed_message
from watchbill.store import definitions, firing, heartbeats
from watchbill.store import fired as history

logger = Logger("watchbill.scheduler")

CHECK_CLOCK: Final = timedelta(seconds=30)
"""The longest time between two reads of the clock: it may have been set, or the machine may have slept."""
AHEAD: Final = timedelta(seconds=10)
"""The call that fires a slot is made so long before."""
STAND_BACK_SECONDS: Final = (0.1, 0.3)
"""Seconds by which a scheduler is later than the one that does the work: a random number in between."""
HEAP_LEAST: Final = 1000
"""Entries of the heap below which those of heartbeats that are gone, which may be of next year, are not looked for."""
FULL_AGAIN_SECONDS: Final = 0.5
UNREADABLE_AGAIN_SECONDS: Final = 2.0

_FULL: Final = "the crew's queue was full"


class Scheduler:
    """The heartbeats of any number of crews in one store."""

    def __init__(self, client: redis.asyncio.Redis, clock: Clock = SYSTEM) -> None:
        self._client = client
        self._clock = clock
        self._timed: dict[str, Timed] = {}
        self._definitions: dict[str, definitions.Current] = {}
        self._heap: list[tuple[datetime, int, Timed]] = []
        self._heap_most = HEAP_LEAST
        """The times at which heartbeats are looked at: to make their calls, and to fire them. An entry that no longer
        counts is skipped."""
        self._number = itertools.count()
        self._alarm = Alarm(self._look, clock, CHECK_CLOCK)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_running = False
        self._stand_back = 0.0
        """Seconds to wait before it fires; 0: it is the one that does the work, as far as it knows."""

    async def start(self) -> None:
        """Begins to fire, first the slots that are due already."""
        if not self._is_running:
            self._is_running = True
            self._heap.clear()
            for timed in self._timed.values():
                self._put(timed)
            self._alarm.start()

    async def stop(self) -> None:
        """Ends firing. A slot that was being fired may have been fired or not; the store knows which."""
        self._is_running = False
        self._alarm.stop()
        await asyncio.sleep(0)  # APScheduler shuts down in a callback of the loop
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
        if self.fires(keys, state.uid, state.name, state.generation):
            return
        await self._drop(keys, state.name)
        if state.next is None:  # it is suspended
            return
        timed = Timed(keys, state, state.next)
        if fired and timed.next <= fired:  # the store has lost that, and its next slot is not mended yet
            timed.next = schedule.next_slot(state.schedule, fired)
        self._timed[timed.id] = timed
        self._put(timed)

    def fires(self, keys: CrewKeys, uid: str, name: str, generation: str) -> bool:
        """Returns whether this process fires the heartbeat of that name, of the crew of this uid, by this spec."""
        timed = self._timed.get(f"{keys.crew}/{name}")
        return timed is not None and (timed.state.uid, timed.state.generation) == (uid, generation)

    async def remove(self, keys: CrewKeys, uid: str, name: str) -> None:
        """Removes the heartbeat from the store: no scheduler fires it any more."""
        await self._drop(keys, name)
        _forget(keys, name)
        await outages.persist(lambda: heartbeats.remove(self._client, keys, uid, name))

    # ------------------------------------------------------------ the heap

    def _put(self, timed: Timed) -> None:
        for at in (timed.due - AHEAD, timed.due):
            self._push(at, timed)

    def _push(self, at: datetime, timed: Timed) -> None:
        if len(self._heap) > self._heap_most:
            self._heap = [entry for entry in self._heap if self._timed.get(entry[2].id) is entry[2]]
            heapq.heapify(self._heap)
            self._heap_most = max(2 * len(self._heap), HEAP_LEAST)  # so that an entry costs the same however many live
        entry = at, next(self._number), timed
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._alarm.set(at - self._clock.now())

    def _look(self) -> None:
        """Sees to all whose time has come."""
        now = self._clock.now()
        looked: dict[Timed, None] = {}  # in the order of their times
        while self._heap and self._heap[0][0] <= now:
            timed = heapq.heappop(self._heap)[2]
            if self._timed.get(timed.id) is timed and not timed.is_at_work:
                looked[timed] = None
        due = [timed for timed in looked if timed.due <= now]
        coming = [timed for timed in looked if now < timed.due <= now + AHEAD]
        for timed in due:  # whatever becomes of it
            heapq.heappush(self._heap, (now + CHECK_CLOCK, next(self._number), timed))
        if due:
            self._spawn(self._fire_due(due), "heartbeat batch")
        if coming:
            self._spawn(self._prepare(coming), "heartbeat calls")
        if self._heap:
            self._alarm.set(self._heap[0][0] - now)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _prepare(self, coming: Sequence[Timed]) -> None:
        for timed in coming:
            with suppress(WatchbillError):  # it comes again, and is reported, when the slot is due
                timed.call = await self._call(timed, timed.next, timed.due)
            await asyncio.sleep(0)  # what is due goes first

    async def _call(self, timed: Timed, slot: datetime, now: datetime) -> firing.Call:
        crew, state = timed.keys.crew, timed.state
        known = self._definitions.get(crew)
        if known is None:
            known = await definitions.current(self._client, timed.keys)
            if self._timed.get(timed.id) is timed:  # else nothing would drop it
                self._definitions[crew] = known
        following = schedule.next_slot(state.schedule, slot)
        return firing.prepare(timed.keys, state, known, slot=slot, following=following, now=now)

    async def _fire_due(self, due: Sequence[Timed]) -> None:
        """Fires the slots whose calls are there, and begins to look at each of the other heartbeats by itself."""
        calls = {timed: timed.call for timed in due if timed.call and timed.is_ready(timed.now(self._clock))}
        for timed in due:
            if timed not in calls:
                self._begin(timed)
        count, by_others = len(calls), 0
        if self._stand_back:
            await self._clock.sleep(self._stand_back)
            stored = await heartbeats.next_slots(self._client, [(timed.keys, timed.state.name) for timed in calls])
            for timed, following in zip(list(calls), stored, strict=True):
                if following is not None and following > timed.next:
                    del calls[timed]
                    by_others += 1
                    timed.go_on(following)
                    self._put(timed)
        outcomes = await firing.fire_all(self._client, list(calls.values()))
        for (timed, call), fired in zip(calls.items(), outcomes, strict=True):
            if isinstance(fired, firing.Fired) and fired.outcome in ("fired", "already"):
                by_others += fired.outcome == "already"
                self._take(timed, call, fired)
                self._put(timed)
            else:
                self._begin(timed)  # it sends the call again, and deals with the answer
        if count:
            self._stand_back = random.uniform(*STAND_BACK_SECONDS) if 2 * by_others >= count else 0.0
        for timed in calls:
            with suppress(WatchbillError):  # the next slot trims, too
                await history.trim(self._client, timed.keys, timed.state)

    def _take(self, timed: Timed, call: firing.Call, fired: firing.Fired) -> None:
        """The slot of this call was fired."""
        state = timed.state
        if state.spec.concurrency_policy != "Allow" and fired.work != state.work:
            timed.state = replace(state, work=fired.work)
        if fired.outcome == "fired":
            lateness = self._clock.now() - call.slot - state.jitter
            metrics.HEARTBEAT_LATENESS.observe(lateness.total_seconds())
            metrics.HEARTBEATS_FIRED.labels(*metrics.of_crew(timed.keys.crew), state.name).inc()
            logger.info("heartbeat %s: fired the slot %s", timed.id, heartbeats.iso(call.slot))
        timed.go_on(fired.next or call.following)

    # ------------------------------------------------------------ one heartbeat

    def _begin(self, timed: Timed) -> None:
        if not timed.is_at_work:
            timed.work = self._spawn(self._work(timed), f"heartbeat {timed.id}")

    async def _drop(self, keys: CrewKeys, name: str) -> None:
        timed = self._timed.pop(f"{keys.crew}/{name}", None)
        self._definitions.pop(keys.crew, None)  # it may have been the crew's last; others read it again
        if timed is not None and timed.work is not None:
            timed.work.cancel()
            await asyncio.gather(timed.work, return_exceptions=True)

    async def _work(self, timed: Timed) -> None:
        def on_wait(_: float) -> None:
            timed.reason = AWAY

        try:
            while await outages.persist(lambda: self._step(timed), on_wait=on_wait):
                pass
        except Exception:
            logger.exception(
                "heartbeat %s: firing failed, and is tried again within %d s", timed.id, CHECK_CLOCK.total_seconds()
            )
        else:
            self._put(timed)

    async def _step(self, timed: Timed) -> bool:
        """Fires or reports the oldest slots that are due. False: no slot is due any more."""
        agenda = timed.agenda(timed.now(self._clock))
        if agenda.ready is not None:
            timed.trying = agenda.ready
        if agenda.missed:
            return await self._report_missed(timed, agenda.missed, agenda.more, agenda.following)
        return agenda.ready is not None and await self._fire(timed, agenda.ready)

    async def _fire(self, timed: Timed, slot: datetime) -> bool:
        crew = timed.keys.crew
        try:
            call = await self._call(timed, slot, self._clock.now())
            fired = await firing.fire(self._client, call)
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
            known = self._definitions.pop(crew, None)
            if known and (await definitions.identity(self._client, timed.keys)).definition != known.digest:
                return True  # another one may allow it
            timed.reason = str(error)
            following = schedule.next_slot(timed.state.schedule, slot)
            return await self._report_missed(timed, (slot,), False, following)
        match fired.outcome:
            case "fired" | "already":
                self._take(timed, call, fired)
                if fired.outcome == "fired":
                    await history.trim(self._client, timed.keys, timed.state)
            case "busy":
                timed.reason = f"{fired.work} has not ended, and concurrencyPolicy is Forbid"
                return await self._report_missed(timed, (slot,), False, call.following)
            case "changed":
                self._definitions.pop(crew, None)
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

    async def _report_missed(self, timed: Timed, missed: tuple[datetime, ...], more: bool, following: datetime) -> bool:
        message = missed_message(timed.state.name, missed, more, timed.reason)
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
            metrics.HEARTBEATS_MISSED.labels(*metrics.of_crew(timed.keys.crew), timed.state.name).inc(len(missed))
            logger.warning("crew %s: %s", timed.keys.crew, message)
        timed.go_on(stored)
        return True

    async def _report_missed_of_replaced(self, keys: CrewKeys, uid: str, heartbeat: Heartbeat) -> None:
        """Reports what was missed under a spec that is about to be replaced, because it can't be computed later."""
        replaced = await outages.persist(lambda: heartbeats.get(self._client, keys, heartbeat.name))
        if replaced is None or replaced.uid != uid or replaced.generation == heartbeats.generation(heartbeat.spec):
            return
        if replaced.next is not None:
            timed = Timed(keys, replaced, replaced.next)
            try:
                now = timed.now(self._clock)
                following = schedule.next_slot(replaced.schedule, now)
            except NewerRecord:
                return
            while timed.next <= now:
                missed, more = schedule.due(replaced.schedule, timed.next - schedule.TICK, now)
                if not await outages.persist(partial(self._report_missed, timed, missed, more, following)):
                    return

    def _end(self, timed: Timed, outcome: str) -> bool:
        if self._timed.get(timed.id) is timed:
            del self._timed[timed.id]
            self._definitions.pop(timed.keys.crew, None)
            if outcome == "gone":
                _forget(timed.keys, timed.state.name)
            why = "the crew was deleted or replaced" if outcome == "gone" else "another process changed or removed it"
            logger.info("heartbeat %s: this process no longer fires it, because %s", timed.id, why)
        return False


def _forget(keys: CrewKeys, name: str) -> None:
    """Exports no longer what this process has counted of a heartbeat."""
    for counter in (metrics.HEARTBEATS_FIRED, metrics.HEARTBEATS_MISSED):
        counter.remove(*metrics.of_crew(keys.crew), name)
