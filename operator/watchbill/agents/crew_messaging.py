"""The bus, streams, locks and limits of a crew, for its agents: classes of watchbill.messaging on keys of the crew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import redis
import redis.asyncio

from watchbill.messaging import (
    AsyncRedisLock,
    AsyncRedisPubSub,
    AsyncRedisRateLimiter,
    AsyncRedisStream,
    RedisLock,
    RedisPubSub,
    RedisRateLimiter,
    RedisStream,
)


class CrewMessaging:
    """The messaging of one run of an agent. It uses its worker's connections; the names of keys and channels begin with
    the crew's prefix."""

    __slots__ = ("_blocking", "_bus", "_bus_sync", "_client", "_prefix")

    def __init__(self, prefix: str, client: redis.asyncio.Redis, blocking: Callable[[], redis.Redis]) -> None:
        """`blocking` returns a client for threads, which belongs to the worker as `client` does."""
        self._prefix = prefix
        self._client = client
        self._blocking = blocking
        self._bus: AsyncRedisPubSub | None = None
        self._bus_sync: RedisPubSub | None = None

    @property
    def is_open(self) -> bool:
        """True once the agent has used the bus, which must be closed then."""
        return self._bus is not None or self._bus_sync is not None

    def bus(self) -> AsyncRedisPubSub:
        if self._bus is None:
            self._bus = AsyncRedisPubSub(self._client, key_prefix=self._prefix)
        return self._bus

    def bus_sync(self) -> RedisPubSub:
        if self._bus_sync is None:
            self._bus_sync = RedisPubSub(self._blocking(), key_prefix=self._prefix)
        return self._bus_sync

    def stream(self, name: str, **options: Any) -> AsyncRedisStream:
        return AsyncRedisStream(name, self._client, key_prefix=self._prefix, **options)

    def stream_sync(self, name: str, **options: Any) -> RedisStream:
        return RedisStream(name, self._blocking(), key_prefix=self._prefix, **options)

    def lock(self, name: str, expire: float | timedelta) -> AsyncRedisLock:
        return AsyncRedisLock(name, expire, self._client, key_prefix=self._prefix)

    def lock_sync(self, name: str, expire: float | timedelta) -> RedisLock:
        return RedisLock(name, expire, self._blocking(), key_prefix=self._prefix)

    def limiter(self, name: str, rate: int, period: float | timedelta) -> AsyncRedisRateLimiter:
        return AsyncRedisRateLimiter(name, rate, period, self._client, key_prefix=self._prefix)

    def limiter_sync(self, name: str, rate: int, period: float | timedelta) -> RedisRateLimiter:
        return RedisRateLimiter(name, rate, period, self._blocking(), key_prefix=self._prefix)

    async def close(self) -> None:
        """Ends what the agent has left listening."""
        if self._bus is not None:
            await self._bus.close()
        if self._bus_sync is not None:
            await asyncio.to_thread(self._bus_sync.close)
