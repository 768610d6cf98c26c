"""Limits where agents work: real workers, a real store, and a model behind HTTP that speaks two protocols."""

from __future__ import annotations

import time
from typing import Any

import pytest
from test_worker_budgets import llm
from workshop import Crew, Make, agent

from waiting import until
from watchbill.api.limits import ModelLimit, RateLimit
from watchbill.api.models import ModelChoice
from watchbill.plan.why import Reason
from watchbill.testing import FakeModel, ToolCall


def limited(model: str, **fields: Any) -> list[ModelLimit]:
    return [ModelLimit.model_validate({"model": model, **fields})]


async def test_no_more_tasks_of_an_agent_run_than_it_may_have_over_workers_that_are_killed(make_crew: Make) -> None:
    """Two worker processes with ten slots each; one is killed with what it runs."""
    crew = await make_crew([agent("a", "Gate", max_concurrent=3), agent("b", "Brief")])
    first, second = await crew.worker(), await crew.worker()
    ids = [await crew.submit(f"a{i}", "a") for i in range(8)]
    await crew.results([await crew.submit(f"b{i}", "b") for i in range(5)])
    await until(lambda: sum(name.startswith("a") for name in crew.executions()) == 3, what="three run")
    told = await until(lambda: crew.told("a7", Reason.LIMITED))
    assert "3 tasks of its agent 'a' run, and maxConcurrent allows 3" in told.message
    figures = await crew.client.figures(crew.name)
    assert (figures.waiting, figures.parked_by["limit"]) == (0, 5)

    dead = max((first, second), key=lambda one: len([t for t in crew.started_by(one) if t[0] == "a"]))
    lost = {task for task in crew.started_by(dead) if task.startswith("a")}
    names = await crew.incarnations(dead)
    dead.kill()
    await crew.queue.declare_dead(sorted(names))
    crew.open(*ids)
    results = await crew.results(ids)
    assert all(result.success for result in results)
    assert {result.task_id for result in results if result.attempt == 2} == lost
    assert await until(crew.is_idle)


async def test_starts_of_an_agent_keep_to_its_rate_over_workers(make_crew: Make) -> None:
    rate = RateLimit.model_validate({"requests": 20, "periodSeconds": 1, "burst": 2})
    crew = await make_crew([agent("a", "Brief", rate_limit=rate)])
    async with crew.in_process(), crew.in_process():
        began = time.monotonic()
        ids = [await crew.submit(f"t{i}", "a") for i in range(12)]
        results = await crew.results(ids)
        assert time.monotonic() - began > (12 - 2) * 0.05 - 0.01
    assert [(result.success, result.attempt) for result in results] == [(True, 1)] * 12


@pytest.mark.parametrize("provider", ["openai-chat", "anthropic"])
async def test_a_models_requests_keep_to_its_rate_over_workers(make_crew: Make, provider: str) -> None:
    """Short waits keep their slot: no attempt ends."""
    name = f"{provider}:m"
    async with FakeModel(lambda _: "ok") as model:
        options = {"model_limits": limited(name, requests=20, periodSeconds=1, burst=2)}
        url = model.base_url if provider == "openai-chat" else model.anthropic_url
        crew = await make_crew([llm("a", url, model=name)], **options)
        async with crew.in_process(), crew.in_process():
            began = time.monotonic()
            results = await crew.results([await crew.submit(f"t{i}", "a") for i in range(10)])
            assert time.monotonic() - began > (10 - 2) * 0.05 - 0.01
        assert [(result.success, result.attempt) for result in results] == [(True, 1)] * 10
        assert len(model.requests) == 10
    assert not await crew.redis.hlen(crew.keys.reserved(0))
    assert not await crew.redis.hlen(crew.keys.reserved(1))


async def test_a_task_waits_long_without_a_slot_and_asks_nothing_again(make_crew: Make) -> None:
    """A conversation of two requests to a model that may get one an hour; the other agent has another model."""
    answers: list[ToolCall | str] = [ToolCall("calculator", {"expression": "6 * 7"}), "42"]
    async with FakeModel(answers) as model, FakeModel(lambda _: "well") as other:
        stands_in = ModelChoice(model="openai-chat:other", base_url=other.base_url)
        agents = [llm("a", model.base_url, model="openai-chat:m")]
        agents.append(llm("b", model.base_url, model="openai-chat:m", fallback_models=[stands_in]))
        options: dict[str, Any] = {"shared_tools": ["calculator"], "concurrency": 1}
        slow = limited("openai-chat:m", requests=1, periodSeconds=3600)
        crew = await make_crew(agents, model_limits=slow, **options)
        async with crew.in_process():
            await crew.submit("t", "a")
            told = await until(lambda: crew.told("t", Reason.POSTPONED))
            assert "the limit of model 'openai-chat:m' (1 requests in 3600 s, modelLimits) is reached" in told.message
            assert told.starts_in_seconds > 3000
            assert (told.state, told.attempt, told.attempts) == ("delayed", 0, ())
            await crew.submit("s", "b")
            assert (await crew.result("s")).output == "well", "its slot is free, and another model stands in"
            assert len(model.requests) == 1
            await crew.define(model_limits=limited("openai-chat:m", requests=1000, periodSeconds=1, burst=1000))
            result = await crew.result("t")
        assert (result.output, result.attempt) == ("42", 1)
        assert len(model.requests) == 2


async def test_tokens_of_a_model_are_bounded_before_and_settled_after(make_crew: Make) -> None:
    async with FakeModel(lambda _: "ok", input_tokens=10, output_tokens=5) as model:
        crew = await make_crew(
            [llm("a", model.base_url)], model_limits=limited("openai-chat:gpt-5-mini", tokens=1000, periodSeconds=3600)
        )
        async with crew.in_process():
            await crew.submit("t", "a")
            assert (await crew.result("t")).success
            await until(lambda: _is_settled(crew, 15))
        assert model.requests[0].body["max_completion_tokens"] == 100


async def _is_settled(crew: Crew, tokens: int) -> bool:
    kept = await crew.redis.hget(crew.keys.spending, "tokens:openai-chat:gpt-5-mini")
    us, _, each = kept.split()
    return round(int(us) / float(each)) == tokens
