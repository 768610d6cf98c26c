"""A thousand tasks sleeping in one worker: memory over idle, and what keeping its lease costs. Linux only (/proc).

    python -m bench.sleepers [--tasks 1000] [--window 30] [--lease 15] [--json FILE]

The worker is measured idle, over a window, then with all tasks asleep over a window as long. Its CPU in the second is
the lease's upkeep and all else that it does meanwhile; the server's is given too. At the end every task must have its
one result.

Exits with 1 when a task is without its result or ran twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench import ours, server

from watchbill.client import Client
from watchbill.tasks import AgentTask, TaskResult

GOAL_MIB, GOAL_PERCENT = 60.0, 2.0
SETTLE_SECONDS = 3.0
STARTING_SECONDS = 20.0
"""At most, for all to have begun: added to what each sleeps."""


async def measure(tasks: int, window: float, lease: int, folder: Path) -> dict[str, float]:
    """MiB, percent of a core, and counts."""
    written = ours.ledger(folder)
    async with server.private() as store, Client(store.url) as client:
        await ours.register(store, ours.definition("sleep", "sleep", concurrency=tasks, lease_seconds=lease))
        async with ours.pod_worker(store, "sleep", written, folder / "log") as worker:
            pid = worker.process.pid
            await client.run("sleep", "0 0", agent=ours.AGENT, timeout=30)  # all imported, all connected
            await asyncio.sleep(SETTLE_SECONDS)
            idle = await _window(pid, store, window)
            asleep_for = STARTING_SECONDS + SETTLE_SECONDS + window
            work = [
                AgentTask(task_id=f"t{n}", agent_name=ours.AGENT, prompt=f"{n} {asleep_for}")
                for n in range(1, tasks + 1)
            ]
            await client.submit_many("sleep", ours.AGENT, work)

            async def all_asleep() -> bool:
                return len(written) > tasks and (await client.figures("sleep")).running == tasks

            await ours.until(all_asleep, worker, STARTING_SECONDS, "all asleep", poll=0.05)
            await asyncio.sleep(SETTLE_SECONDS)
            asleep = await _window(pid, store, window)
            still = (await client.figures("sleep")).running
            results = [await client.wait("sleep", task.task_id, timeout=asleep_for + 60) for task in work]
    runs = Counter(number for number, _ in written.read())
    right = sum(
        isinstance(result, TaskResult) and result.output == {"number": n, "square": n * n}
        for n, result in enumerate(results, 1)
    )
    return {
        "RSS idle MiB": idle["rss"],
        "RSS asleep MiB": asleep["rss"],
        "RSS over idle MiB": asleep["rss"] - idle["rss"],
        "worker idle % of a core": idle["cpu"],
        "worker asleep % of a core": asleep["cpu"],
        "server idle % of a core": idle["server"],
        "server asleep % of a core": asleep["server"],
        "asleep to the window's end": still,
        "right results": right,
        "run twice": sum(count > 1 for count in runs.values()),
    }


async def _window(pid: int, store: server.Server, seconds: float) -> dict[str, float]:
    cpu, begin = ours.cpu_seconds(pid), time.perf_counter()
    await store.reset()
    highest = 0.0
    while time.perf_counter() - begin < seconds:
        highest = max(highest, _rss_mib(pid))
        await asyncio.sleep(0.5)
    took = time.perf_counter() - begin
    served = (await store.cost()).cpu_seconds
    return {"rss": highest, "cpu": (ours.cpu_seconds(pid) - cpu) / took * 100, "server": served / took * 100}


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--window", type=float, default=30.0, help="in seconds")
    parser.add_argument("--lease", type=int, default=15, help="in seconds; 15 is a crew's default")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="watchbill-bench-") as folder:
        found = asyncio.run(measure(arguments.tasks, arguments.window, arguments.lease, Path(folder)))
    print(f"{arguments.tasks} tasks asleep in one worker, windows of {arguments.window:.0f} s, load average {load:.1f}")
    for what, value in found.items():
        print(f"{what:>28}: {value:,.2f}")
    over, upkeep = found["RSS over idle MiB"], found["worker asleep % of a core"]
    for goal, is_reached in (
        (f"P4 ≤ {GOAL_MIB:.0f} MiB over idle: {over:.1f}", over <= GOAL_MIB),
        (f"P4 lease upkeep < {GOAL_PERCENT:.0f}% of a core, all else included: {upkeep:.2f}%", upkeep < GOAL_PERCENT),
    ):
        ours.goal(goal, is_reached=is_reached)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")
    return int(found["right results"] != arguments.tasks or found["run twice"] > 0)


if __name__ == "__main__":
    sys.exit(main())
