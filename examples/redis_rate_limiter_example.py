"""Agents that share a limit of five calls a second, and come back exactly when the next one is allowed.

    python examples/redis_rate_limiter_example.py

It needs a Redis or Valkey: the one that WATCHBILL_REDIS_URL names, else localhost:6379 (docs/messaging.md).
"""

from __future__ import annotations

import asyncio
import uuid

from watchbill.messaging import AsyncRedisClient, AsyncRedisRateLimiter

MODEL = f"model-{uuid.uuid4().hex[:8]}"  # so that each run of this example has a limit of its own


async def agent(name: str, client: AsyncRedisClient, calls: list[str]) -> None:
    """Makes four calls, and waits for its turn before each."""
    limiter = AsyncRedisRateLimiter("example-models", rate=5, period=1, client=client)
    for _ in range(4):
        decision = await limiter.decide(MODEL)
        while not decision.allowed:
            await asyncio.sleep(decision.retry_after)
            decision = await limiter.decide(MODEL)
        calls.append(name)


async def main() -> None:
    calls: list[str] = []
    began = asyncio.get_running_loop().time()
    async with AsyncRedisClient() as client:
        await asyncio.gather(*(agent(name, client, calls) for name in ("Ann", "Ben")))
    took = asyncio.get_running_loop().time() - began
    print(f"{len(calls)} calls took {'a second or more' if took >= 1 else 'too little'}")


if __name__ == "__main__":
    asyncio.run(main())
