"""Speed of the task queue beside the floor: the least Python that is still an at-least-once Streams worker.

    python bench/throughput.py [--tasks 20000] [--rounds 5] [--concurrency 10] [--aof] [--json FILE]

One run measures both, in turns, on a private server of its own: tasks/s of one worker process, idle submit → result,
and submissions/s of one producer (the worker stands still meanwhile). Quote medians, and compare by the ratio within
one run: absolute figures are this machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis.asyncio
import uvloop

from watchbill import connection, names
from watchbill.client import Client
from watchbill.embedded import EmbeddedStore
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.service import AgentService
from watchbill.store import definitions
from watchbill.tasks import AgentTask, Priority

FLOOR_STREAM, FLOOR_RESULTS, FLOOR_GROUP = "floor:tasks", "floor:results", "workers"


# ---------------------------------------------------------------- the two workers, each a process of its own


async def floor_worker(url: str, slots: int) -> None:
    """Read, do nothing, store the result, acknowledge and delete; all of a batch in one pipeline."""
    client = connection.connect(url)
    consumer = str(os.getpid())
    print("ready", flush=True)
    while True:
        batch = await client.xreadgroup(FLOOR_GROUP, consumer, {FLOOR_STREAM: ">"}, count=slots, block=2000)
        if not batch:
            continue
        entries = batch[FLOOR_STREAM][0] if isinstance(batch, dict) else batch[0][1]
        async with client.pipeline(transaction=True) as pipe:
            for entry, fields in entries:
                result = json.dumps({"task_id": fields["id"], "output": fields["prompt"]})
                pipe.xadd(FLOOR_RESULTS, {"id": fields["id"], "result": result}, maxlen=100_000, approximate=True)
                pipe.xack(FLOOR_STREAM, FLOOR_GROUP, entry)
                pipe.xdel(FLOOR_STREAM, entry)
                if "reply" in fields:
                    pipe.publish(fields["reply"], fields["id"])
            await pipe.execute()


async def our_worker(url: str, slots: int, crew: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with AgentService(url, crews=[crew], concurrency=slots, grace_seconds=5):
        print("ready", flush=True)
        await stopped.wait()


class Process:
    """A worker process, ready when entered and ended when left."""

    def __init__(self, *args: str) -> None:
        self._args = args

    def __enter__(self) -> Process:
        self._process = subprocess.Popen([sys.executable, __file__, *self._args], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        self._process.terminate()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)


# ---------------------------------------------------------------- what is measured


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    while not await true():
        await asyncio.sleep(0.005)


async def floor_round(url: str, client: redis.asyncio.Redis, tasks: int, slots: int, probes: int) -> dict[str, float]:
    await client.delete(FLOOR_STREAM, FLOOR_RESULTS)
    await client.xgroup_create(FLOOR_STREAM, FLOOR_GROUP, "0", mkstream=True)
    with Process("floor", url, str(slots)) as worker:
        worker.pause()
        begin = time.perf_counter()
        for start in range(0, tasks, 500):
            async with client.pipeline(transaction=False) as pipe:
                for i in range(start, min(start + 500, tasks)):
                    pipe.xadd(FLOOR_STREAM, {"id": f"t{i}", "prompt": "hello"})
                await pipe.execute()
        bulk = tasks / (time.perf_counter() - begin)
        worker.resume()
        begin = time.perf_counter()

        async def done() -> bool:
            return await client.xlen(FLOOR_STREAM) == 0

        await until(done)
        rate = tasks / (time.perf_counter() - begin)

        replies = client.pubsub(ignore_subscribe_messages=True)
        await replies.subscribe("floor:reply")
        await replies.get_message(ignore_subscribe_messages=False, timeout=1)
        latencies = []
        for i in range(probes):
            begin = time.perf_counter()
            await client.xadd(FLOOR_STREAM, {"id": f"p{i}", "prompt": "hello", "reply": "floor:reply"})
            while await replies.get_message(timeout=5) is None:
                pass
            latencies.append((time.perf_counter() - begin) * 1000)
            await asyncio.sleep(0.005)
        await replies.aclose()

        worker.pause()
        begin = time.perf_counter()
        for i in range(1000):
            await client.xadd(FLOOR_STREAM, {"id": f"s{i}", "prompt": "hello"})
        single = 1000 / (time.perf_counter() - begin)
        worker.resume()
        await until(done)
    return {"tasks/s": rate, "bulk submit/s": bulk, "submit/s": single, **percentiles(latencies)}


async def our_round(url: str, client: redis.asyncio.Redis, tasks: int, slots: int, probes: int) -> dict[str, float]:
    crew = f"default/bench-{uuid.uuid4().hex[:8]}"
    keys = names.CrewKeys(*crew.split("/"))
    definition = CrewDefinition(
        name=keys.crew.split("/")[1], agents=[AgentDefinition(agent_id="echo", agent_class="EchoAgent")]
    )
    await definitions.apply(client, keys, definition)
    stream = keys.streams[names.CLASSES.index(Priority.NORMAL)]
    with Process("ours", url, str(slots), crew) as worker:
        async with Client(url) as watchbill:
            await watchbill.run(crew, "warm", agent="echo")
            worker.pause()
            work = [AgentTask(task_id=f"t{i}", agent_name="echo", prompt="hello") for i in range(tasks)]
            begin = time.perf_counter()
            await watchbill.submit_many(crew, "echo", work)
            bulk = tasks / (time.perf_counter() - begin)
            worker.resume()
            begin = time.perf_counter()

            async def done() -> bool:
                return await client.xlen(stream) == 0

            await until(done)
            rate = tasks / (time.perf_counter() - begin)

            latencies = []
            for _ in range(probes):
                begin = time.perf_counter()
                await watchbill.run(crew, "hello", agent="echo")
                latencies.append((time.perf_counter() - begin) * 1000)
                await asyncio.sleep(0.005)

            worker.pause()
            begin = time.perf_counter()
            for _ in range(1000):
                await watchbill.submit(crew, "hello", agent="echo")
            single = 1000 / (time.perf_counter() - begin)
            worker.resume()
            await until(done)
    return {"tasks/s": rate, "bulk submit/s": bulk, "submit/s": single, **percentiles(latencies)}


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)
    return {"idle p50 ms": ordered[len(ordered) // 2], "idle p99 ms": ordered[int(len(ordered) * 0.99)]}


async def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = await EmbeddedStore.open(Path(folder) if arguments.aof else None)
        try:
            async with connection.connected(store.url) as client:
                rounds: dict[str, list[dict[str, float]]] = {"floor": [], "watchbill": []}
                for number in range(arguments.rounds):
                    rounds["floor"].append(
                        await floor_round(store.url, client, arguments.tasks, arguments.concurrency, 200)
                    )
                    rounds["watchbill"].append(
                        await our_round(store.url, client, arguments.tasks, arguments.concurrency, 200)
                    )
                    print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
                info = await client.info("server")
        finally:
            await store.close()
    print(
        f"Python {platform.python_version()}, server {info.get('server_name', 'redis')} {info['redis_version']}, "
        f"{os.cpu_count()} cores, AOF {'everysec' if arguments.aof else 'off'}, "
        f"{arguments.tasks} tasks, {arguments.concurrency} at once, {arguments.rounds} rounds: "
        "median (lowest … highest)"
    )
    for what in rounds["floor"][0]:
        cells = []
        for side in ("floor", "watchbill"):
            values = [r[what] for r in rounds[side]]
            cells.append(f"{side} {statistics.median(values):,.2f} ({min(values):,.2f} … {max(values):,.2f})")
        ratio = statistics.median(w[what] / f[what] for w, f in zip(rounds["watchbill"], rounds["floor"], strict=True))
        print(f"{what:>14}: {cells[0]:<45} {cells[1]:<45} ratio {ratio:.2f}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rounds, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["floor"]:
        uvloop.run(floor_worker(sys.argv[2], int(sys.argv[3])))
    elif sys.argv[1:2] == ["ours"]:
        uvloop.run(our_worker(sys.argv[2], int(sys.argv[3]), sys.argv[4]))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--tasks", type=int, default=20_000)
        parser.add_argument("--concurrency", type=int, default=10, help="tasks at once")
        parser.add_argument("--rounds", type=int, default=5)
        parser.add_argument("--aof", action="store_true", help="measure with AOF everysec, as ./.watchbill/ has it")
        parser.add_argument("--json", help="write the rounds to this file")
        uvloop.run(main(parser.parse_args()))
