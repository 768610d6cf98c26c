"""SAQ: asyncio, lists and BLMOVE; waiters poll.

It imports typing_extensions, which it asks for on older Pythons only. Its sweep takes a job that was just dequeued for
a stuck one and runs it again (or, with one try only, aborts it): a worker that starts on a full queue does that to the
first jobs (github.com/tobymao/saq/issues/124 and /277). So the producer takes the sweep's lock first, as another
worker might have it.
"""

# /// script
# dependencies = ["saq[hiredis]", "uvloop", "typing_extensions"]
# ///
from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import uvloop
from bench.peers.producing import CONCURRENCY, RESULT_SECONDS, URL, WAIT_SECONDS, serve, together, worker
from bench.peers.work import perform
from saq import Queue
from saq.runner import run

POLL_SECONDS = 0.001
AT_ONCE = 20  # SAQ's own max_concurrent_ops

queue = Queue.from_url(URL)


async def noop(_: Any, *, number: int) -> dict[str, int]:
    return perform(number)


settings = {"queue": queue, "functions": [("noop", noop)], "concurrency": CONCURRENCY}


class Saq:
    async def open(self) -> None:
        await queue.connect()
        await queue.sweep(lock=3600)

    async def submit(self, number: int) -> str:
        job = await queue.enqueue("noop", number=number, ttl=RESULT_SECONDS, retries=3)
        assert job is not None
        return job.key

    async def submit_all(self, numbers: Sequence[int]) -> list[str]:
        return await together([partial(self.submit, number) for number in numbers], AT_ONCE)

    async def call(self, number: int) -> Any:
        return await queue.apply(
            "noop", timeout=WAIT_SECONDS, poll_interval=POLL_SECONDS, number=number, ttl=RESULT_SECONDS, retries=3
        )

    async def stored(self, handles: Sequence[str]) -> list[Any]:
        return [job.result if job else None for job in await queue.jobs(handles)]

    async def left(self) -> int:
        return await queue.count("incomplete")


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        run("bench.peers.saq.settings")
    else:
        uvloop.run(
            serve(
                Saq(),
                version=version("saq"),
                worker=worker("-m", "bench.peers.saq", "work"),
                guarantee="at least once with retries=3: jobs past their timeout (10 s) are swept up, each 60 s; "
                "a sweep may also run a job again that has just been started",
                settings=f"concurrency {CONCURRENCY}, retries 3 (default 1 aborts a swept job), uvloop, hiredis, "
                f"no sweep meanwhile; no bulk call: {AT_ONCE} enqueue at once; waiter polls each ms (default 500)",
            )
        )
