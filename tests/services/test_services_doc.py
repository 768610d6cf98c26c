"""The programs of docs/services.md and of examples/ run as they are written, but for the address of the store."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from waiting import until
from watchbill.services import AgentServiceClient, AgentTask

ROOT = Path(__file__).parents[2]
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "services.md").read_text(), re.MULTILINE | re.DOTALL)
ADDRESS = "redis://localhost:6379"

WRONG_BODIES = {
    b"": "the body is no JSON",
    b"{": "the body is no JSON",
    b"\xff\xfe\xff": "the body is no JSON",
    b"[" * 100_000: "the body is no JSON",
    b"[1]": "the body is no object. Send one, as in {",
    b"{}": "agent: it is missing",
    b'{"agent": "Echo", "prompt": 5}': "prompt: it is missing, or no text. Give text, as in {",
    b'{"agent": ["Echo"], "prompt": "x"}': "agent: ",
    b'{"agent": "two\\nlines", "prompt": "Hello"}': "Name an agent",
    b'{"agent": "Echo", "prompt": "half a pair: \\ud800"}': "prompt",
}
"""Body of a request → a part of the answer's error."""
ODD_HEADERS = {"Content-Type": "application/json; charset=nonsense"}


@pytest.fixture
async def url(private_redis: Callable[[], Awaitable[Any]]) -> str:
    return str((await private_redis()).url)


@asynccontextmanager
async def running(command: list[str], folder: Path, **environment: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A process, which is asked to end by SIGTERM, and does so well."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment}, cwd=folder)
    try:
        yield process
        assert process.poll() is None, (folder / "log").read_text()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 180) == 0, (folder / "log").read_text()
    finally:
        process.kill()
        process.wait()


async def test_the_programs_of_the_guide_run_as_they_are_written(url: str, tmp_path: Path) -> None:
    service, client, *_ = (program.replace(ADDRESS, url) for program in PROGRAMS)
    assert ADDRESS in PROGRAMS[0]
    async with running([sys.executable, "-c", service], tmp_path):
        command = [sys.executable, "-c", client]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        first, second, third = done.stdout.splitlines()
        assert (first, second) == ("Hello, Ada {'source': 'docs'}", "FIRE")
        assert "Agent 'Nobody' not found in BotManager" in third
    task: Any = {}
    exec(PROGRAMS[2], task)
    assert task["task"].delivery.channel == "webhook"
    assert len(PROGRAMS) == 3


async def test_the_web_server_gives_tasks_to_the_service(url: str, tmp_path: Path) -> None:
    async with (
        running([sys.executable, str(ROOT / "examples" / "start_agent_service.py")], tmp_path, WATCHBILL_REDIS_URL=url),
        running(
            [sys.executable, str(ROOT / "examples" / "aiohttp_web_server.py")],
            tmp_path,
            WATCHBILL_REDIS_URL=url,
            PORT="0",
        ),
        aiohttp.ClientSession() as session,
    ):
        log = tmp_path / "log"
        found = await until(lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()), what="the server's address")
        async with session.post(f"{found[0]}/tasks", json={"agent": "Echo", "prompt": "Hello"}) as answer:
            told = await answer.json()
        assert told == {"task_id": told["task_id"], "status": "queued"}
        async with session.get(f"{found[0]}/tasks/{told['task_id']}") as answer:
            assert (await answer.json())["output"] == "you said: Hello"
        for body, said in WRONG_BODIES.items():
            async with session.post(f"{found[0]}/tasks", data=body, headers=ODD_HEADERS) as answer:
                assert (answer.status, said in (await answer.json())["error"]) == (400, True), body[:50]
        for task_id in ("unknown", "no%20id%00"):
            async with session.get(URL(f"{found[0]}/tasks/{task_id}", encoded=True)) as answer:
                assert (answer.status, task_id[:2] in (await answer.json())["error"]) == (404, True), task_id
        async with AgentServiceClient(url) as client:
            result = await client.submit_and_wait(AgentTask(agent_name="Echo", prompt="x", user_id="Ada"))
            assert result is not None
            assert result.output == "Ada said: x"
