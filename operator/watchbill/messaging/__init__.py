"""Messages, locks and limits over Redis or Valkey, for agents and for programs beside them (seed 001).

Each class comes twice: as it is, and as `Async…` with coroutines. Both are thin shells (shells.py) around one core that
does no I/O and yields its steps (steps.py). May not know crews, tasks or settings.
"""

from __future__ import annotations

from watchbill.messaging.client import AsyncRedisClient, RedisClient
from watchbill.messaging.config import RedisConfig
from watchbill.messaging.limiter import AsyncRedisRateLimiter, RateDecision, RedisRateLimiter
from watchbill.messaging.lock import AsyncRedisLock, RedisLock
from watchbill.messaging.pubsub import AsyncRedisPubSub, RedisPubSub
from watchbill.messaging.stream import AsyncRedisStream, RedisStream

__all__ = [
    "AsyncRedisClient",
    "AsyncRedisLock",
    "AsyncRedisPubSub",
    "AsyncRedisRateLimiter",
    "AsyncRedisStream",
    "RateDecision",
    "RedisClient",
    "RedisConfig",
    "RedisLock",
    "RedisPubSub",
    "RedisRateLimiter",
    "RedisStream",
]
