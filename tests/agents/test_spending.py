"""What LLMAgent reserves for each request to a model, and what it tells of its cost: on real requests over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from asking import BOTH, ask, failure
from prometheus_client import REGISTRY
from pydantic_ai.usage import RequestUsage

from ports import free_ports
from waiting import until
from watchbill import testing
from watchbill.agents import aclose_clients, prices
from watchbill.agents.calculator import calculator
from watchbill.agents.spending import MAX_TOKENS, PAUSE_SECONDS, Estimate
from watchbill.errors import BudgetExhausted
from watchbill.plan.budget import Amount, TokenPrice
from watchbill.testing import ErrorAnswer, FakeModel, Streamed, ToolCall


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    await aclose_clients()


@dataclass
class Ledger:
    """Budgets that have room for `room` requests, and keep what each of them may cost and did cost."""

    is_bounded: bool = True
    own: prices.Prices = field(default_factory=dict)
    room: int = 100
    asked: list[tuple[str, Amount, bool]] = field(default_factory=list)
    costs: list[Amount | None] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    async def reserve(self, model: str, estimate: Estimate, *, in_batch: bool = False) -> _Reserved:
        if len(self.asked) == self.room:
            raise BudgetExhausted("nothing is left")
        self.asked.append((model, *estimate(self.own)))
        return _Reserved(self)


@dataclass
class _Reserved:
    ledger: Ledger
    call: str = "t:1:1"

    @property
    def is_bounded(self) -> bool:
        return self.ledger.is_bounded

    @property
    def prices(self) -> prices.Prices:
        return self.ledger.own

    def settle(self, cost: Amount | None) -> None:
        self.ledger.costs.append(cost)

    def pause(self, seconds: float) -> None:
        self.ledger.pauses.append(seconds)


def spending(ledger: Ledger, **options: Any) -> testing.RecordingContext:
    context = testing.context(**options)
    context.spending = ledger
    return context


@BOTH
async def test_each_request_is_reserved_with_all_it_may_cost_and_settled_with_what_it_did(prefix: str) -> None:
    ledger = Ledger()
    tools = {"calculator": calculator}
    async with FakeModel([ToolCall("calculator", {"expression": "1"}), "é" * 50], input_tokens=40) as model:
        context = spending(ledger, prompt="what?", tools=tools)
        await ask(context=context, model=f"{prefix}:gpt-5-mini", base_url=model.base_url, config={"max_tokens": 70})
    (_, first, priced), (_, second, _) = ledger.asked
    assert priced
    assert 40 + 70 < first.tokens < second.tokens < 1500
    assert first.nano == (first.tokens - 70) * 250 + 70 * 2000
    assert ledger.costs == [Amount(45, 40 * 250 + 5 * 2000)] * 2
    bounds = [
        request.body.get("max_output_tokens") or request.body["max_completion_tokens"] for request in model.requests
    ]
    assert bounds == [70, 70]


@BOTH
async def test_a_streamed_answer_is_settled_with_what_it_did_cost(prefix: str) -> None:
    ledger = Ledger()
    async with FakeModel(["a long answer"], input_tokens=40) as model:
        config, context = {"max_tokens": 70, "stream": True}, spending(ledger)
        await ask(context=context, model=f"{prefix}:gpt-5-mini", base_url=model.base_url, config=config)
    assert len(ledger.asked) == 1
    namespace, crew = context.crew.split("/")
    labels = {"namespace": namespace, "crew": crew, "provider": prefix, "model": "gpt-5-mini"}
    assert REGISTRY.get_sample_value("watchbill_model_first_token_seconds_count", labels) == 1
    assert ledger.costs == [Amount(45, 40 * 250 + 5 * 2000)]


@pytest.mark.parametrize("prefix", ["openai-chat", "openai-responses", "anthropic"])
async def test_what_a_stream_says_of_its_cost_before_it_breaks_off_is_not_all_of_it(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-nobody")
    ledger = Ledger()
    async with FakeModel([Streamed(["half"], unfinished=True)]) as model:
        url = model.anthropic_url if prefix == "anthropic" else model.base_url
        await failure(context=spending(ledger), model=f"{prefix}:any", base_url=url, config={"stream": True})
    assert ledger.costs == [None]


async def test_the_bound_counts_every_byte_that_a_model_reads() -> None:
    async def described(word: str) -> str:
        """Äußerst lang."""
        return word

    ledger = Ledger()
    async with FakeModel(lambda _: "ok") as model:
        for options in ({}, {"prompt": "ü" * 500}, {"tools": {"described": described}}):
            await ask(context=spending(ledger, **options), model="openai-chat:x", base_url=model.base_url)
        await ask(context=spending(ledger), model="openai-chat:x", base_url=model.base_url, system_prompt="x" * 300)
    plain, prompted, tooled, told = (amount.tokens for _, amount, _ in ledger.asked)
    assert MAX_TOKENS < plain < MAX_TOKENS + 200
    assert prompted - plain >= 1000
    assert tooled - plain >= len("described Äußerst lang. word")
    assert told - plain >= 300


async def test_an_answer_is_bounded_where_a_budget_binds_and_only_there() -> None:
    async with FakeModel(lambda _: "ok") as model:
        for bounded in (True, False):
            context = spending(Ledger(is_bounded=bounded))
            await ask(context=context, model="openai-chat:x", base_url=model.base_url)
    assert [request.body.get("max_completion_tokens") for request in model.requests] == [MAX_TOKENS, None]


async def test_a_request_without_room_is_not_made() -> None:
    ledger = Ledger(room=1)
    async with FakeModel(lambda _: ToolCall("calculator", {"expression": "1"})) as model:
        context = spending(ledger, tools={"calculator": calculator})
        error = await failure(context=context, model="openai-chat:x", base_url=model.base_url)
    assert isinstance(error, BudgetExhausted)
    assert (len(model.requests), len(ledger.costs)) == (1, 1)


@pytest.mark.parametrize(
    ("answer", "cost"), [(ErrorAnswer(429), Amount()), (ErrorAnswer(400), Amount()), (ErrorAnswer(500), None)]
)
async def test_what_a_provider_refused_cost_nothing_and_what_it_broke_off_may_have(
    answer: ErrorAnswer, cost: Amount | None
) -> None:
    ledger = Ledger()
    async with FakeModel(lambda _: answer) as model:
        await failure(context=spending(ledger), model="openai-chat:x", base_url=model.base_url)
    assert ledger.costs == [cost]


@pytest.mark.parametrize(
    ("answer", "pauses"),
    [
        (ErrorAnswer(429, headers={"Retry-After": "25"}), [25.0]),
        (ErrorAnswer(429, headers={"retry-after-ms": "1500"}), [1.5]),
        (ErrorAnswer(429), [PAUSE_SECONDS]),
        (ErrorAnswer(200, code=429), [PAUSE_SECONDS]),
        (ErrorAnswer(429, code="insufficient_quota"), []),
        (ErrorAnswer(503, headers={"Retry-After": "25"}), []),
    ],
)
async def test_a_provider_that_gets_too_many_requests_is_left_alone_for_as_long_as_it_says(
    answer: ErrorAnswer, pauses: list[float]
) -> None:
    ledger = Ledger(is_bounded=False)
    async with FakeModel(lambda _: answer) as model:
        await failure(context=spending(ledger), model="openai-chat:x", base_url=model.base_url)
    assert ledger.pauses == pauses


async def test_a_request_that_nobody_got_cost_nothing_and_one_without_an_answer_may_have() -> None:
    away, slow = Ledger(), Ledger()
    base_url = f"http://127.0.0.1:{free_ports(1)[0]}/v1"
    await failure(context=spending(away), model="openai-chat:x", base_url=base_url)
    assert away.costs == [Amount()]
    async with FakeModel(lambda _: asyncio.Event().wait()) as model:  # type: ignore[arg-type,return-value]
        asking = asyncio.create_task(ask(context=spending(slow), model="openai-chat:x", base_url=model.base_url))
        await until(lambda: len(model.requests) == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert slow.costs == [None]


async def test_a_server_that_counts_no_tokens_leaves_what_was_reserved() -> None:
    ledger = Ledger()
    async with FakeModel(["ok"], input_tokens=0, output_tokens=0) as model:
        await ask(context=spending(ledger), model="openai-chat:x", base_url=model.base_url)
    assert ledger.costs == [None]


async def test_prices_of_the_crew_come_first_and_cost_is_counted() -> None:
    ledger = Ledger(own={"openai-chat:own": TokenPrice(10, 20)})
    async with FakeModel(["ok"], input_tokens=1000, output_tokens=500) as model:
        context = spending(ledger)
        await ask(context=context, model="openai-chat:own", base_url=model.base_url, config={"max_tokens": 600})
    ((_, most, priced),) = ledger.asked
    assert (priced, most.nano) == (True, (most.tokens - 600) * 10 + 600 * 20)
    assert ledger.costs == [Amount(1500, 1000 * 10 + 500 * 20)]
    (kept,) = context.stored.values()
    assert Decimal(json.loads(kept)[0]["usage"]["cost"]) == Decimal(20_000) / 10**9
    namespace, crew = context.crew.split("/")
    labels = {"namespace": namespace, "crew": crew, "provider": "openai-chat", "model": "own"}
    assert REGISTRY.get_sample_value("watchbill_model_cost_usd_total", labels) == pytest.approx(20_000 / 10**9)


def test_prices_are_known_by_provider_and_an_unknown_one_is_told() -> None:
    assert prices.most("openai:gpt-5-mini", 10**6, 10**6, {}) == int(2.25 * 10**9)
    assert prices.most("openai-responses:gpt-5-mini", 10**6, 0, {}) == 25 * 10**7
    assert prices.most("anthropic:claude-sonnet-4-5", 1000, 0, {}) == 3_750_000  # to fill its cache costs more
    for model in ("openai:llama3.2", "nobody:gpt-5-mini", "test"):
        assert prices.most(model, 10, 10, {}) is None
    cached = RequestUsage(input_tokens=1000, cache_read_tokens=1000)
    assert prices.cost("openai:gpt-5-mini", cached, {}) == 25_000
