"""The cost of a part of a worker to each task in instructions, as valgrind's callgrind counts them. Other work of the
machine changes none of them.

The worker is some fifty times slower meanwhile, so what it does each second is too great a part of what a task costs.
Left out are the kernel's instructions, and that some take longer than others.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from bench import ours, paired, processes, server

from watchbill.client import Client

WARM: Final = 300
"""Tasks before those that count: by then the interpreter has adapted its code to them."""
_COUNTS: Final = "callgrind"


def is_there() -> bool:
    """Returns whether instructions can be counted, and says so where they can't."""
    found = all(shutil.which(tool) for tool in ("valgrind", "vgdb"))
    if not found:
        print("error: --instructions needs valgrind, which is not installed", file=sys.stderr)
    return found


async def drains(
    kinds: Mapping[str, Mapping[str, str]], tasks: int, rounds: int, folder: Path
) -> list[dict[str, float]]:
    """Returns, of each round, the instructions of a task of each kind of worker. `kinds`: their variables."""
    found: list[dict[str, float]] = []
    for number in range(rounds):
        async with server.private() as store, Client(store.url) as client:
            found.append({kind: await _drain(store, client, kind, kinds[kind], tasks, folder) for kind in kinds})
        print(f"round {number + 1}: " + "; ".join(f"{k} {n:,.0f}" for k, n in found[-1].items()), flush=True)
    return found


async def _drain(
    store: server.Server, client: Client, kind: str, variables: Mapping[str, str], tasks: int, folder: Path
) -> float:
    """Has a worker of its own drain a queue. Returns the instructions of a task."""
    async with AsyncExitStack() as stack:
        worker = paired.Draining(store, client, kind, folder)
        await worker.start(stack, {"PYTHONHASHSEED": "0", **variables}, under(folder), WARM)
        async with counting(worker.pid, folder) as counted:
            await worker.drain(tasks)
    return counted[0] / tasks


def under(folder: Path) -> Sequence[str]:
    """Returns the command under which a process runs whose instructions are to be counted."""
    return ("valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder / _COUNTS}")


@asynccontextmanager
async def counting(pid: int, folder: Path) -> AsyncIterator[list[int]]:
    """Counts the instructions of a process that runs `under(folder)`. At the end they are in the list."""
    for old in folder.glob(f"{_COUNTS}.*"):
        old.unlink()
    counted: list[int] = []
    await _tell(pid, "instrumentation", "on")
    yield counted
    await _tell(pid, "dump")
    await _tell(pid, "instrumentation", "off")
    (written,) = folder.glob(f"{_COUNTS}.*")
    lines = written.read_text().splitlines()
    counted.append(sum(int(line.split()[1]) for line in lines if line.startswith("totals:")))


async def _tell(pid: int, *command: str) -> None:
    """Has callgrind in this process do something, and waits until it is done."""
    telling = await asyncio.create_subprocess_exec(
        "vgdb", f"--pid={pid}", *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await telling.communicate()
    if telling.returncode:
        raise processes.Broken(f"vgdb failed: {said.decode().strip()}")


def percent(rounds: Sequence[Mapping[str, float]], kinds: Mapping[str, Mapping[str, float]]) -> list[dict[str, float]]:
    """Returns, of each round, by how many percent tasks cost more than those of the worker `off`. `kinds`: for each
    name, the shares of the tasks that cost what those of a kind do."""
    return [
        {name: (sum(one[k] * share for k, share in of.items()) / one["off"] - 1) * 100 for name, of in kinds.items()}
        for one in rounds
    ]


def report(
    title: str,
    rounds: Sequence[Mapping[str, float]],
    kinds: Mapping[str, Mapping[str, float]],
    goal: float,
    file: str | None,
) -> int:
    """Prints what `percent` returns, and whether the last of its names is below the goal. Returns the exit code."""
    more = percent(rounds, kinds)
    found = {"thousands": [{"of a task": one["off"] / 1000} for one in rounds], "more, %": more}
    code = ours.report(f"instructions, {title}", found, [], file)
    name = list(kinds)[-1]
    middle = statistics.median(one[name] for one in more)
    ours.goal(f"{name} < {goal:.0f}% of a task: {middle:.2f}", is_reached=middle < goal)
    return code
