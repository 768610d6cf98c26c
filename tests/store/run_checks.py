"""Helpers of the tests of runs."""

from __future__ import annotations

from typing import Any

from support import Crew


async def run_ended(crew: Crew, run_id: str) -> bool:
    state: Any = await crew.client.hget(crew.keys.run(run_id), "state")
    return state in ("completed", "partial", "failed")


async def steps_enqueued(crew: Crew) -> int:
    """Entries that were ever put on the task streams."""
    return sum([int((await crew.client.xinfo_stream(s))["entries-added"]) for s in await crew.streams()])
