"""The processes of a measurement: a peer's producer, which is told what to do, and its worker, which just works.

Whatever was started is ended by its pid, with its own process group (a pool's children), when its block is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from bench.environments import ROOT, Environment, compile_ours

ANSWER_SECONDS: Final = 600.0
STOP_SECONDS: Final = 15.0


class Broken(Exception):
    """A peer didn't do what it had to."""


class Producer:
    """A peer's producer process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.about: dict[str, Any] = {}
        """The producer's description of itself: version, worker, environment, guarantee, settings."""

    async def ask(self, do: str, first: int = 0, end: int = 0) -> dict[str, Any]:
        """Has it do something, and returns its answer. Raises Broken when it has died or says nothing."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, "first": first, "end": end}).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        assert self._process.stdout
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), ANSWER_SECONDS)
        except TimeoutError:
            line = b""
        if not line:
            raise Broken(f"the producer gave no answer. The end of its log:\n{tail(self._log)}")
        return dict(json.loads(line))


@asynccontextmanager
async def producer(environment: Environment, variables: Mapping[str, str], log: Path) -> AsyncIterator[Producer]:
    """The peer's producer, ready."""
    async with process(environment.command, {**environment.variables, **variables}, log, talks=True) as started:
        made = Producer(started, log)
        made.about = await made.answer()
        yield made


class Worker:
    """A peer's worker process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.started = time.perf_counter()
        self._log = log

    def check(self) -> None:
        """Raises Broken when it has ended."""
        if self.process.returncode is not None:
            code = self.process.returncode
            raise Broken(f"the worker ended with {code}. The end of its log:\n{tail(self._log)}")


@asynccontextmanager
async def worker(
    environment: Environment, variables: Mapping[str, str], about: Mapping[str, Any], log: Path
) -> AsyncIterator[Worker]:
    """The peer's worker, started."""
    merged = {**environment.variables, **variables, **about.get("environment", {})}
    async with process(about["worker"], merged, log) as started:
        yield Worker(started, log)


@asynccontextmanager
async def process(
    command: Sequence[str], variables: Mapping[str, str], log: Path, *, talks: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process in a session of its own, at the repository's root. What it says is logged, unless it `talks` to us."""
    compile_ours()
    with log.open("ab") as output:
        started = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE if talks else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if talks else output,
            stderr=output,
            cwd=ROOT,
            env={**os.environ, **variables},
            start_new_session=True,
            limit=2**24,
        )
    try:
        yield started
    finally:
        if started.stdin:
            started.stdin.close()
        elif started.returncode is None:
            started.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(started.wait(), STOP_SECONDS)
        with suppress(ProcessLookupError):  # its session is our own making: what is left in it goes too
            os.killpg(started.pid, signal.SIGKILL)
        await started.wait()


def tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-2000:] or "(it is empty)"
