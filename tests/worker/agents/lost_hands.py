"""Agents that ask something of the store once their gate is open, and then end."""

from __future__ import annotations

from typing import Any

from hands import Gate

from watchbill.agents import memory


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
