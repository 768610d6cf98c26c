"""The cost of a part of a worker to each task: two workers, with the part and without it, drain queues by turns.

Each round has two workers of its own, since every process has a layout of its memory that makes it a little faster or
slower for good. CPU is that of a whole process, by its own clock in ns (Linux); what is left for later when a queue is
empty, as the sending of spans, is done within the measurement. A worker is stopped while tasks are submitted.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import ours, processes, server

from watchbill.client import Client
from watchbill.connection import outages
from watchbill.tasks import AgentTask

WARM: Final = 1000
"""Tasks before those that count."""
TURNS: Final = 2
"""Drains of each worker in a round."""
KINDS: Final = ("off", "on")
LIMIT_SECONDS: Final = 3600
"""The longest wait for a worker. callgrind makes it fifty times slower, and a busy machine ten times again."""


@dataclass(frozen=True)
class Cost:
    """The cost of a task, in µs."""

    cpu: float
    wall: float


Round = Mapping[str, Cost]
"""By kind."""


@dataclass(frozen=True)
class Compared:
    """The cost of the part to a task."""

    percent: float
    """A part of the CPU of a task without it: the median of the rounds."""
    error: float
    """The standard error of that."""
    microseconds: float
    without: float
    """The CPU of a task without it, in µs."""
    wall_percent: float

    def __str__(self) -> str:
        return (
            f"{self.percent:+.1f} ± {self.error:.1f} % of the CPU of a task ({self.microseconds:+.1f} µs of "
            f"{self.without:.1f}), {self.wall_percent:+.1f} % of its time"
        )


def compared(rounds: Sequence[Round]) -> Compared:
    """Takes the ratio within each round, which a change of the machine's mood between rounds leaves alone."""
    ratios = [(one["on"].cpu / one["off"].cpu - 1) * 100 for one in rounds]
    middle = statistics.median(ratios)
    deviation = 1.4826 * statistics.median(
        abs(ratio - middle) for ratio in ratios
    )  # the standard one, without outliers
    return Compared(
        percent=middle,
        error=1.2533 * deviation / len(ratios) ** 0.5,
        microseconds=statistics.median(one["on"].cpu - one["off"].cpu for one in rounds),
        without=statistics.median(one["off"].cpu for one in rounds),
        wall_percent=statistics.median((one["on"].wall / one["off"].wall - 1) * 100 for one in rounds),
    )


async def drains(kinds: Mapping[str, Mapping[str, str]], tasks: int, rounds: int, folder: Path) -> list[Round]:
    """Measures. `kinds`: the variables of the worker `off` and of the worker `on`."""
    found: list[Round] = []
    for number in range(rounds):
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(server.private())
            client = await stack.enter_async_context(Client(store.url))
            workers = {kind: Draining(store, client, kind, folder) for kind in KINDS}
            for kind, one in workers.items():
                await one.start(stack, kinds[kind])
            costs: dict[str, list[Cost]] = {kind: [] for kind in KINDS}
            for turn in range(TURNS):
                for kind in KINDS if (number + turn) % 2 else KINDS[::-1]:
                    costs[kind].append(await workers[kind].drain(tasks))
        mean = statistics.fmean
        found.append({k: Cost(mean(c.cpu for c in of), mean(c.wall for c in of)) for k, of in costs.items()})
        told = (f"{kind} {cost.cpu:.1f} µs of CPU, {cost.wall:.1f} µs" for kind, cost in found[-1].items())
        print(f"round {number + 1}: " + "; ".join(told), flush=True)
    return found


class Draining:
    """A worker of a crew of its own."""

    def __init__(self, store: server.Server, client: Client, kind: str, folder: Path) -> None:
        self._store = store
        self._client = client
        self._crew = kind
        self._sent = folder / f"{kind}-sent"
        self._log = folder / f"{kind}-log"
        (folder / kind).mkdir(exist_ok=True)
        self._written = ours.ledger(folder / kind)
        self._submitted = 0
        self._worker: processes.Worker | None = None

    async def start(
        self, stack: AsyncExitStack, variables: Mapping[str, str], under: Sequence[str] = (), warm: int = WARM
    ) -> None:
        """Starts the worker, and has it drain `warm` tasks. `under`: a command that runs it."""
        self._sent.write_text("")
        crew = ours.definition(self._crew, "noop", lease_seconds=ours.LEASE_SECONDS)
        await ours.register(self._store, crew)
        given = {"BENCH_SENT": str(self._sent), **variables}
        self._worker = await stack.enter_async_context(
            ours.pod_worker(self._store, self._crew, self._written, self._log, given, "bench.measured", under)
        )
        await self._client.run(self._crew, "0", agent=ours.AGENT, timeout=LIMIT_SECONDS)  # all imported, all connected
        await self.drain(warm)

    @property
    def pid(self) -> int:
        """The worker's."""
        assert self._worker is not None
        return self._worker.process.pid

    async def drain(self, tasks: int) -> Cost:
        """Has it drain a queue of so many tasks. Raises Broken when one is without its result."""
        assert self._worker is not None
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        numbers = range(self._submitted + 1, self._submitted + tasks + 1)
        work = [AgentTask(task_id=f"t{n}", agent_name=ours.AGENT, prompt=str(n)) for n in numbers]
        await self._client.submit_many(self._crew, ours.AGENT, work)
        self._submitted += tasks
        cpu, began = _cpu_ns(pid), time.perf_counter()
        os.kill(pid, signal.SIGCONT)
        await ours.until(self._is_done, self._worker, LIMIT_SECONDS, "all done", poll=0.1)
        took = time.perf_counter() - began
        before = self._sent.stat().st_size
        os.kill(pid, signal.SIGUSR1)
        await ours.until(lambda: self._sent.stat().st_size > before, self._worker, LIMIT_SECONDS, "all spans sent")
        used = _cpu_ns(pid) - cpu
        last = await self._client.result(self._crew, f"t{self._submitted}")
        if len(self._written) != self._submitted + 1 or last is None or not last.success:
            raise processes.Broken(f"{len(self._written)} of {self._submitted + 1} tasks were done")
        return Cost(used / tasks / 1e3, took / tasks * 1e6)

    async def _is_done(self) -> bool:
        now = await outages.persist(lambda: self._client.figures(self._crew))  # a busy machine may take long to answer
        return now.waiting == now.running == 0


def _cpu_ns(pid: int) -> int:
    return time.clock_gettime_ns(~pid << 3 | 2)  # clock_getcpuclockid(3)
