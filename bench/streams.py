"""RedisStream from `add` to `read_group`, beside the bare commands; RedisCache.append_response, small cache and big.

    python -m bench.streams [--messages 2000] [--entries 100000] [--rounds 5] [--json FILE]

A round of a stream: messages one by one, each added, read and acknowledged (`p50 ms` is from the call of add to the
return of read_group); then all added by 20 coroutines, and read and acknowledged in batches of 100. `bare` does the
same by XADD, XREADGROUP and XACK, which take over from nobody and do things twice when an answer is lost. A round of
the cache appends 500 responses to a cache with 100 and to one with `--entries`, by turns; `ratio` is big to small.

Exits with 1 when a message or a response is missing or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from bench import ours, server
from bench.ours import Figures

from watchbill import connection
from watchbill.messaging import AsyncRedisStream
from watchbill.network import RedisCache

ADDERS, BATCH, APPENDS, SMALL = 20, 100, 500, 100
MESSAGE = {"type": "analysis", "data": "x" * 200}


class Way(Protocol):
    """A way in which messages go through a stream."""

    async def begin(self) -> None: ...
    async def add(self) -> str: ...
    async def read(self, count: int) -> list[str]: ...
    async def acknowledge(self, ids: list[str]) -> None: ...


class Ours:
    def __init__(self, client: Any, key: str) -> None:
        self._stream = AsyncRedisStream(key, client)

    async def begin(self) -> None:
        await self._stream.create_consumer_group("workers", "w")

    async def add(self) -> str:
        return await self._stream.add(MESSAGE)

    async def read(self, count: int) -> list[str]:
        return [message["id"] for message in await self._stream.read_group(count)]

    async def acknowledge(self, ids: list[str]) -> None:
        await self._stream.acknowledge(*ids)


class Bare:
    def __init__(self, client: Any, key: str) -> None:
        self._client, self._key = client, key

    async def begin(self) -> None:
        await self._client.xgroup_create(self._key, "workers", "0", mkstream=True)

    async def add(self) -> str:
        return str(await self._client.xadd(self._key, MESSAGE))

    async def read(self, count: int) -> list[str]:
        found = await self._client.xreadgroup("workers", "w", {self._key: ">"}, count)
        streams = found.values() if isinstance(found, dict) else [entries for _, entries in found]
        return [entry[0] for entries in streams for entry in (entries[0] if isinstance(found, dict) else entries)]

    async def acknowledge(self, ids: list[str]) -> None:
        await self._client.xack(self._key, "workers", *ids)


async def stream_round(way: Way, messages: int) -> tuple[dict[str, float], list[str]]:
    await way.begin()
    times, seen = [], []
    for _ in range(messages // 4):
        begun = time.perf_counter()
        await way.add()
        ids = await way.read(1)
        times.append((time.perf_counter() - begun) * 1e3)
        await way.acknowledge(ids)
        seen += ids
    added: list[str] = []
    begun = time.perf_counter()

    async def adder(count: int) -> None:
        added.extend([await way.add() for _ in range(count)])

    await asyncio.gather(*(adder(messages // ADDERS) for _ in range(ADDERS)))
    adding = time.perf_counter() - begun
    begun, taken = time.perf_counter(), list[str]()
    while ids := await way.read(BATCH):
        taken += ids
        await way.acknowledge(ids)
    reading = time.perf_counter() - begun
    wrong = [] if sorted(taken) == sorted(added) and len(set(seen)) == messages // 4 else ["messages differ"]
    figures = {
        "p50 ms": statistics.median(times),
        "added/s": len(added) / adding,
        "read and acknowledged/s": len(taken) / reading,
        "msgs/s": len(added) / (adding + reading),
    }
    return figures, wrong


async def cache_round(caches: dict[str, RedisCache]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in caches}
    for number in range(APPENDS):
        for name, cache in caches.items():
            begun = time.perf_counter()
            await cache.append_response("agent", f"response {number}")
            times[name].append((time.perf_counter() - begun) * 1e3)
    small, big = (statistics.median(times[name]) for name in ("small", "big"))
    return {"small p50 ms": small, "big p50 ms": big, "ratio": big / small}


async def measure(store: server.Server, messages: int, entries: int, rounds: int) -> tuple[Figures, list[str]]:
    found: Figures = {"RedisStream": [], "bare": [], "RedisCache": []}
    wrong: list[str] = []
    ways: dict[str, Callable[[Any, str], Way]] = {"RedisStream": Ours, "bare": Bare}
    async with connection.connected(store.url) as client:
        for number in range(rounds):
            for name, way in ways.items():
                figures, bad = await stream_round(way(client, f"{name}{number}"), messages)
                found[name].append(figures)
                wrong += bad
        await store.clear()
        sizes = {"small": SMALL, "big": entries}
        caches = {
            name: RedisCache(client=client, prefix=f"{name}:", max_history=size, max_recent=size)
            for name, size in sizes.items()
        }
        for name, cache in caches.items():
            await _fill(cache, sizes[name])
        for _ in range(rounds):
            found["RedisCache"].append(await cache_round(caches))
        for name, size in sizes.items():
            left = len(await caches[name].get_responses("agent")), len(await caches[name].get_last_responses(10**6))
            wrong += [] if left == (size, size) else [f"the {name} cache has {left} and not {size}"]
    return found, wrong


async def _fill(cache: RedisCache, size: int) -> None:
    async def some(count: int) -> None:
        for number in range(count):
            await cache.append_response("agent", f"response {number} before")

    await asyncio.gather(*(some(size // ADDERS) for _ in range(ADDERS)))


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    found, wrong = ours.on_own_store(
        lambda store: measure(store, arguments.messages, arguments.entries, arguments.rounds)
    )
    sizes = f"{arguments.messages} messages, {arguments.entries} entries"
    return ours.report(f"{sizes}, load average {load:.1f}", found, wrong, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
