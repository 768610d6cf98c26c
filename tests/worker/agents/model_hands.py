"""A language model in a process of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from watchbill.agents.context import Context
from watchbill.agents.llm import LLMAgent


class ModelApart(LLMAgent):
    """Asks its model from there."""

    runs_in = "process"


class HastyApart(ModelApart):
    """Gives its model up once the file `hurry` is in the folder that its prompt names, and ends once `open` is."""

    async def run(self, context: Context) -> str:
        folder = Path(context.prompt)

        async def there(name: str) -> None:
            while not (folder / name).exists():
                await asyncio.sleep(0.01)

        asked = asyncio.create_task(super().run(context))
        await there("hurry")
        asked.cancel()
        await asyncio.wait([asked])
        (folder / "gave up").touch()
        await there("open")
        return "gave up" if asked.cancelled() else "answered"
