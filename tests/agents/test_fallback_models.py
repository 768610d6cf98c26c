"""Models that stand in for each other, and the crew's own server, against real HTTP servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from asking import BOTH, failure
from prometheus_client import REGISTRY

from ports import free_ports
from watchbill import testing
from watchbill.agents import AgentLoader, aclose_clients
from watchbill.agents.calculator import calculator
from watchbill.api.models import ModelChoice
from watchbill.errors import RetryAfter, RetryLater, UserActionRequired
from watchbill.plan import flow
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.tasks import Usage
from watchbill.testing import ErrorAnswer, FakeModel, ToolCall
from watchbill.worker.execution import failures


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    await aclose_clients()


def crew_of(
    *urls: str | None, prefix: str = "openai-chat", base_url: str | None = None, **agent: Any
) -> CrewDefinition:
    """A crew of one agent that asks models `m0`, `m1`, … at these servers, one after the other."""
    own, *others = [ModelChoice(model=f"{prefix}:m{i}", base_url=url) for i, url in enumerate(urls)]
    guide = AgentDefinition(agent_id="guide", model=own.model, base_url=own.base_url, fallback_models=others, **agent)
    return CrewDefinition(name="crew", base_url=base_url, agents=[guide])


async def run(crew: CrewDefinition, context: testing.RecordingContext) -> Any:
    loader = AgentLoader()
    assert loader.check(crew) == []
    return await loader.load(crew, crew.agents[0]).run(context)


def counted(model: str, outcome: str) -> float:
    labels = {"namespace": "default", "crew": "crew", "provider": "openai-chat", "model": model, "outcome": outcome}
    crew = testing.context().crew.split("/")
    labels |= {"namespace": crew[0], "crew": crew[1]}
    return REGISTRY.get_sample_value("watchbill_model_requests_total", labels) or 0.0


async def test_the_next_model_is_asked_when_one_is_out_and_that_is_told() -> None:
    before = counted("m0", "unavailable"), counted("m1", "completed")
    async with FakeModel([ErrorAnswer(503, "overloaded")]) as one, FakeModel(["yes"]) as two:
        context = testing.context(prompt="hi")
        assert await run(crew_of(one.base_url, two.base_url), context) == "yes"
    assert [r.body["model"] for r in (*one.requests, *two.requests)] == ["m0", "m1"]
    assert context.messages == ["model 'openai-chat:m0' did not answer (HTTP 503: overloaded): asking 'openai-chat:m1'"]
    assert context.metadata == {
        "models_failed": {"openai-chat:m0": "HTTP 503: overloaded"},
        "model": "openai-chat:m1",
    }
    assert (counted("m0", "unavailable"), counted("m1", "completed")) == (before[0] + 1, before[1] + 1)
    assert context.usage == Usage(input_tokens=10, output_tokens=5, requests=1)


@BOTH
@pytest.mark.parametrize("status", [401, 402, 403, 404, 408, 409, 429, 500, 502, 529])
async def test_what_another_model_may_not_have_is_no_end(prefix: str, status: int) -> None:
    async with FakeModel([ErrorAnswer(status)]) as one, FakeModel(["yes"]) as two:
        assert await run(crew_of(one.base_url, two.base_url, prefix=prefix), testing.context()) == "yes"


@BOTH
@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_that_no_model_would_take_fails_at_once(prefix: str, status: int) -> None:
    async with FakeModel([ErrorAnswer(status, "no such parameter")]) as one, FakeModel(["yes"]) as two:
        with pytest.raises(UserActionRequired, match="no such parameter"):
            await run(crew_of(one.base_url, two.base_url, prefix=prefix), testing.context())
    assert two.requests == []


async def test_a_server_that_is_away_and_one_that_answers_nonsense_are_no_end() -> None:
    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(text='{"choices": []}', content_type="application/json")

    app = web.Application()
    app.router.add_post("/{path:.*}", nonsense)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    away, odd = (f"http://127.0.0.1:{port}/v1" for port in (free_ports(1)[0], runner.addresses[0][1]))
    try:
        async with FakeModel(["yes"]) as three:
            context = testing.context()
            assert await run(crew_of(away, odd, three.base_url), context) == "yes"
    finally:
        await runner.cleanup()
    assert list(context.metadata["models_failed"]) == ["openai-chat:m0", "openai-chat:m1"]


async def test_a_refusal_is_no_end() -> None:
    async def refuse(received: web.Request) -> web.Response:
        choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "content_filter"}
        usage = {"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return web.json_response({**answer, "usage": usage})

    app = web.Application()
    app.router.add_post("/{path:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        async with FakeModel(["yes"]) as two:
            context = testing.context()
            assert await run(crew_of(one, two.base_url), context) == "yes"
        assert context.usage == Usage(input_tokens=14, output_tokens=5, requests=2)
        error = await failure(
            model="openai-chat:m0", base_url=one, fallback_models=[ModelChoice(model="openai-chat:m1", base_url=one)]
        )
        assert str(error).lower().count("content filter") == 2
    finally:
        await runner.cleanup()


async def test_a_model_that_has_failed_is_not_asked_at_the_next_step() -> None:
    async with (
        FakeModel([ErrorAnswer(500)]) as one,
        FakeModel([ToolCall("calculator", {"expression": "6 * 7"}), "42"]) as two,
    ):
        context = testing.context(tools={"calculator": calculator})
        assert await run(crew_of(one.base_url, two.base_url, tools=["calculator"]), context) == "42"
    assert (len(one.requests), len(two.requests)) == (1, 2)


async def test_a_conversation_goes_on_with_the_next_model() -> None:
    async with (
        FakeModel([ToolCall("calculator", {"expression": "6 * 7"}), ErrorAnswer(500)]) as one,
        FakeModel(["42"]) as two,
    ):
        context = testing.context(tools={"calculator": calculator})
        assert await run(crew_of(one.base_url, two.base_url, tools=["calculator"]), context) == "42"
    assert two.requests[0].tool_results == ["42"]


async def test_if_none_answers_all_are_named_and_the_first_that_recovers_sets_the_time() -> None:
    async with (
        FakeModel([ErrorAnswer(429, "slow down", {"Retry-After": "30"})]) as one,
        FakeModel([ErrorAnswer(404, "no such model")]) as two,
        FakeModel([ErrorAnswer(503, "busy", {"Retry-After": "7"})]) as three,
    ):
        with pytest.raises(RetryAfter) as raised:
            await run(crew_of(one.base_url, two.base_url, three.base_url), testing.context())
    assert raised.value.retry_after == 7
    assert failures.judge(raised.value, datetime.now(UTC)).retry_after_seconds == 7
    for i, server in enumerate((one, two, three)):
        assert f"model 'openai-chat:m{i}' at {server.base_url}" in str(raised.value)


async def test_if_none_can_ever_answer_no_attempt_follows() -> None:
    async with FakeModel([ErrorAnswer(401)]) as one, FakeModel([ErrorAnswer(404)]) as two:
        with pytest.raises(UserActionRequired, match=r"HTTP 401.*; then .*HTTP 404"):
            await run(crew_of(one.base_url, two.base_url), testing.context())


async def test_a_model_that_hangs_is_left_after_the_timeout_of_a_request() -> None:
    async with FakeModel(lambda _: asyncio.Event().wait()) as one, FakeModel(["yes"]) as two:  # type: ignore[arg-type,return-value]
        crew = crew_of(one.base_url, two.base_url, config={"timeout": 5})
        assert await run(crew, testing.context()) == "yes"


# The server of the whole crew
async def test_models_of_openais_protocol_are_asked_at_the_crews_server() -> None:
    async with FakeModel([ErrorAnswer(500), "yes"]) as gateway, FakeModel(["own"]) as own:
        context = testing.context()
        assert await run(crew_of(None, None, base_url=gateway.base_url), context) == "yes"
        assert await run(crew_of(own.base_url, base_url=gateway.base_url), testing.context()) == "own"
    assert [r.body["model"] for r in gateway.requests] == ["m0", "m1"]


async def test_a_synthesis_is_asked_at_its_own_server_and_has_models_that_stand_in() -> None:
    async with FakeModel([ErrorAnswer(500)]) as one, FakeModel(["sum"]) as two:
        written = {
            "model": "openai-chat:m0",
            "baseURL": one.base_url,
            "fallbackModels": [{"model": "openai-chat:m1", "baseURL": two.base_url}],
        }
        crew = CrewDefinition.model_validate(
            {"name": "crew", "agents": [{"agent_id": "a", "agent_class": "EchoAgent"}], "synthesis": written}
        )
        synthesis = flow.members(crew)[-1]
        assert await AgentLoader().load(crew, synthesis).run(testing.context()) == "sum"
    assert [r.body["model"] for r in (*one.requests, *two.requests)] == ["m0", "m1"]


@pytest.mark.pure
def test_other_providers_are_not_asked_at_the_crews_server() -> None:
    agents = [AgentDefinition(agent_id="a", model="test"), AgentDefinition(agent_id="b", model="deepseek:x")]
    crew = CrewDefinition(name="crew", base_url="http://127.0.0.1:1/v1", agents=agents)
    assert [AgentLoader().load(crew, agent).agent.base_url for agent in agents] == [None, None]


@pytest.mark.pure
def test_a_wrong_server_of_the_crew_and_a_wrong_fallback_are_told_by_their_places() -> None:
    crew = crew_of(None, "http:///v1", base_url="localhost:1")
    assert [problem.path for problem in AgentLoader().check(crew)] == [
        "spec.baseURL",
        "spec.agents[0].fallbackModels[0].baseURL",
    ]
    named = crew_of("http://127.0.0.1:1", prefix="openai").agents[0]
    agent = named.model_copy(update={"fallback_models": [ModelChoice(model="opnai:x"), ModelChoice(model="openai:y")]})
    crew = CrewDefinition(name="crew", agents=[agent])
    [problem] = AgentLoader().check(crew)
    assert problem.path == "spec.agents[0].fallbackModels[0].model"
    assert "did you mean 'openai'" in problem.reason
    [lacking] = AgentLoader().ready(crew)
    assert lacking.path == "spec.agents[0].fallbackModels[1].model"
    assert "OPENAI_API_KEY is not set" in lacking.reason


async def test_an_outage_of_all_is_worth_another_attempt() -> None:
    one, two = (f"http://127.0.0.1:{port}/v1" for port in free_ports(2))
    with pytest.raises(RetryLater, match=r"m0.*; then .*m1"):
        await run(crew_of(one, two), testing.context())
