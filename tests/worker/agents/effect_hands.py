"""An agent with an effect in another system, which takes none under an older fence than that of the last one."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hands import note


class Effect:
    """Has its effect, and tells under which fence. At the step that it is told it dies, and its worker with it: once at
    each of `deaths`, before the effect or after it."""

    def __init__(
        self, folder: str, dies: str = "", deaths: Sequence[str] = ("before", "after"), asks: bool = False
    ) -> None:
        self.folder = folder
        self.dies = dies
        self.deaths = deaths
        self.asks = asks

    async def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        if self.asks:
            await context.approval("have an effect")
        step = context.task.task_id.partition("/")[2]
        self.die("before", step)
        note(self.folder, "effect", context)
        self.die("after", step)
        return {
            "fence": context.fence,
            "list": ["a", "b", "c", "d", "e"],
            "flag": True,
            "done": step.endswith("@3"),
            "given": sorted(context.outputs),
        }

    def die(self, when: str, step: str) -> None:
        mark = Path(self.folder, f"died.{when}")
        if step == self.dies and when in self.deaths and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
