"""Streams and a cache for a network of agents, with the names of seed 002: all of it asynchronous.

A stream is `watchbill.messaging`'s, named at each call. May not know crews, tasks or settings.
"""

from __future__ import annotations

from watchbill.network.cache import RedisCache
from watchbill.network.stream import RedisStream

__all__ = ["RedisCache", "RedisStream"]
