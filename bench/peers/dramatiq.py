"""Dramatiq over Redis: threads, and a queue that is polled."""

# /// script
# dependencies = ["dramatiq[redis]", "redis[hiredis]"]
# ///
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import dramatiq
from bench.peers.producing import CONCURRENCY, RESULT_SECONDS, URL, WAIT_SECONDS, serve, worker
from bench.peers.work import perform
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import ResultMissing, Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL), store_results=True, result_ttl=RESULT_SECONDS * 1000))
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="noop")
def noop(number: int) -> dict[str, int]:
    return perform(number)


class Dramatiq:
    async def open(self) -> None: ...

    async def submit(self, number: int) -> Any:
        return noop.send(number)

    async def submit_all(self, numbers: Sequence[int]) -> list[Any]:
        return list(dramatiq.group(noop.message(number) for number in numbers).run().children)

    async def call(self, number: int) -> Any:
        return noop.send(number).get_result(block=True, timeout=WAIT_SECONDS * 1000)

    async def stored(self, handles: Sequence[Any]) -> list[Any]:
        def read(message: Any) -> Any:
            try:
                return message.get_result()
            except ResultMissing:
                return None

        return [read(message) for message in handles]

    async def left(self) -> int:
        return int(broker.client.hlen("dramatiq:default.msgs"))  # type: ignore[arg-type]


if __name__ == "__main__":
    options = ["--processes=1", f"--threads={CONCURRENCY}"]
    asyncio.run(
        serve(
            Dramatiq(),
            version=version("dramatiq"),
            worker=worker("-m", "dramatiq", "bench.peers.dramatiq", *options),
            guarantee="at least once: a killed worker's messages come back after 60 s (heartbeat_timeout)",
            settings=f"1 process of {CONCURRENCY} threads, sync actor, Results middleware, hiredis; "
            "no bulk call: group().run(); waits by BRPOPLPUSH",
        )
    )
