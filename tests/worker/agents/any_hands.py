"""An agent for crews of any kind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hands import note


class Varied:
    """Notes when it begins and ends, and fails for good at the steps that it is told. Returns which run it has seen, in
    all that it was given; in an iteration, whether that is the last one."""

    def __init__(self, folder: str, fails: Sequence[str] = (), done_at: int = 0, hopes: int = 0) -> None:
        self.folder = folder
        self.fails = fails
        self.done_at = done_at
        self.hopes = hopes

    async def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        for _ in range(4):  # others have their turn
            await asyncio.sleep(0)
        step = context.task.task_id.partition("/")[2]
        seen = {context.run_id}
        seen |= {output["run"] for output in context.outputs.values() if isinstance(output, dict) and "run" in output}
        seen |= {str(context.item).partition(" ")[0]} if context.item is not None else {context.inputs["who"]}
        note(self.folder, "end", context)
        if context.attempt <= self.hopes:
            raise ConnectionError("not yet")
        if step in self.fails:
            raise TypeError("it broke")
        number = int(step.split("@")[1]) if "@" in step and self.done_at else 0
        return {
            "run": "+".join(sorted(seen)),
            "list": [f"{context.run_id} {n}" for n in range(len(step) % 4)],
            "flag": len(context.outputs) % 2 == 0,
            "done": number >= self.done_at,
        }
