"""The fixtures of the command line's tests: a shell, a crew in the session's store, and its worker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shell import Shell, until


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes share which run tests at the same time."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "commands"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def shell(commands: Path) -> Iterator[Shell]:
    """A folder with a crew of three agents; at the end nothing of it may still run."""
    with tempfile.TemporaryDirectory(prefix="wb-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Shell(Path(folder), commands)
        try:
            yield made
            left = made.servers
            made.end()
            if Path("/proc").exists():
                until(lambda: not left(), explain=lambda: f"left running: {left()}")
        finally:
            made.end()
            for pid in made.servers():
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def stored(shell: Shell, redis_url: str, crew_name: str) -> str:
    """A crew in the session's store, known by the environment; nobody works for it."""
    return _store(shell, redis_url, crew_name)


@pytest.fixture
async def alone(shell: Shell, private_redis: Callable[[], Awaitable[Any]], crew_name: str) -> str:
    """A crew in a store of its own, known by the environment, where no other test has any; nobody works for it."""
    server = await private_redis()
    return await asyncio.to_thread(_store, shell, server.url, crew_name)


def _store(shell: Shell, redis_url: str, crew_name: str) -> str:
    shell.write_crew(crew_name)
    shell.env["WATCHBILL_REDIS_URL"] = redis_url
    assert shell.run("run", "crew.yaml", "before", "--id", "before").returncode == 0
    (shell.folder / "notes").unlink()
    return crew_name


@pytest.fixture
def worker(shell: Shell, stored: str) -> subprocess.Popen[str]:
    """A worker of that crew, as a process of its own."""
    process = shell.start("worker", stored, "--concurrency", "5", "--health-port", "0")
    until(lambda: "ready: works for" in shell.read(process), explain=lambda: shell.read(process))
    return process
