"""Crews for the worker tests, whose processes are killed and whose keys are removed when the test ends."""

from __future__ import annotations

import importlib
import math
import sys
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import workshop
from rooms import Enter, Room
from workshop import AGENTS, Make

from watchbill import connection
from watchbill.agents.loading import AgentLoader
from watchbill.connection import scripts
from watchbill.connection.client import LeanClient
from watchbill.testing import FakeClock
from watchbill.worker.delivering import shares
from watchbill.worker.execution import account
from watchbill.worker.execution.executor import Executor
from watchbill.worker.execution.shared_lease import SharedLease

# so that tests may look into them; worker processes are given the folder
sys.path.append(str(workshop.AGENTS))


@pytest.fixture(autouse=True)
def _time_to_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What requests did cost is told at the end however busy the store's machine is."""
    monkeypatch.setattr(account, "_CLOSE_SECONDS", 60.0)


@pytest.fixture(autouse=True)
def _quick_destinations(monkeypatch: pytest.MonkeyPatch) -> None:
    """No destination becomes slow because the machine is busy."""
    monkeypatch.setattr(shares, "LATE_SECONDS", 3600.0)


@pytest.fixture(scope="session")
def libraries() -> None:
    """Imports the libraries of models and of tool servers. On a busy machine that would hold up the event loop, and so
    the answers of the store that a test waits for."""
    models = ("pydantic_ai.models.openai", "pydantic_ai.models.anthropic")
    for module in ("watchbill.agents.llm", "watchbill.agents.mcp_client", *models):
        importlib.import_module(module)


@pytest.fixture
async def make_crew(redis_url: str, tmp_path: Path) -> AsyncIterator[workshop.Make]:
    """`await make_crew({"a": "Gate"})`: a crew of the session's Redis, or of the one at `url`. Where nothing is said of
    its lease, that outlasts any test: no worker is taken for dead because the machine is busy."""
    crews: list[workshop.Crew] = []

    async def make(agents: Mapping[str, Any], *, url: str | None = None, **options: Any) -> workshop.Crew:
        name = f"crew-{uuid.uuid4().hex[:16]}"
        folder = tmp_path / name
        folder.mkdir()
        options.setdefault("lease_seconds", 3600)
        crew = await workshop.made(url or redis_url, name, folder, agents, **options)
        crews.append(crew)
        return crew

    try:
        yield make
    finally:
        for crew in crews:
            crew.kill()
        async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True, socket_timeout=None) as client:
            for crew in crews:
                with suppress(redis.exceptions.RedisError):
                    if left := await client.keys(crew.keys.prefix + "*"):
                        await client.delete(*left)
        for crew in crews:
            await crew.close()


@pytest.fixture
def enter(make_crew: Make) -> Enter:
    @asynccontextmanager
    async def made(agents: Mapping[str, str] | list[Any], **tasks: Any) -> AsyncIterator[Room]:
        crew = await make_crew(agents, tasks=tasks)
        clock = FakeClock()
        lease = SharedLease(monotonic=clock.monotonic)
        lease.extend(math.inf)
        async with connection.Store(crew.url) as store:
            executor = Executor(
                store,
                crew.keys,
                crew.uid,
                AgentLoader([AGENTS]),
                lease,
                on_abandoned=lambda *numbers: room.changed(*numbers),
                store_time=clock.now,
                clock=clock,
            )
            room = Room(crew, executor, clock)
            try:
                yield room
            finally:
                crew.open()
                await executor.close()

    return made


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The trips that clients of this process make, by their scripts and commands."""
    folder = resources.files("watchbill.store").joinpath("scripts")
    names = [one.name.removesuffix(".lua") for one in folder.iterdir() if not one.name.startswith("lib")]
    scripts_by_hash = {scripts.source(name)[1]: name for name in names}
    made: list[str] = []
    trip = LeanClient._trip

    async def counted(self: LeanClient, commands: Sequence[Sequence[Any]], *rest: Any) -> Any:
        made.append(" ".join(scripts_by_hash.get(str(command[1]), str(command[0])) for command in commands))
        return await trip(self, commands, *rest)

    monkeypatch.setattr(LeanClient, "_trip", counted)
    return made
