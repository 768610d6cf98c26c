"""The cost of LLMAgent for a request to a model, beside pydantic-ai alone, in CPU time of a worker.

    python -m bench.models [--requests 200] [--rounds 5] [--json FILE]
    python -m bench.models --instructions [--requests 50] [--rounds 3] [--json FILE]

One worker as in a pod, and tasks of one request each, by turns of an LLMAgent and of an agent that calls pydantic-ai
with nothing between. Both ask the same server over HTTP, in another process, which answers at once. `own` is the
difference: checkpoints, metrics, and all that LLMAgent makes anew for each task. Goal: 3 ms.

With --instructions, the worker's are counted (bench/instructions.py), which a slow machine doesn't change.

Exits with 1 when a task is without its answer, or a request was made twice.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import instructions, ours, processes, server

from watchbill.client import Client
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.tasks import AgentTask
from watchbill.testing import FakeModel

CREW = "models"
AGENTS = ("bare", "own")
GOAL_MS = 3.0
"""CPU time of LLMAgent for a request, beyond that of pydantic-ai."""
WAIT_SECONDS = 3600
"""For an answer. callgrind makes a worker fifty times slower."""


def definition(base_url: str) -> CrewDefinition:
    model = "openai-chat:gpt-5-mini"
    own = AgentDefinition(agent_id="own", model=model, base_url=base_url)
    bare = AgentDefinition(agent_id="bare", agent_class="bench.agents:Bare", config={"base_url": base_url})
    return CrewDefinition(name=CREW, agents=[own, bare])


@dataclass(frozen=True)
class Measured:
    """The unit that a worker is measured in: milliseconds of CPU, or millions of instructions."""

    unit: str
    warm: int
    """Requests of each agent before those that count."""
    requests: int
    rounds: int
    under: Sequence[str]
    """The command that runs the worker."""
    spent: Callable[[int], AbstractAsyncContextManager[list[float]]]
    """Measures the process of this id. At the end what it has spent is in the list."""


async def measure(how: Measured, folder: Path) -> tuple[ours.Figures, list[str]]:
    """The figures of each round, and what is wrong."""
    found: list[dict[str, float]] = []
    wrong: list[str] = []
    async with FakeModel(lambda _: "ok") as model, server.private() as store, Client(store.url) as client:
        await ours.register(store, definition(model.base_url))
        log, written = folder / "log", ours.ledger(folder)
        async with ours.pod_worker(store, CREW, written, log, under=how.under) as worker:
            for agent in AGENTS:  # all imported, all connected, and the interpreter has adapted its code
                wrong += await _ask(client, model, worker, agent, how.warm, "warm")
            for number in range(how.rounds):
                spent = {}
                for agent in AGENTS:
                    async with how.spent(worker.process.pid) as counted:
                        wrong += await _ask(client, model, worker, agent, how.requests, str(number))
                    spent[agent] = counted[0] / how.requests
                figures = {"pydantic-ai": spent["bare"], "LLMAgent": spent["own"], "own": spent["own"] - spent["bare"]}
                found.append(figures)
    return {f"{how.unit} of a request": found}, wrong


async def _ask(
    client: Client, model: FakeModel, worker: processes.Worker, agent: str, requests: int, name: str
) -> list[str]:
    """Has the agent ask so often. Returns what is wrong."""
    before = len(model.requests)
    tasks = [AgentTask(task_id=f"{agent}-{name}-{n}", agent_name=agent, prompt="hi") for n in range(requests)]
    await client.submit_many(CREW, agent, tasks)
    results = await asyncio.gather(*(client.wait(CREW, task.task_id, timeout=WAIT_SECONDS) for task in tasks))
    worker.check()
    bad = [str(one.error) for one in results if not one.success or one.output != "ok"]
    asked = len(model.requests) - before
    wrong = [f"{agent}: {len(bad)} of {requests} failed: {bad[0]}"] if bad else []
    return wrong + ([f"{agent}: {asked} requests for {requests} tasks"] if asked != requests else [])


@asynccontextmanager
async def in_milliseconds(pid: int) -> AsyncIterator[list[float]]:
    counted: list[float] = []
    began = ours.cpu_seconds(pid)
    yield counted
    counted.append((ours.cpu_seconds(pid) - began) * 1000)


@asynccontextmanager
async def in_instructions(pid: int, folder: Path) -> AsyncIterator[list[float]]:
    millions: list[float] = []
    async with instructions.counting(pid, folder) as counted:
        yield millions
    millions.append(counted[0] / 1e6)


def how_of(arguments: argparse.Namespace, folder: Path) -> Measured:
    if not arguments.instructions:
        return Measured("ms", 20, arguments.requests or 200, arguments.rounds or 5, (), in_milliseconds)
    spent = functools.partial(in_instructions, folder=folder)
    under = instructions.under(folder)
    return Measured("million instructions", 50, arguments.requests or 50, arguments.rounds or 3, under, spent)


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--requests", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.instructions and not instructions.is_there():
        return 1
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="watchbill-bench-") as folder:
        how = how_of(arguments, Path(folder))
        found, wrong = asyncio.run(measure(how, Path(folder)))
    code = ours.report(f"{how.requests} requests, load average {load:.1f}", found, wrong, arguments.json)
    (rounds,) = found.values()
    own, bare = (statistics.median(figures[name] for figures in rounds) for name in ("own", "pydantic-ai"))
    if arguments.instructions:
        print(f"LLMAgent's own: {own / bare:.2f} of pydantic-ai's")
    else:
        text = f"LLMAgent's own cost ≤ {GOAL_MS:.0f} ms CPU per call beyond pydantic-ai's: {own:.2f} ms"
        ours.goal(f"{text}, {own / bare:.2f} of pydantic-ai's own {bare:.2f} ms", is_reached=own <= GOAL_MS)
    return code


if __name__ == "__main__":
    sys.exit(main())
