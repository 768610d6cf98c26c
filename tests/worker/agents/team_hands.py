"""Agents of hierarchical crews."""

from __future__ import annotations

import asyncio
from typing import Any

from hands import Gate, note


class Lead:
    """Delegates each `member: work` of its prompt, all at once (`;` between them), and returns what came of each."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> list[Any]:
        note(self.folder, "start", context)
        asked = [item.split(": ", 1) for item in context.prompt.split("; ")]
        found = await asyncio.gather(*(self.one(context, *item) for item in asked))
        note(self.folder, "end", context)
        return found

    async def one(self, context: Any, member: str, work: str) -> Any:
        try:
            return await context.delegate(member, work, scope=f"item {work}")
        except ValueError as error:
            return f"refused: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"


class LeadInThread:
    """Delegates one after the other, in a thread."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, context: Any) -> list[Any]:
        note(self.folder, "start", context)
        return [context.delegate_sync(*item.split(": ", 1)) for item in context.prompt.split("; ")]


class Idle:
    """A manager that does the work itself."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> str:
        return "done by myself"


class Works(Gate):
    """Returns what it was asked, in capitals. `break`: it fails; `gate`: once its gate is open."""

    async def run(self, context: Any) -> str:
        if "gate" in context.prompt:
            return await super().run(context)
        note(self.folder, "start", context)
        if "break" in context.prompt:
            raise ValueError("it broke")
        return str(context.prompt).upper()


class Critic:
    """Rejects what has been worked on once, and approves of the second. `never`: it rejects all; `mute`: it says
    nothing of use."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        ((member, output),) = context.outputs.items()
        if "mute" in context.prompt:
            return "approved"
        good = "REJECTED" in output and "never" not in context.prompt
        return {"approved": good, "reasons": "" if good else f"{member} must do better"}


class LeadApart(Lead):
    """Delegates from a process of its own."""

    runs_in = "process"


class IdleApart(Idle):
    """Does the work itself, in a process of its own."""

    runs_in = "process"
