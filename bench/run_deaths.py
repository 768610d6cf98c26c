"""Many runs at once, while their workers are killed: each run ends, and each step has its effect once.

    python -m bench.run_deaths [--runs 1000] [--workers 4] [--every 1] [--seconds 0.05] [--lease 2] [--json FILE]

Runs of four steps (one, two beside each other, one) are submitted at once. Of the workers, the one that has run longest
is killed (kill -9) at each interval, and another is started. A step sleeps, and then has its effect: it writes its name
and its fence where a system reads them in order, and refuses what has no greater fence than the last of that step; an
effect that it takes stands in place of the one before. So each step must have one effect that stands, of the attempt
whose result is stored.

Exits with 1 when a run has not completed, or an effect is missing, of another attempt, or of no step.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import ours, processes, server

from watchbill.client import Client, Result
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode, FlowRelation, TaskPolicy
from watchbill.tasks import RunResult, RunState

CREW = "deaths"
STEPS = ("first", "left", "right", "last")
END_SECONDS = 240.0
SHOWN = 10


def definition(lease_seconds: int) -> CrewDefinition:
    """Each attempt may be one that dies, so a step may have many."""
    joined = [("first", ["left", "right"]), (["left", "right"], "last")]
    return CrewDefinition(
        name=CREW,
        agents=[AgentDefinition(agent_id=name, agent_class="bench.agents:effect", prompt="{input}") for name in STEPS],
        execution_mode=ExecutionMode.FLOW,
        flow_relations=[FlowRelation(source=source, target=target) for source, target in joined],
        tasks=TaskPolicy(lease_seconds=lease_seconds, max_attempts=1000),
    )


@dataclass
class Effects:
    """The effects as a system has them that takes no older fence."""

    standing: dict[str, int] = field(default_factory=dict)
    """Step → fence."""
    replaced: int = 0
    refused: int = 0

    def take(self, step: str, fence: int) -> None:
        known = self.standing.get(step)
        if known is not None and fence <= known:
            self.refused += 1
            return
        self.replaced += known is not None
        self.standing[step] = fence

    @classmethod
    def read(cls, written: ours.Ledger) -> Effects:
        found = cls()
        for line in written.path.read_text().splitlines():
            step, fence = line.split()
            found.take(step, int(fence))
        return found


class Workers:
    """So many workers, of which one after the other is killed."""

    def __init__(self, store: server.Server, written: ours.Ledger, folder: Path, stack: AsyncExitStack) -> None:
        self._store = store
        self._written = written
        self._log = folder / "log"
        self._stack = stack
        self._living: list[processes.Worker] = []
        self.killed = 0

    async def add(self) -> None:
        started = ours.pod_worker(self._store, CREW, self._written, self._log)
        self._living.append(await self._stack.enter_async_context(started))

    async def kill(self, every: float) -> None:
        """Kills the oldest at each interval, and starts another, until cancelled. Raises Broken when one has ended by
        itself."""
        while True:
            await asyncio.sleep(every)
            for worker in self._living:
                worker.check()
            doomed = self._living.pop(0)
            doomed.process.kill()
            await doomed.process.wait()
            self.killed += 1
            await self.add()


def judge(results: Sequence[Result], effects: Effects) -> list[str]:
    """Returns the faults of the runs, and of the effects of their steps."""
    wrong = [f"{one.run_id}: {one.error}" for one in results if isinstance(one, RunResult) and not one.success]
    fences = {
        f"{run.run_id}/{name}": step.output
        for run in results
        if isinstance(run, RunResult) and run.status is RunState.COMPLETED
        for name, step in run.steps.items()
    }
    if len(fences) != len(STEPS) * len(results):
        wrong.append(f"{len(fences)} steps have a result, of {len(STEPS) * len(results)}")
    for step in sorted(fences.keys() | effects.standing.keys()):
        result, standing = fences.get(step), effects.standing.get(step)
        if result != standing:
            wrong.append(f"{step}: the result has the fence {result}, and the effect that stands {standing}")
    return wrong


async def measure(arguments: argparse.Namespace, folder: Path) -> tuple[ours.Figures, list[str]]:
    """The figures, and what is wrong. Raises Broken when not all runs end."""
    written = ours.ledger(folder)
    async with server.private() as store, Client(store.url) as client, AsyncExitStack() as stack:
        await ours.register(store, definition(arguments.lease))
        workers = Workers(store, written, folder, stack)
        for _ in range(arguments.workers):
            await workers.add()
        await ours.all_there(client, CREW, arguments.workers)
        killing = asyncio.create_task(workers.kill(arguments.every))
        began = time.perf_counter()

        async def run(number: int) -> Result:
            run_id = await client.submit(CREW, str(arguments.seconds), id=f"r{number}")
            return await client.wait(CREW, run_id)

        ending = asyncio.gather(*(run(number) for number in range(arguments.runs)))
        both: set[asyncio.Future[Any]] = {ending, killing}
        await asyncio.wait(both, timeout=END_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        took = time.perf_counter() - began
        killing.cancel()
        with suppress(asyncio.CancelledError):
            await killing
        if not ending.done():
            ending.cancel()
            raise processes.Broken(f"not all runs have ended after {took:.0f} s: {await client.figures(CREW)}")
        results, effects = list(ending.result()), Effects.read(written)
    figures = {
        "seconds": took,
        "steps/s": len(STEPS) * arguments.runs / took,
        "killed": float(workers.killed),
        "effects replaced": float(effects.replaced),
        "effects refused": float(effects.refused),
    }
    wrong = judge(results, effects)
    return {"runs": [figures]}, wrong[:SHOWN] + ([f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else [])


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two kills")
    parser.add_argument("--seconds", type=float, default=0.05, help="that a step sleeps")
    parser.add_argument("--lease", type=int, default=2, help="in seconds")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="watchbill-bench-") as folder:
        try:
            found, wrong = asyncio.run(measure(arguments, Path(folder)))
        except processes.Broken as error:
            print(f"BROKEN   {error}", file=sys.stderr)
            return 1
    code = ours.report(f"{arguments.runs} runs, load average {load:.1f}", found, wrong, arguments.json)
    if not wrong:
        print(f"reached  all {arguments.runs:,} runs ended, and each of their steps has had its effect once")
    return code


if __name__ == "__main__":
    sys.exit(main())
