"""What users test their agents with."""

from __future__ import annotations

import re
import textwrap
from datetime import UTC, datetime, timedelta, timezone

import aiohttp
import pytest
import redis.asyncio

from watchbill import testing
from watchbill.agents import aclose_clients
from watchbill.testing import ErrorAnswer, FakeClock, FakeModel, ToolCall


async def test_the_examples_of_the_docstring_run() -> None:
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", testing.__doc__ or "", flags=re.MULTILINE)
    code = "\n".join(textwrap.dedent(block) for block in blocks)
    names: dict[str, object] = {}
    exec(compile(code, "docstring", "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        await test()  # type: ignore[operator]
    await aclose_clients()


async def post(url: str, body: dict[str, object]) -> tuple[int, dict[str, object]]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        return response.status, await response.json()


async def test_answers_are_given_in_order_and_then_missing() -> None:
    async with FakeModel(["one", ToolCall("t", {"a": 1})]) as model:
        url = f"{model.base_url}/chat/completions"
        body: dict[str, object] = {
            "model": "m",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        }
        _, first = await post(url, body)
        _, second = await post(url, body)
        status, third = await post(url, body)
    assert first["choices"][0]["message"]["content"] == "one"  # type: ignore[index]
    assert second["choices"][0]["finish_reason"] == "tool_calls"  # type: ignore[index]
    assert status == 500
    assert "2 answers, and this is request 3" in str(third)
    assert [request.prompt for request in model.requests] == ["hi"] * 3


async def test_an_error_is_answered_as_openai_does() -> None:
    async with FakeModel([ErrorAnswer(429, "slow down")]) as model:
        status, body = await post(f"{model.base_url}/responses", {"model": "m", "input": []})
    assert status == 429
    assert body["error"]["message"] == "slow down"  # type: ignore[index]


async def test_nothing_listens_once_the_model_is_done() -> None:
    async with FakeModel(["x"]) as model:
        url = model.base_url
    assert url.startswith("http://127.0.0.1:")
    with pytest.raises(aiohttp.ClientConnectionError):
        await post(f"{url}/chat/completions", {})


@pytest.mark.pure
def test_a_model_that_was_not_started_says_how() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        _ = FakeModel(["x"]).base_url


@pytest.mark.pure
def test_the_clock_moves_only_when_told() -> None:
    clock = FakeClock(datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2))))
    assert clock.now() == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert clock.advance(1.5) == clock.now() == datetime(2026, 3, 1, 10, 0, 1, 500000, tzinfo=UTC)
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="time zone"):
        FakeClock(datetime.fromisoformat("2026-01-01"))


async def test_a_store_is_empty_and_nobody_elses() -> None:
    async with (
        testing.store() as first,
        testing.store() as second,
        redis.asyncio.from_url(first) as one,
        redis.asyncio.from_url(second) as two,
    ):
        await one.set("key", "value")
        assert await two.dbsize() == 0
    async with redis.asyncio.from_url(first) as gone:
        with pytest.raises(redis.ConnectionError):
            await gone.ping()


async def test_a_context_holds_what_it_was_given() -> None:
    context = testing.context("p", inputs={"log": "x"}, outputs={"a": [1]}, config={"k": 1}, tools={"up": str.upper})
    assert context.prompt == context.task.prompt == "p"
    assert context.inputs["log"] == "x"
    assert context.outputs == {"a": [1]}
    assert context.agent.config == {"k": 1}
    assert context.tools["up"]("x") == "X"
    await context.emit("said")
    assert context.messages == ["said"]
