"""The floor: the least Python that is still an at-least-once Streams worker. No retries, leases, states or events.

Reads as many entries as it may run at once, runs them, stores the results and acknowledges all of them in one
pipeline; what a dead worker held would stay pending, for somebody to claim. Results are read from their keys, waiters
are told by a message. `floor` holds as many tasks as everyone may run at once; `floor-100` (BENCH_VARIANT) a hundred,
which is more than concurrency 10 allows, and shows what larger batches would give.
"""

# /// script
# dependencies = ["redis[hiredis]", "uvloop"]
# ///
from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import redis.asyncio
import uvloop
from bench.peers.producing import CHUNK, CONCURRENCY, RESULT_SECONDS, URL, serve, worker
from bench.peers.work import perform

COUNT = int(os.environ["BENCH_VARIANT"] or CONCURRENCY)
STREAM, GROUP, REPLIES = "floor:tasks", "workers", "floor:replies"


async def noop(number: int) -> dict[str, int]:
    return perform(number)


async def work() -> None:
    client = redis.asyncio.Redis.from_url(URL, decode_responses=True)
    stopped = asyncio.current_task()
    assert stopped is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.cancel)
    consumer = str(os.getpid())
    while True:
        batch: Any = await client.xreadgroup(GROUP, consumer, {STREAM: ">"}, count=COUNT, block=2000)
        if not batch:
            continue
        entries = batch[STREAM][0] if isinstance(batch, dict) else batch[0][1]
        results = await asyncio.gather(*(noop(int(fields["n"])) for _, fields in entries))
        async with client.pipeline(transaction=True) as pipe:
            for (entry, fields), result in zip(entries, results, strict=True):
                pipe.set(f"floor:result:{fields['n']}", json.dumps(result), ex=RESULT_SECONDS)
                pipe.xack(STREAM, GROUP, entry)
                pipe.xdel(STREAM, entry)
                if "reply" in fields:
                    pipe.publish(fields["reply"], fields["n"])
            await pipe.execute()


class Floor:
    async def open(self) -> None:
        self.client = redis.asyncio.Redis.from_url(URL, decode_responses=True)
        await self.client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        self.replies = self.client.pubsub(ignore_subscribe_messages=True)
        await self.replies.subscribe(REPLIES)
        await self.replies.get_message(ignore_subscribe_messages=False, timeout=1)

    async def submit(self, number: int) -> int:
        await self.client.xadd(STREAM, {"n": number})
        return number

    async def submit_all(self, numbers: Sequence[int]) -> list[int]:
        for start in range(0, len(numbers), CHUNK):
            async with self.client.pipeline(transaction=False) as pipe:
                for number in numbers[start : start + CHUNK]:
                    pipe.xadd(STREAM, {"n": number})
                await pipe.execute()
        return list(numbers)

    async def call(self, number: int) -> Any:
        await self.client.xadd(STREAM, {"n": number, "reply": REPLIES})
        while await self.replies.get_message(timeout=5) is None:
            pass
        return (await self.stored([number]))[0]

    async def stored(self, handles: Sequence[int]) -> list[Any]:
        found = await self.client.mget([f"floor:result:{number}" for number in handles])
        return [json.loads(result) if result else None for result in found]

    async def left(self) -> int:
        return int(await self.client.xlen(STREAM))


if __name__ == "__main__":
    with suppress(asyncio.CancelledError):
        uvloop.run(
            work()
            if sys.argv[1:] == ["work"]
            else serve(
                Floor(),
                version=f"Python {platform.python_version()}",
                worker=worker("-m", "bench.peers.floor", "work"),
                guarantee="at least once, if somebody claims what a dead worker held (nobody does here)",
                settings=f"XREADGROUP COUNT {COUNT}, one pipeline per batch, hiredis, uvloop",
            )
        )
