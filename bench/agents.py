"""The agents of Watchbill's own measures: one that does nothing, one that sleeps. What they did is in the ledger."""

from __future__ import annotations

import asyncio

from bench.peers import work

from watchbill.agents.context import Context


async def noop(context: Context) -> dict[str, int]:
    """The prompt is the task's number."""
    return work.perform(int(context.prompt))


async def sleep(context: Context) -> dict[str, int]:
    """The prompt is the task's number and for how many seconds to sleep; the ledger tells of the beginning."""
    number, seconds = context.prompt.split()
    result = work.perform(int(number))
    await asyncio.sleep(float(seconds))
    return result
