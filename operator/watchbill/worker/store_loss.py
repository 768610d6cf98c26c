"""What outlives a store that has lost all it had (QUEUE protocol, §6): agents go on, and their results are written once
the crew, the same one, is back. Whoever is first says on the feed what has happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from watchbill.connection.outages import Persist
from watchbill.store import definitions
from watchbill.store.queue import Finished, Queue
from watchbill.worker.incarnation import Incarnation

OUTLAST_SECONDS: Final = 60.0
"""How long a worker waits for a crew that the store has lost; whoever manages the crew may bring it back."""


class StoreLoss:
    """The lives of a worker whose tasks the store has lost, until they have ended and their results are written."""

    def __init__(
        self, queue: Queue, persist: Persist, account: Callable[[Sequence[Finished], Sequence[str]], None], born: str
    ) -> None:
        """`account` is told what became of results. `born`: since when the store knew the crew at first."""
        self._queue = queue
        self._born = born
        self._persist = persist
        self._account = account
        self.formers: list[Incarnation] = []
        """More than one where the store lost all again meanwhile."""

    @property
    def running(self) -> int:
        """How many of their tasks still run; each has its slot."""
        return sum(len(former.jobs) for former in self.formers)

    async def crew_is_back(self, wake: asyncio.Event, given_up: Callable[[], bool]) -> bool:
        """Waits for the crew; whether it came. `wake` is set when `given_up` may have become true."""
        until = time.monotonic() + OUTLAST_SECONDS
        while True:
            there = await self._persist(lambda: definitions.identity(self._queue.client, self._queue.keys))
            if there.uid == self._queue.uid and await self._persist(self._record_loss):
                return True
            if there.uid or there.leaving or given_up() or time.monotonic() >= until:
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(0.25):
                    await wake.wait()
                    await asyncio.sleep(0.05)
            wake.clear()

    async def _record_loss(self) -> bool:
        return await definitions.record_loss(self._queue.client, self._queue.keys, self._queue.uid, self._born)

    async def write(self) -> None:
        """Writes the results that there are."""
        for former in list(self.formers):
            ended = list(former.finished)
            finished = [f for f in ended if f.result]
            outcomes = await self._persist(partial(self._queue.recover, finished, former.born))
            self._account(finished, outcomes)
            del former.finished[: len(ended)]  # only now: the store may have lost the crew again
            if not former.jobs and not former.finished:
                self.formers.remove(former)
