"""Locks, limits and streams of watchbill.messaging beside redis-py's Lock, the `limits` package and a bare loop.

    python -m bench.messaging [--rounds 5] [--seconds 1] [--locks 2000] [--messages 2000] [--json FILE]

Each round measures every one of them once, so that what the machine does meanwhile hits all alike; figures are medians,
and ratios are taken within a round. `limits` runs in an environment of its own, which is made at first use (pip); where
that can't be, it is left out.

`process_messages` of a blocking stream, which `stop` can end while the server is silent, is beside a loop of
`read_group` and `acknowledge` that nothing can end then; the handler does nothing.

Exits with 1 when a message was lost, or when our limiter allowed more than its rate in one window, or starved who asks
all the time. A slow machine is no failure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from bench import environments, limiting, server

from watchbill.messaging import AsyncRedisClient, AsyncRedisLock, RedisClient, RedisLock, RedisRateLimiter, RedisStream

RATE, PERIOD = 20, 1
Figures = dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.messaging", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="Of each measure of a limiter. Default 1.")
    parser.add_argument("--locks", type=int, default=2000, help="Acquired and released in a round. Default 2000.")
    parser.add_argument("--messages", type=int, default=2000, help="Handled in a round by each way. Default 2000.")
    parser.add_argument("--json", metavar="FILE", help="Write each round's figures.")
    arguments = parser.parse_args()
    rounds = asyncio.run(_run(arguments))
    for line in report(rounds):
        print(line)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rounds, indent=1) + "\n")
    return 1 if any(is_wrong(found) for found in rounds) else 0


async def _run(asked: argparse.Namespace) -> list[Figures]:
    peer = _peer()
    rounds = []
    async with server.private() as store:
        for number in range(asked.rounds):
            await store.clear()
            found = await asyncio.to_thread(_locks, store.url, asked.locks)
            found |= await _async_locks(store.url, asked.locks)
            found |= await asyncio.to_thread(_limits, store.url, asked.seconds, peer)
            found |= await asyncio.to_thread(_streams, store.url, asked.messages)
            rounds.append(found)
            print(f"round {number + 1} of {asked.rounds}", file=sys.stderr, flush=True)
    return rounds


def report(rounds: list[Figures]) -> list[str]:
    """Medians, and our ratios to the peers."""

    def median(name: str) -> float:
        return statistics.median(found[name] for found in rounds)

    def ratio(ours: str, theirs: str) -> float:
        return statistics.median(found[ours] / found[theirs] for found in rounds)

    lines = [
        f"lock, acquire + release, p50: {median('lock us'):.0f} us; redis-py's {median('redis-py us'):.0f} us: "
        f"{ratio('lock us', 'redis-py us'):.2f} of it",
        f"the same with asyncio: {median('async us'):.0f} us; redis-py's {median('redis-py async us'):.0f} us: "
        f"{ratio('async us', 'redis-py async us'):.2f} of it",
        f"limiter: {median('allowed/s'):,.0f} allowed/s, {median('denied/s'):,.0f} denied/s",
        f"limiter, {RATE} in {PERIOD} s, asked all the time: at most {max(f['most'] for f in rounds):.0f} in a window, "
        f"{median('share'):.0%} of what may pass",
    ]
    lines.append(
        f"process_messages: {median('processed/s'):,.0f} messages/s; read_group and acknowledge in a loop: "
        f"{median('by hand/s'):,.0f}: ours {ratio('processed/s', 'by hand/s'):.2f} of it"
    )
    if all("limits allowed/s" in found for found in rounds):
        lines += [
            f"limits, moving window: {median('limits allowed/s'):,.0f} allowed/s, "
            f"{median('limits denied/s'):,.0f} denied/s: ours {ratio('allowed/s', 'limits allowed/s'):.2f} and "
            f"{ratio('denied/s', 'limits denied/s'):.2f} of it",
            f"limits, {RATE} in {PERIOD} s, asked all the time: at most {max(f['limits most'] for f in rounds):.0f} in "
            f"a window, {median('limits share'):.0%} of what may pass",
        ]
    return lines


def is_wrong(found: Figures) -> bool:
    """True if our limiter let too much pass, or hardly anything; or if messages are missing."""
    return found["most"] > RATE or found["share"] < 0.5 or found["missing"] != 0


def _locks(url: str, count: int) -> Figures:
    with RedisClient(url) as client, redis.Redis.from_url(url) as theirs:
        ours, other = RedisLock("ours", client=client), theirs.lock("theirs", timeout=10)
        found: dict[str, list[float]] = {"lock us": [], "redis-py us": []}
        for _ in range(count):
            began = time.perf_counter_ns()
            assert ours.acquire(retry=0)
            assert ours.release()
            between = time.perf_counter_ns()
            assert other.acquire(blocking=False)
            other.release()
            _note(found, began, between)
    return {name: statistics.median(took) for name, took in found.items()}


def _streams(url: str, count: int) -> Figures:
    found: Figures = {"missing": 0}
    with RedisClient(url) as client:
        for name in ("processed/s", "by hand/s"):
            stream, seen = RedisStream(f"bench {name}", client), list[Any]()
            stream.create_consumer_group("group", "consumer")
            for number in range(count):
                stream.add({"number": number})
            began = time.perf_counter()
            if name == "processed/s":
                stream.process_messages(seen.append, wait=0)
            else:
                while messages := stream.read_group():
                    for message in messages:
                        seen.append(message)
                        stream.acknowledge(message["id"])
            found[name] = count / (time.perf_counter() - began)
            found["missing"] += abs(count - len(seen)) + client.client.xpending(f"bench {name}", "group")["pending"]
    return found


def _note(found: dict[str, list[float]], began: int, between: int) -> None:
    """Adds our microseconds, and the peer's until now."""
    ours, theirs = found.values()
    ours.append((between - began) / 1000)
    theirs.append((time.perf_counter_ns() - between) / 1000)


