"""Budgets where agents work: real workers, a real store, and a model behind HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from workshop import Crew, Make

from waiting import until
from watchbill import connection, testing
from watchbill.agents import AgentLoader, aclose_clients
from watchbill.api.budgets import Budget
from watchbill.api.models import ModelChoice
from watchbill.clock import SYSTEM
from watchbill.errors import BudgetExhausted, Postponed, RetryLater
from watchbill.plan.why import Reason
from watchbill.records import AgentDefinition
from watchbill.store import budgets
from watchbill.tasks import RunState, TaskState
from watchbill.testing import Answer, ErrorAnswer, FakeModel, Request, ToolCall
from watchbill.worker.execution.account import Account

LONG = "x" * 1100
"""A prompt of more bytes than tokens are charged for it."""


def llm(name: str, base_url: str, **fields: Any) -> AgentDefinition:
    fields = {"model": "openai-chat:gpt-5-mini", "config": {"max_tokens": 100}, **fields}
    return AgentDefinition(agent_id=name, base_url=base_url, **fields)


def budget(name: str = "all", **fields: Any) -> Budget:
    return Budget.model_validate({"name": name, **fields})


@asynccontextmanager
async def crew_of(
    make_crew: Make, answers: Any, listed: Sequence[Budget], *agents: str, **options: Any
) -> AsyncIterator[tuple[Crew, FakeModel]]:
    usage = {name: options.pop(name) for name in ("input_tokens", "output_tokens") if name in options}
    async with FakeModel(answers, **usage) as model:
        made = [llm(name, model.base_url) for name in agents or "a"]
        yield await make_crew(made, budgets=list(listed), **options), model


async def tokens(crew: Crew, field: str = "budget:all:") -> tuple[int, int]:
    """Spent, and by requests under way."""
    found = (await budgets.counted(crew.redis, crew.keys)).counters.get(field)
    return (found.spent.tokens, found.held.tokens) if found else (0, 0)


class Starts:
    """What the model's server counts at each call's start: what calls have cost, what those under way may cost at most,
    and what this one may."""

    def __init__(self) -> None:
        self.settled = 0
        self.under_way: dict[int, int] = {}
        self.counted: list[int] = []
        self.in_store: list[int] = []
        """The store's own count then."""
        self.beside = 0

    async def answer(self, crew: Crew, request: Request) -> Answer:
        """Each seventh call breaks, and may have cost all that it could."""
        number, most = len(self.counted), len(request.prompt.encode()) + request.body["max_completion_tokens"]
        self.under_way[number] = most
        self.counted.append(self.settled + sum(self.under_way.values()))
        self.beside = max(self.beside, len(self.under_way))
        self.in_store.append((await tokens(crew))[0])
        await asyncio.sleep(0.01)
        breaks = number % 7 == 6
        self.settled += most if breaks else 750
        del self.under_way[number]
        return ErrorAnswer(500) if breaks else "ok"

    def check(self, limit: int, spent: tuple[int, int]) -> None:
        assert max(self.counted) <= limit
        assert max(self.in_store) <= limit
        assert self.settled <= spent[0] <= limit
        assert spent[1] == 0
        assert self.beside > 1
        assert len(self.counted) > 6


WHOLE: dict[str, Any] = {"tokens": 10_000, "window": "Monthly", "onExhausted": "Fail"}
CHARGED: dict[str, Any] = {"input_tokens": 650, "output_tokens": 100}
PATIENT = {"max_tokens": 100, "timeout": 300.0}


async def test_no_call_of_workers_that_race_starts_if_it_could_exceed_a_budget(make_crew: Make) -> None:
    starts = Starts()
    async with FakeModel(lambda asked: starts.answer(crew, asked), **CHARGED) as model:
        agent, tasks = llm("a", model.base_url, config=PATIENT), {"max_attempts": 1}
        crew = await make_crew([agent], budgets=[budget(**WHOLE)], tasks=tasks, concurrency=10)
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(crew.in_process())
            ids = [await crew.submit(f"t{i}", "a", LONG) for i in range(20)]
            results = await crew.results(ids, 300)
        starts.check(10_000, await tokens(crew))
    failed = [result.error for result in results if not result.success and "HTTP 500" not in result.error]
    assert len(failed) == 20 - len(starts.counted)
    assert all("budget 'all' is exhausted" in error for error in failed)


async def test_no_call_of_twenty_accounts_that_race_starts_if_it_could_exceed_a_budget(make_crew: Make) -> None:
    """Each has the part of a worker that reserves, with its own connection, and asks until nothing fits any more."""
    starts = Starts()

    async def work(number: int) -> None:
        async with connection.Store(crew.url) as store:
            account = Account(store.client, crew.keys, lambda: datetime.now(UTC), SYSTEM)
            runner = AgentLoader().load(crew.definition, crew.definition.agents[0])
            for turn in range(10):
                context = testing.context(prompt=LONG, agent=runner.agent)
                context.spending = account.of(f"t{number}-{turn}", "1", "a", "")
                try:
                    await runner.run(context)
                except RetryLater:
                    continue
                except (BudgetExhausted, Postponed):
                    break
            await account.close()

    async with FakeModel(lambda asked: starts.answer(crew, asked), **CHARGED) as model:
        crew = await make_crew([llm("a", model.base_url, config=PATIENT)], budgets=[budget(**WHOLE)])
        await asyncio.gather(*(work(number) for number in range(20)))
        await aclose_clients()
        starts.check(10_000, await tokens(crew))


