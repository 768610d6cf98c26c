"""The programs of seed 000's document run as they are written, in their order, and so does our example of its name.

Only import lines and the store's address are changed.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
import redis.asyncio
import redis.exceptions
from pydantic import ValidationError

from ports import free_ports
from watchbill.crews import AgentDefinition, CrewDefinition, CrewRedis, ExecutionMode
from watchbill.errors import InvalidInput

ROOT = Path(__file__).parents[2]
SEED = (ROOT / "tests" / "seeds" / "000.txt").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", SEED, re.MULTILINE | re.DOTALL)
IMPORTED = {
    "from parrot.handlers.crew.redis_persistence import": "from watchbill.crews import",
    "from parrot.handlers.crew.models import": "from watchbill.crews import",
}
ADDRESS = "redis://localhost:6379"
FLOW = next(i for i, block in enumerate(BLOCKS) if "market_researcher" in block)


@pytest.fixture
async def address(private_redis: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a server of this test alone, which the environment names as the seed has it."""
    server = await private_redis()
    async with redis.asyncio.Redis.from_url(server.url, decode_responses=True) as client:
        await client.config_set("bind", "127.0.0.1")
        (port,) = free_ports(1)
        await client.config_set("port", port)
    monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
    monkeypatch.setenv("REDIS_PORT", str(port))
    return f"redis://127.0.0.1:{port}"


def compiled(block: str, url: str) -> CodeType:
    for old, new in IMPORTED.items():
        block = block.replace(old, new)
    assert "parrot" not in block
    return compile(block.replace(ADDRESS, url), "seed", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def run(block: str, url: str, made: dict[str, Any]) -> None:
    code = compiled(block, url)
    if code.co_flags & inspect.CO_COROUTINE:
        await FunctionType(code, made)()
    else:
        exec(code, made)


async def test_the_seeds_programs_run_in_their_order(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    made: dict[str, Any] = {}
    opened: set[CrewRedis] = set()
    closes = [i for i, block in enumerate(BLOCKS) if "crew_redis.close()" in block]
    for i, block in enumerate(BLOCKS):
        if i != FLOW and i not in closes:
            await run(block, address, made)
            opened |= {made["crew_redis"]} if "crew_redis" in made else set()
    out = capsys.readouterr().out

    assert made["is_connected"] is True
    for line in ("Loaded crew: blog_writing_team", "Agents: 2", "Available crews: ['blog_writing_team']"):
        assert line in out
    for line in ("Crew exists in Redis", f"Crew ID: {made['crew_def'].crew_id}", "Crew not found"):
        assert line in out
    assert made["metadata"]["metadata"]["runs"] == 10
    assert made["success"] is True, "the crew is deleted"
    assert made["deleted_count"] == 0
    assert made["crew_redis"].key_prefix == "myapp_crew"
    for i in closes:
        await run(BLOCKS[i], address, made)
    for crew_redis in opened:  # the programs leave one behind
        await crew_redis.close()


async def test_the_seeds_flow_is_refused_for_its_unknown_agent(address: str) -> None:
    made = {"CrewDefinition": CrewDefinition, "AgentDefinition": AgentDefinition, "ExecutionMode": ExecutionMode}
    with pytest.raises(ValidationError, match=r"cites the agent 'market_researcher', which is not in this crew"):
        await run(BLOCKS[FLOW], address, made)


async def test_the_environment_names_the_server_and_its_database(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = CrewDefinition(name="team", agents=[AgentDefinition(agent_id="a")])
    async with (
        CrewRedis(strict=True) as default,
        CrewRedis(f"{address}/2", strict=True) as second,
    ):
        await default.save_crew(crew)
        assert await second.load_crew("team") is not None
    monkeypatch.setenv("REDIS_DB", "5")
    monkeypatch.setenv("REDIS_PORT", f"tcp://10.0.0.1:{os.environ['REDIS_PORT']}")  # as Kubernetes sets it
    async with CrewRedis(strict=True) as fifth, CrewRedis(db=2, strict=True) as second:
        assert (await fifth.list_crews(), await second.list_crews()) == ([], ["team"])


@pytest.mark.pure
@pytest.mark.parametrize("variable", ["REDIS_PORT", "REDIS_DB"])
def test_a_variable_that_is_no_number_is_named(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "six")
    with pytest.raises(InvalidInput, match=f"{variable}: 'six' is no number"):
        CrewRedis()


async def test_the_example_runs(address: str) -> None:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "redis_persistence_example.py")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "saved: True True",
        "loaded: ['Content Researcher', 'Blog Writer']",
        "metadata: (2, {'version': '1.0', 'author': 'content_team', 'status': 'active', 'runs': 10})",
        "all: ['blog_writing_team', 'research_synthesis_team']",
        "flows: ['research_synthesis_team']",
        "deleted: True and 1",
    ]
