"""LLMAgent against a real HTTP server on loopback, by both of OpenAI's APIs."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from pydantic_ai.exceptions import FallbackExceptionGroup, ModelAPIError, ModelHTTPError

from watchbill import testing
from watchbill.agents import AgentLoader, aclose_clients, model_errors, providers
from watchbill.agents.calculator import calculator
from watchbill.errors import (
    NotWorthRetrying,
    RetryAfter,
    RetryLater,
    TaskFailed,
    ToolError,
    UserActionRequired,
    WatchbillError,
)
from watchbill.local import run_file
from watchbill.plan.retry import Failure
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.tasks import TaskResult, Usage
from watchbill.testing import CutOff, ErrorAnswer, FakeModel, Request, ToolCall
from watchbill.worker.execution import failures

KEY = "sk-very-secret-0123456789"
APIS = pytest.mark.parametrize(
    ("prefix", "api"), [("openai", "chat"), ("openai-chat", "chat"), ("openai-responses", "responses")]
)
BOTH = pytest.mark.parametrize("prefix", ["openai-chat", "openai-responses"])


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    await aclose_clients()


def crew_of(model: str | None = "openai:any", **agent: Any) -> CrewDefinition:
    return CrewDefinition(name="crew", agents=[AgentDefinition(agent_id="guide", model=model, **agent)])


async def ask(
    prompt: str = "hi", *, context: testing.RecordingContext | None = None, model: str = "openai:any", **agent: Any
) -> Any:
    """What the agent answers, its definition having been found good."""
    crew = crew_of(model, **agent)
    loader = AgentLoader()
    assert loader.check(crew) == []
    return await loader.load(crew, crew.agents[0]).run(context or testing.context(prompt=prompt))


async def failure(**arguments: Any) -> WatchbillError:
    with pytest.raises(WatchbillError) as raised:
        await ask(**arguments)
    return raised.value


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
    group = FallbackExceptionGroup("all", [ModelHTTPError(400, "a"), ModelHTTPError(429, "b", retry_after=4), refused])
    for error, seconds in ((refused, 9.0), (ModelHTTPError(503, "any", retry_after=8), 8.0), (group, 4.0)):
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
        error = await failure(model=f"{prefix}:any", base_url=model.base_url, config={"timeout": 3})
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
        await asyncio.wait_for(second.wait(), 20)
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=5)
        assert running in done
        assert running.cancelled()
    assert context.usage == Usage(input_tokens=10, output_tokens=5, requests=1)


async def test_what_a_failing_run_spent_before_is_known() -> None:
    async with FakeModel([ToolCall("calculator", {"expression": "1"}), ErrorAnswer(500)]) as model:
        context = testing.context(tools={"calculator": calculator})
        await failure(context=context, base_url=model.base_url)
    assert context.usage == Usage(input_tokens=10, output_tokens=5, requests=1)


# Keys


async def test_a_missing_key_is_named() -> None:
    error = await failure(model="openai:gpt-5-mini")
    assert type(error) is UserActionRequired
    assert "OPENAI_API_KEY is not set" in str(error)


async def test_a_server_of_ones_own_needs_no_key() -> None:
    async with FakeModel(["ok"]) as model:
        assert await ask(base_url=model.base_url) == "ok"
    assert "sk-" not in model.requests[0].headers["Authorization"]


async def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with FakeModel(["ok"]) as model:
        await ask(base_url=model.base_url)
    assert model.requests[0].headers["Authorization"] == f"Bearer {KEY}"


@BOTH
@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500])
async def test_no_error_contains_a_key(monkeypatch: pytest.MonkeyPatch, prefix: str, status: int) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with FakeModel(lambda r: ErrorAnswer(status, f"you sent {dict(r.headers)}")) as model:
        error = await failure(model=f"{prefix}:any", base_url=model.base_url)
    assert KEY in model.requests[0].headers["Authorization"]
    assert KEY not in str(error)
    assert KEY[:12] not in str(error)
    # nor what a traceback would show besides
    assert error.__cause__ is None
    assert error.__suppress_context__


async def test_no_tools_error_contains_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_TOKEN", KEY)

    def search(query: str) -> str:
        raise RuntimeError(f"refused: {KEY}")

    async with FakeModel([ToolCall("search", {"query": "x"})]) as model:
        error = await failure(context=testing.context(tools={"search": search}), base_url=model.base_url)
    assert str(error) == "tool 'search' failed: RuntimeError: refused: [redacted SEARCH_TOKEN]"


async def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    async with FakeModel(lambda _: "never") as model:
        crew = crew_of(base_url=model.base_url.replace("http://", "http://me:pass-word@"))
        [problem] = AgentLoader().check(crew)
        with pytest.raises(UserActionRequired) as raised:
            await AgentLoader().load(crew, crew.agents[0]).run(testing.context())
    assert (problem.path, "environment" in problem.fix) == ("spec.agents[0].baseURL", True)
    assert "pass-word" not in f"{problem}{raised.value}"
    assert model.requests == []


@pytest.mark.pure
def test_a_missing_key_is_told_to_whoever_is_about_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = [
        AgentDefinition(agent_id="echo", agent_class="EchoAgent"),
        AgentDefinition(agent_id="guide"),
        AgentDefinition(agent_id="test", model="test"),
        AgentDefinition(agent_id="own", model="openai:any", base_url="http://127.0.0.1/v1"),
    ]
    crew = CrewDefinition(name="crew", model="openai:gpt-5-mini", agents=agents)
    [problem] = AgentLoader().ready(crew)
    assert problem.path == "spec.agents[1].model"
    assert problem.reason == "model 'openai:gpt-5-mini': the environment variable OPENAI_API_KEY is not set"
    assert AgentLoader().ready(crew, {"echo", "own"}) == []
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    assert AgentLoader().ready(crew) == [problem]
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert AgentLoader().ready(crew) == []


# Sharing


async def test_concurrent_runs_share_no_conversation_and_one_client() -> None:
    both = asyncio.Barrier(2)

    async def answer(request: Request) -> testing.Answer:
        await asyncio.wait_for(both.wait(), 20)
        if not request.tool_results:
            return ToolCall("calculator", {"expression": request.prompt})
        return f"{request.prompt}={request.tool_results}"

    async with FakeModel(answer) as model:
        crew = crew_of(base_url=model.base_url)
        runner = AgentLoader().load(crew, crew.agents[0])
        contexts = [testing.context(prompt=p, tools={"calculator": calculator}) for p in ("1+1", "2+2")]
        answers = await asyncio.gather(*(runner.run(context) for context in contexts))
        assert len(providers._providers[asyncio.get_running_loop()]) == 1
    assert answers == ["1+1=['2']", "2+2=['4']"]
    assert [c.usage for c in contexts] == [Usage(input_tokens=20, output_tokens=10, requests=2)] * 2


async def test_connections_are_used_again_until_they_are_closed() -> None:
    peers: list[Any] = []

    async with FakeModel(lambda _: "ok") as model:
        real = model._answer

        async def note(api: str, received: web.Request) -> testing.Answer:
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
    assert not [loop for loop in providers._providers if loop.is_closed()]


# What is checked before anything runs


async def test_the_test_model_answers_without_a_key_and_calls_no_tool() -> None:
    called: list[str] = []
    context = testing.context(tools={"note": called.append})
    assert isinstance(await ask(context=context, model="test"), str)
    assert called == []


@pytest.mark.pure
@pytest.mark.parametrize(
    ("config", "path", "reason"),
    [
        ({"temperatur": 0.5}, "config.temperatur", "(did you mean 'temperature'?)"),
        ({"temperature": "hot"}, "config.temperature", "'hot'"),
        ({"temperature": "0.5"}, "config.temperature", "'0.5'"),
        ({"temperature": 3}, "config.temperature", "less than or equal to 2"),
        ({"temperature": float("nan")}, "config.temperature", "nan"),
        ({"max_tokens": 0}, "config.max_tokens", "greater than or equal to 1"),
        ({"max_tokens": True}, "config.max_tokens", "True"),
        ({"stop_sequences": "END"}, "config.stop_sequences", "'END'"),
        ({"request_limit": 0}, "config.request_limit", "greater than or equal to 1"),
        ({"max_retries": 5}, "config.max_retries", "no setting 'max_retries'"),
        ({"api_key": "x"}, "config.api_key", "no setting 'api_key'"),
    ],
)
def test_a_setting_that_is_none_is_refused(config: dict[str, Any], path: str, reason: str) -> None:
    [problem] = AgentLoader().check(crew_of("test", config=config))
    assert problem.path == f"spec.agents[0].{path}"
    assert reason in problem.reason


@pytest.mark.pure
def test_every_setting_is_one_that_pydantic_ai_knows() -> None:
    from pydantic_ai.settings import ModelSettings

    from watchbill.agents.llm import LLMConfig

    assert set(LLMConfig.model_fields) - {"request_limit", "truncated"} <= set(ModelSettings.__annotations__)


@pytest.mark.pure
@pytest.mark.parametrize(
    ("agent", "path", "reason", "fix"),
    [
        ({"model": None}, "model", "'guide' is an LLMAgent and has no model", "spec.model"),
        ({"model": "gpt-4o"}, "model", "'gpt-4o' is not of the form provider:name", ":gpt-4o"),
        ({"model": "openai:"}, "model", "'openai:' is not of the form", "openai"),
        ({"model": "opnai:gpt-4o"}, "model", "no provider 'opnai' (did you mean 'openai'?)", "pydantic-ai"),
        ({"base_url": "localhost:1"}, "baseURL", "'localhost:1' is not an http or https URL", "http://"),
        ({"base_url": "http:///v1"}, "baseURL", "is not an http or https URL", "http://"),
        ({"model": "deepseek:x", "base_url": "http://127.0.0.1"}, "baseURL", "takes no baseURL", "Remove"),
    ],
)
def test_a_model_that_cannot_be_is_refused(agent: dict[str, Any], path: str, reason: str, fix: str) -> None:
    [problem] = AgentLoader().check(crew_of(**{"model": "openai:any", **agent}))
    assert problem.path == f"spec.agents[0].{path}"
    assert reason in problem.reason
    assert fix in problem.fix


@pytest.mark.pure
def test_a_bad_default_model_is_told_once_where_it_stands() -> None:
    agents = [AgentDefinition(agent_id="one"), AgentDefinition(agent_id="two")]
    [problem] = AgentLoader().check(CrewDefinition(name="crew", model="opnai:x", agents=agents))
    assert problem.path == "spec.model"


@pytest.mark.pure
def test_a_provider_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "anthropic", None)
    monkeypatch.delitem(sys.modules, "pydantic_ai.providers.anthropic", raising=False)
    [problem] = AgentLoader().check(crew_of("anthropic:claude-sonnet-4-5"))
    assert problem.path == "spec.agents[0].model"
    assert "provider 'anthropic' is not installed" in problem.reason
    assert "pip install 'pydantic-ai-slim[anthropic]'" in problem.fix


@pytest.mark.pure
def test_a_key_is_not_asked_for_where_nothing_runs() -> None:
    assert AgentLoader().check(crew_of("openai:gpt-5-mini")) == []
