"""LLMAgent against a real HTTP server, by each protocol, with answers in one piece and as streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from asking import ask, failure
from prometheus_client import REGISTRY

from waiting import until
from watchbill import testing
from watchbill.agents import aclose_clients, partial
from watchbill.agents.calculator import calculator
from watchbill.api.models import ModelChoice
from watchbill.errors import RetryLater, TaskFailed, UserActionRequired
from watchbill.tasks import Usage
from watchbill.testing import Answer, CutOff, ErrorAnswer, FakeModel, Raw, Refusal, Streamed, ToolCall
from watchbill.worker.execution import failures


@pytest.fixture(autouse=True)
async def _close(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-nobody")
    yield
    await aclose_clients()


class Api(NamedTuple):
    """A protocol, and whether answers are streamed."""

    provider: str
    stream: bool

    def agent(self, model: FakeModel, **more: Any) -> dict[str, Any]:
        url = model.anthropic_url if self.provider == "anthropic" else model.base_url
        config = {"stream": self.stream, **more.pop("config", {})}
        return {"model": f"{self.provider}:any", "base_url": url, "config": config, **more}


PROVIDERS = ("openai-chat", "openai-responses", "anthropic")
EACH = pytest.mark.parametrize(
    "api",
    [Api(provider, stream) for provider in PROVIDERS for stream in (False, True)],
    ids=lambda api: f"{api.provider}{'-stream' * api.stream}",
)
STREAMS = pytest.mark.parametrize("api", [Api(provider, True) for provider in PROVIDERS], ids=lambda api: api.provider)


@EACH
async def test_text_and_tools_and_what_they_cost(api: Api) -> None:
    answers: list[Answer] = [ToolCall("calculator", {"expression": "6 * 7"}), Streamed(["It is ", "42."])]
    async with FakeModel(answers, input_tokens=12, output_tokens=3) as model:
        context = testing.context(prompt="6 * 7?", tools={"calculator": calculator})
        agent = api.agent(model, tools=["calculator"], system_prompt="Be brief.")
        assert await ask(context=context, **agent) == "It is 42."
    first, second = model.requests
    assert (first.prompt, first.instructions, first.tools) == ("6 * 7?", "Be brief.", ["calculator"])
    assert bool(first.body.get("stream")) is api.stream
    assert second.tool_results == ["42"]
    assert context.usage == Usage(input_tokens=24, output_tokens=6, requests=2)


@EACH
async def test_another_attempt_goes_on_where_the_last_one_stood(api: Api) -> None:
    stored: dict[str, str] = {}
    answers: list[Answer] = [ToolCall("calculator", {"expression": "6 * 7"}), ErrorAnswer(500), "42"]
    async with FakeModel(answers) as model:
        agent = api.agent(model, tools=["calculator"])
        for attempt in (1, 2):
            tools = {"calculator": calculator}
            context = testing.context(prompt="hi", tools=tools, stored=stored, attempt=attempt)
            if attempt == 1:
                assert isinstance(await failure(context=context, **agent), RetryLater)
            else:
                assert await ask(context=context, **agent) == "42"
            assert context.usage == Usage(input_tokens=10, output_tokens=5, requests=1)
    assert [request.tool_results for request in model.requests] == [[], ["42"], ["42"]]


@EACH
async def test_an_object_that_must_fit_a_schema(api: Api) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answers = [ToolCall("final_result", {"n": "x"}), ToolCall("final_result", {"n": 1})]
    async with FakeModel(answers) as model:
        assert await ask(**api.agent(model, output_schema=schema)) == {"n": 1}
    assert "output.n: 'x' is not of type 'integer'" in model.requests[1].tool_results[0]


@EACH
async def test_an_answer_that_is_cut_off(api: Api) -> None:
    async with FakeModel([CutOff("half a")]) as model:
        context = testing.context(prompt="hi")
        assert await ask(context=context, **api.agent(model)) == "half a"
    assert context.metadata == {"finish_reason": "length"}


@EACH
async def test_a_refusal_before_the_first_word_is_no_answer(api: Api) -> None:
    async with FakeModel(lambda _: Refusal()) as model:
        error = await failure(**api.agent(model))
    assert type(error) is TaskFailed
    assert "content filter" in str(error).lower()


@EACH
async def test_an_answer_without_anything_in_it_is_asked_for_again_later(api: Api) -> None:
    async with FakeModel(lambda _: []) as model:
        error = await failure(**api.agent(model))
    assert isinstance(error, RetryLater)


@EACH
@pytest.mark.parametrize(
    ("status", "kind", "seconds"),
    [(429, RetryLater, 9.0), (500, RetryLater, None), (529, RetryLater, None), (400, UserActionRequired, None)],
)
async def test_an_error_of_the_provider(api: Api, status: int, kind: type[Exception], seconds: float | None) -> None:
    headers = {"Retry-After": f"{seconds:g}"} if seconds else {}
    async with FakeModel(lambda _: ErrorAnswer(status, "the reason", headers)) as model:
        error = await failure(**api.agent(model))
    assert isinstance(error, kind)
    assert f"HTTP {status}" in str(error)
    assert "the reason" in str(error)
    assert failures.judge(error, datetime.now(UTC)).retry_after_seconds == seconds
    assert len(model.requests) == 1


@EACH
@pytest.mark.parametrize("body", ["{not json", "[]", "", "data: {not json\n\n", "<html>"])
async def test_an_answer_that_can_not_be_read(api: Api, body: str) -> None:
    kind = "text/event-stream" if api.stream else "application/json"
    async with FakeModel([Raw(body, kind)]) as model:
        error = await failure(**api.agent(model))
    assert isinstance(error, RetryLater)
    assert len(str(error)) < 800


@EACH
@pytest.mark.parametrize("arguments", ['{"expression": ', "[1]"])
async def test_arguments_that_stay_wrong_end_the_task_and_say_why(api: Api, arguments: str) -> None:
    async with FakeModel(lambda _: ToolCall("calculator", arguments)) as model:
        context = testing.context(prompt="6 * 7?", tools={"calculator": calculator})
        error = await failure(context=context, **api.agent(model, tools=["calculator"]))
    assert type(error) is TaskFailed
    assert "Tool 'calculator' exceeded max retries count of 2: " in str(error)
    assert len(model.requests) == 3
    assert model.requests[2].tool_results


# Streams
@STREAMS
@pytest.mark.parametrize("pieces", [["half ", "an answer"], []])
async def test_a_stream_that_breaks_off_is_asked_for_again_later(api: Api, pieces: list[str]) -> None:
    async with FakeModel([Streamed(pieces, broken=True)]) as model:
        error = await failure(**api.agent(model))
    assert isinstance(error, RetryLater)


@STREAMS
@pytest.mark.parametrize("pieces", [["half ", "an answer"], []])
async def test_a_stream_that_ends_without_a_word_about_it_is_asked_for_again_later(api: Api, pieces: list[str]) -> None:
    async with FakeModel([Streamed(pieces, unfinished=True)]) as model:
        error = await failure(**api.agent(model, config={"output_retries": 0}))
    assert isinstance(error, RetryLater)


@STREAMS
async def test_a_stream_that_does_not_open_is_asked_of_the_next_model(api: Api) -> None:
    async with FakeModel([ErrorAnswer(503), "yes"]) as model:
        agent = api.agent(model)
        fallbacks = [ModelChoice(model=agent["model"], base_url=agent["base_url"])]
        assert await ask(**agent, fallback_models=fallbacks) == "yes"


@STREAMS
async def test_the_text_is_told_while_it_comes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "_FIRST_SECONDS", 0.0)
    context = testing.context(prompt="hi")
    seen: list[int] = []

    async def told() -> None:
        seen.append(await until(lambda: len(context.events) > len(seen) and len(context.events)))

    async with FakeModel([Streamed(["It ", "is ", "42."], between=told)]) as model:
        assert await ask(context=context, **api.agent(model)) == "It is 42."
    assert seen == [1, 2, 3]
    assert [(event.message, event.scope) for event in context.events] == [
        ("It ", "partial"),
        ("is ", "partial"),
        ("42.", "partial"),
    ]


@STREAMS
async def test_a_long_text_is_told_in_few_events(api: Api) -> None:
    pieces = ["0123456789" * 20] * 500
    assert len("".join(pieces)) > partial.EVENTS_MAX * partial.EVENT_CHARACTERS
    context = testing.context(prompt="hi")
    async with FakeModel([Streamed(pieces)]) as model:
        assert await ask(context=context, **api.agent(model)) == "".join(pieces)
    told = [event.message for event in context.events]
    assert len(told) == partial.EVENTS_MAX
    assert "".join(pieces).startswith("".join(told))
    assert max(map(len, told)) <= partial.EVENT_CHARACTERS


async def test_nothing_is_told_unless_it_is_asked_for() -> None:
    context = testing.context(prompt="hi")
    async with FakeModel([Streamed(["It ", "is"])]) as model:
        assert await ask(context=context, model="openai-chat:any", base_url=model.base_url) == "It is"
    assert context.messages == []
    assert context.events == []


@STREAMS
async def test_the_time_to_the_first_part_is_measured(api: Api) -> None:
    crew = testing.context().crew.split("/")
    labels = {"namespace": crew[0], "crew": crew[1], "provider": api.provider, "model": "first"}
    wait = asyncio.Event()

    def measured(name: str) -> float:
        return REGISTRY.get_sample_value(f"watchbill_model_{name}", labels) or 0.0

    async def held() -> None:
        await until(lambda: measured("first_token_seconds_count"))
        await wait.wait()

    async with FakeModel([Streamed(["a", "b"], between=held)]) as model:
        asking = asyncio.create_task(ask(**{**api.agent(model), "model": f"{api.provider}:first"}))
        await until(lambda: measured("first_token_seconds_count"))
        assert measured("request_seconds_count") == 0
        wait.set()
        await asking
    assert measured("request_seconds_count") == 1
    assert measured("first_token_seconds_sum") <= measured("request_seconds_sum")


@STREAMS
async def test_a_cancelled_stream_ends_at_once(api: Api) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        await never.wait()

    async with FakeModel([Streamed(["a", "b"], between=hang)]) as model:
        asking = asyncio.create_task(ask(**api.agent(model)))
        await asyncio.wait_for(begun.wait(), 180)
        asking.cancel()
        done, _ = await asyncio.wait([asking], timeout=180)
    assert asking in done
    assert asking.cancelled()
