"""All peers side by side: round after round, each round every peer once, on one server (and a second one with AOF).

Interleaved, so that what the machine does meanwhile hits all of them alike; each round begins with another peer. A peer
that this machine can't run is left out, and said so; one whose counts or results are wrong is said to be broken, and
is measured no more.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench import environments, processes, rounds, server
from bench.environments import Environment, Missing
from bench.rounds import Plan

AOF: Final = "+aof"
"""Behind a peer's name: on the server that syncs its AOF each second."""
WITH_AOF: Final = ("floor", "watchbill")


@dataclass
class Measured:
    """One peer: what it says of itself, each round's figures, and what went wrong."""

    about: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, float]] = field(default_factory=list)
    error: str = ""
    skipped: str = ""


@dataclass(frozen=True)
class Found:
    """A comparison."""

    machine: dict[str, Any]
    plan: Plan
    peers: dict[str, Measured]

    @property
    def broken(self) -> dict[str, str]:
        return {name: peer.error for name, peer in self.peers.items() if peer.error}


async def run(names: Sequence[str], plan: Plan, repetitions: int, *, aof: bool, renew: bool) -> Found:
    """Measures. With `aof`, Watchbill and the floor also on a server with AOF."""
    variants = [*names, *(name + AOF for name in names if aof and name in WITH_AOF)]
    peers = {name: Measured() for name in variants}
    ready = _environments(peers, renew)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="watchbill-bench-")))
        plain = await stack.enter_async_context(server.private())
        synced = await stack.enter_async_context(server.private(folder / "aof")) if aof else plain
        machine = {
            "server": await plain.version(),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
        }
        for number in range(repetitions):
            shift = number % len(variants)
            for name in (*variants[shift:], *variants[:shift]):
                peer = peers[name]
                if peer.error or peer.skipped:
                    continue
                try:
                    done = await rounds.run(ready[name], synced if name.endswith(AOF) else plain, plan, folder)
                except processes.Broken as error:
                    peer.error = str(error)
                    _say(f"round {number + 1} of {repetitions}: {name} is BROKEN: {error}")
                    continue
                peer.about = done.about
                peer.rounds.append(done.figures)
                _say(f"round {number + 1} of {repetitions}: {name:<16} {done.figures['tasks/s']:>9,.0f} tasks/s")
    return Found(machine, plan, peers)


def _environments(peers: dict[str, Measured], renew: bool) -> dict[str, Environment]:
    ready: dict[str, Environment] = {}
    for name, peer in peers.items():
        plain = name.removesuffix(AOF)
        try:
            # both of Celery's share one
            ready[name] = environments.ready(plain, renew=renew and name != "celery-threads")
        except Missing as error:
            peer.skipped = str(error)
            _say(f"{name} is left out: {error}")
    return ready


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