async def test_a_task_waits_for_the_next_window_and_goes_on_when_the_budget_is_raised(make_crew: Make) -> None:
    small = budget(tokens=2000, window="Monthly")
    charged = {"input_tokens": 1000, "output_tokens": 100}
    async with crew_of(make_crew, lambda _: "ok", [small], **charged) as (crew, model):
        async with crew.in_process():
            await crew.submit("t1", "a", LONG)
            assert (await crew.result("t1")).success
            await crew.submit("r", prompt=LONG)
            told = await until(lambda: crew.told("r/a", Reason.POSTPONED), what="the step waits")
            assert "budget 'all' is exhausted" in told.message
            assert "The task waits until" in told.message
            assert told.starts_in_seconds > 0
            assert (told.state, told.attempt, told.attempts) == ("delayed", 0, ())
            assert len(model.requests) == 1
            await crew.define(budgets=[budget(tokens=5000, window="Monthly")])
            result = await crew.run_result("r")
        assert result.success
        assert result.steps["a"].attempt == 1
        assert await tokens(crew) == (2200, 0)


@pytest.mark.parametrize("scope", ["Crew", "Run"])
async def test_a_task_that_no_window_lets_go_on_fails_and_is_replayed_when_the_budget_is_raised(
    make_crew: Make, scope: str
) -> None:
    small = budget(scope=scope, tokens=2000)
    call = ToolCall("calculator", {"expression": "6 * 7"})
    options = {"shared_tools": ["calculator"], "input_tokens": 1200, "output_tokens": 50}
    async with crew_of(make_crew, [call, "42"], [small], **options) as (crew, _), crew.in_process():
        await crew.submit("r")
        run = await crew.run_result("r")
        assert (run.status, "budget 'all' is exhausted" in (run.error or "")) == (RunState.FAILED, True)
        await crew.define(budgets=[budget(scope=scope, tokens=5000)])
        letters = [letter.id async for letter in crew.client.dead_letters(crew.name)]
        assert await crew.client.replay(crew.name, letters)
        assert (await crew.run_result("r")).output == "42"


async def test_requests_under_way_are_waited_for_in_the_slot(make_crew: Make) -> None:
    """There is room for one request at a time, by its upper bound; each costs a tenth of that."""
    gate = asyncio.Event()

    async def answer(_: Request) -> Answer:
        await gate.wait()
        return "ok"

    async with crew_of(make_crew, answer, [budget(tokens=250)]) as (crew, model), crew.in_process():
        ids = [await crew.submit(f"t{i}", "a") for i in range(3)]
        await until(lambda: len(model.requests) == 1)
        gate.set()
        results = await crew.results(ids)
    assert [(result.success, result.attempt) for result in results] == [(True, 1)] * 3
    assert await tokens(crew) == (45, 0)


async def test_a_step_that_asks_often_is_stopped_before_it_overspends(make_crew: Make) -> None:
    """An agent that calls tools for ever: each request is reserved by itself, and the run has its own budget."""
    listed = [budget("run", scope="Run", tokens=5000, onExhausted="Fail"), budget(tokens=10**6)]
    charged = {"input_tokens": 300, "output_tokens": 100}
    call = ToolCall("calculator", {"expression": "1"})
    options = {"shared_tools": ["calculator"], "tasks": {"max_attempts": 1}, **charged}
    async with crew_of(make_crew, lambda _: call, listed, **options) as (crew, model):
        async with crew.in_process():
            await crew.submit("r1", prompt="go")
            await crew.submit("r2", prompt="go")
            results = [await crew.run_result(run) for run in ("r1", "r2")]
        assert [result.success for result in results] == [False, False]
        assert all("budget 'run' is exhausted" in str(result.steps["a"].error) for result in results)
        asked = len(model.requests)
        assert asked % 2 == 0
        assert asked * 400 <= 2 * 5000
        assert asked >= 8
        assert await tokens(crew) == (asked * 400, 0)


async def test_a_request_that_never_fits_says_so_at_once(make_crew: Make) -> None:
    listed = [budget(tokens=50, window="Hourly")]
    async with crew_of(make_crew, lambda _: "ok", listed) as (crew, model), crew.in_process():
        await crew.submit("t", "a")
        result = await crew.result("t")
    assert "allows 50 tokens hourly in all, and one request may need" in result.error
    assert "max_tokens" in result.error
    assert not model.requests


