"""Stores of every kind, and crews in them."""

from __future__ import annotations

import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import servers

# The crews, agents and worker processes are those of the worker tests.
WORKER = Path(__file__).parent.parent / "worker"
# bench/ is no part of the package, either.
sys.path += [str(WORKER), str(WORKER / "agents"), str(WORKER.parent / "messaging"), str(WORKER.parent.parent)]

import workshop  # noqa: E402

ALL = [f"{binary}-{kind}" for binary in ("valkey", "redis7") for kind in servers.KINDS]


def binary_of(name: str) -> Path:
    """Valkey, or Redis 7.0; skips the test where that is missing."""
    if name == "valkey":
        return servers.valkey()
    found = servers.redis7()
    if found is None:
        pytest.skip("no Redis 7.0 here: install Debian 12's redis-tools, or put a redis-server 7.0 on PATH")
    return found


@pytest.fixture(scope="module")
def store_named() -> Iterator[Callable[[str], servers.Store]]:
    """`store_named("valkey-cluster")`: started at the first call, and shared by the tests of a file: until the end of
    the session, idle servers would take more CPU than another start."""
    started: dict[str, servers.Store] = {}
    with (
        tempfile.TemporaryDirectory(prefix="wb-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        ExitStack() as ends,
    ):

        def get(name: str) -> servers.Store:
            if name not in started:
                binary, _, kind = name.partition("-")
                start = servers.KINDS[kind]  # type: ignore[index]
                started[name] = ends.enter_context(start(binary_of(binary), Path(folder, name)))
            return started[name]

        yield get


@pytest.fixture
def fresh_store() -> Iterator[Callable[..., servers.Store]]:
    """`fresh_store("valkey-sentinel")`: one of the test's own, to be broken."""
    with (
        tempfile.TemporaryDirectory(prefix="wb-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        ExitStack() as ends,
    ):

        def get(name: str, **options: Any) -> servers.Store:
            binary, _, kind = name.partition("-")
            start = servers.KINDS[kind]  # type: ignore[index]
            place = Path(folder, uuid.uuid4().hex[:8])
            store: servers.Store = ends.enter_context(start(binary_of(binary), place, **options))
            return store

        yield get


@pytest.fixture(params=ALL)
def store(request: pytest.FixtureRequest, store_named: Callable[[str], servers.Store]) -> servers.Store:
    """A store of each kind, of Valkey 9 and Redis 7.0."""
    return store_named(request.param)


@pytest.fixture
async def crew_in(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await crew_in(store, {"a": "Gate"})`: a crew whose processes are killed when the test ends. Where nothing is
    said of its lease, no worker is taken for dead because the machine is busy."""
    crews: list[workshop.Crew] = []

    async def make(store: servers.Store, agents: Mapping[str, Any], **options: Any) -> workshop.Crew:
        name = f"crew-{uuid.uuid4().hex[:16]}"
        folder = tmp_path / name
        folder.mkdir()
        options.setdefault("lease_seconds", 3600)
        crew = await workshop.made(options.pop("url", store.url), name, folder, agents, **options)
        crews.append(crew)
        return crew

    try:
        yield make
    finally:
        for crew in crews:
            crew.kill()
            await crew.close()
