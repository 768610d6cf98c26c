"""A conversation with a model goes on where the last attempt stood. test_worker_conversations kills its worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asking import ask
from pydantic_ai import Agent, BinaryContent, ToolReturn
from pydantic_ai.models.test import TestModel

from watchbill import testing
from watchbill.agents import aclose_clients
from watchbill.agents.checkpoints import Conversation
from watchbill.errors import RetryLater, ToolError, UserActionRequired, WatchbillError
from watchbill.tasks import Usage
from watchbill.testing import CutOff, ErrorAnswer, FakeModel, Request, ToolCall

PIXEL = BinaryContent(b"\x89PNG", media_type="image/png")


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    await aclose_clients()


class Tries:
    """One task, tried again and again."""

    def __init__(self, model: FakeModel, tools: dict[str, Callable[..., Any]], prefix: str = "openai-chat") -> None:
        self._model = model
        self._tools = tools
        self._prefix = prefix
        self.stored: dict[str, str] = {}
        self.usages: list[Usage | None] = []

    async def once(self, **config: Any) -> Any:
        attempt = len(self.usages) + 1
        context = testing.context("hi", tools=self._tools, stored=self.stored, attempt=attempt)
        try:
            return await ask(context=context, model=f"{self._prefix}:any", base_url=self._url, config=config)
        except WatchbillError as error:
            return error
        finally:
            self.usages.append(context.usage)

    @property
    def _url(self) -> str:
        return self._model.anthropic_url if self._prefix == "anthropic" else self._model.base_url

    @property
    def asked(self) -> list[int]:
        """How many results of tools the model knew, for each request."""
        return [len(request.tool_results) for request in self._model.requests]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prefix", ["openai-chat", "openai-responses", "anthropic"])
async def test_an_error_of_the_provider_or_of_a_tool_costs_only_that_call(prefix: str, stream: bool) -> None:
    called: list[str] = []

    def look(word: str) -> str:
        called.append(word)
        if called.count("two") == 1 and word == "two":
            raise ConnectionError("not now")
        return word.upper()

    def check(word: str) -> str:
        called.append(f"check {word}")
        raise ValueError("try another word")

    def answer(request: Request) -> testing.Answer:
        turns: list[testing.Answer] = [
            [ToolCall("check", {"word": "zero"}), ToolCall("look", {"word": "one"})],
            ToolCall("look", {"word": "two"}),
            ErrorAnswer(503) if len(model.requests) == 3 else "done",
        ]
        return turns[max(len(request.tool_results) - 1, 0)]

    async with FakeModel(answer) as model:
        tries = Tries(model, {"look": look, "check": check}, prefix)
        assert isinstance(await tries.once(stream=stream), ToolError)
        assert isinstance(await tries.once(stream=stream), RetryLater)
        assert await tries.once(stream=stream) == "done"
    assert Counter(called) == {"check zero": 1, "one": 1, "two": 2}
    assert tries.asked == [0, 2, 3, 3]
    assert "try another word" in model.requests[-1].tool_results[0]
    assert model.requests[-1].tool_results[1:] == ["ONE", "TWO"]
    once = Usage(input_tokens=10, output_tokens=5, requests=1)
    assert tries.usages == [once + once, None, once], "each answer counts once, however often it is read"


async def test_a_turn_whose_answer_came_to_nothing_is_asked_for_again_and_no_other() -> None:
    """The same answer would end in the same way. The error of a tool before it doesn't count."""
    failures = ["once"]
    called: list[str] = []

    def fail() -> str:
        called.append("fail")
        if failures:
            raise ConnectionError(failures.pop())
        return "fine"

    async with FakeModel([ToolCall("fail", {}), CutOff("half"), CutOff("half again"), "whole"]) as model:
        tries = Tries(model, {"fail": fail})
        assert isinstance(await tries.once(truncated="fail"), ToolError)
        for _ in range(2):
            assert isinstance(await tries.once(truncated="fail"), UserActionRequired)
        assert await tries.once(truncated="fail") == "whole"
        assert await tries.once(truncated="fail") == "whole"
    assert tries.asked == [0, 1, 1, 1]
    assert len(called) == 2


async def test_a_conversation_that_reached_its_limit_of_requests_goes_on_once_that_is_raised() -> None:
    calls = [ToolCall("add", {"number": number}) for number in range(3)]
    added: list[int] = []

    def add(number: int) -> int:
        added.append(number)
        return number

    async with FakeModel([*calls, "done"]) as model:
        tries = Tries(model, {"add": add})
        for _ in range(2):
            assert "no answer after 2 requests" in str(await tries.once(request_limit=2))
        assert await tries.once(request_limit=9) == "done"
    assert tries.asked == [0, 1, 2, 3]
    assert added == [0, 1, 2]


async def test_conversations_of_one_task_are_told_apart_by_their_names() -> None:
    def ask_each(context: testing.RecordingContext, name: str) -> Any:
        async def ask_it() -> str:
            async with Conversation(context, name) as conversation:
                agent = Agent(TestModel(custom_output_text=name), capabilities=[conversation])
                return (await agent.run("hi")).output

        return ask_it()

    first = testing.context()
    assert [await ask_each(first, name) for name in ("draft", "review")] == ["draft", "review"]
    again = testing.context(stored=first.stored, attempt=2)
    assert [await ask_each(again, name) for name in ("review", "draft")] == ["review", "draft"]
    assert list(first.stored) == ["draft: turn 1#1", "review: turn 1#1"]


async def test_what_tools_return_is_the_same_for_the_model_in_a_later_attempt() -> None:
    returned: dict[str, Any] = {
        "text": "plain",
        "table": {"rows": [1, None, 2.5]},
        "image": PIXEL,
        "whole": ToolReturn(return_value="see below", content=["look: ", PIXEL], metadata={"not": "for it"}),
    }
    calls = [ToolCall(name, {}) for name in returned]

    def answer(request: Request) -> testing.Answer:
        if not request.tool_results:
            return calls
        return ErrorAnswer(503) if len(model.requests) == 2 else "done"

    def tool(name: str) -> Callable[[], Any]:
        return lambda: returned.pop(name)

    async with FakeModel(answer) as model:
        tries = Tries(model, {name: tool(name) for name in returned})
        assert isinstance(await tries.once(), RetryLater)
        assert returned == {}
        assert await tries.once() == "done"
    assert model.requests[2].messages == model.requests[1].messages
