"""An agent with a model remembers its session: what goes to the model, and that no turn is there twice."""

from __future__ import annotations

from typing import Any

from workshop import Crew, Make

from watchbill.records import AgentDefinition
from watchbill.testing import ErrorAnswer, FakeModel, Request


def said(request: Request) -> list[tuple[str, str]]:
    """What a request told of the conversation: (role, text)."""
    return [(one["role"], text(one["content"])) for one in request.messages if one["role"] != "system"]


def text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


async def remembered(crew: Crew) -> list[tuple[str, str]]:
    return [(turn.task_id, turn.answer) for turn in await crew.client.session(crew.name, "chat", agent="guide")]


async def test_a_session_is_told_to_the_model_and_a_retry_or_an_edit_appends_nothing_twice(make_crew: Make) -> None:
    async with FakeModel(["A1", ErrorAnswer(503), "A2", "A3", "B2", "alone"]) as model:
        guide = AgentDefinition(
            agent_id="guide",
            model="openai-chat:any",
            base_url=model.base_url,
            system_prompt="Be brief.",
            config={"history": {"turns": 2, "tokens": 1000}},
        )
        crew = await make_crew([guide], tasks={"backoff_seconds": 0})
        async with crew.in_process():
            for name in ("q1", "q2", "q3"):
                await crew.submit(name, "guide", name.upper(), session_id="chat")
                assert (await crew.result(name)).success
            assert await remembered(crew) == [("q1", "A1"), ("q2", "A2"), ("q3", "A3")]
            assert said(model.requests[3]) == [
                ("user", "Q1"),
                ("assistant", "A1"),
                ("user", "Q2"),
                ("assistant", "A2"),
                ("user", "Q3"),
            ]
            assert model.requests[3].instructions == "Be brief."
            await crew.submit("edit", "guide", "Q2, EDITED", session_id="chat", metadata={"follows": "q1"})
            assert (await crew.result("edit")).output == "B2"
            assert said(model.requests[4]) == [("user", "Q1"), ("assistant", "A1"), ("user", "Q2, EDITED")]
            assert await remembered(crew) == [("q1", "A1"), ("edit", "B2")]
            await crew.submit("other", "guide", "Q", session_id="another")
            assert (await crew.result("other")).output == "alone"
            assert said(model.requests[5]) == [("user", "Q")]
            await crew.submit("wrong", "guide", "Q", session_id="chat", metadata={"follows": "q9"})
            assert "has no turn of task 'q9'" in (await crew.result("wrong")).error
