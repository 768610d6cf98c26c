"""Runs of crews beside plain tasks: what a step costs, in a chain, in a graph, and in a list.

    python -m bench.runs [--latency 100] [--sizes 1000 10000] [--workers 4] [--turns 3] [--rounds 3] [--json FILE]

- latency: a run of ten steps, one after the other, that do nothing, beside one task of an idle worker; p50 of each.
- graph: a flow of so many agents, each after one to three of the thirty before it, over several workers, by turns with
  as many plain tasks of the first agent: seconds from the submission to the end, which for a graph are no less than its
  longest chain takes, and the CPU time of workers and server, which is what a step costs. The first turn of each is for
  the workers to begin: they import, connect, and load each agent of the graph.
- list: one agent for each item of a list of that size.

Exits with 1 when a step is without its result, or ran twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench import ours, server

from watchbill.client import Client, Result
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode, FlowRelation
from watchbill.tasks import AgentTask, RunResult, RunState

STEPS = 10
"""Steps of the chain whose latency is measured."""
CHAIN, GRAPH, LINEAR = 12.0, 2.0, 12.0
"""Goals: a run of ten steps in so many single tasks; the CPU of a step in that of so many tasks; ten times the size in
so many times the time."""
CLASS = "bench.agents:noop"


def crew(name: str, agents: int, mode: ExecutionMode, **fields: Any) -> CrewDefinition:
    """A crew whose agents are asked for their number."""
    listed = [AgentDefinition(agent_id=f"a{n}", agent_class=CLASS, prompt=str(n)) for n in range(agents)]
    return CrewDefinition(name=name, agents=listed, execution_mode=mode, max_parallel_tasks=1000, **fields)


def graph(size: int) -> CrewDefinition:
    """A flow in which each agent comes after one to three of the thirty before it."""
    chance = random.Random(size)
    relations = [
        FlowRelation(source=f"a{source}", target=f"a{n}")
        for n in range(1, size)
        for source in chance.sample(range(max(0, n - 30), n), min(n, chance.randint(1, 3)))
    ]
    return crew(f"graph-{size}", size, ExecutionMode.FLOW, flow_relations=relations)


def listing(size: int) -> CrewDefinition:
    """A crew of one agent, which runs for each item."""
    agent = AgentDefinition(agent_id="a", agent_class=CLASS, prompt="{item}", for_each="{inputs.numbers}")
    return CrewDefinition(name=f"list-{size}", agents=[agent], max_parallel_tasks=1000)


async def latency(store: server.Server, times: int, folder: Path) -> dict[str, float]:
    """p50 of one task and of one run of ten steps, in ms, of an idle worker."""
    await ours.register(store, crew("chain", STEPS, ExecutionMode.SEQUENTIAL))
    found: dict[str, list[float]] = {"task": [], "run": []}
    async with Client(store.url) as client, ours.pod_worker(store, "chain", ours.ledger(folder), folder / "log"):
        await client.run("chain", "0", timeout=60)
        for _ in range(times):
            for what, agent in (("task", "a0"), ("run", None)):
                begin = time.perf_counter()
                await client.run("chain", "0", agent=agent, timeout=60)
                found[what].append((time.perf_counter() - begin) * 1000)
    task, run = (statistics.median(found[what]) for what in ("task", "run"))
    return {"task p50 ms": task, "run p50 ms": run, "run/task": run / task}


async def throughput(
    store: server.Server, definition: CrewDefinition, size: int, arguments: argparse.Namespace, folder: Path
) -> tuple[dict[str, float], list[str]]:
    """The medians of several runs of so many steps, and of as many plain tasks by turns with them; and what is wrong.
    An agent that runs for each item of a list can't be asked alone."""
    await store.clear()
    await ours.register(store, definition)
    written, name = ours.ledger(folder), definition.name
    kinds: dict[str, Callable[[Client, str, int, str], Awaitable[Any]]] = {"task": _plain, "step": _run}
    if len(definition.agents) == 1:
        del kinds["task"]
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    wrong: list[str] = []
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(store.url))
        pids = []
        for number in range(arguments.workers):
            worker = ours.pod_worker(store, name, written, folder / f"log-{number}")
            pids.append((await stack.enter_async_context(worker)).process.pid)
        await ours.all_there(client, name, arguments.workers)
        for turn in range(arguments.turns + 1):
            for kind in list(kinds)[:: 1 if turn % 2 else -1]:
                written.path.write_bytes(b"")
                used, began = await _cpu(store, pids), time.perf_counter()
                result = await kinds[kind](client, name, size, f"{kind}-{turn}-")
                took = time.perf_counter() - began
                found[kind].append((took, await _cpu(store, pids) - used))
                wrong += _faults(name, size, written, result)
    figures: dict[str, float] = {"s": statistics.median(took for took, _ in found["step"][1:])}
    for kind, turns in found.items():
        figures[f"us/{kind}"], figures[f"cpu us/{kind}"] = (
            statistics.median(values) / size * 1e6 for values in zip(*turns[1:], strict=True)
        )
    figures["first cpu us/step"] = found["step"][0][1] / size * 1e6
    if "task" in kinds:
        pairs = list(zip(found["step"], found["task"], strict=True))[1:]
        figures["step/task"], figures["cpu step/task"] = (
            statistics.median(step[i] / task[i] for step, task in pairs) for i in range(2)
        )
    return figures, wrong


