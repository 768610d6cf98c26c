# /// script
# dependencies = ["limits", "redis[hiredis]"]
# ///
"""The `limits` package: a moving window, which is a log as ours, by the client's clock.

    python -m bench.peers.limits URL SECONDS RATE PERIOD

Prints what `bench.limiting.measure` finds, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import redis
from bench import limiting
from limits import RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter


def main() -> None:
    url, seconds, rate, period = sys.argv[1], *map(float, sys.argv[2:])
    limiter = MovingWindowRateLimiter(RedisStorage(url))

    def ask(rate: int, period: float, key: str) -> Any:
        item = RateLimitItemPerSecond(rate, int(period))
        return lambda: limiter.hit(item, key)

    with redis.Redis.from_url(url) as client:
        print(json.dumps(limiting.measure(ask, client, seconds, int(rate), period)))


if __name__ == "__main__":
    main()
