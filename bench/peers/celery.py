"""Celery over Redis, with its prefork pool or with threads (BENCH_VARIANT)."""

# /// script
# dependencies = ["celery[redis]", "redis[hiredis]"]
# ///
from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from bench.peers.producing import CONCURRENCY, RESULT_SECONDS, URL, WAIT_SECONDS, serve, worker
from bench.peers.work import perform
from celery import Celery
from redis import Redis

POOL = os.environ["BENCH_VARIANT"]
PREFETCH = 64

app = Celery("bench", broker=URL, backend=URL)
app.conf.update(
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    result_expires=RESULT_SECONDS,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=PREFETCH,
)


@app.task(name="noop")
def noop(number: int) -> dict[str, int]:
    return perform(number)


class CeleryPeer:
    async def open(self) -> None:
        self.client = Redis.from_url(URL)

    async def submit(self, number: int) -> Any:
        return noop.delay(number)

    async def submit_all(self, numbers: Sequence[int]) -> list[Any]:
        with app.producer_pool.acquire(block=True) as producer:
            return [noop.apply_async((number,), producer=producer) for number in numbers]

    async def call(self, number: int) -> Any:
        return noop.delay(number).get(timeout=WAIT_SECONDS)

    async def stored(self, handles: Sequence[Any]) -> list[Any]:
        backend = app.backend
        found = backend.mget([backend.get_key_for_task(task.id) for task in handles])
        return [backend.decode_result(raw)["result"] if raw else None for raw in found]

    async def left(self) -> int:
        return int(self.client.llen("celery")) + int(self.client.hlen("unacked"))  # type: ignore[arg-type]


if __name__ == "__main__":
    options = ["--loglevel=WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    pool = [f"--pool={POOL}", f"--concurrency={CONCURRENCY}"]
    asyncio.run(
        serve(
            CeleryPeer(),
            version=version("celery"),
            worker=worker("-m", "celery", "-A", "bench.peers.celery", "worker", *pool, *options),
            guarantee="at least once (acks_late): a killed worker's tasks come back after 1 h (visibility_timeout)",
            settings=f"{POOL} pool of {CONCURRENCY}, sync, acks_late, reject_on_worker_lost, prefetch x{PREFETCH}, "
            "no gossip, mingle or heartbeat, hiredis; no bulk call: apply_async over one producer; waits by pub/sub",
        )
    )
