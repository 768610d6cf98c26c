"""RQ: one job at a time per process, so a pool of processes."""

# /// script
# dependencies = ["rq", "redis[hiredis]"]
# ///
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from bench.peers.producing import CHUNK, CONCURRENCY, RESULT_SECONDS, URL, WAIT_SECONDS, serve, worker
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.registry import StartedJobRegistry

NOOP = "bench.peers.work.perform"


class Rq:
    async def open(self) -> None:
        self.client = Redis.from_url(URL)
        self.queue = Queue(connection=self.client)
        self.started = StartedJobRegistry(queue=self.queue)

    async def submit(self, number: int) -> Job:
        return self.queue.enqueue(NOOP, number, result_ttl=RESULT_SECONDS)

    async def submit_all(self, numbers: Sequence[int]) -> list[Job]:
        jobs = []
        for start in range(0, len(numbers), CHUNK):
            some = numbers[start : start + CHUNK]
            jobs += self.queue.enqueue_many(
                [Queue.prepare_data(NOOP, (number,), result_ttl=RESULT_SECONDS) for number in some]
            )
        return jobs

    async def call(self, number: int) -> Any:
        result = (await self.submit(number)).latest_result(timeout=WAIT_SECONDS)
        return result.return_value if result else None

    async def stored(self, handles: Sequence[Job]) -> list[Any]:
        return [job.return_value() for job in handles]

    async def left(self) -> int:
        return len(self.queue) + self.started.get_job_count(cleanup=False)


if __name__ == "__main__":
    options = [f"--num-workers={CONCURRENCY}", "--worker-class=rq.worker.SimpleWorker", "--logging-level=WARNING"]
    asyncio.run(
        serve(
            Rq(),
            version=version("rq"),
            worker=worker("-m", "rq.cli", "worker-pool", "--quiet", f"--url={URL}", *options),
            guarantee="at most once: a killed worker's job is found and marked failed, and runs again only with Retry",
            settings=f"worker-pool of {CONCURRENCY} SimpleWorker processes (no fork per job), sync function, hiredis, "
            f"enqueue_many of {CHUNK}; waits by a blocking XREAD",
        )
    )
