"""A worker that is killed in the middle of a conversation with a model costs the call that was under way."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from workshop import Make

from waiting import until, whole_lines
from watchbill.records import AgentDefinition
from watchbill.tasks import Usage
from watchbill.testing import Answer, FakeModel, Request, ToolCall


async def test_a_killed_worker_costs_one_call_of_each_conversation(make_crew: Make) -> None:
    """Each has three turns, and a tool between each two. One stands in its third turn, the other in its second tool."""
    folder = ""

    def asked(prompt: str) -> list[int]:
        """How many results of tools each request knew."""
        return [len(request.tool_results) for request in model.requests if request.prompt == prompt]

    async def answer(request: Request) -> Answer:
        known, prompt = len(request.tool_results), request.prompt
        if known < 2:
            mark = "!" if known and prompt == "tool" else ""
            return ToolCall("remember", {"folder": folder, "word": f"{mark}{prompt}{known}"})
        if prompt == "turn" and len(asked("turn")) == 3:
            await asyncio.Event().wait()
        return " ".join(request.tool_results)

    async with FakeModel(answer) as model:
        guide = AgentDefinition(
            agent_id="guide", model="openai:any", base_url=model.base_url, tools=["conversation_hands:remember"]
        )
        crew = await make_crew([guide], lease_seconds=1)
        folder, path = str(crew.folder), crew.folder / "words"
        first = await crew.worker()
        for task in ("turn", "tool"):
            await crew.submit(task, "guide", task)
        # On a busy machine the libraries of models take a minute to import, in each of the two workers.
        await until(lambda: len(asked("turn")) == 3 and '"!tool1"' in whole_lines(path), 300, "the middle of both")
        first.kill()
        crew.open()
        await crew.worker()
        turn, tool = await crew.results(["turn", "tool"], timeout=300)
    assert (asked("turn"), asked("tool")) == ([0, 1, 2, 2], [0, 1, 2])
    called = Counter(map(json.loads, whole_lines(path)))
    assert called == {"turn0": 1, "turn1": 1, "tool0": 1, "!tool1": 2}
    assert (turn.output, tool.output) == ("turn0 turn1", "tool0 !tool1")
    once = Usage(input_tokens=10, output_tokens=5, requests=1)
    assert (turn.usage, tool.usage) == (once, once), "what the first worker spent it could not report"
