"""Keys and settings of language models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from asking import BOTH, ask, crew_of, failure

from watchbill import testing
from watchbill.agents import AgentLoader, aclose_clients
from watchbill.errors import UserActionRequired
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.testing import ErrorAnswer, FakeModel, ToolCall

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    await aclose_clients()


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

    from watchbill.agents.llm import OWN_SETTINGS, LLMConfig

    assert set(LLMConfig.model_fields) - set(OWN_SETTINGS) <= set(ModelSettings.__annotations__)


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
