"""A crew in the session's Redis, for tests of the queue."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis.asyncio
import redis.exceptions
from stores import Children, ps
from support import Crew, opened

from watchbill import state_folder
from watchbill.store.crews import CrewRedis


@pytest.fixture
async def crew(redis_url: str, crew_name: str) -> AsyncIterator[Crew]:
    """A crew with the agents a and b, whose runs are parallel. Its keys are removed when the test ends."""
    async with opened(redis_url, crew_name) as made:
        yield made


@pytest.fixture
def tenant() -> str:
    return f"team-{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=[pytest.param("fake", marks=pytest.mark.pure), "real"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[redis.asyncio.Redis]:
    """Both kinds of answers too: bytes from the fake, text from the real one."""
    if request.param == "fake":
        import fakeredis  # with a client of its own, which takes as long to import as redis-py

        made: redis.asyncio.Redis = fakeredis.FakeAsyncRedis()
    else:
        url = request.getfixturevalue("redis_url")
        made = redis.asyncio.Redis.from_url(url, decode_responses=True, socket_timeout=None)
    async with made:
        yield made


@pytest.fixture
def store(client: redis.asyncio.Redis, tenant: str) -> CrewRedis:
    return CrewRedis(client=client, tenant=tenant)


@pytest.fixture
def strict(client: redis.asyncio.Redis, tenant: str) -> CrewRedis:
    return CrewRedis(client=client, tenant=tenant, strict=True)


@pytest.fixture
def children() -> Iterator[Children]:
    family = Children()
    yield family
    for process in family.processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    for pid in family.pids:  # none, unless the test has failed
        if "watchbill" in (command := ps(pid, "args")) or state_folder.SOCKET in command:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".watchbill"


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[str], redis.asyncio.Redis]]:
    clients: list[redis.asyncio.Redis] = []

    def to(url: str) -> redis.asyncio.Redis:
        clients.append(redis.asyncio.Redis.from_url(url, decode_responses=True, socket_timeout=None))
        return clients[-1]

    yield to
    for client in clients:
        await client.aclose()
