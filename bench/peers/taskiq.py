"""taskiq with its Redis streams broker (taskiq-redis)."""

# /// script
# dependencies = ["taskiq", "taskiq-redis", "redis[hiredis]", "uvloop", "orjson"]
# ///
from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import uvloop
from bench.peers.producing import CONCURRENCY, RESULT_SECONDS, URL, WAIT_SECONDS, serve, together, worker
from bench.peers.work import perform
from redis.asyncio import Redis
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker
from taskiq_redis.exceptions import ResultIsMissingError

POLL_SECONDS = 0.001
AT_ONCE = 20
STREAM = "taskiq"

results: RedisAsyncResultBackend[Any] = RedisAsyncResultBackend(
    URL, result_ex_time=RESULT_SECONDS, serializer=ORJSONSerializer()
)
broker = RedisStreamBroker(URL, queue_name=STREAM).with_result_backend(results).with_serializer(ORJSONSerializer())


@broker.task(task_name="noop")
async def noop(number: int) -> dict[str, int]:
    return perform(number)


class Taskiq:
    async def open(self) -> None:
        await broker.startup()
        self.client = Redis.from_url(URL)

    async def submit(self, number: int) -> Any:
        return await noop.kiq(number)

    async def submit_all(self, numbers: Sequence[int]) -> list[Any]:
        return await together([partial(self.submit, number) for number in numbers], AT_ONCE)

    async def call(self, number: int) -> Any:
        task = await self.submit(number)
        return (await task.wait_result(check_interval=POLL_SECONDS, timeout=WAIT_SECONDS)).return_value

    async def stored(self, handles: Sequence[Any]) -> list[Any]:
        async def read(task: Any) -> Any:
            try:
                return (await results.get_result(task.task_id)).return_value
            except ResultIsMissingError:
                return None

        return await together([partial(read, task) for task in handles], AT_ONCE)

    async def left(self) -> int:
        (group,) = await self.client.xinfo_groups(STREAM)
        return int(group["lag"]) + int(group["pending"])


if __name__ == "__main__":
    options = [f"--max-async-tasks={CONCURRENCY}", "--workers=1", "--ack-type=when_saved", "--log-level=WARNING"]
    uvloop.run(
        serve(
            Taskiq(),
            version=f"{version('taskiq')}, redis {version('taskiq-redis')}",
            worker=worker("-m", "taskiq", "worker", "bench.peers.taskiq:broker", *options),
            guarantee="at least once: a killed worker's tasks are claimed after 10 minutes (idle_timeout)",
            settings=f"RedisStreamBroker, 1 process, max-async-tasks {CONCURRENCY}, ack when saved, orjson, uvloop, "
            f"hiredis, waiter polls each ms (default 200); no bulk call: {AT_ONCE} kiq at once; stream never trimmed",
        )
    )
