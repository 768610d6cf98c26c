"""The producer of a peer: a process in the peer's own environment, told by the runner what to submit and wait for.

One JSON a line on stdin, one JSON a line as the answer on stdout; the first line is said unasked, and says who this is
and how its worker is started. The peers in Go and Node.js speak the same. Ends when stdin does. Runs in a peer's
environment: standard library only. Times are taken here, around the peer's own calls.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from bench.peers.work import expected

URL = os.environ["BENCH_URL"]
CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])
RESULT_SECONDS = 3600
"""Seconds for which every peer keeps results."""
WAIT_SECONDS = 30
"""Seconds that a result may take when nothing else is going on."""
GAP_SECONDS = 0.005
"""Between two latencies, so that the worker is idle again."""
CHUNK = 500
"""Tasks of one bulk call, results of one read."""


class Producer(Protocol):
    """The interface of a peer's file. Handles are the peer's own."""

    async def open(self) -> None: ...

    async def submit(self, number: int) -> Any:
        """One task, one call. Returns its handle."""

    async def submit_all(self, numbers: Sequence[int]) -> list[Any]:
        """Many tasks, in the peer's fastest way."""

    async def call(self, number: int) -> Any:
        """Submits one task and waits for its result, in the peer's own way."""

    async def stored(self, handles: Sequence[Any]) -> list[Any]:
        """The results as they are stored, None where there is none."""

    async def left(self) -> int:
        """Tasks that wait, run, or aren't acknowledged yet."""


def worker(*arguments: str) -> list[str]:
    """The command of a worker: this environment's Python with these arguments."""
    return [sys.executable, *arguments]


async def together(calls: Sequence[Callable[[], Awaitable[Any]]], limit: int) -> list[Any]:
    """All of them, in order, at most `limit` at a time."""
    results: list[Any] = [None] * len(calls)
    todo = iter(enumerate(calls))

    async def some() -> None:
        for i, call in todo:
            results[i] = await call()

    await asyncio.gather(*(some() for _ in range(limit)))
    return results


async def serve(producer: Producer, **about: Any) -> None:
    """Obeys until stdin ends. `about`: version, worker (a command), environment of it, guarantee, settings."""
    await producer.open()
    _say(about)
    handles: dict[int, Any] = {}
    async for order in _orders():
        numbers = range(order.get("first", 0), order.get("end", 0))
        gc.collect()  # or chance decides whether a full collection, as long as 1,000 tasks, falls into this call
        begin = time.perf_counter()
        match order["do"]:
            case "submit":
                for number in numbers:
                    handles[number] = await producer.submit(number)
                _say({"seconds": time.perf_counter() - begin})
            case "submit_all":
                made = await producer.submit_all(numbers)
                seconds = time.perf_counter() - begin
                handles.update(zip(numbers, made, strict=True))
                _say({"seconds": seconds})
            case "call":
                _say(await _calls(producer, numbers))
            case "left":
                _say({"left": await producer.left()})
            case "check":
                _say(await _check(producer, handles))
            case other:
                raise ValueError(f"unknown order {other!r}")


async def _calls(producer: Producer, numbers: range) -> dict[str, Any]:
    milliseconds, wrong = [], []
    for number in numbers:
        begin = time.perf_counter()
        async with asyncio.timeout(WAIT_SECONDS):
            result = await producer.call(number)
        milliseconds.append((time.perf_counter() - begin) * 1000)
        if result != expected(number):
            wrong.append(f"{number}: {result!r}")
        await asyncio.sleep(GAP_SECONDS)
    return {"ms": milliseconds, "wrong": wrong}


async def _check(producer: Producer, handles: dict[int, Any]) -> dict[str, Any]:
    numbers = list(handles)
    wrong = []
    for start in range(0, len(numbers), CHUNK):
        some = numbers[start : start + CHUNK]
        results = await producer.stored([handles[number] for number in some])
        wrong += [f"{n}: {r!r}" for n, r in zip(some, results, strict=True) if r != expected(n)]
    return {"right": len(numbers) - len(wrong), "wrong": wrong[:10]}


async def _orders() -> AsyncIterator[dict[str, Any]]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield json.loads(line)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
