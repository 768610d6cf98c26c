"""The example scripts of messaging run as they are, on a real server."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


async def output(name: str, redis_url: str) -> list[str]:
    """The lines that an example prints. Any word on its error output fails."""
    environment = os.environ | {"WATCHBILL_REDIS_URL": redis_url}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        str(EXAMPLES / name),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 180)
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode().splitlines()


async def test_agents_talk_by_messages(redis_url: str) -> None:
    lines = await output("redis_pubsub_example.py", redis_url)

    assert lines[:3] == [f"asked about {topic}: 1 listening" for topic in ("tides", "moons", "currents")]
    assert lines[3:] == ["tides: 5 letters", "moons: 5 letters", "currents: 8 letters"]


async def test_holders_of_a_lock_come_one_after_the_other(redis_url: str) -> None:
    refused, *lines, last = await output("redis_lock_example.py", redis_url)

    assert (refused, last) == ("written with an old fence: False", "somebody newer")
    assert sorted(lines) == sorted(f"{name} {what}" for name in ("Ann", "Ben", "Cy") for what in ("begins", "ends"))
    assert all(begins.split()[0] == ends.split()[0] for begins, ends in zip(lines[::2], lines[1::2], strict=True))


async def test_agents_share_a_limit(redis_url: str) -> None:
    assert await output("redis_rate_limiter_example.py", redis_url) == ["8 calls took a second or more"]
