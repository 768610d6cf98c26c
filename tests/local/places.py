"""A folder with a crew and its agents."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from waiting import whole_lines

AGENTS = '''
import asyncio
import json
import os
from pathlib import Path

HERE = Path(__file__).parent


def note(context):
    with (HERE / "notes").open("ab", buffering=0) as file:
        line = {"task": context.task.task_id, "attempt": context.attempt, "pid": os.getpid()}
        file.write(json.dumps(line).encode() + b"\\n")


class Say:
    """Its prompt, in capitals."""

    def __init__(self, suffix=""):
        self.suffix = suffix

    async def run(self, context):
        note(context)
        return context.prompt.upper() + self.suffix


class Wait:
    """Until its gate is open."""

    async def run(self, context):
        note(context)
        while not (HERE / "open").exists():
            await asyncio.sleep(0.01)
        return context.agent.agent_id


def count_lines(context):
    note(context)
    return {"lines": len(context.inputs["log"].splitlines())}


def broken(context):
    note(context)
    raise ValueError("it broke")


def shout(text: str) -> str:
    return text + "!"


class UsesTool:
    async def run(self, context):
        note(context)
        return context.tools["shout"](str(context.tools["calculator"]("6 * 7")))
'''


class Place:
    """A folder with a crew file, and beside it a module that no other test has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = f"agents_{uuid.uuid4().hex}"
        self.file = folder / "crew.yaml"
        (folder / f"{self.module}.py").write_text(AGENTS)

    def crew(self, **spec: Any) -> Path:
        for agent in spec["agents"]:
            agent["class"] = f"{self.module}:{agent['class']}"
        name = spec.pop("name", "crew")
        # JSON is YAML
        self.file.write_text(
            json.dumps(
                {"apiVersion": "watchbill.dev/v1alpha1", "kind": "Crew", "metadata": {"name": name}, "spec": spec}
            )
        )
        return self.file

    def notes(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in whole_lines(self.folder / "notes")]

    def executions(self) -> Counter[str]:
        return Counter(line["task"] for line in self.notes())
