"""LLMAgent against a real HTTP server on loopback, by both of OpenAI's APIs."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from asking import BOTH, ask, crew_of, failure

from watchbill import testing
from watchbill.agents import AgentLoader, aclose_clients, providers
from watchbill.agents.calculator import calculator
from watchbill.errors import NotWorthRetrying, RetryAfter, RetryLater, TaskFailed, ToolError, UserActionRequired
from watchbill.tasks import Usage
from watchbill.testing import FakeModel, Request, ToolCall
from watchbill.worker.execution import failures

APIS = pytest.mark.parametrize(
    ("prefix", "api"), [("openai", "chat"), ("openai-chat", "chat"), ("openai-responses", "responses")]
)


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    await aclose_clients()


@APIS
async def test_a_model_is_asked_once_and_its_answer_is_the_output(prefix: str, api: str) -> None:
    async with FakeModel(["forty-two"], input_tokens=12, output_tokens=3) as model:
        context = testing.context(prompt="what is 6 * 7?")
        answer = await ask(
            context=context,
            model=f"{prefix}:gpt-4o",
            base_url=model.base_url,
            system_prompt="Be brief.",
            config={"temperature": 0.25, "max_tokens": 99, "top_p": 1},
        )
    assert answer == "forty-two"
    assert context.usage == Usage(input_tokens=12, output_tokens=3, requests=1)
    [request] = model.requests
    assert request.api == api
    assert request.prompt == "what is 6 * 7?"
    assert request.instructions == "Be brief."
    assert request.body["model"] == "gpt-4o"
    assert request.body["temperature"] == 0.25
    assert request.body["max_output_tokens" if api == "responses" else "max_completion_tokens"] == 99


@BOTH
async def test_a_tool_is_called_and_its_result_goes_back_to_the_model(prefix: str) -> None:
    async with FakeModel([ToolCall("calculator", {"expression": "6 * 7"}), "It is 42."]) as model:
        context = testing.context(tools={"calculator": calculator})
        answer = await ask(context=context, model=f"{prefix}:any", base_url=model.base_url, tools=["calculator"])
    assert answer == "It is 42."
    assert model.requests[0].tools == ["calculator"]
    assert model.requests[0].tool_results == []
    assert model.requests[1].tool_results == ["42"]
    assert context.usage == Usage(input_tokens=20, output_tokens=10, requests=2)


@BOTH
async def test_a_models_bad_argument_is_its_to_mend(prefix: str) -> None:
    async with FakeModel(
        [ToolCall("calculator", {"expression": "9**9**9"}), ToolCall("calculator", {"expression": "9"}), "9"]
    ) as model:
        context = testing.context(tools={"calculator": calculator})
        assert await ask(context=context, model=f"{prefix}:any", base_url=model.base_url) == "9"
    assert "too large" in model.requests[1].tool_results[0]
    assert model.requests[2].tool_results[1] == "9"


async def test_several_tools_of_one_answer_are_all_called_sync_and_async() -> None:
    async def shout(word: str) -> str:
        return word.upper()

    async with FakeModel(
        [[ToolCall("calculator", {"expression": "1+1"}), ToolCall("shout", {"word": "ho"})], "done"]
    ) as model:
        context = testing.context(tools={"calculator": calculator, "shout": shout})
        assert await ask(context=context, base_url=model.base_url) == "done"
    assert model.requests[1].tool_results == ["2", "HO"]


async def test_a_tool_that_fails_is_told_by_its_name_and_what_was_spent_is_known() -> None:
    def search(query: str) -> str:
        raise KeyError(query)

    async with FakeModel([ToolCall("search", {"query": "x"}), "never"]) as model:
        context = testing.context(tools={"search": search})
        error = await failure(context=context, base_url=model.base_url)
    assert type(error) is ToolError
    assert str(error) == "tool 'search' failed: KeyError: 'x'"
    assert isinstance(error.__cause__, KeyError)
    assert len(model.requests) == 1
    assert context.usage == Usage(input_tokens=10, output_tokens=5, requests=1)


class Busy(ValueError):
    retry_after = 7


@pytest.mark.parametrize(
    "raised",
    [
        RetryAfter("the server is busy", 12.5),
        RetryLater("not now"),
        ConnectionError("away"),
        TimeoutError(),
        KeyError("left out"),
        Busy("not the model's to mend"),
        NotWorthRetrying("never"),
        UserActionRequired("no key"),
        TypeError("a fault of the code"),
        ExceptionGroup("several", [ConnectionError(), RetryAfter("busy", 3)]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_tools_exception_is_judged_as_an_agents(raised: Exception) -> None:
    def search(query: str) -> str:
        raise raised

    now = datetime(2026, 1, 2, tzinfo=UTC)
    async with FakeModel([ToolCall("search", {"query": "x"})]) as model:
        error = await failure(context=testing.context(tools={"search": search}), base_url=model.base_url)
    assert failures.judge(error, now) == failures.judge(raised, now)
    assert str(error).startswith(f"tool 'search' failed: {type(raised).__name__}")


async def test_a_model_that_never_gets_its_arguments_right_fails_the_task() -> None:
    async with FakeModel(lambda _: ToolCall("calculator", {"expression": "x"})) as model:
        error = await failure(context=testing.context(tools={"calculator": calculator}), base_url=model.base_url)
    assert isinstance(error, TaskFailed)
    assert "Tool 'calculator' exceeded max retries count of 2: 'x' is not allowed" in str(error)
    assert len(model.requests) == 3


async def test_the_request_limit_ends_a_model_that_goes_on_for_ever() -> None:
    async with FakeModel(lambda _: ToolCall("calculator", {"expression": "1"})) as model:
        context = testing.context(tools={"calculator": calculator})
        error = await failure(context=context, base_url=model.base_url, config={"request_limit": 3})
    assert isinstance(error, TaskFailed)
    assert "no answer after 3 requests" in str(error)
    assert "request_limit" in str(error)
    assert len(model.requests) == 3
    assert context.usage is not None
    assert context.usage.requests == 3


# Sharing
async def test_concurrent_runs_share_no_conversation_and_one_client() -> None:
    both = asyncio.Barrier(2)

    async def answer(request: Request) -> testing.Answer:
        await asyncio.wait_for(both.wait(), 180)
        if not request.tool_results:
            return ToolCall("calculator", {"expression": request.prompt})
        return f"{request.prompt}={request.tool_results}"

    async with FakeModel(answer) as model:
        crew = crew_of(base_url=model.base_url)
        runner = AgentLoader().load(crew, crew.agents[0])
        contexts = [testing.context(prompt=p, tools={"calculator": calculator}) for p in ("1+1", "2+2")]
        answers = await asyncio.gather(*(runner.run(context) for context in contexts))
        assert len(providers._shared[asyncio.get_running_loop()].providers) == 1
    assert answers == ["1+1=['2']", "2+2=['4']"]
    assert [c.usage for c in contexts] == [Usage(input_tokens=20, output_tokens=10, requests=2)] * 2


async def test_connections_are_used_again_until_they_are_closed() -> None:
    peers: list[Any] = []

    async with FakeModel(lambda _: "ok") as model:
        real = model._answer

        async def note(api: str, received: web.Request) -> tuple[testing.Request, testing.Answer]:
            assert received.transport is not None
            peers.append(received.transport.get_extra_info("peername"))
            return await real(api, received)

        model._answer = note  # type: ignore[method-assign]
        await ask(base_url=model.base_url)
        await ask(base_url=model.base_url)
        await aclose_clients()
        gc.collect()  # an unclosed connection would warn here, and warnings are errors
        await ask(base_url=model.base_url)
    assert peers[0] == peers[1] != peers[2]


def test_every_event_loop_has_clients_of_its_own() -> None:
    async def one() -> str:
        async with FakeModel(["ok"]) as model:
            answer: str = await ask(base_url=model.base_url)
            await aclose_clients()
            return answer

    assert [asyncio.run(one()) for _ in range(3)] == ["ok"] * 3
    assert not [loop for loop in providers._shared if loop.is_closed()]
