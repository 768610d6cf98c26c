"""Errors of providers and models, and answers that are incomplete."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from asking import BOTH, ask, failure
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError

from watchbill import testing
from watchbill.agents import aclose_clients, model_errors
from watchbill.agents.calculator import calculator
from watchbill.errors import RetryAfter, RetryLater, UserActionRequired, WatchbillError
from watchbill.local import run_file
from watchbill.plan.retry import Failure
from watchbill.tasks import TaskResult, Usage
from watchbill.testing import CutOff, ErrorAnswer, FakeModel, Request, ToolCall
from watchbill.worker.execution import failures


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    await aclose_clients()


# Providers that fail
@BOTH
@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (400, UserActionRequired, "refused the request (HTTP 400): the reason"),
        (401, UserActionRequired, "refused the credentials (HTTP 401)"),
        (403, UserActionRequired, "refused the credentials (HTTP 403)"),
        (404, UserActionRequired, "not found (HTTP 404): the reason"),
        (429, RetryLater, "can't answer now (HTTP 429): the reason"),
        (500, RetryLater, "can't answer now (HTTP 500): the reason"),
        (503, RetryLater, "can't answer now (HTTP 503): the reason"),
    ],
)
async def test_an_error_of_the_provider_is_told_and_asked_for_once(
    prefix: str, status: int, kind: type[WatchbillError], says: str
) -> None:
    async with FakeModel(lambda _: ErrorAnswer(status, "the reason")) as model:
        error = await failure(model=f"{prefix}:any", base_url=model.base_url)
    assert type(error) is kind
    assert says in str(error)
    assert f"model '{prefix}:any' at {model.base_url}" in str(error)
    assert len(model.requests) == 1


@BOTH
@pytest.mark.parametrize(
    ("status", "headers", "least", "most"),
    [
        (429, {"Retry-After": "25"}, 25, 25),
        (429, {"retry-after-ms": "1500", "Retry-After": "2"}, 1.5, 1.5),
        # by the clock of who says it, which is an hour behind
        (503, {"Date": "Fri, 02 Jan 2026 03:04:05 GMT", "Retry-After": "Fri, 02 Jan 2026 03:04:45 GMT"}, 40, 40),
        (529, {"Retry-After": "0"}, 0, 0),
        (429, {"Retry-After": "soon"}, None, None),
    ],
)
async def test_what_the_provider_asks_to_wait_is_kept_to(
    prefix: str, status: int, headers: dict[str, str], least: float | None, most: float | None
) -> None:
    async with FakeModel([ErrorAnswer(status, "slow down", headers)]) as model:
        error = await failure(model=f"{prefix}:any", base_url=model.base_url)
    judged = failures.judge(error, datetime.now(UTC))
    assert judged.worth_retrying
    assert judged.retry_after_seconds == least == most


@pytest.mark.pure
def test_what_any_error_of_the_library_says_of_waiting_is_kept_to() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    refused = ModelAPIError("any", "cut off")
    refused.__cause__ = OSError()
    refused.__cause__.response = SimpleNamespace(headers={"Retry-After": "9"})  # type: ignore[attr-defined]
    for error, seconds in ((refused, 9.0), (ModelHTTPError(503, "any", retry_after=8), 8.0)):
        told = model_errors.explain(error, "openai:any", None, 50, now)
        assert failures.judge(told, now) == Failure(retry_after_seconds=seconds)


@BOTH
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("<html>hello</html>", "text/html"),
        *[
            (body, "application/json")
            for body in (
                "{not json",
                '{"hello": 1}',
                "[]",
                "",
                '{"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": []}',
                '{"choices": null, "output": null}',
            )
        ],
    ],
)
async def test_an_answer_that_is_none_is_told_and_asked_for_again_later(
    prefix: str, body: str, content_type: str
) -> None:
    requests = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        return web.Response(text=body, content_type=content_type)

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        error = await failure(model=f"{prefix}:any", base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
    finally:
        await runner.cleanup()
    assert type(error) is RetryLater
    assert len(str(error)) < 800
    assert requests == 1


@BOTH
@pytest.mark.parametrize(
    ("code", "kind", "seconds"),
    [
        (429, RetryAfter, 5.0),
        ("502", RetryAfter, 5.0),
        ("rate_limit_exceeded", RetryAfter, 5.0),
        (None, RetryAfter, 5.0),
        (401, UserActionRequired, None),
        ("insufficient_quota", UserActionRequired, None),
    ],
)
async def test_an_error_with_status_200_is_what_it_says(
    prefix: str, code: int | str | None, kind: type[WatchbillError], seconds: float | None
) -> None:
    async with FakeModel([ErrorAnswer(200, "the reason", {"Retry-After": "5"}, code)]) as model:
        error = await failure(model=f"{prefix}:any", base_url=model.base_url)
    assert type(error) is kind
    assert getattr(error, "retry_after", None) == seconds
    assert code == 401 or "the reason" in str(error)


@BOTH
async def test_a_cut_off_answer_is_told(prefix: str) -> None:
    async with FakeModel([CutOff("half a")]) as model:
        context = testing.context(prompt="hi")
        assert await ask(context=context, model=f"{prefix}:any", base_url=model.base_url) == "half a"
    assert context.metadata == {"finish_reason": "length"}
    [message] = context.messages
    assert "is incomplete" in message
    assert "raise max_tokens" in message


@BOTH
@pytest.mark.parametrize(("text", "config"), [("half a", {"truncated": "fail"}), ("", {})])
async def test_a_cut_off_answer_fails_if_asked_to_or_if_it_is_nothing(
    prefix: str, text: str, config: dict[str, Any]
) -> None:
    async with FakeModel([CutOff(text)]) as model:
        error = await failure(model=f"{prefix}:any", base_url=model.base_url, config=config)
    assert type(error) is UserActionRequired
    assert "aise max_tokens in the agent's config" in str(error)
    assert len(model.requests) == 1


async def test_that_an_answer_was_cut_off_is_in_the_result(tmp_path: Path) -> None:
    async with FakeModel([CutOff("half a")]) as model:
        (tmp_path / "crew.yaml").write_text(
            "apiVersion: watchbill.dev/v1alpha1\nkind: Crew\nmetadata: {name: c}\nspec: {agents: [{name: guide, "
            f"model: 'openai:any', baseURL: '{model.base_url}'}}]}}\n"
        )
        result = await run_file(tmp_path / "crew.yaml", "hi", agent="guide")
    assert isinstance(result, TaskResult)
    assert (result.output, result.metadata) == ("half a", {"finish_reason": "length"})


HALF = "\ud83d"
"""Of an emoji."""


@BOTH
async def test_half_characters_are_replaced_on_every_border_and_told(prefix: str) -> None:
    def names(folder: str) -> dict[str, Any]:
        return {f"{HALF}.txt": ["\udcff", folder], "whole": "\ud83d\ude00"}

    async with FakeModel([ToolCall("names", {"folder": f"x{HALF}"}), f"cut {HALF}"]) as model:
        context = testing.context(prompt=f"ask {HALF}", tools={"names": names})
        agent = {"model": f"{prefix}:any", "base_url": model.base_url, "system_prompt": f"be {HALF}"}
        assert await ask(context=context, **agent) == "cut \ufffd"
    request = model.requests[1]
    assert (request.prompt, request.instructions) == ("ask \ufffd", "be \ufffd")
    assert json.loads(request.tool_results[0]) == {"\ufffd.txt": ["\ufffd", "x\ufffd"], "whole": "\U0001f600"}
    where = ["the prompt", "the model's answer", "the result of tool 'names'", "the model's answer"]
    assert [message.partition(" had half characters")[0] for message in context.messages] == where


@pytest.mark.parametrize(
    "returned", [dict, object(), [object()], {"a": {1: object}}], ids=["class", "object", "list", "dict"]
)
async def test_a_tool_that_returns_no_json_is_named(returned: Any) -> None:
    async with FakeModel([ToolCall("search", {})]) as model:
        context = testing.context(tools={"search": lambda: returned})
        error = await failure(context=context, base_url=model.base_url)
    kind = type(returned).__name__
    assert str(error).startswith(
        f"tool 'search' failed: TypeError: it returned a value of type {kind}, which is no JSON"
    )
    assert not failures.judge(error, datetime.now(UTC)).worth_retrying


async def test_what_a_tool_yields_is_made_a_list_of_and_its_exceptions_are_the_tools() -> None:
    def search(count: int) -> Any:
        return (6 / (3 - number) for number in range(count))

    async with FakeModel([ToolCall("search", {"count": 3}), ToolCall("search", {"count": 4})]) as model:
        error = await failure(context=testing.context(tools={"search": search}), base_url=model.base_url)
    assert model.requests[1].tool_results == ["[2.0,3.0,6.0]"]
    assert str(error) == "tool 'search' failed: ZeroDivisionError: division by zero"


@BOTH
async def test_a_server_that_is_not_there_is_told_with_its_address(prefix: str) -> None:
    with socket.socket() as reserved:  # bound and not listening: refused, and nobody else's
        reserved.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"
        error = await failure(model=f"{prefix}:any", base_url=base_url)
    assert type(error) is RetryLater
    assert f"at {base_url} can't be reached" in str(error)


async def hang(_: Request) -> str:
    await asyncio.Event().wait()
    return "never"


@BOTH
async def test_the_timeout_of_a_request_is_kept_and_not_tried_again(prefix: str) -> None:
    async with FakeModel(hang) as model:
        error = await failure(model=f"{prefix}:any", base_url=model.base_url, config={"timeout": 30})
        assert type(error) is RetryLater
        assert len(model.requests) == 1


async def test_a_cancelled_run_ends_at_once_and_what_it_spent_is_known() -> None:
    second = asyncio.Event()

    async def answer(request: Request) -> testing.Answer:
        if not request.tool_results:
            return ToolCall("calculator", {"expression": "1"})
        second.set()
        return await hang(request)

    async with FakeModel(answer) as model:
        context = testing.context(tools={"calculator": calculator})
        running = asyncio.create_task(ask(context=context, base_url=model.base_url))
        await asyncio.wait_for(second.wait(), 60)
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=60)
        assert running in done
        assert running.cancelled()
    assert context.usage == Usage(input_tokens=10, output_tokens=5, requests=1)


async def test_what_a_failing_run_spent_before_is_known() -> None:
    async with FakeModel([ToolCall("calculator", {"expression": "1"}), ErrorAnswer(500)]) as model:
        context = testing.context(tools={"calculator": calculator})
        await failure(context=context, base_url=model.base_url)
    assert context.usage == Usage(input_tokens=10, output_tokens=5, requests=1)
