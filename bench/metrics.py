"""The cost of metrics: a scrape of an operator with thousands of busy crews, and what a worker pays for each task.

    python -m bench.metrics [--crews 2000] [--tasks 20000] [--rounds 5] [--json FILE]
    python -m bench.metrics --instructions [--tasks 2000] [--rounds 3] [--json FILE]

The scrape: so many crews of a real store, each with a waiting task, a heartbeat that has fired and results to deliver,
are shown as an operator shows them. A process of its own scrapes over HTTP: at once, and after all figures have become
too old, so that each scrape reads as many anew as it may.

The worker: two of them drain so many tasks, by turns, with counting and without it (every method that counts does
nothing; bench/paired.py). Counting is measured alone, too. With --instructions, those of the workers are counted, and
nothing else is measured (bench/instructions.py).

Exits with 1 when a scrape lacks a crew, or a task is without its result.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import redis.asyncio
from bench import instructions, ours, paired, processes, server

from watchbill import metrics
from watchbill.controller import controller
from watchbill.names import STEP_SEPARATOR, CrewKeys
from watchbill.store import definitions, figures, submissions
from watchbill.store.queue import Claimed
from watchbill.store.submissions import Submission
from watchbill.worker.counts import Counts
from watchbill.worker.health import HealthServer

GOAL_SECONDS: Final = 0.3
GOAL_BYTES: Final = 5_000_000
GOAL_PERCENT: Final = 2.0
SCRAPES: Final = 7
VARIABLES: Final = {"on": {}, "off": {"BENCH_UNCOUNTED": "1"}}

SCRAPER: Final = """
import http.client, json, sys, time
took = []
for _ in range(int(sys.argv[2])):
    at = time.perf_counter()
    asking = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    asking.request("GET", "/metrics", headers={"Accept": "text/plain"})
    page = asking.getresponse().read()
    took.append(time.perf_counter() - at)
crews = len({line.split("}")[0] for line in page.decode().splitlines() if line.startswith("watchbill_workers{")})
print(json.dumps({"seconds": took, "bytes": len(page), "crews": crews}))
"""


# ---------------------------------------------------------------- a scrape


async def scrapes(crews: int) -> dict[str, float]:
    """Seconds of a scrape, the page's bytes, and how many crews were on it."""
    async with server.private() as store:
        keys = [CrewKeys(f"team-{n % 40:02}", f"research-assistants-{n:04}") for n in range(crews)]
        await _fill(store, keys)
        health = HealthServer(lambda: controller.show_figures(store.client), lambda: True, is_operator=True)
        await health.start("127.0.0.1", 0)
        try:
            fresh = await _scrape(health.port)
            controller.FIGURES_SECONDS = 0.0  # type: ignore[misc]  # final, but for this
            anew = await _scrape(health.port)
        finally:
            await health.close()
    return {
        "scrape, figures at hand, s": statistics.median(fresh["seconds"]),
        "scrape, figures read anew, s": statistics.median(anew["seconds"]),
        "of it CPU, at hand": fresh["cpu"],
        "of it CPU, read anew": anew["cpu"],
        "page, bytes": fresh["bytes"],
        "crews on the page": min(fresh["crews"], anew["crews"]),
    }


async def _fill(store: server.Server, keys: list[CrewKeys]) -> None:
    for some in _batches(keys, 20):
        await asyncio.gather(*(_add(store.client, one) for one in some))
    sent = figures.Deliveries(waiting=3, running=0, delayed=1, due_in_ms=None, dead=0, oldest_ms=1500)
    async for crew, found in figures.each(store.client, keys):
        assert found is not None
        metrics.QUEUES.show(crew, dataclasses.replace(found, deliveries=sent))
        metrics.HEARTBEATS_FIRED.labels(*metrics.of_crew(crew), "every-morning").inc()


async def _add(client: redis.asyncio.Redis, keys: CrewKeys) -> None:
    crew = ours.definition(keys.crew.partition("/")[2], "noop")
    uid = await definitions.apply(client, keys, crew)
    task = Submission("t", ours.AGENT, "{}")
    await submissions.submit(client, keys, uid, [task], max_queued=10)
    await client.hset(keys.meta, "delivers", "1")


def _batches(keys: list[CrewKeys], size: int) -> Iterator[list[CrewKeys]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


async def _scrape(port: int) -> dict[str, Any]:
    before = time.process_time()
    asking = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRAPER, str(port), str(SCRAPES), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await asking.communicate()
    if asking.returncode:
        raise processes.Broken("a scrape failed")
    return {**json.loads(said), "cpu": (time.process_time() - before) / SCRAPES}


# ---------------------------------------------------------------- a worker


def alone(tasks: int) -> float:
    """The CPU of the counting of a task by itself, in µs: no other work gets in its way, so this is its least."""
    counts, batch = Counts("default/drain"), 10
    task = Claimed(id="t", fence="1", attempt=1, agent=ours.AGENT, entry="1-0", priority=5, taken_over=False)
    before = time.process_time()
    for _ in range(tasks // batch):
        for _ in range(batch):
            counts.claimed(task)
            counts.waited(0.01)
            counts.begin_delay(0.01)
            counts.ran(task.agent, 0.002)
            counts.ended(task.agent, "completed", is_step=STEP_SEPARATOR in task.id)
        counts.show(batch)
    return (time.process_time() - before) / tasks * 1e6


def in_instructions(arguments: argparse.Namespace) -> int:
    """Counts those of the workers. Returns the exit code."""
    if not instructions.is_there():
        return 1
    with tempfile.TemporaryDirectory(prefix="watchbill-bench-") as folder:
        found = asyncio.run(
            instructions.drains(VARIABLES, arguments.tasks or 2000, arguments.rounds or 3, Path(folder))
        )
    return instructions.report("counting", found, {"counted": {"on": 1.0}}, GOAL_PERCENT, arguments.json)


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crews", type=int, default=2000)
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.instructions:
        return in_instructions(arguments)
    tasks, rounds = arguments.tasks or 20_000, arguments.rounds or 5
    load = os.getloadavg()[0]
    found = asyncio.run(scrapes(arguments.crews))
    with tempfile.TemporaryDirectory(prefix="watchbill-bench-") as folder:
        counting = paired.compared(asyncio.run(paired.drains(VARIABLES, tasks, rounds, Path(folder))))
    found["counting alone, µs"] = alone(10 * tasks)
    print(f"{arguments.crews} busy crews; {rounds} rounds of {tasks} tasks; load average {load:.1f}")
    for what, value in found.items():
        print(f"{what:>30}: {value:,.3f}")
    print(f"{'counting':>30}: {counting}")
    slowest = max(found["scrape, figures at hand, s"], found["scrape, figures read anew, s"])
    for goal, is_reached in (
        (f"a scrape < {GOAL_SECONDS} s: {slowest:.3f}", slowest < GOAL_SECONDS),
        (f"its page < 5 MB: {found['page, bytes'] / 1e6:.2f}", found["page, bytes"] < GOAL_BYTES),
        (
            f"counting < {GOAL_PERCENT:.0f}% of the CPU of a task: {counting.percent:.1f}",
            counting.percent < GOAL_PERCENT,
        ),
    ):
        ours.goal(goal, is_reached=is_reached)
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({**found, "counting": dataclasses.asdict(counting)}, indent=1) + "\n"
        )
    return int(found["crews on the page"] != arguments.crews)


if __name__ == "__main__":
    sys.exit(main())
