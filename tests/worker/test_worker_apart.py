"""Agents in processes of their own ask their worker for all that others have: approvals, budgets, sessions, a team."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from test_worker_budgets import budget, llm, tokens
from test_worker_processes import lives
from test_worker_tool_approvals import PAY, SHOP, asked, words
from workshop import Make, agent

from waiting import until
from watchbill import metrics
from watchbill.api.hierarchy import Hierarchy
from watchbill.errors import (
    ApprovalRejected,
    Fenced,
    InvalidInput,
    Postponed,
    Problem,
    RetryAfter,
)
from watchbill.plan.why import Reason
from watchbill.records import AgentDefinition, ExecutionMode
from watchbill.testing import Answer, FakeModel, Request, ToolCall
from watchbill.worker.execution import line_answers, line_errors

pytestmark = pytest.mark.usefixtures("libraries")

APART = "model_hands:ModelApart"
SESSION: Mapping[str, Any] = {"config": {"max_tokens": 100, "history": {}}}


def apart(model: FakeModel, *tools: str, **fields: Any) -> AgentDefinition:
    return llm("guide", model.base_url, agent_class=APART, tools=list(tools), **fields)


async def test_a_model_in_a_process_has_tools_approvals_a_session_and_budgets(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHBILL_ALLOW_COMMANDS", sys.executable)

    def answer(request: Request) -> Answer:
        if request.prompt == "again":
            return "and again"
        calls = [ToolCall("shop_linger", {}), ToolCall("pay", {"folder": folder, "word": "rent"})]
        return " / ".join(request.tool_results) or calls

    folder = ""
    async with FakeModel(answer) as model:
        crew = await make_crew(
            [apart(model, PAY, "shop/linger", **SESSION)],
            requires_approval=[PAY],
            tool_servers=[SHOP],
            budgets=[budget(tokens=100_000)],
        )
        folder = str(crew.folder)
        async with crew.in_process():
            await crew.submit("t", "guide", "pay", session_id="s")
            (rent,) = await asked(crew, "t", 1)
            assert (json.loads(rent.details)["word"], words(crew)) == ("rent", {})
            assert await crew.client.approve(crew.name, "t")
            result = await crew.result("t", 300)
            server, paid = result.output.split(" / ")
            assert (paid, words(crew)) == ("rent", {"rent": 1})
            assert not lives(json.loads(server)["result"]), "its servers end with it"
            await crew.submit("u", "guide", "again", session_id="s")
            assert (await crew.result("u", 300)).output == "and again"
            await until(lambda: _spent(crew, 45), what="what the requests did cost")
            labels = (*metrics.of_crew(crew.name), "openai-chat", "gpt-5-mini")
            assert metrics.MODEL_REQUESTS.labels(*labels, "completed")._value.get() == 3
            assert metrics.MODEL_TOKENS.labels(*labels, "input")._value.get() == 30
    assert [len(request.tool_results) for request in model.requests] == [0, 2, 0]
    told = [message["content"] for message in model.requests[-1].messages]
    assert told == ["pay", result.output, "again"]


async def _spent(crew: Any, number: int) -> bool:
    return await tokens(crew) == (number, 0)


async def test_a_model_in_a_process_waits_for_a_budget_as_any_other(make_crew: Make) -> None:
    async with FakeModel(lambda _: "ok", input_tokens=1000) as model:
        crew = await make_crew([apart(model)], budgets=[budget(tokens=1500, window="Monthly")])
        async with crew.in_process():
            await crew.submit("t", "guide")
            assert (await crew.result("t", 300)).success
            await crew.submit("u", "guide", "x" * 1000)
            told = await until(lambda: crew.told("u", Reason.POSTPONED), 300, "it waits")
            assert (told.state, told.attempt) == ("delayed", 0)
            assert "budget 'all' is exhausted" in told.message
            await crew.define(budgets=[budget(tokens=1500, window="Monthly", onExhausted="Fail")])
            await crew.submit("v", "guide", "x" * 1000)
            assert (await crew.result("v", 300)).error.startswith("BudgetExhausted: budget 'all' is exhausted")
    assert len(model.requests) == 1


async def test_a_request_that_an_agent_in_a_process_gives_up_while_it_waits_counts_nothing(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = 0, 0
    reserve = line_answers.Answers._reserve

    async def seen(self: line_answers.Answers, told: Mapping[str, Any]) -> Any:
        nonlocal begun, ended
        begun += 1
        try:
            return await reserve(self, told)
        finally:
            ended += 1

    monkeypatch.setattr(line_answers.Answers, "_reserve", seen)
    go_on = asyncio.Event()

    async def answer(_: Request) -> Answer:
        await go_on.wait()
        return "ok"

    async with FakeModel(answer) as model:
        hasty = llm("hasty", model.base_url, agent_class="model_hands:HastyApart")
        crew = await make_crew([apart(model), hasty], budgets=[budget(tokens=800)])
        async with crew.in_process(concurrency=2):
            await crew.submit("first", "guide", "x" * 400)
            await until(lambda: model.requests, 300, "the first request is under way")
            await crew.submit("second", "hasty", str(crew.folder))
            await until(lambda: begun == 2, 300, "the second waits for what the first may need")
            (crew.folder / "hurry").touch()
            await until((crew.folder / "gave up").exists, what="its agent has given it up")
            go_on.set()
            assert (await crew.result("first", 300)).success
            await until(lambda: begun == ended, what="nobody waits for the answer any more")
            await until(lambda: _spent(crew, 15), what="only the first has cost something")
            crew.open()
            assert (await crew.result("second")).output == "gave up"
            await until(lambda: _spent(crew, 15))
    assert len(model.requests) == 1


async def test_a_manager_in_a_process_delegates_as_any_other(make_crew: Make) -> None:
    above = Hierarchy.model_validate({"manager": "lead"})
    team = {"lead": "LeadApart", "coder": "Works"}
    crew = await make_crew(team, mode=ExecutionMode.HIERARCHICAL, hierarchy=above)
    async with crew.in_process(concurrency=2):
        await crew.client.submit(crew.name, "coder: a; nobody: b", id="r")
        result = await crew.run_result("r", 300)
        await crew.define(agents=[agent("lead", "IdleApart", config={"folder": ""}), *crew.definition.agents[1:]])
        await crew.client.submit(crew.name, "coder: a", id="idle")
        idle = await crew.run_result("idle", 300)
    assert result.success, result.error
    first, second = result.output
    assert first == "A"
    assert second.startswith("refused: agent: nothing can be delegated to 'nobody'")
    assert "manager 'lead' has ended without delegating anything" in (idle.steps["lead"].error or "")
    assert crew.executions()["r/lead:1"] == 1


@pytest.mark.pure
@pytest.mark.parametrize(
    "error",
    [
        Postponed("later", seconds=1.5, of_model=True),
        Postponed("then", until_ms=1_800_000_000_000),
        RetryAfter("busy", 2.5),
        InvalidInput([Problem("it is wrong", "Mend it.", "here")]),
        ApprovalRejected("rejected: no"),
        Fenced("not yours"),
    ],
)
def test_an_error_crosses_the_line_as_what_it_is(error: Exception) -> None:
    there = line_errors.unpacked(json.loads(json.dumps(line_errors.packed(error))))
    assert (type(there), str(there), vars(there)) == (type(error), str(error), vars(error))


@pytest.mark.pure
def test_an_error_of_strangers_crosses_the_line_as_its_text() -> None:
    class Odd(ValueError):
        pass

    for error, kind in ((Odd("odd"), ValueError), (KeyError("k"), RuntimeError)):
        there = line_errors.unpacked(line_errors.packed(error))
        assert (type(there), str(there)) == (kind, f"{type(error).__name__}: {error}")
