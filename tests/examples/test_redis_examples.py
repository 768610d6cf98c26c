"""The examples of streams and of a Redis to try them on run as they are."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as NotReady
from redis.retry import Retry

from watchbill import local_server

EXAMPLES = Path(__file__).parents[2] / "examples"
COMPOSE = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"]["redis"]


async def test_the_workflow_over_streams_does_each_document_once(
    private_redis: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await private_redis()
    monkeypatch.setenv("WATCHBILL_REDIS_URL", server.url)
    command = [sys.executable, str(EXAMPLES / "redis_stream_example.py")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=180)

    assert done.returncode == 0, done.stderr
    *findings, given_up = done.stdout.splitlines()
    assert findings == [
        "stars: 8 words, the longest is 'satellites'",
        "tides: 8 words, the longest is 'rises'",
        "winds: 12 words, the longest is 'pressure'",
    ]
    # On a machine that stood still for half a second, another analyst may have found the last attempt given up.
    errors = "ValueError: it has no words|nobody acknowledged it"
    assert re.fullmatch(rf"empty: given up after 3 attempts: ({errors})", given_up)
    assert "RuntimeError: spilt coffee over it" in done.stderr
    assert "Traceback" not in done.stderr
    with redis.Redis.from_url(server.url) as client:
        left = [key.decode() for key in client.keys("*")]
    assert [key for key in left if ":answer:" not in key] == []


@pytest.mark.pure
def test_the_redis_to_try_it_on_is_redis_7_with_aof_for_this_machine_only() -> None:
    assert COMPOSE["image"].startswith("redis:7")
    assert COMPOSE["ports"] == ["127.0.0.1:6379:6379"]
    assert COMPOSE["volumes"] == ["redis:/data"]  # where the image has its data
    assert COMPOSE["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"]


def test_its_command_keeps_what_was_written_over_a_kill(tmp_path: Path) -> None:
    program, *options = COMPOSE["command"]
    assert program == "redis-server"
    socket = tmp_path / "s"
    place = ["--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    command = [str(local_server.find_server()), *options, *place]
    retry = Retry(ConstantBackoff(0.01), 2000)
    with redis.Redis(
        unix_socket_path=str(socket), retry=retry, retry_on_error=[NotReady, FileNotFoundError], decode_responses=True
    ) as client:
        for time in range(2):
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
                try:
                    assert client.config_get("appendonly") == {"appendonly": "yes"}
                    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
                    assert client.xlen("stream") == time
                    client.xadd("stream", {"n": 1})
                finally:
                    server.kill()
