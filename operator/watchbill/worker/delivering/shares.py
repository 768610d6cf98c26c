"""The slots that one destination's messages may hold, so that a slow destination holds up no other.

A destination counts as slow once many messages at once have been on their way to it for long, and until one ends soon
again. A slow one has a share of the slots. All that waits for it beyond that is set aside together: delayed, until
a message ends and another may take its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import redis.asyncio

from watchbill.api.delivery import Destination
from watchbill.connection import outages
from watchbill.names import CrewKeys
from watchbill.store import circuits
from watchbill.worker.slots import Slots
from watchbill.worker.state import WorkerState

LATE_SECONDS: Final = 3.0
"""A message that is on its way for longer than this is late. It holds no slot any more, but counts for its destination:
messages cost next to nothing while they wait for a receiver."""
SHARE: Final = 4
"""A slow destination's messages may hold one slot in so many."""
PERIOD_MS: Final = 30_000
"""Messages that are set aside are due again after one to two of these, if nobody brings them forward: their worker may
have died. They are due at a multiple, so that workers need not tell each other the time."""
FOLLOWS_SECONDS: Final = 5.0
"""For so long after the last that was set aside it is brought forward in any case, once the destination is quick: what
was put off is in the store a moment later only."""
_PACE_SECONDS: Final = 0.25
_KEPT: Final = 1000


@dataclass(slots=True)
class _Share:
    sending: int = 0
    """Messages on their way to the destination."""
    late: int = 0
    is_slow: bool = False


@dataclass(slots=True)
class _Aside:
    """The messages that a worker has set aside for one destination. Times are of the monotonic clock."""

    due_ms: int = 0
    at: float = 0.0
    brought_at: float = 0.0
    is_busy: bool = False
    """It is being set aside."""


class Shares:
    """The destinations of one worker, by what its messages to them take."""

    def __init__(self, client: redis.asyncio.Redis, keys: CrewKeys, uid: str, state: WorkerState, slots: Slots) -> None:
        self._client = client
        self._keys = keys
        self._uid = uid
        self._state = state
        self._clock = state.clock
        self._slots = slots
        self._most = max(slots.total // SHARE, 1)
        self._shares: dict[str, _Share] = {}
        self._aside: dict[str, _Aside] = {}
        """By agent of the delivery queue."""

    def room(self, destination: Destination) -> float:
        """Returns how many messages may be sent: infinity where the destination is quick."""
        share = self._shares.get(circuits.key(destination))
        return math.inf if share is None or not share.is_slow else self._most - share.sending

    @contextmanager
    def sending(self, destination: Destination) -> Iterator[None]:
        """Counts a message while it is on its way."""
        of, late, ended = circuits.key(destination), False, False
        share = self._shares.setdefault(of, _Share())

        def is_late() -> None:
            nonlocal late
            late = True
            share.late += 1
            share.is_slow = share.is_slow or share.late >= self._most
            self._slots.lend(1)

        share.sending += 1
        timer = self._clock.call_later(LATE_SECONDS, is_late)
        try:
            yield
            ended = True
        finally:
            timer.cancel()
            share.sending -= 1
            if late:
                share.late -= 1
                self._slots.lend(-1)
            elif ended:
                share.is_slow = False
            if not share.sending and (not share.is_slow or len(self._shares) > _KEPT):
                del self._shares[of]

    async def set_aside(self, destination: Destination, agent: str) -> int:
        """Delays what waits for a destination that has no room. Returns when it is due, in ms by the server's clock.
        `agent`: its name on the delivery queue. While that is being done, a second call does nothing else."""
        now_ms = self._now_ms()
        due_ms = (now_ms // PERIOD_MS + 2) * PERIOD_MS
        aside = self._aside.setdefault(agent, _Aside())
        if len(self._aside) > _KEPT:
            del self._aside[next(iter(self._aside))]
        aside.at = self._clock.monotonic()
        if aside.is_busy:
            return due_ms
        # What was set aside before has come due; that is looked for once.
        before_ms = now_ms if aside.due_ms != due_ms else 0
        aside.is_busy, aside.due_ms = True, due_ms
        try:
            of, named = (self._client, self._keys, self._uid, agent), circuits.key(destination)
            await outages.persist(lambda: circuits.defer(*of, due_ms=due_ms, before_ms=before_ms, of=named))
        finally:
            aside.is_busy = False
        room = self.room(destination)
        if room > 0:  # messages have ended meanwhile
            await self._bring_forward(agent, None if room == math.inf else int(room))
        return due_ms

    async def go_on(self, destination: Destination, agent: str) -> None:
        """Lets a message that was set aside take the place of one that has ended; all of them if the destination isn't
        slow any more."""
        room, aside, now = self.room(destination), self._aside.get(agent), self._clock.monotonic()
        if room == math.inf:
            if aside is not None and not aside.is_busy and now >= aside.brought_at + _PACE_SECONDS:
                aside.brought_at = now
                await self._bring_forward(agent, None)
                if now >= aside.at + FOLLOWS_SECONDS:
                    self._aside.pop(agent, None)
        elif room > 0:
            await self._bring_forward(agent, 1)

    async def _bring_forward(self, agent: str, most: int | None) -> None:
        of = self._client, self._keys, self._uid, agent
        period = self._now_ms() // PERIOD_MS
        for due_ms in ((period + 1) * PERIOD_MS, (period + 2) * PERIOD_MS):
            brought = await outages.persist(lambda at=due_ms: circuits.bring_forward(*of, due_ms=at, most=most))  # type: ignore[misc]
            if most is not None and brought >= most:
                return

    def _now_ms(self) -> int:
        return int(self._state.store_time().timestamp() * 1000)
