"""Agents that ask something of the store once their gate is open, and then end."""

from __future__ import annotations

from typing import Any

from hands import Gate

from watchbill.agents import memory
from watchbill.errors import Postponed


class RemembersGate(Gate):
    """Adds its turn to the session of its task."""

    async def run(self, context: Any) -> str:
        result = await super().run(context)
        await memory.remember(context, context.prompt, result, memory.HistoryConfig())
        return result


class StepsGate(Gate):
    """Takes a step."""

    async def run(self, context: Any) -> str:
        result = await super().run(context)
        return str(await context.step("last", lambda: result))


class FailsGate(Gate):
    """Fails, so that another attempt would follow."""

    async def run(self, context: Any) -> str:
        raise OSError(await super().run(context))


class PostponesGate(Gate):
    """May not go on yet."""

    async def run(self, context: Any) -> str:
        raise Postponed(await super().run(context), seconds=60)
