"""streaQ: asyncio, Redis streams, with scripts in Lua; waiters hear by pub/sub.

Its latency holds the 100 ms that coredis takes to close the subscription of a waiter who has his result already.
"""

# /// script
# dependencies = ["streaq", "uvloop"]
# ///
from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import uvloop
from bench.peers.producing import CHUNK, CONCURRENCY, RESULT_SECONDS, URL, WAIT_SECONDS, serve, worker
from bench.peers.work import perform
from streaq import Worker

queue: Worker[None] = Worker(redis_url=URL, concurrency=CONCURRENCY, anyio_kwargs={"use_uvloop": True})


@queue.task(name="noop", ttl=RESULT_SECONDS, silent=True)
async def noop(number: int) -> dict[str, int]:
    return perform(number)


class Streaq:
    async def open(self) -> None: ...

    async def submit(self, number: int) -> str:
        return (await noop.enqueue(number)).id

    async def submit_all(self, numbers: Sequence[int]) -> list[str]:
        ids = []
        for start in range(0, len(numbers), CHUNK):
            tasks = [noop.enqueue(number) for number in numbers[start : start + CHUNK]]
            await queue.enqueue_many(tasks)
            ids += [task.id for task in tasks]
        return ids

    async def call(self, number: int) -> Any:
        task = await noop.enqueue(number)
        return (await task.result(WAIT_SECONDS)).result

    async def stored(self, handles: Sequence[str]) -> list[Any]:
        # its own way subscribes for each: for what is there already, the key is enough
        found = await queue.redis.mget([queue.results_key + task_id for task_id in handles])
        return [(await queue.deserialize(raw))["r"] if raw else None for raw in found]

    async def left(self) -> int:
        return await queue.queue_size()


async def main() -> None:
    async with queue:
        await serve(
            Streaq(),
            version=version("streaq"),
            worker=worker("-m", "bench.peers.streaq", "work"),
            guarantee="at least once: a killed worker's tasks are claimed after 60 s (idle_timeout)",
            settings=f"concurrency {CONCURRENCY} and as much prefetched (default), uvloop, no log line per task, "
            f"enqueue_many of {CHUNK}; waits by pub/sub, of whose latency 100 ms are coredis closing it",
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        logging.basicConfig(level=logging.WARNING)
        queue.run_sync()
    else:
        uvloop.run(main())
