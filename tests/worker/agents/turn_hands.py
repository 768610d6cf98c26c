"""An agent that goes on when its gate is open, for schedules that are worked out by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from hands import is_open, note


class Turn:
    """Goes on when its gate is open, or, where it delegates, when all of that is done (`in_order`: one after the
    other); and returns what it is told for this step, or its name. `fails`: it fails for good."""

    def __init__(
        self,
        folder: str,
        outputs: Mapping[str, Any] | None = None,
        delegates: Sequence[str] = (),
        in_order: bool = False,
    ) -> None:
        self.folder = folder
        self.outputs = outputs or {}
        self.delegates = delegates
        self.in_order = in_order

    async def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        if self.in_order:
            return [await context.delegate(member, "do it") for member in self.delegates]
        if self.delegates:
            return await asyncio.gather(*(context.delegate(member, "do it") for member in self.delegates))
        while not is_open(self.folder, context):
            await asyncio.sleep(0.01)
        note(self.folder, "end", context)
        step = context.task.task_id.partition("/")[2]
        output = self.outputs.get(step, step)
        if output == "fails":
            raise TypeError("it broke")
        return output
