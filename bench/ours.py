"""Parts of the measures of Watchbill alone: a crew of one agent, its worker as users run it, its ledger.

The ledger holds a line for each beginning of a task: its number, and the wall clock in ns.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench import processes
from bench.environments import ROOT
from bench.server import Server, private

from watchbill.client import Client
from watchbill.connection import outages
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition, TaskPolicy
from watchbill.store import definitions
from watchbill.store.queue import Queue

AGENT = "bench"
LEASE_SECONDS = 600
"""The lease of a worker that is stopped for a while."""
Measured = TypeVar("Measured")
Figures = dict[str, list[dict[str, float]]]
"""Name → the figures of each round."""


def definition(name: str, function: str, *, concurrency: int = 10, lease_seconds: int = 15) -> CrewDefinition:
    """A crew of one agent, a function of bench/agents.py."""
    agent = AgentDefinition(agent_id=AGENT, agent_class=f"bench.agents:{function}")
    policy = TaskPolicy(lease_seconds=lease_seconds)
    return CrewDefinition(name=name, agents=[agent], concurrency=concurrency, tasks=policy)


async def register(server: Server, crew: CrewDefinition) -> Queue:
    """Puts the crew into the store, in namespace `default`. Returns its queue."""
    keys = CrewKeys("default", crew.name)
    return Queue(server.client, keys, await definitions.apply(server.client, keys, crew))


@dataclass(frozen=True)
class Ledger:
    """The executions, by number, and their times."""

    path: Path

    def read(self) -> list[tuple[int, float]]:
        """(number, wall clock in s) of each beginning."""
        lines = (line.split() for line in self.path.read_text().splitlines())
        return [(int(number), int(ns) / 1e9) for number, ns in lines]

    def __len__(self) -> int:
        return self.path.read_bytes().count(b"\n")


def ledger(folder: Path) -> Ledger:
    """An empty one."""
    path = folder / "ledger"
    path.write_bytes(b"")
    return Ledger(path)


@asynccontextmanager
async def pod_worker(
    server: Server,
    crew: str,
    written: Ledger,
    log: Path,
    more: Mapping[str, str] | None = None,
    module: str = "watchbill.worker",
    under: Sequence[str] = (),
) -> AsyncIterator[processes.Worker]:
    """`python -m watchbill.worker`, as it runs in a pod: for one crew. `more`: variables of its environment. `under`: a
    command that runs it."""
    command = [*under, sys.executable, "-m", module]
    variables = {"WATCHBILL_CREW": f"default/{crew}", "WATCHBILL_REDIS_URL": server.url, **(more or {})}
    async with processes.process(command, _variables(written) | variables, log) as started:
        yield processes.Worker(started, log)


@asynccontextmanager
async def cli_worker(server: Server, crews: list[str], written: Ledger, log: Path) -> AsyncIterator[processes.Worker]:
    """`watchbill worker CREW...`: one process for many crews."""
    command = [sys.executable, "-m", "watchbill", "worker", "--redis-url", server.url, *crews]
    async with processes.process(command, _variables(written), log) as started:
        yield processes.Worker(started, log)


def _variables(written: Ledger) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {"BENCH_LEDGER": str(written.path), "PYTHONPATH": path, "WATCHBILL_ALLOW_MODULES": "bench.agents"}


async def until(
    true: Callable[[], bool | Awaitable[bool]], worker: processes.Worker, seconds: float, what: str, poll: float = 0.002
) -> None:
    """Waits for it. Raises Broken when the worker has ended, or after `seconds`."""
    deadline = time.perf_counter() + seconds
    while True:
        worker.check()
        answer = true()
        if answer if isinstance(answer, bool) else await answer:
            return
        if time.perf_counter() > deadline:
            raise processes.Broken(f"not {what} within {seconds:.0f} s")
        await asyncio.sleep(poll)


async def all_there(client: Client, crew: str, workers: int, seconds: float = 120) -> None:
    """Waits until so many workers of the crew may claim tasks. Raises Broken after `seconds`."""
    deadline = time.perf_counter() + seconds
    # The first worker of a crew of thousands of agents keeps a busy store for seconds: it tells of each that is there.
    while (there := (await outages.persist(lambda: client.figures(crew))).workers) < workers:
        if time.perf_counter() > deadline:
            raise processes.Broken(f"{there} of {workers} workers have started within {seconds:.0f} s")
        await asyncio.sleep(0.01)


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU that a process has used, by its own clock in ns (Linux)."""
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)


def on_own_store(measure: Callable[[Server], Awaitable[Measured]]) -> Measured:
    """Measures with a store that is there for that alone."""

    async def run() -> Measured:
        async with private() as store:
            return await measure(store)

    return asyncio.run(run())


def goal(text: str, *, is_reached: bool) -> None:
    """Prints a goal with what was found, and whether that reaches it."""
    print(f"{'reached' if is_reached else 'MISSED':<8} {text}")


def report(title: str, found: Figures, wrong: list[str], file: str | None) -> int:
    """Prints the median and the spread of each figure, and what is wrong; writes all to the file as JSON. Returns the
    exit code."""
    print(f"{title}: median (lowest … highest)")
    for name, rounds in found.items():
        cells = []
        for what in rounds[0]:
            values = [figures[what] for figures in rounds]
            cells.append(f"{what} {statistics.median(values):,.2f} ({min(values):,.2f} … {max(values):,.2f})")
        print(f"{name:<12} {'; '.join(cells)}")
    if file:
        Path(file).write_text(json.dumps({"rounds": found, "wrong": wrong}, indent=1) + "\n")
    if wrong:
        print(f"BROKEN   {wrong}", file=sys.stderr)
    return int(bool(wrong))