def _faults(name: str, size: int, written: ours.Ledger, result: Result | None) -> list[str]:
    """Returns what is wrong with a run, or with as many tasks (`result` is None)."""
    found = []
    if result is not None and not (isinstance(result, RunResult) and result.status is RunState.COMPLETED):
        found.append(f"{name}: {result.error}")
    counted = Counter(number for number, _ in written.read())
    again = [number for number, count in counted.items() if count > 1] if result is not None else []
    if again or len(written) != size:  # the tasks are all of one agent, whose number they write
        found.append(f"{name}: {len(written)} of {size} ran, these twice: {again[:10]}")
    return found


async def _cpu(store: server.Server, pids: list[int]) -> float:
    """Seconds of CPU that these processes and the server have used."""
    return sum(map(ours.cpu_seconds, pids)) + (await store.cost()).cpu_seconds


async def _plain(client: Client, crew: str, size: int, prefix: str) -> None:
    tasks = [AgentTask(task_id=f"{prefix}{n}", agent_name="a0", prompt=str(n)) for n in range(size)]
    await client.submit_many(crew, "a0", tasks)
    await client.wait(crew, tasks[-1].task_id, timeout=60 + size / 50)
    while (figures := await client.figures(crew)).waiting + figures.running:
        await asyncio.sleep(0.005)


async def _run(client: Client, crew: str, size: int, prefix: str) -> Result:
    inputs = {"numbers": json.dumps(list(range(size)))} if crew.startswith("list") else {}
    run_id = await client.submit(crew, "0", id=f"{prefix}run", inputs=inputs)
    return await client.wait(crew, run_id, timeout=120 + size / 20)


async def measure(arguments: argparse.Namespace) -> tuple[ours.Figures, list[str]]:
    """The figures of each round, by what was measured; and what is wrong."""
    found: ours.Figures = {"chain": []}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="watchbill-bench-") as name:
        folder = Path(name)
        for _ in range(arguments.rounds):
            async with server.private() as store:
                found["chain"].append(await latency(store, arguments.latency, folder))
                for size in arguments.sizes:
                    for definition in (graph(size), listing(size)):
                        figures, bad = await throughput(store, definition, size, arguments, folder)
                        found.setdefault(definition.name, []).append(figures)
                        wrong += bad
    return found, wrong


def goals(found: ours.Figures, sizes: list[int]) -> list[tuple[str, bool]]:
    """Each goal with its figure, and whether it is reached."""

    def median(name: str, what: str) -> float:
        return statistics.median(figures[what] for figures in found[name])

    chain = median("chain", "run/task")
    told = [(f"a run of {STEPS} steps ≤ {CHAIN:.0f} × a task: {chain:.1f}", chain <= CHAIN)]
    for size in sizes:
        ratio = median(f"graph-{size}", "cpu step/task")
        told.append((f"CPU of a step of a graph of {size:,} ≤ {GRAPH:.0f} × a task's: {ratio:.2f}", ratio <= GRAPH))
    if len(sizes) > 1:
        least, most = min(sizes), max(sizes)
        for kind in ("graph", "list"):
            ratio = median(f"{kind}-{most}", "s") / median(f"{kind}-{least}", "s")
            bound = LINEAR / 10 * most / least
            told.append((f"{kind} of {most:,} ≤ {bound:.0f} × one of {least:,}: {ratio:.1f}", ratio <= bound))
    return told


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=int, default=100, help="tasks and runs, one after the other")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3, help="runs of each size that count, of the same workers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    found, wrong = asyncio.run(measure(arguments))
    code = ours.report(f"{arguments.workers} workers, load average {load:.1f}", found, wrong, arguments.json)
    for goal, is_reached in goals(found, arguments.sizes):
        ours.goal(goal, is_reached=is_reached)
    return code


if __name__ == "__main__":
    sys.exit(main())
