"""An idle worker loads all agents of its crew, and tells the store once all could be loaded."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from workshop import Make, agent

from waiting import until
from watchbill import metrics
from watchbill.connection import scripts
from watchbill.records import AgentDefinition
from watchbill.store import definitions, incarnations
from watchbill.worker import preload


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(preload, "POLL_SECONDS", 0.01)


async def test_the_agents_of_each_definition_are_loaded_and_told_without_any_task(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    assert not await crew.is_checked()
    async with crew.in_process():
        await until(crew.is_checked)
        more = crew.definition.model_copy(update={"agents": [*crew.definition.agents, agent("b", "Brief")]})
        await definitions.apply(crew.redis, crew.keys, more)
        await until(crew.is_checked)


async def test_an_agent_that_can_not_be_loaded_is_told_and_the_crew_stays_unchecked(
    make_crew: Make, caplog: pytest.LogCaptureFixture
) -> None:
    crew = await make_crew({"a": "Brief", "lost": "NoSuchAgent"})
    async with crew.in_process():
        await until(lambda: "agent 'lost': agent class 'hands:NoSuchAgent'" in caplog.text)
        assert (await crew.client.run(crew.name, "x", agent="a", timeout=180)).success
        assert not await crew.is_checked()


async def test_the_key_of_a_model_that_is_missing_is_told(
    make_crew: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    crew = await make_crew([AgentDefinition(agent_id="llm", agent_class="LLMAgent", model="openai:gpt-5-mini")])
    async with crew.in_process():
        await until(lambda: "OPENAI_API_KEY" in caplog.text)
        assert not await crew.is_checked()


async def test_an_agents_module_that_breaks_logging_does_not_end_the_look(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As one that puts a record factory of its own into `logging` does."""
    restarts = metrics.BACKGROUND_RESTARTS.labels("agents")._value.get()
    usual = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        if "NoSuchAgent" in str(args[5]):
            raise LookupError("no context")
        return usual(*args, **kwargs)

    monkeypatch.setattr(logging, "_logRecordFactory", factory)
    crew = await make_crew({"lost": "NoSuchAgent", "a": "Brief"})
    async with crew.in_process():
        await until(lambda: "a line could not be logged: LookupError" in "".join(capfd.readouterr()))
        only = crew.definition.model_copy(update={"agents": crew.definition.agents[1:]})
        await definitions.apply(crew.redis, crew.keys, only)
        await until(crew.is_checked)
    assert metrics.BACKGROUND_RESTARTS.labels("agents")._value.get() == restarts


async def test_a_worker_tells_of_many_agents_in_calls_that_hold_the_store_briefly(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = await make_crew(dict.fromkeys("abcde", "Brief"))
    monkeypatch.setattr(incarnations, "AGENTS_AT_ONCE", 2)
    named: list[tuple[str, int]] = []
    run = scripts.run

    async def noting(client: Any, name: str, keys: Any, args: Any, sent: Any = None) -> Any:
        if name in ("enter", "leave"):
            named.append((name, len(keys) - len(crew.keys.fixed)))
        return await run(client, name, keys, args, sent)

    monkeypatch.setattr(scripts, "run", noting)
    async with crew.in_process():
        await until(crew.is_checked)
    assert named == [(name, count) for name in ("enter", "leave") for count in (2, 2, 1)]
    told = [(event.event_type, event.agent_id) for event in await crew.events()]
    assert told == [(what, name) for what in ("agent_spawned", "agent_stopped") for name in "abcde"]


async def test_a_crew_that_was_deleted_is_not_revived(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    await definitions.delete(crew.redis, crew.keys, crew.uid)
    await definitions.record_loaded(crew.redis, crew.keys, crew.uid, "digest")
    assert await crew.redis.keys(crew.keys.prefix.replace("{", "\\{") + "*") == []
