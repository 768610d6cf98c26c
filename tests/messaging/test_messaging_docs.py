"""The programs in docs/messaging.md and in the document of seed 001 run as they are written, on a real server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from waiting import until
from watchbill import connection, messaging

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "messaging.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SEED = (ROOT / "tests" / "seeds" / "001.txt").read_text()
SEED_BLOCKS = re.findall(r"^```python\n(.*?)^```$", SEED, re.MULTILINE | re.DOTALL)
IMPORTED = {"from ailf.messaging.redis import": "from watchbill.messaging import"}
"""All that changes in a program of the seed."""
KEYS = ("key", "user:123", "visits", "tasks", "reports")


@pytest.fixture
def server(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the server that the programs use, which is the session's. What they have stored is removed."""
    monkeypatch.setenv("WATCHBILL_REDIS_URL", redis_url)
    with connection.connect_sync(redis_url) as client:
        client.delete(*KEYS)
        yield client
        client.delete(*KEYS, *client.keys("wb:lock:*"), *client.keys("wb:rate:*"))


def seed_program(name: str) -> str:
    """The seed's program that imports this class, with its import line changed."""
    [program] = [block for block in SEED_BLOCKS if re.search(rf"import {name}$", block, re.MULTILINE)]
    for old, new in IMPORTED.items():
        assert old in program
        program = program.replace(old, new)
    return program


def ran(program: str) -> dict[str, Any]:
    """What a program has made."""
    made: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(program, "program", "exec"), made)
    return made


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_program_of_the_page_runs_and_runs_again(server: Any, number: int) -> None:
    for _ in range(2):
        ran(BLOCKS[number])


def test_the_seeds_client_runs_as_written(server: Any) -> None:
    made = ran(seed_program("RedisClient"))

    assert made["value"] == "value"
    assert made["user"] == {"name": "Alice", "role": "admin"}
    assert server.exists("key") == 0


async def test_the_seeds_pubsub_runs_as_written(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made: dict[str, Any] = {"__name__": "__main__"}
    program = compile(seed_program("RedisPubSub"), "program", "exec")
    running = asyncio.create_task(asyncio.to_thread(exec, program, made))  # it ends with `run`, which blocks

    await until(lambda: server.publish("notifications", json.dumps("of the test")))
    made["pubsub"].publish("notifications", {"type": "alert"})
    out = ""

    def printed() -> bool:
        nonlocal out
        out += capsys.readouterr().out
        return "Received: of the test" in out and "Received: {'type': 'alert'}" in out

    await until(printed)
    assert not running.done()
    await until(lambda: "subscriber" in made)

    async def ended() -> bool:  # `stop` comes too early if the program has yet to call `run`
        await asyncio.to_thread(made["subscriber"].stop)
        return running.done()

    await until(ended)
    made["subscriber"].close()


def test_the_seeds_lock_runs_as_written(server: Any) -> None:
    made = ran(seed_program("RedisLock"))

    assert made["acquired"] is True
    assert not made["lock"].held
    assert server.hget("wb:lock:critical-section", "token") == ""


def test_the_seeds_limiter_runs_as_written(server: Any) -> None:
    made = ran(seed_program("RedisRateLimiter"))

    assert made["limiter"].remaining("user-123") in (9, 10)  # the second may be over
    assert [made["limiter"].is_allowed("another") for _ in range(11)].count(True) >= 10


def test_the_seeds_stream_runs_as_written_and_its_group_gets_the_task_that_came_before_it(server: Any) -> None:
    made = ran(seed_program("RedisStream"))

    assert made["messages"] == [{"id": made["task_id"], "data": {"type": "analysis", "data": "sample"}}]
    assert server.xpending("tasks", "workers")["pending"] == 0


@pytest.mark.pure
def test_the_page_tells_of_every_class() -> None:
    for name in messaging.__all__:
        assert re.search(rf"\b{name.removeprefix('Async')}\b", PAGE), name
