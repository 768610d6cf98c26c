"""The bell: an idle worker waits at the store, and claims the moment something was put on the crew's queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import redis

from watchbill.errors import CrewGone, Fenced
from watchbill.loggers import Logger
from watchbill.store.queue import BATCH, Claim
from watchbill.worker.incarnation import Incarnation

logger = Logger("watchbill.worker")

_AGAIN_SECONDS: Final = 2.0
"""After so long an idle worker looks though no bell rang, until a claim says otherwise."""


class Bell:
    """One wait at a time, with a claim of its own behind it: nothing else claims meanwhile."""

    def __init__(
        self,
        claim: Callable[[Incarnation, int, int, float], Awaitable[tuple[Claim, Exception | None]]],
        *,
        on_change: Callable[[], None],
        on_lost: Callable[[str, Exception], None],
    ) -> None:
        """`claim` waits for so many seconds at most, and claims: for a life, under a number, so many tasks; it returns
        the error of a bell that couldn't be heard, too. `on_lost` is told of an incarnation that is no more."""
        self._claim = claim
        self._on_change = on_change
        self._on_lost = on_lost
        self._waiting: asyncio.Task[None] | None = None
        self._heard: Claim | None = None
        self._deaf = False
        self.again_seconds = _AGAIN_SECONDS
        self.has_work = True
        """Something may be claimable: the last claim got all that it asked for. Else the bell will tell."""

    @property
    def is_waiting(self) -> bool:
        return self._waiting is not None

    @property
    def has_heard(self) -> bool:
        """There is a claim to be taken."""
        return self._heard is not None

    @property
    def may_claim(self) -> bool:
        """Whether it is worth a claim, and nothing else claims."""
        return self.has_work and self._waiting is None

    def take(self) -> Claim | None:
        """What was claimed, once."""
        heard, self._heard = self._heard, None
        return heard

    def wait(self, me: Incarnation, room: int) -> None:
        """Begins to, with so much room, unless it waits, or can't hear."""
        if self._waiting is None and not self._deaf:
            me.number += 1
            self._waiting = asyncio.create_task(self._listen(me, me.number, min(room, BATCH)), name="bell")

    async def stop(self) -> bool:
        """Waits no longer; whether it did. Its claim may have been made all the same."""
        waiting = self._waiting
        if waiting is None:
            return False
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        self._waiting = None
        return True

    async def _listen(self, me: Incarnation, number: int, room: int) -> None:
        try:
            claim, unheard = await self._claim(me, number, room, self.again_seconds)
        except (Fenced, CrewGone) as error:
            self._on_lost(me.name, error)
        except redis.exceptions.RedisError:
            logger.exception("can't claim; trying again in %.0f s", self.again_seconds)
            self._go_deaf()
        else:
            self._heard = claim
            self.has_work = len(claim.tasks) >= room
            if unheard is not None:  # a right that was taken away, say: it may come back
                logger.error("can't hear the bell; looking every %.0f s instead: %s", self.again_seconds, unheard)
                self._go_deaf()
        finally:
            self._waiting = None
            self._on_change()

    def _go_deaf(self) -> None:
        def look() -> None:
            self._deaf = False
            self.has_work = True
            self._on_change()

        self._deaf = True
        asyncio.get_running_loop().call_later(self.again_seconds, look)
