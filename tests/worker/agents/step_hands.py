"""Agents that do their work in steps, and note each time that they really do one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from hands import is_open, note


class Stepper:
    """Does the steps that its prompt names, as in `a b !c d`. In the first attempt it never comes back from that with
    the `!`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        return [await context.step(name.strip("!"), self.do, context, name) for name in context.prompt.split()]

    async def do(self, context: Any, name: str) -> Any:
        note(self.folder, "did", context, step=name)
        while name.startswith("!") and context.attempt == 1 and not is_open(self.folder, context):
            await asyncio.sleep(0.01)
        return (name, context.attempt)


class StepperInThread(Stepper):
    """The same in a thread."""

    def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        return [context.step_sync(name.strip("!"), self.do, context, name) for name in context.prompt.split()]

    def do(self, context: Any, name: str) -> Any:
        note(self.folder, "did", context, step=name)
        while name.startswith("!") and context.attempt == 1 and not is_open(self.folder, context):
            time.sleep(0.01)
        return (name, context.attempt)


class StepperApart(StepperInThread):
    """The same in a process."""

    runs_in = "process"


class StepperApartAsync(Stepper):
    """The same on the event loop of a process."""

    runs_in = "process"


class Stumbler(Stepper):
    """Its last step fails in the first attempt; what the others return is text as long as their names say."""

    async def do(self, context: Any, name: str) -> Any:
        note(self.folder, "did", context, step=name)
        if not name.isdecimal() and context.attempt == 1:
            raise ConnectionError("not yet")
        return "x" * int(name) if name.isdecimal() else context.attempt


class LateStepper(Stepper):
    """A thread that goes on when its task has ended, and notes what its next step raised."""

    def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        while not is_open(self.folder, context):
            time.sleep(0.01)
        try:
            context.step_sync("late", note, self.folder, "did", context)
        except Exception as error:
            note(self.folder, "refused", context, error=f"{type(error).__name__}: {error}")