async def test_agents_and_heartbeats_have_budgets_of_their_own(make_crew: Make) -> None:
    waits = {"tokens": 200, "onExhausted": "Wait"}
    listed = [budget("each", scope="Agent", **waits), budget("beat", scope="Heartbeat", **waits)]
    charged = {"input_tokens": 40, "output_tokens": 20}
    async with crew_of(make_crew, lambda _: "ok", listed, *"ab", **charged) as (crew, _), crew.in_process():
        for task, agent in (("a1", "a"), ("b1", "b")):
            await crew.submit(task, agent, metadata={"heartbeat": "nightly"} if agent == "a" else {})
            assert (await crew.result(task)).success
        await crew.submit("a2", "a")
        assert "budget 'each' of agent 'a'" in (await until(lambda: crew.told("a2", Reason.POSTPONED))).message
        found = (await crew.client.spending(crew.name)).budgets
        assert [(one.budget.name, one.subject, one.spent.tokens, one.is_exhausted) for one in found] == [
            ("each", "a", 60, True),
            ("each", "b", 60, False),
            ("beat", "nightly", 60, False),
        ]


async def test_an_unknown_price_counts_tokens_and_is_told_once(make_crew: Make, caplog: Any) -> None:
    listed = [budget(tokens=10_000, usd="0.01")]
    async with FakeModel(lambda _: "ok") as model:
        crew = await make_crew([llm("a", model.base_url, model="openai-chat:own")], budgets=listed)
        async with crew.in_process():
            for task in ("t1", "t2"):
                await crew.submit(task, "a")
                assert (await crew.result(task)).success
        await until(lambda: _is_settled(crew))
        found = await crew.client.spending(crew.name)
        assert found.unpriced == ["openai-chat:own"]
        assert (found.budgets[0].spent.tokens, found.budgets[0].spent.nano) == (30, 0)
    assert caplog.text.count("the price of model 'openai-chat:own' is not known") == 1


async def _is_settled(crew: Crew) -> bool:
    return (await tokens(crew))[1] == 0


async def test_a_crew_without_budgets_writes_nothing_of_them(make_crew: Make) -> None:
    async with crew_of(make_crew, lambda _: "ok", []) as (crew, _), crew.in_process():
        await crew.submit("t", "a")
        assert (await crew.result("t")).success
        assert not await crew.redis.exists(crew.keys.spending, crew.keys.reserved(0), crew.keys.reserved(1))


async def test_a_cancelled_task_may_have_spent_what_was_reserved(make_crew: Make) -> None:
    async def never(_: Request) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async with crew_of(make_crew, never, [budget(tokens=5000)]) as (crew, model), crew.in_process():
        await crew.submit("t", "a")
        await until(lambda: len(model.requests) == 1)
        await crew.client.cancel(crew.name, "t")
        await until(lambda: _is_settled(crew))
        assert (await tokens(crew))[0] > 100

        async def is_cancelled() -> bool:
            return await crew.client.state(crew.name, "t") is TaskState.CANCELLED

        await until(is_cancelled, what="its end, which is no part of the settlement")


async def test_a_task_that_waits_in_mid_conversation_asks_nothing_again(make_crew: Make) -> None:
    answers = [ToolCall("calculator", {"expression": "6 * 7"}), "42"]
    options = {"shared_tools": ["calculator"], "input_tokens": 1200, "output_tokens": 50}
    small = budget(tokens=2000, onExhausted="Wait")
    async with crew_of(make_crew, answers, [small], **options) as (crew, model), crew.in_process():
        await crew.submit("t", "a")
        await until(lambda: crew.told("t", Reason.POSTPONED))
        assert len(model.requests) == 1
        await crew.define(budgets=[budget(tokens=5000)])
        result = await crew.result("t")
        assert (result.output, result.attempt, result.usage.total_tokens) == ("42", 1, 2500)
        assert len(model.requests) == 2


async def test_a_providers_pause_slows_all_workers_of_the_model_and_no_other_model(make_crew: Make) -> None:
    """Three agents on two workers, without budgets: the second has a model that stands in, the third another one."""
    later = ErrorAnswer(429, headers={"Retry-After": "3000"})
    async with FakeModel(lambda _: later) as busy, FakeModel(lambda _: "ok") as well:
        slow = {"model": "openai-chat:busy"}
        other = ModelChoice(model="openai-chat:well", base_url=well.base_url)
        agents = [
            llm("a", busy.base_url, **slow),
            llm("b", busy.base_url, fallback_models=[other], **slow),
            llm("c", well.base_url, model="openai-chat:well"),
        ]
        crew = await make_crew(agents)
        async with crew.in_process(), crew.in_process():
            await crew.submit("t0", "a")
            await until(lambda: crew.redis.hexists(crew.keys.spending, "pause:openai-chat:busy"))
            for task in ("t1", "t2", "t3"):
                await crew.submit(task, "a")
            for task in ("t1", "t2", "t3"):
                told = await until(lambda t=task: crew.told(t, Reason.POSTPONED))  # type: ignore[misc]
                assert "the provider of model 'openai-chat:busy' has asked for a pause" in told.message
                assert (told.attempts, told.starts_in_seconds > 2000) == ((), True)
            for task, agent in (("t4", "b"), ("t5", "c")):
                await crew.submit(task, agent)
                assert (await crew.result(task)).output == "ok"
        assert (len(busy.requests), len(well.requests)) == (1, 2)
