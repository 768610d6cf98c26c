"""Agents with a model, which leave a note of each of their runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hands import note

from watchbill.agents.llm import LLMAgent, LLMConfig


class NotedConfig(LLMConfig):
    folder: str


class Noted:
    """Has an LLMAgent answer."""

    Config = NotedConfig
    uses_models = True

    def __init__(self, config: NotedConfig) -> None:
        self.agent = LLMAgent(config)
        self.folder = config.folder

    async def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        return await self.agent.run(context)


async def pay(folder: str) -> str:
    """Pays, which takes a while: until both members have ended."""
    with Path(folder, "paid").open("a") as file:
        file.write("paid\n")
    while not Path(folder, "open").exists():
        await asyncio.sleep(0.01)
    return "paid"
