"""Agents for crews of any kind."""

from __future__ import annotations

import asyncio
import re
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


class Delegates:
    """Delegates as the program of its run says, and fails, reviews and hopes as that says (`hierarchy_scenes.py`). Each
    prompt names the run and the path of the item."""

    def __init__(self, folder: str, programs: dict[str, Any], hopes: int = 0) -> None:
        self.folder = folder
        self.programs = programs
        self.hopes = hopes

    async def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        for _ in range(4):  # others have their turn
            await asyncio.sleep(0)
        if context.attempt <= self.hopes:
            raise ConnectionError("not yet")
        step = context.task.task_id.partition("/")[2]
        found = re.search(r"^(r\d) ([\d.]+)$", context.prompt, re.MULTILINE)
        if ":" not in step or found is None:
            came = await self.delegated(context, self.programs[context.run_id], f"{context.run_id} ")
            note(self.folder, "end", context)
            return [context.run_id, "", came]
        last = step.rpartition(":")[2]
        number = 1 if last.isdecimal() else int(re.sub(r"\D", "", last) or 1)
        item = self.item(found[1], found[2])
        given = [output[:2] for output in context.outputs.values()]
        if "review" in last:
            assert given == [[found[1], found[2]]], "what is reviewed"
            if number == item["mute_in"]:
                raise TypeError("mute")
            return {"approved": number > item["rejections"], "reasons": "better"}
        assert given == ([[found[1], found[2]]] if number > 1 else []), "what was rejected"
        came = await self.delegated(context, item["below"], f"{found[1]} {found[2]}.")
        note(self.folder, "end", context)
        if number == item["fails_in"]:
            raise TypeError("it broke")
        return [found[1], found[2], came]

    def item(self, run: str, path: str) -> dict[str, Any]:
        item: dict[str, Any] = {"below": self.programs[run]}
        for place in path.split("."):
            item = item["below"]["items"][int(place)]
        return item

    async def delegated(self, context: Any, program: dict[str, Any], path: str) -> list[Any]:
        asked = [(item["member"], f"{path}{place}") for place, item in enumerate(program["items"])]
        if program["at_once"]:
            return list(await asyncio.gather(*(self.one(context, *one) for one in asked)))
        return [await self.one(context, *one) for one in asked]

    async def one(self, context: Any, member: str, prompt: str) -> Any:
        try:
            return await context.delegate(member, prompt)
        except ValueError:
            return "refused"
        except Exception:
            return "failed"
