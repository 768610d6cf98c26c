"""RedisLock and AsyncRedisLock: one holder at a time, with renewal and a fencing number.

Not redis-py's Lock, because: it has no fencing number, doesn't renew, and leaves its holder to guess when it is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import redis
import redis.asyncio

from watchbill import message_names
from watchbill.clock import SYSTEM, Clock, Patience
from watchbill.errors import Closed, LockLost
from watchbill.loggers import Logger
from watchbill.messaging import checks
from watchbill.messaging.shells import FAILURES, Async, Blocking
from watchbill.messaging.steps import Pause, Script, Step, Steps

logger = Logger("watchbill.messaging.lock")

T = TypeVar("T")

EXPIRE_SECONDS: Final = 10.0
RETRIES: Final = 3
RETRY_DELAY_SECONDS: Final = 0.2
LEAVE_SECONDS: Final = 2.0
"""A task that is cancelled waits for so long that the server answers: else a lock might be nobody's until it ends."""
FENCE_DAYS: Final = 1
"""So long after a lock was last taken, its fence grows by one at least. After that it is the server's time alone."""


# ---------------------------------------------------------------- the core


@dataclass(slots=True)
class Holding:
    """One acquisition, from when it was granted until it is released."""

    token: str
    fence: int
    ends_at: float
    """By the holder's monotonic clock, counted from before the request was sent: the server's expiry is later."""
    is_lost: bool = False


class LockCore:
    """The decisions of a lock's holder. `clock` is asked for the monotonic time only."""

    def __init__(self, name: str, expire: float | timedelta, key_prefix: str, clock: Clock) -> None:
        self.name = checks.text(name, "name")
        self.expire = checks.seconds(expire, "expire", least=0.01)
        self.key = message_names.lock(name, checks.prefix(key_prefix))
        self.holding: Holding | None = None
        self._now = clock.monotonic

    def acquire(self, retry: int, retry_delay: float) -> Steps[Holding | None]:
        checks.whole(retry, "retry", least=0, most=1_000_000_000)
        checks.seconds(retry_delay, "retry_delay", least=0)
        for attempt in range(retry + 1):
            if attempt:
                yield Pause(retry_delay * random.uniform(0.5, 1))  # so that those who met don't meet again
            token, asked = secrets.token_hex(16), self._now()
            fence = int((yield Script("lock_acquire", (self.key,), (token, *self._spans(self.expire)))))
            if fence:
                self.holding = Holding(token, fence, asked + self.expire)
                return self.holding
        return None

    def renew(self, holding: Holding | None, expire: float | timedelta | None = None) -> Steps[bool]:
        seconds = self.expire if expire is None else checks.seconds(expire, "expire", least=0.01)
        if holding is None or not self.is_held(holding):
            return False
        asked = self._now()
        if (yield Script("lock_renew", (self.key,), (holding.token, *self._spans(seconds)))) == 1:
            holding.ends_at = asked + seconds
            return True
        holding.is_lost = True
        return False

    def release(self, holding: Holding | None) -> Steps[bool]:
        if holding is None:
            return False
        is_released = (yield Script("lock_release", (self.key,), (holding.token,))) == 1
        if self.holding is holding:
            self.holding = None
        return bool(is_released)

    def end(self, holding: Holding) -> Steps[bool]:
        """Releases the lock at the end of a block. False if it is lost. Asks nobody about a lock that has expired."""
        is_held = self.is_held(holding)
        try:
            return is_held and (yield from self.release(holding))
        except FAILURES as error:
            logger.warning("can't release the lock %r, which ends by itself: %s", self.name, error)
            return is_held
        finally:
            if self.holding is holding:
                self.holding = None

    def is_held(self, holding: Holding | None) -> bool:
        return holding is not None and not holding.is_lost and self._now() < holding.ends_at

    def left(self, holding: Holding) -> float:
        """Seconds until the lock is lost if nobody renews it."""
        return 0.0 if holding.is_lost else max(0.0, holding.ends_at - self._now())

    def pause(self, holding: Holding, is_renewed: bool) -> float:
        """Seconds until the next renewal; sooner after one that failed."""
        return self.expire / 3 if is_renewed else min(self.expire / 10, self.left(holding) / 2)

    def tell_of_failure(self, error: Exception, *, is_first: bool) -> None:
        """Logs that a renewal failed, once in a row of failures."""
        if is_first:
            logger.warning("can't renew the lock %r, and tries again: %s", self.name, error)

    def lost(self) -> LockLost:
        return LockLost(f"the lock {self.name!r} was lost before it was released")

    @staticmethod
    def _spans(seconds: float) -> tuple[str, str]:
        return f"{seconds * 1e6:.0f}", f"{FENCE_DAYS * 86_400_000}"


