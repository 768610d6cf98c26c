"""Agents and predicates of crews whose steps depend on what came before: loops, lists, conditions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hands import note


class Tells:
    """Returns what it was told to, and notes what it was asked and given."""

    def __init__(self, folder: str, output: Any = None) -> None:
        self.folder = folder
        self.output = output

    async def run(self, context: Any) -> Any:
        note(self.folder, "start", context, prompt=context.prompt, outputs=context.outputs, item=context.item)
        return context.prompt if self.output is None else self.output


class DoneAt(Tells):
    """Is done with the iteration of this number."""

    async def run(self, context: Any) -> Any:
        await super().run(context)
        number = int(context.task.task_id.rpartition("@")[2])
        return {"number": number, "done": number >= self.output, "folder": self.folder}


class FailsFrom(Tells):
    """Fails for good from the iteration of this number on."""

    async def run(self, context: Any) -> Any:
        note(self.folder, "start", context, prompt=context.prompt, outputs=context.outputs, item=context.item)
        if int(context.task.task_id.rpartition("@")[2]) >= self.output:
            raise TypeError("it broke")
        return "well so far"


class Fails(Tells):
    """Fails for good, but for items that it is told to return."""

    async def run(self, context: Any) -> Any:
        note(self.folder, "start", context, prompt=context.prompt, outputs=context.outputs, item=context.item)
        if self.output is not None and context.item in self.output:
            return context.item
        raise TypeError(f"it broke at {context.item}")


def is_third(outputs: dict[str, Any]) -> bool:
    return bool(outputs["critic"]["number"] == 3)


async def is_second(outputs: dict[str, Any]) -> bool:
    return bool(outputs["critic"]["number"] == 2)


def raises_until_mended(outputs: dict[str, Any]) -> bool:
    if not Path(outputs["critic"]["folder"], "mended").exists():
        raise LookupError("not mended yet")
    return True


def says_yes(_: dict[str, Any]) -> str:
    return "yes, it is done"


def kills_its_worker_once(outputs: dict[str, Any]) -> bool:
    """Kills the worker that judges the second iteration, the first time."""
    mark = Path(outputs["critic"]["folder"], "killed")
    if outputs["critic"]["number"] == 2 and not mark.exists():
        mark.touch()
        os._exit(66)
    return False


class SecondLife(Tells):
    """Fails for good with item 2, until its task is replayed: notes tell that it was there before."""

    async def run(self, context: Any) -> Any:
        notes = Path(self.folder, "notes")
        was_there = notes.exists() and f'"{context.task.task_id}"' in notes.read_text()
        await super().run(context)
        if context.item == 2 and not was_there:
            raise TypeError("not yet")
        return context.item
