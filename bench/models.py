"""The cost of LLMAgent for a request to a model, beside pydantic-ai alone, in CPU time of a worker.

    python -m bench.models [--requests 200] [--rounds 5] [--json FILE]

One worker as in a pod, and tasks of one request each, by turns of an LLMAgent and of an agent that calls pydantic-ai
with nothing between. Both ask the same server over HTTP, in another process, which answers at once. `own` is the
difference: checkpoints, metrics, and all that LLMAgent makes anew for each task. Goal: 3 ms.

Exits with 1 when a task is without its answer, or a request was made twice.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
from pathlib import Path

from bench import ours, processes, server

from watchbill.client import Client
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.tasks import AgentTask
from watchbill.testing import FakeModel

CREW = "models"
AGENTS = ("bare", "own")
GOAL_MS = 3.0
"""CPU time of LLMAgent for a request, beyond that of pydantic-ai."""


def definition(base_url: str) -> CrewDefinition:
    model = "openai-chat:gpt-5-mini"
    own = AgentDefinition(agent_id="own", model=model, base_url=base_url)
    bare = AgentDefinition(agent_id="bare", agent_class="bench.agents:Bare", config={"base_url": base_url})
    return CrewDefinition(name=CREW, agents=[own, bare])


async def measure(requests: int, rounds: int, folder: Path) -> tuple[ours.Figures, list[str]]:
    """The figures of each round, and what is wrong."""
    found: list[dict[str, float]] = []
    wrong: list[str] = []
    async with FakeModel(lambda _: "ok") as model, server.private() as store, Client(store.url) as client:
        await ours.register(store, definition(model.base_url))
        async with ours.pod_worker(store, CREW, ours.ledger(folder), folder / "log") as worker:
            for agent in AGENTS:  # all imported, all connected
                await client.run(CREW, "hi", agent=agent, timeout=120)
            for number in range(rounds):
                spent = {}
                for agent in AGENTS:
                    spent[agent], bad = await _round(client, model, worker, agent, requests, number)
                    wrong += bad
                figures = {"pydantic-ai ms": spent["bare"], "LLMAgent ms": spent["own"]}
                found.append(figures | {"own ms": spent["own"] - spent["bare"]})
    return {"request": found}, wrong


async def _round(
    client: Client, model: FakeModel, worker: processes.Worker, agent: str, requests: int, number: int
) -> tuple[float, list[str]]:
    """Milliseconds of the worker's CPU for each task, and what is wrong."""
    before = len(model.requests)
    tasks = [AgentTask(task_id=f"{agent}-{number}-{n}", agent_name=agent, prompt="hi") for n in range(requests)]
    began = ours.cpu_seconds(worker.process.pid)
    await client.submit_many(CREW, agent, tasks)
    results = await asyncio.gather(*(client.wait(CREW, task.task_id, timeout=300) for task in tasks))
    worker.check()
    took = ours.cpu_seconds(worker.process.pid) - began
    bad = [str(one.error) for one in results if not one.success or one.output != "ok"]
    asked = len(model.requests) - before
    wrong = [f"{agent}: {len(bad)} of {requests} failed: {bad[0]}"] if bad else []
    wrong += [f"{agent}: {asked} requests for {requests} tasks"] if asked != requests else []
    return took / requests * 1000, wrong


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="watchbill-bench-") as folder:
        found, wrong = asyncio.run(measure(arguments.requests, arguments.rounds, Path(folder)))
    code = ours.report(f"{arguments.requests} requests, load average {load:.1f}", found, wrong, arguments.json)
    own = statistics.median(figures["own ms"] for figures in found["request"])
    bare = statistics.median(figures["pydantic-ai ms"] for figures in found["request"])
    text = f"LLMAgent's own cost ≤ {GOAL_MS:.0f} ms CPU per call beyond pydantic-ai's: {own:.2f} ms"
    ours.goal(f"{text}, {own / bare:.2f} of pydantic-ai's own {bare:.2f} ms", is_reached=own <= GOAL_MS)
    return code


if __name__ == "__main__":
    sys.exit(main())
