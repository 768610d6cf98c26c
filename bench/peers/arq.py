"""arq: asyncio, a sorted set that is polled."""

# /// script
# dependencies = ["arq", "redis[hiredis]", "uvloop"]
# ///
from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import arq
import uvloop
from arq.connections import RedisSettings
from arq.jobs import Job
from bench.peers.producing import CONCURRENCY, RESULT_SECONDS, URL, WAIT_SECONDS, serve, together, worker
from bench.peers.work import perform

POLL_SECONDS = 0.001
AT_ONCE = 20


async def noop(_: dict[Any, Any], number: int) -> dict[str, int]:
    return perform(number)


class WorkerSettings:
    functions = (arq.func(noop, name="noop"),)
    redis_settings = RedisSettings.from_dsn(URL)
    max_jobs = CONCURRENCY
    poll_delay = POLL_SECONDS
    keep_result = RESULT_SECONDS
    log_results = False


class Arq:
    async def open(self) -> None:
        self.pool = await arq.create_pool(RedisSettings.from_dsn(URL))

    async def submit(self, number: int) -> Any:
        return await self.pool.enqueue_job("noop", number)

    async def submit_all(self, numbers: Sequence[int]) -> list[Any]:
        return await together([partial(self.submit, number) for number in numbers], AT_ONCE)

    async def call(self, number: int) -> Any:
        return await (await self.submit(number)).result(WAIT_SECONDS, poll_delay=POLL_SECONDS)

    async def stored(self, handles: Sequence[Job]) -> list[Any]:
        infos = await together([job.result_info for job in handles], AT_ONCE)
        return [info.result if info else None for info in infos]

    async def left(self) -> int:
        return int(await self.pool.zcard("arq:queue"))


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        logging.basicConfig(level=logging.WARNING)
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.set_event_loop(asyncio.new_event_loop())
        arq.run_worker(WorkerSettings)  # type: ignore[arg-type]
    else:
        uvloop.run(
            serve(
                Arq(),
                version=version("arq"),
                worker=worker("-m", "bench.peers.arq", "work"),
                guarantee="at least once: a killed worker's jobs run again after job_timeout + 10 s (310 s)",
                settings=f"max_jobs {CONCURRENCY}, poll_delay 1 ms (default 500) for worker and waiter, uvloop, "
                f"hiredis, no log line per job; no bulk call: {AT_ONCE} enqueue_job at once",
            )
        )
