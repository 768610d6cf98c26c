"""The cost of `context.step`: round trips, and milliseconds, of steps that are done and of steps that are found.

    python -m bench.steps [--steps 400] [--rounds 5] [--json FILE]

One worker as in a pod, and one task at a time, whose steps do nothing. It fails once behind its steps, and its second
attempt finds them. Trips are the server's own count of scripts. Goal: one trip for each step, and one more for each 500
steps that an attempt finds. Counts hold on any machine, milliseconds don't.

Exits with 1 when there were more trips than that, or a task is without its result.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import sys
import tempfile
from pathlib import Path

from bench import ours, server

from watchbill.client import Client
from watchbill.tasks import TaskResult

TRIPS = "trips for each that is done"
_IDLE = 10
"""Calls that a worker makes meanwhile beside those of steps, at most: renewals, claims of an idle worker."""


async def measure(steps: int, rounds: int, folder: Path) -> tuple[ours.Figures, list[str]]:
    written, wrong = ours.ledger(folder), []
    found: list[dict[str, float]] = []
    async with server.private() as store, Client(store.url) as client:
        crew = ours.definition("steps", "in_steps")
        policy = crew.tasks.model_copy(update={"backoff_seconds": 0})
        await ours.register(store, crew.model_copy(update={"tasks": policy}))
        async with ours.pod_worker(store, "steps", written, folder / "log"):
            await client.run("steps", "1", agent=ours.AGENT, timeout=30)  # all imported, all connected
            few = await _trips(store, client, 1)
            for _ in range(rounds):
                before = await _calls(store)
                result = await client.run("steps", str(steps), agent=ours.AGENT, timeout=300)
                if not isinstance(result, TaskResult) or not result.success:
                    wrong.append(f"no result: {result.error}")
                    break
                more = await _calls(store) - before - few
                trips = more / (2 * (steps - 1))
                if more > 2 * (steps - 1) + _own(steps):
                    wrong.append(f"{more} trips more for {2 * (steps - 1)} steps more")
                took = {f"{what} ms": float(result.output[what]) for what in ("done", "found")}
                found.append({TRIPS: trips, **took})
    return {"step": found}, wrong


def _own(steps: int) -> int:
    """Trips that are no step's: the worker's own, and those that read what was stored."""
    return math.ceil(steps / 500) - 1 + _IDLE


async def _trips(store: server.Server, client: Client, steps: int) -> int:
    before = await _calls(store)
    await client.run("steps", str(steps), agent=ours.AGENT, timeout=30)
    return await _calls(store) - before


async def _calls(store: server.Server) -> int:
    stats = await store.client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("evalsha", "eval"))


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="watchbill-bench-") as folder:
        found, wrong = asyncio.run(measure(arguments.steps, arguments.rounds, Path(folder)))
    code = ours.report(f"{arguments.steps} steps", found, wrong, arguments.json)
    if found["step"]:
        most = max(figures[TRIPS] for figures in found["step"])
        allowed = 1 + _own(arguments.steps) / (2 * (arguments.steps - 1))
        text = f"context.step ≤ 1 round trip: {most:.3f}, with up to {_own(arguments.steps)} that are the worker's own"
        ours.goal(text, is_reached=most <= allowed)
    return code


if __name__ == "__main__":
    sys.exit(main())
