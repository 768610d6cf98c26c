"""The faults of bench.chaos: a store that is killed and restarted, is full, has its clock set, or loses its last
writes; workers: killed, stopped, terminated.

Knows processes and signals only. Every process that it starts has ended once `store` and `Torment.close` have.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

import redis.asyncio
from bench import processes
from bench.clock import Clock
from bench.environments import ROOT
from bench.processes import Broken

from watchbill import local_server

_OFTEN: Final = ("kill", "kill", "kill", "stop", "stop", "terminate", "terminate")
STORMS: Final = {
    "faults": (*_OFTEN, "restart the store", "fill the store's memory"),
    "clock": (*_OFTEN, "move the store's clock", "move the store's clock", "restart the store"),
    "rollback": (*_OFTEN, "roll the store back"),
}
"""Each of these in turn, in an order that the seed shuffles anew each time."""
GOOD_ENDS: Final = (0, -signal.SIGKILL, -signal.SIGTERM)
"""By SIGTERM itself ends who was still starting, and so had claimed nothing."""
START_SECONDS: Final = 20.0
GRACE_SECONDS: Final = 2.0
DOWN_SECONDS: Final = (0.0, 2.5)
"""Seconds for which the store stays away."""
MOVE_LEASES: Final = (1.0, 4.0)
"""The distance by which the store's clock is set, in leases."""
LOST_SECONDS: Final = (0.5, 2.5)
"""Seconds of the last writes that are lost when the store is rolled back."""
FULL_SECONDS: Final = (0.3, 2.0)
"""Seconds for which it takes no new data."""


