"""The agents of Watchbill's own measures: one that does nothing, one that sleeps, one that works in steps, one that
asks a model.

What they did is in the ledger.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

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


async def nap(context: Context) -> None:
    """The prompt is the task's number, from 1 on, and for how many seconds to sleep. The ledger tells of the beginning,
    and of the end by the negative number."""
    number, seconds = context.prompt.split()
    work.perform(int(number))
    await asyncio.sleep(float(seconds))
    work.perform(-int(number))


async def in_steps(context: Context) -> dict[str, float]:
    """Does as many empty steps as its prompt says, and fails once behind them. Returns the milliseconds that each took
    in the second attempt, which finds what the first has stored, and does as many more."""
    count = int(context.prompt)
    milliseconds: dict[str, float] = {}
    for what in ("found", "done"):
        began = time.perf_counter()
        for number in range(count):
            await context.step(f"{what} {number}", int)
        milliseconds[what] = (time.perf_counter() - began) * 1000 / count
        if context.attempt == 1:
            raise ConnectionError("once more")
    return milliseconds


async def effect(context: Context) -> int:
    """Sleeps for the seconds of its prompt, then has its effect: a line of its step and its fence. Returns the
    fence."""
    await asyncio.sleep(float(context.prompt))
    work.note(f"{context.task.task_id} {context.fence}".encode())
    return context.fence


class Bare:
    """Asks a model by pydantic-ai alone, with an agent that is made once."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    async def run(self, context: Context) -> str:
        answer = await _asking(self._base_url).run(context.prompt)
        return str(answer.output)


@functools.cache
def _asking(base_url: str) -> Any:
    from pydantic_ai import Agent  # takes a second, and the other agents need none of it
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return Agent(OpenAIChatModel("gpt-5-mini", provider=OpenAIProvider(base_url=base_url, api_key="none")))
