"""Agents of the tests of wrong clocks."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from hands import note


async def tell(context: Any) -> dict[str, float]:
    """What time it is here, and by when it is to end."""
    return {"now": time.time(), "deadline": context.deadline.timestamp()}


class Limited:
    """Is refused once: its prompt says when that was, and when it may try again, as HTTP servers do."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> str:
        note(self.folder, "start", context)
        if context.attempt > 1:
            return "served"
        date, after = context.prompt.split("|")
        error = RuntimeError("429 Too Many Requests")
        error.response = SimpleNamespace(status_code=429, headers={"Date": date, "Retry-After": after})  # type: ignore[attr-defined]
        raise error