class Store:
    """A server with AOF, `appendfsync always`: what it has acknowledged is on disk."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self._folder = folder
        self.clock = clock
        self.socket = folder / "s"
        self.url = f"unix://{quote(str(self.socket))}"
        self._process: asyncio.subprocess.Process | None = None
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        command = local_server.server_command(local_server.find_server(), self._folder, self.socket, fsync="everysec")
        command += ["--appendfsync", "always"]
        log = self._folder / "server.log"
        variables = self.clock.environment if self.clock else {}
        self._process = await self._stack.enter_async_context(processes.process(command, variables, log))
        deadline = time.monotonic() + START_SECONDS
        while await local_server.ping(self.socket) != b"+PONG":
            if self._process.returncode is not None or time.monotonic() > deadline:
                raise Broken(f"the server doesn't start. The end of its log:\n{processes.tail(log)}")
            await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def roll_back(self, seconds: float) -> float:
        """Goes on with what it had so many seconds ago, as a replica that takes over and had heard no more.

        Returns when it had ended (monotonic): workers are back before whoever starts it knows.
        """
        data, kept = self._folder / "appendonlydir", self._folder / "kept"
        await asyncio.to_thread(shutil.copytree, data, kept)
        await asyncio.sleep(seconds)
        await self.kill()
        ended = time.monotonic()
        await asyncio.to_thread(shutil.rmtree, data)
        kept.rename(data)
        await self.start()
        return ended

    async def limit_memory(self, limit: str) -> None:
        """Sets maxmemory; "0" is no limit."""
        async with redis.asyncio.Redis.from_url(self.url) as client:
            await client.config_set("maxmemory", limit)

    async def close(self) -> None:
        await self._stack.aclose()


@dataclass
class Worker:
    """A worker process."""

    process: asyncio.subprocess.Process
    log: Path
    expected: bool = False
    """It was told to end, or killed."""
    stopped: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def lives(self) -> bool:
        return self.process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


@dataclass
class Torment:
    """Store and workers, and what is done to them. `hits`: pid → when something was done to it (monotonic)."""

    store: Store
    folder: Path
    variables: Mapping[str, str]
    lease: float
    storm: str
    chance: random.Random
    workers: list[Worker] = field(default_factory=list)
    did: Counter[str] = field(default_factory=Counter)
    hits: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    rolled_back: list[float] = field(default_factory=list)
    """The times at which the store ended that was then rolled back (monotonic)."""
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _waking: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def serving(self) -> list[Worker]:
        """The workers that are there to work, stopped or not."""
        return [worker for worker in self.workers if worker.lives and not worker.expected]

    async def add(self) -> None:
        log = self.folder / f"worker-{len(self.workers)}.log"
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        own = {"PYTHONPATH": path, "WATCHBILL_GRACE_SECONDS": str(GRACE_SECONDS), "WATCHBILL_LOG_LEVEL": "INFO"}
        command = [sys.executable, "-m", "watchbill.worker"]
        started = await self._stack.enter_async_context(processes.process(command, {**self.variables, **own}, log))
        self.workers.append(Worker(started, log))

    async def run(self, every: float) -> None:
        """Until cancelled: something bad about every so often, and whoever went is replaced."""
        faults: list[str] = []
        while True:
            await asyncio.sleep(self.chance.uniform(0.5, 1.5) * every)
            self.check()
            if not faults:
                faults = self.chance.sample(STORMS[self.storm], len(STORMS[self.storm]))
            fault = faults.pop()
            await (self._trouble_store(fault) if "store" in fault else self._trouble_worker(fault))

    async def _trouble_store(self, fault: str) -> None:
        if fault == "restart the store":
            await self.store.kill()
            await asyncio.sleep(self.chance.uniform(*DOWN_SECONDS))
            await self.store.start()
        elif fault == "fill the store's memory":
            await self.store.limit_memory("1mb")
            await asyncio.sleep(self.chance.uniform(*FULL_SECONDS))
            await self.store.limit_memory("0")
        elif fault == "roll the store back":
            self.rolled_back.append(await self.store.roll_back(self.chance.uniform(*LOST_SECONDS)))
        else:
            assert self.store.clock is not None
            way = -1 if self.store.clock.ahead > 0 else 1  # in turn, so that it never is far off
            self.store.clock.move(way * self.lease * self.chance.uniform(*MOVE_LEASES))
        self.did[fault] += 1

    async def _trouble_worker(self, fault: str) -> None:
        victim = self.chance.choice([w for w in self.serving if not (w.stopped and fault == "stop")])
        self.did[fault] += 1
        self.hits[victim.pid].append(time.monotonic())
        if fault == "stop":
            victim.stopped = True
            victim.signal(signal.SIGSTOP)
            task = asyncio.create_task(self._wake(victim, self.lease * self.chance.uniform(1.1, 2.0)))
            self._waking.add(task)
            task.add_done_callback(self._waking.discard)
            return
        victim.expected = True
        victim.signal(signal.SIGKILL if fault == "kill" else signal.SIGTERM)
        await self.add()

    async def _wake(self, worker: Worker, seconds: float) -> None:
        await asyncio.sleep(seconds)
        worker.signal(signal.SIGCONT)
        worker.stopped = False

    async def calm(self) -> None:
        """The store runs, and nobody is stopped."""
        if self._waking:
            await asyncio.wait(self._waking)
        if await local_server.ping(self.store.socket) != b"+PONG":
            with suppress(ProcessLookupError):
                await self.store.kill()
            await self.store.start()
        await self.store.limit_memory("0")
        if self.store.clock is not None:
            self.store.clock.move(-self.store.clock.ahead)

    def check(self) -> None:
        """Raises Broken when a worker has ended that nobody killed, or in another way than it should."""
        for worker in self.workers:
            code = worker.process.returncode
            if code is not None and (not worker.expected or code not in GOOD_ENDS):
                raise Broken(f"a worker ended with {code}. The end of its log:\n{processes.tail(worker.log)}")

    async def drain(self) -> None:
        """SIGTERM to all. Raises Broken when one doesn't end."""
        for worker in self.serving:
            self.hits[worker.pid].append(time.monotonic())
            worker.expected = True
            worker.signal(signal.SIGTERM)
        left = [worker for worker in self.workers if worker.lives]
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS + START_SECONDS):
                await asyncio.gather(*(worker.process.wait() for worker in left))
        if stubborn := [worker for worker in left if worker.lives]:
            raise Broken(f"a worker doesn't end. The end of its log:\n{processes.tail(stubborn[0].log)}")
        self.check()

    async def close(self) -> None:
        for worker in self.workers:
            if worker.lives:
                worker.signal(signal.SIGKILL)  # for a stopped one, nothing else would do
        await self._stack.aclose()


@asynccontextmanager
async def store(folder: Path, clock: Clock | None = None) -> AsyncIterator[Store]:
    """The store, running."""
    made = Store(folder, clock)
    try:
        await made.start()
        yield made
    finally:
        await made.close()
