"""RedisRateLimiter and AsyncRedisRateLimiter: a limit that holds in every window, by the server's clock.

Not a counter for each window, because: twice the rate passes where two windows meet. Not GCRA with a burst, because: it
lets pass up to twice the rate in one window. Not the `limits` package, because: it takes the client's clock.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import redis
import redis.asyncio

from watchbill import message_names
from watchbill.messaging import checks
from watchbill.messaging.shells import Async, Blocking
from watchbill.messaging.steps import Script, Steps

RATE_MAX: Final = 1_000_000
"""The server keeps an entry of about 80 bytes for each call in the window."""


@dataclass(frozen=True, slots=True)
class RateDecision:
    """The answer to one call."""

    allowed: bool
    remaining: int
    """Calls that are allowed now besides this one."""
    retry_after: float
    """Seconds until another call is allowed, by the server's clock; 0 if one is now."""


# ---------------------------------------------------------------- the core


class LimiterCore:
    """The limit, and what the script is asked."""

    def __init__(self, prefix: str, rate: int, period: float | timedelta, key_prefix: str) -> None:
        self._prefix = checks.text(prefix, "prefix")
        self._key_prefix = checks.prefix(key_prefix)
        rate = checks.whole(rate, "rate", least=1, most=RATE_MAX)
        self._limit = (str(rate), f"{checks.seconds(period, 'period') * 1e6:.0f}")

    def decide(self, key: str) -> Steps[RateDecision]:
        return (yield from self._ask(key, secrets.token_hex(8)))

    def is_allowed(self, key: str) -> Steps[bool]:
        return (yield from self.decide(key)).allowed

    def retry_after(self, key: str) -> Steps[float]:
        return (yield from self._ask(key, "")).retry_after

    def remaining(self, key: str) -> Steps[int]:
        return (yield from self._ask(key, "")).remaining

    def _ask(self, key: str, call: str) -> Steps[RateDecision]:
        log = message_names.rate_log(self._prefix, checks.text(key, "key"), self._key_prefix)
        allowed, remaining, wait_us = yield Script("limit", (log,), (*self._limit, call))
        return RateDecision(allowed == 1, int(remaining), int(wait_us) / 1e6)


# ---------------------------------------------------------------- the shells


class RedisRateLimiter(Blocking):
    """Allows `rate` calls for each key in any `period` seconds, by the server's clock, however many processes ask.

    No window of that length has more, wherever it begins. A denied call costs nothing, so that somebody who asks all
    the time still gets the full rate. `prefix` names what is limited; limiters with the same name share their calls,
    and should have the same rate and period. The keys are `wb:rate:PREFIX:KEY`; `key_prefix` stands in the place of
    `wb:`.
    """

    def __init__(
        self,
        prefix: str,
        rate: int = 10,
        period: float | timedelta = 1.0,
        client: Blocking | redis.Redis | None = None,
        *,
        key_prefix: str = message_names.KEY_PREFIX,
    ) -> None:
        """Raises InvalidInput for an empty prefix, a rate that is no whole number from 1 to a million, or a period of
        less than a millisecond."""
        self._core = LimiterCore(prefix, rate, period, key_prefix)
        super().__init__(client)

    def is_allowed(self, key: str) -> bool:
        """Returns whether the call is within the limit; if so, it counts. Raises StoreUnavailable during an outage: the
        caller chooses whether to let calls pass then."""
        return self._do(self._core.is_allowed(key))

    def decide(self, key: str) -> RateDecision:
        """Does what `is_allowed` does, and says also how many calls remain and when to come back."""
        return self._do(self._core.decide(key))

    def retry_after(self, key: str) -> float:
        """Seconds until a call is allowed; 0 if one is now. Counts nothing."""
        return self._do(self._core.retry_after(key))

    def remaining(self, key: str) -> int:
        """The number of calls that are allowed now. Counts nothing."""
        return self._do(self._core.remaining(key))


class AsyncRedisRateLimiter(Async):
    """RedisRateLimiter with coroutines."""

    def __init__(
        self,
        prefix: str,
        rate: int = 10,
        period: float | timedelta = 1.0,
        client: Async | redis.asyncio.Redis | None = None,
        *,
        key_prefix: str = message_names.KEY_PREFIX,
    ) -> None:
        """Raises InvalidInput as RedisRateLimiter does."""
        self._core = LimiterCore(prefix, rate, period, key_prefix)
        super().__init__(client)

    async def is_allowed(self, key: str) -> bool:
        """Does what RedisRateLimiter.is_allowed does."""
        return await self._do(self._core.is_allowed(key))

    async def decide(self, key: str) -> RateDecision:
        """Does what RedisRateLimiter.decide does."""
        return await self._do(self._core.decide(key))

    async def retry_after(self, key: str) -> float:
        """Does what RedisRateLimiter.retry_after does."""
        return await self._do(self._core.retry_after(key))

    async def remaining(self, key: str) -> int:
        """Does what RedisRateLimiter.remaining does."""
        return await self._do(self._core.remaining(key))