# ---------------------------------------------------------------- the shells


class RedisLock(Blocking):
    """A lock that one holder has at a time, whichever process or machine it is on.

    The server ends it `expire` seconds after it was taken or last renewed; `acquire_context` renews it by itself. Each
    acquisition has a `fence`, which is greater than all before it: give it along with what you write, and let the
    resource refuse a smaller one than it has seen. For a holder that stood still can't know that its lock is over.

    An object is one holder: threads that compete need an object each. The key is `wb:lock:NAME`; `key_prefix` stands in
    the place of `wb:`.
    """

    def __init__(
        self,
        name: str,
        expire: float | timedelta = EXPIRE_SECONDS,
        client: Blocking | redis.Redis | None = None,
        *,
        key_prefix: str = message_names.KEY_PREFIX,
        clock: Clock = SYSTEM,
    ) -> None:
        """Raises InvalidInput for a name that is empty, or an `expire` of less than 0.01 s."""
        self._core = LockCore(name, expire, key_prefix, clock)
        super().__init__(client)

    def acquire(self, retry: int = RETRIES, retry_delay: float = RETRY_DELAY_SECONDS) -> bool:
        """True if the lock is this object's now. While somebody has it, asks so many times again, with pauses of half
        to all of `retry_delay` seconds, and then returns False. An object that has the lock can't take it again, and
        keeps it."""
        return self._do(self._core.acquire(retry, retry_delay)) is not None

    def release(self) -> bool:
        """True if the lock was this object's until now; False if it had none, or had lost it."""
        return self._do(self._core.release(self._core.holding))

    def renew(self, expire: float | timedelta | None = None) -> bool:
        """True if the lock ends `expire` seconds from now, by default as many as the object was made with. False if it
        is this object's no more: it expired, and somebody else may have it."""
        return self._do(self._core.renew(self._core.holding, expire))

    @property
    def fence(self) -> int | None:
        """The number of the acquisition; None when there is none."""
        return self._core.holding.fence if self._core.holding else None

    @property
    def held(self) -> bool:
        """True if the lock is surely still this object's, as far as it knows without asking the server."""
        return self._core.is_held(self._core.holding)

    @contextlib.contextmanager
    def acquire_context(self, retry: int = RETRIES, retry_delay: float = RETRY_DELAY_SECONDS) -> Iterator[bool]:
        """Yields whether the lock was acquired. If so, a thread renews it, and it is released at the end.

        When it is lost meanwhile, `held` is False from then on, and the end of the block raises LockLost.
        """
        core, done = self._core, threading.Event()
        holding = self._do(core.acquire(retry, retry_delay))
        if holding is None:
            yield False
            return
        renewing = threading.Thread(target=self._renew, args=(holding, done), name="watchbill lock", daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            done.set()
            is_held = self._do(core.end(holding))
        if not is_held:
            raise core.lost()

    def _renew(self, holding: Holding, done: threading.Event) -> None:
        is_renewed = True
        while not done.wait(self._core.pause(holding, is_renewed)):
            try:
                is_renewed = self._do(self._core.renew(holding))
            except Exception as error:
                self._core.tell_of_failure(error, is_first=is_renewed)
                is_renewed = False
            if not self._core.is_held(holding):
                return


class AsyncRedisLock(Async):
    """RedisLock with coroutines. An object is one holder: tasks that compete need an object each."""

    def __init__(
        self,
        name: str,
        expire: float | timedelta = EXPIRE_SECONDS,
        client: Async | redis.asyncio.Redis | None = None,
        *,
        key_prefix: str = message_names.KEY_PREFIX,
        clock: Clock = SYSTEM,
    ) -> None:
        """Raises InvalidInput for a name that is empty, or an `expire` of less than 0.01 s."""
        self._core = LockCore(name, expire, key_prefix, clock)
        super().__init__(client)

    async def acquire(self, retry: int = RETRIES, retry_delay: float = RETRY_DELAY_SECONDS) -> bool:
        """Does what RedisLock.acquire does. A lock that was granted while the task was cancelled is given back."""
        return await self._do(self._core.acquire(retry, retry_delay), self._ask) is not None

    async def release(self) -> bool:
        """Does what RedisLock.release does, also if the task is cancelled meanwhile."""
        return await _to_its_end(self._do(self._core.release(self._core.holding)))

    async def renew(self, expire: float | timedelta | None = None) -> bool:
        """Does what RedisLock.renew does."""
        return await self._do(self._core.renew(self._core.holding, expire))

    @property
    def fence(self) -> int | None:
        """The number of the acquisition; None when there is none."""
        return self._core.holding.fence if self._core.holding else None

    @property
    def held(self) -> bool:
        """True if the lock is surely still this object's, as far as it knows without asking the server."""
        return self._core.is_held(self._core.holding)

    @contextlib.asynccontextmanager
    async def acquire_context(
        self, retry: int = RETRIES, retry_delay: float = RETRY_DELAY_SECONDS
    ) -> AsyncIterator[bool]:
        """Yields whether the lock was acquired. If so, a task renews it, and it is released at the end.

        When it is lost meanwhile, what runs in the block is cancelled, as by asyncio.timeout, and the block raises
        LockLost.
        """
        core = self._core
        holding = await self._do(core.acquire(retry, retry_delay), self._ask)
        if holding is None:
            yield False
            return
        limit = asyncio.timeout(core.left(holding))
        is_held = False
        try:
            async with limit:
                renewing = asyncio.create_task(self._renew(holding, limit), name="watchbill lock")
                try:
                    yield True
                finally:
                    renewing.cancel()
                    await asyncio.gather(renewing, return_exceptions=True)
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            is_held = await _to_its_end(self._do(core.end(holding)))
        if limit.expired() or not is_held:
            raise core.lost()

    async def _ask(self, step: Step) -> Any:
        """Takes a step of an acquisition. If the task is cancelled, gives back what may have been granted."""
        if not isinstance(step, Script):
            return await self._take(step)
        try:
            return await _to_its_end(self._take(step))
        except asyncio.CancelledError:
            with contextlib.suppress(*FAILURES, Closed, TimeoutError):
                async with Patience(LEAVE_SECONDS):
                    await self._take(Script("lock_release", step.keys, step.args[:1]))
            raise

    async def _renew(self, holding: Holding, limit: asyncio.Timeout) -> None:
        is_renewed, loop = True, asyncio.get_running_loop()
        while not limit.expired():
            await asyncio.sleep(self._core.pause(holding, is_renewed))
            try:
                is_renewed = await self._do(self._core.renew(holding))
            except Exception as error:
                self._core.tell_of_failure(error, is_first=is_renewed)
                is_renewed = False
            if not limit.expired():
                limit.reschedule(loop.time() + self._core.left(holding))
            if not self._core.is_held(holding):
                return


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Returns what the work does. If the task is cancelled, the work goes on, and the task ends when that has ended, or
    LEAVE_SECONDS later."""
    going_on = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(going_on)
    except asyncio.CancelledError:
        try:
            await asyncio.wait([going_on], timeout=LEAVE_SECONDS)
        finally:
            going_on.cancel()
            going_on.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody else asks for it
        raise
