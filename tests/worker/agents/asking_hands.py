"""Agents that ask for approval."""

from __future__ import annotations

import asyncio
from typing import Any

from hands import note


class Pays:
    """Asks on the event loop for each word of its prompt, and returns the reasons."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> list[str]:
        note(self.folder, "start", context)
        return [(await context.approval(f"pay {word}")).reason for word in context.prompt.split()]


class PaysInThread:
    """Asks in a thread."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, context: Any) -> str:
        note(self.folder, "start", context)
        return str(context.approval_sync("pay").reason)


class PaysInProcess(PaysInThread):
    """Asks in a process of its own."""

    runs_in = "process"


class Buys:
    """Calls a tool for each word of its prompt, in a thread. It needs approval, each time."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, context: Any) -> list[str]:
        note(self.folder, "start", context)
        return [context.tools["pay"](self.folder, word=word) for word in context.prompt.split()]


class BuysOnLoop:
    """Does so on the event loop, where a tool that isn't async belongs into a thread."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> list[str]:
        note(self.folder, "start", context)
        pay = context.tools["pay"]
        return [await asyncio.to_thread(pay, self.folder, word=word) for word in context.prompt.split()]


async def sells_apart(context: Any) -> Any:
    """Calls a tool in a process of its own."""
    return await context.tools["sell"](key="lamp")


sells_apart.runs_in = "process"  # type: ignore[attr-defined]
