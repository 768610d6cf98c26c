"""Spans of models and tools, by pydantic-ai, as a collector gets them: with content only if that is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from asking import ask, failure
from opentelemetry import trace

from otlp_collector import Collector
from watchbill import testing, tracing
from watchbill.agents import aclose_clients
from watchbill.agents.calculator import calculator
from watchbill.testing import ErrorAnswer, FakeModel, ToolCall
from watchbill.tracing.exporting import Exporting

SAID = (b"PROMPT", b"SYSTEM", b"1234 * 5678", b"7006652", b"ANSWER", b"REASON")


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    await aclose_clients()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Collector]:
    """Gets the spans of this process, with content if the parameter says so. `tracing.active.close` sends them."""
    with Collector() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
        monkeypatch.setattr(trace, "set_tracer_provider", lambda _: None)  # it would be every test's, for good
        exporting = Exporting("tests", content=request.param)
        monkeypatch.setattr(tracing, "active", exporting)
        yield made
        exporting.close(60)


@pytest.mark.parametrize("collector", [False, True], indirect=True)
async def test_models_and_tools_are_told_of_and_what_is_said_only_if_that_is_asked_for(collector: Collector) -> None:
    async with FakeModel([ToolCall("calculator", {"expression": "1234 * 5678"}), "ANSWER"], input_tokens=12) as server:
        context = testing.context(prompt="PROMPT", tools={"calculator": calculator})
        url = server.base_url
        await ask(context=context, model="openai-chat:any", base_url=url, tools=["calculator"], system_prompt="SYSTEM")
    async with FakeModel(lambda _: ErrorAnswer(400, "REASON")) as server:
        await failure(model="openai-chat:any", base_url=server.base_url)
    traces = tracing.active
    assert traces is not None
    traces.close(60)

    asked, refused = collector.named("invoke_agent guide")
    first, second, wrong = collector.named("chat any")
    (tool,) = collector.named("execute_tool calculator")
    assert {first.parent, second.parent, tool.parent} == {asked.id}
    assert (
        first.attributes.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "any",
            "gen_ai.provider.name": "openai",
            "gen_ai.usage.input_tokens": 12,
        }.items()
    )
    assert (wrong.parent, wrong.failed, refused.failed, tool.failed) == (refused.id, True, True, False)
    assert [said in collector.raw for said in SAID] == [traces.content] * len(SAID)


@pytest.mark.parametrize("collector", [False], indirect=True)
async def test_a_turn_that_an_attempt_before_has_made_is_no_request_again(collector: Collector) -> None:
    answers: list[testing.Answer] = [ToolCall("calculator", {"expression": "6 * 7"}), ErrorAnswer(503), "42"]
    stored: dict[str, str] = {}
    async with FakeModel(answers) as server:
        for attempt in (1, 2):
            context = testing.context(tools={"calculator": calculator}, stored=stored, attempt=attempt)
            asking = failure if attempt == 1 else ask
            await asking(context=context, model="openai-chat:any", base_url=server.base_url, tools=["calculator"])
    traces = tracing.active
    assert traces is not None
    traces.close(60)

    first, second = sorted(collector.named("invoke_agent guide"), key=lambda span: span.start)
    chats = sorted(collector.named("chat any"), key=lambda span: span.start)
    assert [(chat.parent, chat.failed) for chat in chats] == [(first.id, False), (first.id, True), (second.id, False)]
    assert [tool.parent for tool in collector.named("execute_tool")] == [first.id]
