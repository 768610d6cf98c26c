"""Ten active crews among ten, a thousand and ten thousand registered: tasks per second, and bytes per idle crew.

    python -m bench.crews [--registered 10 1000 10000] [--tasks 5000] [--rounds 3] [--json FILE]

A server for each number, measured in turns. One process, `watchbill worker`, works for the ten, each with 10 slots;
all tasks are enqueued before it starts. An idle crew is what registering leaves: its place in the queue, and its record
as people read it; it has one agent. Without Kubernetes and its operator.

Exits with 1 when a task has no right result or ran twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from bench import ours, server

from watchbill.client import Client
from watchbill.records import CrewDefinition
from watchbill.store.crews import CrewRedis
from watchbill.tasks import AgentTask, TaskResult

ACTIVE = 10
AT_ONCE = 20
FLAT, BYTES = 0.2, 4096


async def populate(store: server.Server, count: int) -> dict[str, float]:
    """Registers that many. Bytes for each."""
    records = CrewRedis(client=store.client, tenant="default", strict=True)
    crews = [ours.definition(f"crew-{number}", "noop") for number in range(count)]

    async def each(some: list[CrewDefinition], put: Callable[[CrewDefinition], Awaitable[object]]) -> int:
        for start in range(0, len(some), AT_ONCE):
            await asyncio.gather(*(put(crew) for crew in some[start : start + AT_ONCE]))
        return int((await store.client.info("memory"))["used_memory"])

    # Some in vain: what the server keeps for scripts and connections is no crew's.
    await each(crews[:AT_ONCE], lambda crew: ours.register(store, crew))
    await each(crews[:AT_ONCE], records.save_crew)
    await store.clear()
    empty = await each([], records.save_crew)
    begin = time.perf_counter()
    queues = await each(crews, lambda crew: ours.register(store, crew))
    all_of_it = await each(crews, records.save_crew)
    return {
        "registered/s": count / (time.perf_counter() - begin),
        "queue bytes/crew": (queues - empty) / count,
        "bytes/crew": (all_of_it - empty) / count,
    }


async def drain(store: server.Server, tasks: int, folder: Path) -> tuple[dict[str, float], list[str]]:
    """Tasks per second from the first task's run until nothing is left; and what is wrong."""
    written = ours.ledger(folder)
    crews = [f"crew-{number}" for number in range(ACTIVE)]
    each = tasks // ACTIVE
    stamp = time.time_ns()
    async with Client(store.url) as client:
        work = {
            crew: [
                AgentTask(task_id=f"t{stamp}-{n}", agent_name=ours.AGENT, prompt=str(n))
                for n in range(i * each, (i + 1) * each)
            ]
            for i, crew in enumerate(crews)
        }
        for crew, some in work.items():
            await client.submit_many(crew, ours.AGENT, some)
        async with ours.cli_worker(store, crews, written, folder / "log") as worker:
            await ours.until(lambda: len(written) >= each * ACTIVE, worker, 60 + tasks / 20, "all begun")

            async def empty() -> bool:
                figures = [await client.figures(crew) for crew in crews]
                return not sum(f.waiting + f.running for f in figures)

            await ours.until(empty, worker, 60, "all done")
            ended = time.time()
        begun = written.read()
        wrong = [f"{n} ran {count} times" for n, count in Counter(n for n, _ in begun).items() if count != 1]
        for crew, some in work.items():
            for task in some:
                result, n = await client.result(crew, task.task_id), int(task.prompt)
                if not isinstance(result, TaskResult) or result.output != {"number": n, "square": n * n}:
                    wrong.append(f"{n}: {result!r}")
    return {"tasks/s": each * ACTIVE / (ended - min(at for _, at in begun))}, wrong


async def measure(
    arguments: argparse.Namespace,
) -> tuple[dict[int, list[dict[str, float]]], dict[int, dict[str, float]], list[str]]:
    """By number of registered crews: each round's figures, and the sizes; and what is wrong."""
    rounds: dict[int, list[dict[str, float]]] = {crews: [] for crews in arguments.registered}
    sizes: dict[int, dict[str, float]] = {}
    wrong: list[str] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="watchbill-bench-")))
        stores = {crews: await stack.enter_async_context(server.private()) for crews in rounds}
        for crews, store in stores.items():
            sizes[crews] = await populate(store, crews)
        for number in range(arguments.rounds):
            for crews, store in stores.items():
                figures, found = await drain(store, arguments.tasks, folder)
                rounds[crews].append(figures)
                wrong += found
                print(f"round {number + 1}: {crews} registered, {figures['tasks/s']:,.0f} tasks/s", file=sys.stderr)
    return rounds, sizes, wrong


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registered", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--tasks", type=int, default=5000, help="over all ten crews")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    if min(arguments.registered) < ACTIVE:
        parser.error(f"--registered must be at least {ACTIVE}")
    load = os.getloadavg()[0]
    rounds, sizes, wrong = asyncio.run(measure(arguments))
    print(f"{ACTIVE} active crews, {arguments.tasks} tasks, {arguments.rounds} rounds, load average {load:.1f}")
    medians = {crews: statistics.median(figures["tasks/s"] for figures in some) for crews, some in rounds.items()}
    for crews, size in sizes.items():
        rates = [figures["tasks/s"] for figures in rounds[crews]]
        print(
            f"{crews:>8,} registered: {medians[crews]:,.0f} tasks/s ({min(rates):,.0f} … {max(rates):,.0f}); "
            f"{size['bytes/crew']:,.0f} bytes per idle crew, {size['queue bytes/crew']:,.0f} without its record; "
            f"registered at {size['registered/s']:,.0f}/s"
        )
    spread = 1 - min(medians.values()) / max(medians.values())
    largest = sizes[max(sizes)]["bytes/crew"]
    for goal, is_reached in (
        (f"P8 flat within {FLAT:.0%}: {spread:.0%}", spread <= FLAT),
        (f"P8 ≤ {BYTES} bytes per idle crew: {largest:,.0f}", largest <= BYTES),
    ):
        ours.goal(goal, is_reached=is_reached)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"rounds": rounds, "sizes": sizes, "wrong": wrong}, indent=1) + "\n")
    if wrong:
        print(f"BROKEN   {len(wrong)} tasks: {wrong[:10]}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