async def _async_locks(url: str, count: int) -> Figures:
    async with AsyncRedisClient(url) as client, redis.asyncio.Redis.from_url(url) as theirs:
        ours, other = AsyncRedisLock("ours", client=client), theirs.lock("theirs", timeout=10)
        found: dict[str, list[float]] = {"async us": [], "redis-py async us": []}
        for _ in range(count):
            began = time.perf_counter_ns()
            assert await ours.acquire(retry=0)
            assert await ours.release()
            between = time.perf_counter_ns()
            assert await other.acquire(blocking=False)
            await other.release()
            _note(found, began, between)
    return {name: statistics.median(took) for name, took in found.items()}


def _limits(url: str, seconds: float, peer: tuple[str, ...] | None) -> Figures:
    with RedisClient(url) as client:

        def ask(rate: int, period: float, key: str) -> Callable[[], bool]:
            limiter = RedisRateLimiter("bench", rate, period, client=client)
            return lambda: limiter.is_allowed(key)

        found = _figures(limiting.measure(ask, client.client, seconds, RATE, PERIOD), "")
    if peer is not None:
        command = [*peer, url, str(seconds), str(RATE), str(PERIOD)]
        environment = os.environ | {"PYTHONPATH": str(environments.ROOT)}
        said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        found |= _figures(json.loads(said), "limits ")
    return found


def _figures(measured: dict[str, Any], who: str) -> Figures:
    allowed = measured["allowed"]
    passed = (allowed[-1][0] - allowed[0][0]) / 1e6
    return {
        f"{who}allowed/s": measured["allowed/s"],
        f"{who}denied/s": measured["denied/s"],
        f"{who}most": limiting.most_in_a_window(allowed, PERIOD),
        f"{who}share": len(allowed) / (RATE * (int(passed / PERIOD) + 1)),
    }


def _peer() -> tuple[str, ...] | None:
    try:
        return environments.ready("limits").command
    except (environments.Missing, subprocess.CalledProcessError) as error:
        print(f"limits is left out: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
