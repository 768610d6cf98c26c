"""The bell: an idle worker waits at the store, and claims the moment something was put on the crew's queue."""

from __future__ import annotations

import asyncio
from typing import Final

import redis

from watchbill.errors import CrewGone, Fenced, StoreRefuses
from watchbill.loggers import Logger
from watchbill.store.queue import BATCH, Queue
from watchbill.worker.incarnation import Incarnation
from watchbill.worker.lease_keeper import LeaseKeeper
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

_AGAIN_SECONDS: Final = 2.0
"""After so long an idle worker claims though no bell rang, until a claim says otherwise."""


class Bell:
    """Waits for the bell, with a claim right behind it. Nothing else claims while it waits."""

    def __init__(self, state: WorkerState, queue: Queue, keeper: LeaseKeeper) -> None:
        self._state = state
        self._queue = queue
        self._keeper = keeper
        self._waiting: asyncio.Task[None] | None = None
        self._deaf = False
        self.again_seconds = _AGAIN_SECONDS

    @property
    def is_waiting(self) -> bool:
        return self._waiting is not None

    def wait(self, incarnation: Incarnation, room: int) -> None:
        """Begins to wait, unless it waits already or can't hear. Its claim asks for `room` tasks."""
        if self._waiting is None and not self._deaf:
            incarnation.number += 1
            listening = self._listen(incarnation, incarnation.number, min(room, BATCH))
            self._waiting = asyncio.create_task(listening, name="bell")

    async def stop(self) -> bool:
        """Stops waiting. Returns whether it waited; its claim may have been made all the same."""
        waiting = self._waiting
        if waiting is None:
            return False
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        self._waiting = None
        return True

    async def silence(self, incarnation: Incarnation) -> None:
        """Stops waiting, and holds the tasks of a claim that was made."""
        if await self.stop() and incarnation.heard is None:
            # Asked again under its number, a claim that was made gives the same tasks; any other is never made.
            number = incarnation.number
            incarnation.heard = await self._state.persist(
                lambda: self._queue.claim(incarnation.name, number, 0, lease_ms=self._keeper.lease_ms, take_over=False)
            )
        if incarnation.heard is not None:
            incarnation.held += incarnation.heard.tasks
            incarnation.heard = None

    async def _listen(self, incarnation: Incarnation, number: int, room: int) -> None:
        state = self._state
        try:
            claim, unheard = await state.persist(
                lambda: self._queue.claim_at_bell(
                    incarnation.name,
                    number,
                    room,
                    lease_ms=self._keeper.lease_ms,
                    take_over=self._keeper.may_take_over,
                    timeout_seconds=self.again_seconds,
                )
            )
            self._keeper.store_answered()
        except (Fenced, CrewGone) as error:
            state.end_incarnation(incarnation.name, error)
        except (StoreRefuses, redis.exceptions.RedisError):
            logger.exception("can't claim; trying again in %.0f s", self.again_seconds)
            self._go_deaf()
        else:
            incarnation.heard = claim
            state.has_work = len(claim.tasks) >= room
            if unheard is not None:  # a right that was taken away, say: it may come back
                logger.error("can't hear the bell; looking every %.0f s instead: %s", self.again_seconds, unheard)
                self._go_deaf()
        finally:
            self._waiting = None
            state.wake.set()

    def _go_deaf(self) -> None:
        def claim_again() -> None:
            self._deaf = False
            self._state.has_work = True
            self._state.wake.set()

        self._deaf = True
        self._state.clock.call_later(self.again_seconds, claim_again)
