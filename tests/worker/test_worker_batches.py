"""Requests that go by batches of their provider: real workers, a real store, and both batch APIs behind HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from workshop import Crew, Make

from waiting import until
from watchbill import metrics
from watchbill.agents import model_requests
from watchbill.agents.spending import MAX_TOKENS
from watchbill.api.batches import Batch
from watchbill.api.budgets import Budget
from watchbill.api.limits import ModelLimit, RateLimit
from watchbill.records import AgentDefinition
from watchbill.store import batches, budgets
from watchbill.tasks import Priority
from watchbill.testing import Answer, ErrorAnswer, Expired, FakeModel, Request, ToolCall
from watchbill.worker import batch_sender

OPENAI, ANTHROPIC = "openai-responses:gpt-5-mini", "anthropic:claude-sonnet-5-5"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_LOOK_SECONDS", "TURN_SECONDS", "_SOON_SECONDS"):
        monkeypatch.setattr(batch_sender, name, 0.05)


@asynccontextmanager
async def crew_of(
    make_crew: Make, answers: Any, *, model: str = OPENAI, batch: dict[str, int] | None = None, **options: Any
) -> AsyncIterator[tuple[Crew, FakeModel]]:
    """A crew of one agent `a`, whose requests are sent at once unless `batch` says otherwise."""
    bounds = Batch.model_validate({"maxWaitSeconds": 3600, "maxGatherSeconds": 0, **(batch or {})})
    fields = {name: options.pop(name) for name in ("tools", "rate_limit", "config") if name in options}
    fields.setdefault("config", {"max_tokens": 100})
    async with FakeModel(answers, input_tokens=1000, output_tokens=100) as served:
        url = served.anthropic_url if model == ANTHROPIC else served.base_url
        agent = AgentDefinition(agent_id="a", model=model, base_url=url, batch=bounds, **fields)
        yield await make_crew([agent], **options), served


async def submit(crew: Crew, task_id: str, prompt: str = "do it") -> str:
    return await crew.submit(task_id, "a", prompt, priority=Priority.BACKGROUND)


async def is_over(crew: Crew) -> bool:
    left = await crew.redis.keys(crew.keys.root + "batch:*")
    return not {key.rpartition(":")[2] for key in left} - {"sender", "reserved"} and not await batches.is_used(
        crew.redis, crew.keys
    )


async def send_and_be_late(crew: Crew, served: FakeModel) -> None:
    """The task `t` has its request sent, and then its time is over."""
    served.batches.open = True
    await submit(crew, "t")
    await until(lambda: _told(crew, "waits for batch"), what="the batch is sent")
    own, _ = await batches.of_task(crew.redis, crew.keys, "t")
    assert own is not None
    await crew.redis.hset(crew.keys.task("t"), "batch", own._replace(until_ms=1).pack())
    for member in await crew.redis.zrange(crew.keys.delayed, 0, -1):
        await crew.redis.zadd(crew.keys.delayed, {member: 1})


async def counted(crew: Crew) -> tuple[int, int, int]:
    """Tokens and nano-dollars that are spent, and tokens of requests under way."""
    found = (await budgets.counted(crew.redis, crew.keys)).counters["budget:all:"]
    return found.spent.tokens, found.spent.nano, found.held.tokens


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC])
async def test_background_tasks_go_as_one_batch_at_half_the_price(make_crew: Make, model: str) -> None:
    whole = Budget.model_validate({"name": "all", "usd": "1.00"})
    bounds = {"maxGatherSeconds": 3600, "maxRequests": 3}

    def answer(request: Request) -> Answer:
        return f"to {request.prompt}"

    async with (
        crew_of(make_crew, answer, model=model, batch=bounds, budgets=[whole]) as (crew, served),
        crew.in_process(),
    ):
        now = await crew.submit("now", "a", "now")
        at_once = await crew.result(now)
        await until(lambda: _is(crew, (1100, 0)))
        price = (await counted(crew))[1]
        ids = [await submit(crew, f"t{i}", f"t{i}") for i in range(3)]
        results = await crew.results(ids)
        assert [(one.output, one.attempt, one.usage.requests) for one in results] == [
            (f"to t{i}", 1, 1) for i in range(3)
        ]
        assert [len(batch.requests) for batch in served.batches.sent] == [3]
        assert [bool(request.batch) for request in served.requests] == [False, True, True, True]
        await until(lambda: is_over(crew))
        assert price > 0
        assert await counted(crew) == (4 * 1100, price + 3 * ((price + 1) // 2), 0)
        assert results[0].metadata["batched"] == {"requests": 1, "usd": f"{(price + 1) // 2 / 1e9:.6f}"}
        assert "batched" not in at_once.metadata


async def test_a_full_batch_leaves_out_no_task_that_is_yet_to_be_set_aside(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bool] = []
    look = batches.any_runs

    async def seen(*known: Any) -> bool:
        looks.append(await look(*known))
        return looks[-1]

    monkeypatch.setattr(batches, "any_runs", seen)
    bounds = {"maxGatherSeconds": 3600, "maxRequests": 3}
    async with crew_of(make_crew, lambda _: "ok", batch=bounds) as (crew, served), crew.in_process():
        for name in ("t0", "t1"):
            await submit(crew, name)
        await until(lambda: _waiting(crew, 2), what="both are set aside")
        # As for the moment in which a worker has stored a request, and not yet set its task aside.
        await crew.redis.hset(crew.keys.holders, "t1", "\x1f".join(("w-1", "1", "1", "1-1", "1", "1", "2", "a", "0")))
        await submit(crew, "t2")
        await until(lambda: len(looks) > 2, what="the sender has looked")
        assert all(looks)
        assert not served.batches.sent
        await crew.redis.hdel(crew.keys.holders, "t1")
        assert [one.output for one in await crew.results(["t0", "t1", "t2"])] == ["ok"] * 3
        assert [len(batch.requests) for batch in served.batches.sent] == [3]


async def _waiting(crew: Crew, number: int) -> bool:
    return await crew.redis.zcard(crew.keys.delayed) == number and not await crew.redis.hlen(crew.keys.holders)


async def test_a_limit_of_the_model_bounds_no_answer_by_a_batch_nor_at_once(make_crew: Make) -> None:
    limit = ModelLimit.model_validate({"model": OPENAI, "tokens": 1_000_000})
    whole = Budget.model_validate({"name": "all", "tokens": 1_000_000})
    options: dict[str, Any] = {"config": {}, "model_limits": [limit]}
    async with crew_of(make_crew, lambda _: "ok", **options) as (crew, served), crew.in_process():
        assert (await crew.result(await submit(crew, "t"))).success
        assert (await crew.result(await crew.submit("u", "a"))).success
        await crew.define(budgets=[whole])
        assert (await crew.result(await submit(crew, "v"))).success
        assert (await crew.result(await crew.submit("w", "a"))).success
    bounds = [request.body.get("max_output_tokens") for request in served.requests]
    assert bounds == [None, None, MAX_TOKENS, MAX_TOKENS]


async def test_a_conversation_goes_on_by_batches_and_calls_each_tool_once(make_crew: Make) -> None:
    answers: list[Answer] = [ToolCall("calculator", {"expression": "6 * 7"}), "42"]
    async with crew_of(make_crew, answers, tools=["calculator"]) as (crew, served), crew.in_process():
        result = await crew.result(await submit(crew, "t"))
    assert (result.output, result.attempt, result.usage.requests) == ("42", 1, 2)
    assert result.usage.input_tokens == 2000
    assert len(served.batches.sent) == 2
    assert served.requests[1].tool_results == ["42"]
    assert result.metadata["batched"]["requests"] == 2


async def test_a_task_tells_which_batch_it_waits_for(make_crew: Make) -> None:
    async with crew_of(make_crew, ["ok"]) as (crew, served), crew.in_process():
        served.batches.open = True
        await submit(crew, "t")
        told = await until(lambda: _told(crew, "waits for batch"), what="the batch is sent")
        assert f"waits for batch {served.batches.sent[0].id} of the provider of model '{OPENAI}', sent at" in told
        assert (await crew.client.figures(crew.name)).has_batches
        served.batches.open = False
        assert (await crew.result("t")).success
        await until(lambda: is_over(crew))
        assert not (await crew.client.figures(crew.name)).has_batches


async def _told(crew: Crew, text: str) -> str:
    told = (await crew.client.why(crew.name, "t")).message
    return told if text in told else ""


async def test_after_the_deadline_a_task_goes_the_normal_way_and_the_batch_is_cancelled(make_crew: Make) -> None:
    whole = Budget.model_validate({"name": "all", "tokens": 1_000_000})
    async with crew_of(make_crew, lambda _: "ok", budgets=[whole]) as (crew, served), crew.in_process():
        await send_and_be_late(crew, served)
        result = await crew.result("t")
        assert (result.output, result.attempt) == ("ok", 1)
        assert "batched" not in result.metadata
        (batch,) = served.batches.sent
        assert [request.batch for request in served.requests] == [""]
        await until(lambda: batch.state == "cancelled", what="the provider is told")
        await until(lambda: is_over(crew))
        await until(lambda: _is(crew, (1100, 0)))


async def test_a_late_answer_is_paid_and_not_used(make_crew: Make) -> None:
    """The provider had answered when it was told that nobody waits."""
    whole = Budget.model_validate({"name": "all", "tokens": 1_000_000})

    async def step(name: str) -> None:
        if name == "cancel":
            served.batches.open = False
            raise web.HTTPConflict

    async with crew_of(make_crew, lambda _: "ok", budgets=[whole]) as (crew, served), crew.in_process():
        served.batches.step = step
        await send_and_be_late(crew, served)
        assert (await crew.result("t")).usage.requests == 1
        await until(lambda: is_over(crew))
        assert [bool(request.batch) for request in served.requests] == [False, True]
        await until(lambda: _is(crew, (2200, 0)))


async def test_what_is_not_sent_by_then_is_withdrawn(make_crew: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Budget.model_validate({"name": "all", "tokens": 1_000_000})

    hold, is_refused = batches.hold, True

    async def refused(sender: batches.Sender) -> bool:
        return not is_refused and await hold(sender)

    monkeypatch.setattr(batches, "hold", refused)  # no worker has its turn
    bounds = {"maxWaitSeconds": 1}
    async with crew_of(make_crew, lambda _: "ok", batch=bounds, budgets=[whole]) as (crew, served), crew.in_process():
        assert (await crew.result(await submit(crew, "t"))).success
        assert served.batches.sent == []
        await until(lambda: _is(crew, (1100, 0)))
        assert not await crew.redis.exists(crew.keys.batch.lane, crew.keys.batch.requests)
        is_refused = False
        await until(lambda: is_over(crew), what="the crew has no batches, so that none of its workers must stay")


async def _is(crew: Crew, expected: tuple[int, int]) -> bool:
    return (await counted(crew))[::2] == expected


async def test_a_cancelled_task_leaves_nothing(make_crew: Make) -> None:
    async with crew_of(make_crew, ["ok"]) as (crew, served), crew.in_process():
        served.batches.open = True
        await submit(crew, "t")
        await until(lambda: _told(crew, "waits for batch"))
        await crew.client.cancel(crew.name, "t")
        await until(lambda: is_over(crew))
        assert served.batches.sent[0].state == "cancelled"
        assert served.requests == []


async def test_a_batch_that_nobody_waits_for_and_that_cannot_be_read_is_given_up(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_sender, "UNREAD_SECONDS", -1.0)

    async def step(name: str) -> None:
        if name == "status":
            raise web.HTTPForbidden

    async with crew_of(make_crew, lambda _: "ok") as (crew, served), crew.in_process():
        served.batches.step = step
        await send_and_be_late(crew, served)
        assert (await crew.result("t")).success
        await until(lambda: is_over(crew))
        assert served.batches.sent[0].state == "cancelled"


async def test_an_answer_reaches_a_task_that_waits_for_the_limits_of_its_agent(make_crew: Make) -> None:
    rate = RateLimit.model_validate({"requests": 1, "periodSeconds": 3600})
    async with crew_of(make_crew, lambda _: "ok", rate_limit=rate) as (crew, served), crew.in_process():
        await send_and_be_late(crew, served)
        await until(lambda: _holder(crew, "limited:a"), what="the task is due, and may not start")
        served.batches.open = False
        await until(lambda: is_over(crew))
        await crew.define(agents=[crew.definition.agents[0].model_copy(update={"rate_limit": None})])
        assert (await crew.result("t")).metadata["batched"]["requests"] == 1
        assert len(served.requests) == 1


async def _holder(crew: Crew, incarnation: str) -> bool:
    return str(await crew.redis.hget(crew.keys.holders, "t")).startswith(incarnation)


async def test_an_answer_counts_once_however_long_its_task_runs(make_crew: Make) -> None:
    async with crew_of(make_crew, ["ok"]) as (crew, served), crew.in_process():
        served.batches.open = True
        await submit(crew, "t")
        await until(lambda: _told(crew, "waits for batch"))
        await until(lambda: _waiting(crew, 1))
        # As for a worker that has yet to set its task aside.
        await crew.redis.hset(crew.keys.holders, "t", "\x1f".join(("w-1", "1", "1", "1-1", "1", "1", "2", "a", "0")))
        served.batches.open = False

        async def held() -> bool:
            return any(batch.held > 2 for batch in (await batches.look(crew.redis, crew.keys)).batches)

        await until(held, what="the sender has tried to tell the task")
        await crew.redis.hdel(crew.keys.holders, "t")
        assert (await crew.result("t")).output == "ok"
        await until(lambda: is_over(crew))
        labels = model_requests.labels(crew.name, OPENAI)
        requests = metrics.MODEL_REQUESTS.labels(*labels, "batched")
        await until(lambda: requests._value.get(), what="the count, which follows the last word to a task")
        assert requests._value.get() == 1
        assert metrics.MODEL_TOKENS.labels(*labels, "input")._value.get() == 1000


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC])
async def test_lines_that_fail_or_expire(make_crew: Make, model: str) -> None:
    """A request that is wrong fails its task. What a batch could not do now is asked at once."""

    def answer(request: Request) -> Answer:
        if request.prompt == "wrong":
            return ErrorAnswer(400, "it is wrong")
        if not request.batch:
            return "at once"
        now: dict[str, Answer] = {"busy": ErrorAnswer(500, "busy"), "expired": Expired()}
        return now.get(request.prompt, "in a batch")

    prompts = ["wrong", "busy", "expired", "good"]
    bounds = {"maxGatherSeconds": 3600, "maxRequests": 4}
    async with crew_of(make_crew, answer, model=model, batch=bounds) as (crew, served), crew.in_process():
        results = await crew.results([await submit(crew, prompt, prompt) for prompt in prompts])
        assert len(served.batches.sent) == 1
        assert [(one.success, one.output, one.attempt) for one in results[1:]] == [
            (True, "at once", 1),
            (True, "at once", 1),
            (True, "in a batch", 1),
        ]
        assert "it is wrong" in results[0].error
        asked_at_once = sorted(request.prompt for request in served.requests if not request.batch)
        assert asked_at_once == ["busy", "expired"]


async def test_a_batch_that_the_provider_refuses_is_asked_at_once(make_crew: Make) -> None:
    whole = Budget.model_validate({"name": "all", "tokens": 1_000_000})

    async def step(name: str) -> None:
        if name == "create":
            raise web.HTTPForbidden

    async with crew_of(make_crew, ["ok"], budgets=[whole]) as (crew, served), crew.in_process():
        served.batches.step = step
        assert (await crew.result(await submit(crew, "t"))).output == "ok"
        await until(lambda: is_over(crew))
        await until(lambda: _is(crew, (1100, 0)))


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC])
async def test_a_batch_whose_answer_was_lost_is_found_at_its_provider(make_crew: Make, model: str) -> None:
    async def step(name: str) -> None:
        if name == "created" and len(served.batches.sent) == 1:
            raise web.HTTPBadGateway

    async with crew_of(make_crew, ["ok"], model=model) as (crew, served), crew.in_process():
        served.batches.step = step
        assert (await crew.result(await submit(crew, "t"))).output == "ok"
        assert len(served.batches.sent) == len(served.requests) == 1


async def test_workers_that_are_killed_at_each_step_lose_nothing_and_pay_nothing_twice(make_crew: Make) -> None:
    steps = ["create", "created", "results"]
    whole = Budget.model_validate({"name": "all", "tokens": 1_000_000})
    reached, asked = asyncio.Event(), list(steps)

    async def step(name: str) -> None:
        if asked and name == asked[0]:
            reached.set()
            await asyncio.Event().wait()

    async with crew_of(make_crew, ["ok"], budgets=[whole]) as (crew, served):
        served.batches.step = step
        await submit(crew, "t")
        for _ in steps:
            worker = await crew.worker(batch_hold_seconds=0.5)
            await asyncio.wait_for(reached.wait(), 180)
            worker.kill()
            reached.clear()
            asked.pop(0)
        await crew.worker(batch_hold_seconds=0.5)
        result = await crew.result("t", timeout=180)
        assert (result.output, result.attempt) == ("ok", 1)
        assert len(served.batches.sent) == len(served.requests) == 1
        await until(lambda: is_over(crew))
        await until(lambda: _is(crew, (1100, 0)))
