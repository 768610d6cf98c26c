"""Waits for what a test expects, for as long as a busy machine may need, and looks at what is not ready yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any


async def is_soon(call: Callable[[], Awaitable[Any]], seconds: float, tries: int = 6) -> bool:
    """Returns whether one of a few calls takes less than `seconds`. A busy machine may hold up any of them; where what
    bounds them is missing, all take longer."""
    for _ in range(tries):
        began = time.monotonic()
        await call()
        if time.monotonic() - began < seconds:
            return True
    return False


def whole_lines(file: Path) -> list[str]:
    """The lines of a file that somebody may be writing, but for one that is not whole yet; [] if there is no file."""
    text = file.read_text() if file.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


async def until(condition: Callable[[], Any], seconds: float = 180.0, what: str = "this") -> Any:
    """Returns the answer of `condition` (sync or async) once that is true. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what} never came true"
        await asyncio.sleep(0.01)
