"""The cost of traces: what a task costs a worker without tracing, and with one trace in a hundred recorded.

    python -m bench.tracing [--tasks 20000] [--rounds 7] [--ratio 0.01] [--json FILE]
    python -m bench.tracing --instructions [--tasks 2000] [--rounds 3] [--ratio 0.01] [--json FILE]

Two workers drain so many tasks, by turns, without tracing and with it (bench/paired.py); spans go to a collector, a
process of its own, which reads them and throws them away. The sending of spans is part of the worker's CPU. Tracing is
measured alone, too.

With --instructions, those of a worker are counted (bench/instructions.py), which a busy machine doesn't change: without
tracing, with all traces recorded, and with none, from which follows what a share of them costs.

Exits with 1 when a task is without its result, or the collector without spans.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench import instructions, ours, paired, processes

from watchbill import tracing
from watchbill.store.queue import Claimed
from watchbill.tracing.exporting import Exporting

GOAL_PERCENT: Final = 3.0

COLLECTOR: Final = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        print(len(body), file=sys.stderr, flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@asynccontextmanager
async def collector(log: Path) -> AsyncIterator[str]:
    """Yields the URL of a collector, which writes a line with the size of each request."""
    with log.open("wb") as sizes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", COLLECTOR, stdout=asyncio.subprocess.PIPE, stderr=sizes
        )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


async def drains(tasks: int, rounds: int, ratio: float, folder: Path) -> list[paired.Round]:
    """Returns, of each round, what a task costs with tracing off and on."""
    async with collector(folder / "sizes") as url:
        found = await paired.drains({"off": {}, "on": _traced(url, ratio)}, tasks, rounds, folder)
    if not (folder / "sizes").read_text().strip() and ratio > 0:
        raise processes.Broken("the collector got no span")
    return found


def _traced(url: str, ratio: float) -> dict[str, str]:
    """Returns the variables of a worker that records this share of traces."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str(ratio),
    }


async def counted(tasks: int, rounds: int, folder: Path) -> list[dict[str, float]]:
    """Returns, of each round, the instructions of a task: without tracing, of a trace not recorded, and of one that
    is."""
    async with collector(folder / "sizes") as url:
        full = {"OTEL_BSP_SCHEDULE_DELAY": str(3_600_000)}  # so slow a worker has few spans when one sends them by time
        kinds = {"off": {}, "not recorded": _traced(url, 0) | full, "recorded": _traced(url, 1) | full}
        found = await instructions.drains(kinds, tasks, rounds, folder)
    if not (folder / "sizes").read_text().strip():
        raise processes.Broken("the collector got no span")
    return found


async def alone(tasks: int, ratio: float, folder: Path) -> float:
    """Returns the CPU of the tracing of a task by itself, in µs, with all that sends its spans."""
    async with collector(folder / "sizes") as url:
        os.environ |= _traced(url, ratio)
        tracing.active = exporting = Exporting("bench")
        entry = f"{int(time.time() * 1000)}-0"
        claimed = [Claimed(f"t{number}", "1", 1, ours.AGENT, entry, 5, False) for number in range(tasks)]
        before = time.process_time()
        for task in claimed:
            span = tracing.begin("default/drain", task, {}, lambda: datetime.now(UTC))
            contextvars.copy_context().run(tracing.enter, span, {})
            tracing.end(span, "completed")
        await asyncio.to_thread(exporting.close, 60)
        used = time.process_time() - before
        tracing.active = None
    return used / tasks * 1e6


def in_instructions(arguments: argparse.Namespace) -> int:
    """Counts the instructions. Returns the exit code."""
    if not instructions.is_there():
        return 1
    tasks, rounds, ratio = arguments.tasks or 2000, arguments.rounds or 3, arguments.ratio
    with tempfile.TemporaryDirectory(prefix="watchbill-bench-") as folder:
        found = asyncio.run(counted(tasks, rounds, Path(folder)))
    shares = {
        "not recorded": {"not recorded": 1.0},
        "recorded": {"recorded": 1.0},
        f"{ratio * 100:g} % recorded": {"not recorded": 1 - ratio, "recorded": ratio},
    }
    return instructions.report("tracing", found, shares, GOAL_PERCENT, arguments.json)


def in_time(arguments: argparse.Namespace) -> int:
    """Measures CPU and time. Returns the exit code."""
    tasks, rounds, ratio = arguments.tasks or 20_000, arguments.rounds or 7, arguments.ratio
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="watchbill-bench-") as folder:
        found = asyncio.run(drains(tasks, rounds, ratio, Path(folder)))
        by_itself = asyncio.run(alone(10 * tasks, ratio, Path(folder)))
    costs = paired.compared(found)
    print(f"{rounds} rounds of {tasks} tasks, ratio {ratio:g}; load average {load:.1f}")
    print(f"tracing: {costs}")
    print(f"tracing alone: {by_itself:.1f} µs")
    goal = f"tracing < {GOAL_PERCENT:.0f}% of a task: {costs.percent:.1f}"
    ours.goal(goal, is_reached=costs.percent < GOAL_PERCENT)
    if arguments.json:
        told = {"compared": dataclasses.asdict(costs), "alone, µs": by_itself}
        Path(arguments.json).write_text(json.dumps(told, indent=1) + "\n")
    return 0


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--ratio", type=float, default=0.01)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    return in_instructions(arguments) if arguments.instructions else in_time(arguments)


if __name__ == "__main__":
    sys.exit(main())
