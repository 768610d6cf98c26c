"""One round of one peer: submit, drain, latencies; and the check that every task was done once, and rightly.

The worker is started when all is enqueued, so it has no say in the submissions' times and is measured draining. Three
clocks: `tasks/s` counts from the first task's run to the moment when the queue is empty (nothing waits, runs or is
unacknowledged, as the peer itself counts); `tasks/s from connect` begins with the worker's first connection;
`start` is what comes before that, interpreter and imports.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import processes
from bench.environments import Environment
from bench.processes import Broken
from bench.server import Server

POLL_SECONDS: Final = 0.002
WARM: Final = 10
"""Latencies before those that count."""


@dataclass(frozen=True)
class Plan:
    """The amount that is measured in a round."""

    tasks: int
    probes: int
    """Latencies."""
    concurrency: int = 10

    @property
    def singles(self) -> int:
        """Tasks submitted one by one; the rest in bulk."""
        return min(1000, self.tasks // 5)


@dataclass(frozen=True)
class Round:
    """The measurements by name, and the peer's description of itself."""

    figures: dict[str, float]
    about: dict[str, Any]


async def run(environment: Environment, server: Server, plan: Plan, folder: Path) -> Round:
    """Measures once, on an empty server. Raises Broken when a count or a result is wrong."""
    await server.clear()
    ledger = folder / "ledger"
    ledger.unlink(missing_ok=True)
    ledger.touch(mode=0o600)
    variables = {
        "BENCH_URL": server.url,
        "BENCH_LEDGER": str(ledger),
        "BENCH_CONCURRENCY": str(plan.concurrency),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    log = folder / "log"
    log.unlink(missing_ok=True)
    figures = {"load": os.getloadavg()[0]}
    async with processes.producer(environment, variables, log) as producer:
        await server.reset()
        figures["submit/s"] = plan.singles / (await producer.ask("submit", 0, plan.singles))["seconds"]
        bulk = await producer.ask("submit_all", plan.singles, plan.tasks)
        figures["bulk/s"] = (plan.tasks - plan.singles) / bulk["seconds"]
        cost = await server.cost()
        await server.reset()
        async with processes.worker(environment, variables, producer.about, log) as worker:
            figures |= await _drain(worker, producer, server, plan, ledger)
            cost += await server.cost()
            figures |= await _latencies(producer, plan)
        checked = await producer.ask("check")
    if checked["wrong"] or checked["right"] != plan.tasks:
        raise Broken(f"{checked['right']} of {plan.tasks} results are right; not these: {checked['wrong']}")
    _check(ledger, plan.tasks + WARM + plan.probes)
    figures["commands/task"] = cost.commands / plan.tasks
    figures["bytes in/task"] = cost.bytes_in / plan.tasks
    figures["bytes out/task"] = cost.bytes_out / plan.tasks
    figures["server us/task"] = cost.cpu_seconds / plan.tasks * 1e6
    return Round(figures, producer.about)


async def _drain(
    worker: processes.Worker, producer: processes.Producer, server: Server, plan: Plan, ledger: Path
) -> dict[str, float]:
    deadline = time.perf_counter() + 60 + plan.tasks / 20

    async def pause() -> None:
        worker.check()
        if time.perf_counter() > deadline:
            raise Broken(f"{_lines(ledger)} of {plan.tasks} tasks were done in time")
        await asyncio.sleep(POLL_SECONDS)

    while not await server.connections():
        await pause()
    connected = time.perf_counter()
    await server.reset()
    done, offset = 0, 0
    while done < plan.tasks:
        await pause()
        with ledger.open("rb") as growing:
            growing.seek(offset)
            new = growing.read()
        offset += len(new)
        done += new.count(b"\n")
    while (await producer.ask("left"))["left"]:
        await pause()
    ended, ended_wall = time.perf_counter(), time.time()
    with ledger.open() as file:
        first = float(file.readline().split()[1]) / 1e9
    return {
        "tasks/s": plan.tasks / (ended_wall - first),
        "tasks/s from connect": plan.tasks / (ended - connected),
        "start s": connected - worker.started,
    }


async def _latencies(producer: processes.Producer, plan: Plan) -> dict[str, float]:
    warm = await producer.ask("call", plan.tasks, plan.tasks + WARM)
    calls = await producer.ask("call", plan.tasks + WARM, plan.tasks + WARM + plan.probes)
    if wrong := [*warm["wrong"], *calls["wrong"]]:
        raise Broken(f"{len(wrong)} awaited results are wrong: {wrong[:10]}")
    ordered = sorted(calls["ms"])
    return {"p50 ms": ordered[len(ordered) // 2], "p99 ms": ordered[int(len(ordered) * 0.99)]}


def _lines(ledger: Path) -> int:
    return ledger.read_bytes().count(b"\n")


def _check(ledger: Path, tasks: int) -> None:
    """Every task is in the ledger, once."""
    ran = Counter(int(line.split()[0]) for line in ledger.read_text().splitlines())
    missing = [number for number in range(tasks) if number not in ran]
    again = {number: count for number, count in ran.items() if count > 1}
    strange = [number for number in ran if not 0 <= number < tasks]
    if missing or again or strange:
        raise Broken(
            f"{len(missing)} tasks never ran, {len(again)} ran more than once, {len(strange)} were never submitted: "
            f"{[*missing[:10], *list(again.items())[:10], *strange[:10]]}"
        )
