"""Agents of a role that a budget or a model lets begin nothing get none of its tasks while another can do them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from role_calls import REVIEWERS, give_roles, taken
from support import Crew, server_ms

from watchbill.api.budgets import Budget
from watchbill.api.limits import ModelLimit
from watchbill.clock import SYSTEM
from watchbill.errors import Postponed
from watchbill.plan import budget, limits
from watchbill.plan.batches import Group
from watchbill.plan.budget import Amount, Limit, Span
from watchbill.plan.why import Reason, explain
from watchbill.store import approvals, batches, budgets, checkpoints, figures, why
from watchbill.store.budgets import Full, Later, Paused, Request, Reserved, Settlement
from watchbill.store.packed import Batched
from watchbill.store.queue import Claimed
from watchbill.tasks import Usage
from watchbill.worker.execution.account import Account

ANN, BOB = {"agent_id": "ann"}, {"agent_id": "bob", "max_concurrent": 2}


def limit(agent: str = "ann", span: Span | None = None, **fields: Any) -> Limit:
    one = Budget.model_validate({"name": "own", "scope": "Agent", "tokens": 100, **fields})
    return Limit(one, agent, span or Span(0, budget.NEVER_MS))


async def ask(crew: Crew, name: str, tokens: int, *listed: Limit, agent: str = "ann", **fields: Any) -> Any:
    """The agent's request to a model."""
    asked = Request(
        name, "m", crew.keys.task("t0"), Amount(tokens), listed, crew.keys.reserved(0), agent=agent, **fields
    )
    return await budgets.reserve(crew.client, crew.keys, crew.uid, crew.definition.digest(), asked)


async def spend_all(crew: Crew, agent: str = "ann", span: Span | None = None) -> None:
    """The agent's budget is spent, and its next request refused."""
    spent = limit(agent, span)
    first = Request(f"{agent}/0", "m", crew.keys.task("t0"), Amount(90), [spent], crew.keys.reserved(0))
    assert await budgets.reserve(crew.client, crew.keys, crew.uid, crew.definition.digest(), first) == Reserved(0)
    await budgets.settle(crew.client, crew.keys, crew.uid, [Settlement(first, Amount(90))])
    answer = await ask(crew, f"{agent}/1", 20, spent, agent=agent)
    assert isinstance(answer, Full)
    assert [one.is_exhausted for one in answer.found] == [True]


async def mark(crew: Crew, until_ms: int, since_ms: int, size: str = "") -> None:
    """Has ann away, by times from now on."""
    now, digest = await server_ms(crew.client), crew.definition.digest()
    await crew.client.hset(crew.keys.meta, "away:ann", f"{now + until_ms} {now + since_ms} {digest} {size}".strip())


def given(tasks: tuple[Claimed, ...]) -> list[tuple[str, str]]:
    return [(task.id, task.agent) for task in tasks]


async def test_an_agent_whose_budget_is_spent_gets_nothing_while_another_can_work(crew: Crew) -> None:
    await give_roles(crew, ANN, BOB)
    await spend_all(crew)
    await crew.submit("t1", "t2", "t3", "t4", agent=REVIEWERS)
    await crew.submit("a1", agent="ann")
    first = await taken(crew, "w")
    assert given(first) == [("t1", "bob"), ("t2", "bob"), ("a1", "ann")], "its own work goes to it as ever"
    seen = await figures.figures(crew.client, crew.keys)
    assert (seen.waiting, seen.running, seen.parked_by["limit"]) == (0, 3, 2), "ann's room is none for scaling"
    told = explain(await why.seen(crew.client, crew.keys, "t3"))
    assert told.message == (
        "no agent of role 'reviewer' has room by its maxConcurrent and its rateLimit; they run 3 tasks, and 1 of them "
        "wait for a budget or a model"
    )
    await crew.finish("w", first)
    last = await taken(crew, "w")
    assert given(last) == [("t3", "bob"), ("t4", "bob")]
    await crew.finish("w", last)
    await crew.assert_idle()


@pytest.mark.parametrize(
    ("size", "goes", "next_agent"), [("20 0", 19, "bob"), ("20 0", 20, "ann"), ("20 1", 20, "bob"), ("", 1, "ann")]
)
async def test_it_gets_work_again_once_a_request_of_that_size_goes(
    crew: Crew, size: str, goes: int, next_agent: str
) -> None:
    """`size`: of the request that was refused; a worker of the release before told none."""
    await give_roles(crew, ANN, BOB)
    await mark(crew, until_ms=60_000, since_ms=0, size=size)
    assert await ask(crew, "r", goes, limit()) == Reserved(0)
    await crew.submit("t1", agent=REVIEWERS)
    tasks = await taken(crew, "w")
    assert given(tasks) == [("t1", next_agent)]
    await crew.finish("w", tasks)


async def test_a_task_too_large_for_what_is_left_is_given_back_once_whatever_smaller_ones_do(crew: Crew) -> None:
    own = limit()
    await give_roles(crew, ANN, {"agent_id": "bob", "max_concurrent": 1})
    await crew.submit("t0", agent="bob")
    (busy,) = await taken(crew, "w")
    await crew.submit("big", agent=REVIEWERS)
    (big,) = await taken(crew, "w")
    assert big.agent == "ann"
    half = Request("half", "m", crew.keys.task("t0"), Amount(50), [own], crew.keys.reserved(0))
    assert await budgets.reserve(crew.client, crew.keys, crew.uid, crew.definition.digest(), half) == Reserved(0)
    await budgets.settle(crew.client, crew.keys, crew.uid, [Settlement(half, Amount(50))])
    assert isinstance(await ask(crew, "big", 60, own), Full)
    await crew.finish("w", [big], "later", message="it is spent", ttl_ms=3_600_000, is_of_agent=True)
    assert await ask(crew, "small", 10, own) == Reserved(0)
    await budgets.settle(crew.client, crew.keys, crew.uid, [], {"m": 60_000})
    assert isinstance(await ask(crew, "pause", 10, own, patience_ms=1000), Paused), "which ends before"
    assert await away_seconds(crew) > 60
    assert await taken(crew, "w") == (), "it waits for bob"
    await crew.finish("w", [busy])
    again = await taken(crew, "w")
    assert given(again) == [("big", "bob")]
    await crew.finish("w", again)


async def test_a_definition_that_raises_the_budget_gives_it_work_at_once(crew: Crew) -> None:
    await give_roles(crew, ANN, BOB)
    await spend_all(crew)
    await give_roles(crew, ANN, BOB, budgets=[limit(tokens=500).budget])
    await crew.submit("t1", agent=REVIEWERS)
    tasks = await taken(crew, "w")
    assert given(tasks) == [("t1", "ann")]
    await crew.finish("w", tasks)
    await give_roles(crew, BOB)
    assert not await crew.client.hexists(crew.keys.meta, "away:ann"), "nothing is left of an agent that is gone"


async def test_when_the_window_ends_what_waits_begins_and_whoever_scales_knows_when(crew: Crew) -> None:
    await give_roles(crew, ANN, {"agent_id": "bob", "max_concurrent": 1})
    now = await server_ms(crew.client)
    await spend_all(crew, span=Span(now - 1000, now + 3_600_000))
    await crew.submit("t1", "t2", agent=REVIEWERS)
    first = await taken(crew, "w")
    assert given(first) == [("t1", "bob")]
    due = (await figures.figures(crew.client, crew.keys)).due_in_ms
    assert due is not None
    assert 3_500_000 < due <= 3_600_000
    await mark(crew, until_ms=-1, since_ms=-2)
    second = await taken(crew, "w")
    assert given(second) == [("t2", "ann")]
    await crew.finish("w", [*first, *second])


async def test_a_mark_of_a_clock_that_has_gone_back_since_says_nothing(crew: Crew) -> None:
    await give_roles(crew, ANN, BOB)
    await mark(crew, until_ms=86_460_000, since_ms=86_400_000)
    await crew.submit("t1", agent=REVIEWERS)
    first = await taken(crew, "w")
    assert given(first) == [("t1", "ann")]
    await crew.finish("w", first)
    await mark(crew, until_ms=60_000, since_ms=0)
    await crew.submit("t2", agent=REVIEWERS)
    second = await taken(crew, "w")
    assert given(second) == [("t2", "bob")]
    await crew.finish("w", second)


async def test_where_none_can_work_the_one_that_may_first_gets_it(crew: Crew) -> None:
    await give_roles(crew, ANN, {"agent_id": "bob"})
    now = await server_ms(crew.client)
    await spend_all(crew, "ann", Span(now - 1000, now + 7_200_000))
    await spend_all(crew, "bob", Span(now - 1000, now + 3_600_000))
    await crew.submit("t1", "t2", agent=REVIEWERS)
    tasks = await taken(crew, "w")
    assert given(tasks) == [("t1", "bob"), ("t2", "bob")], "and its task says which budget it waits for"
    await crew.finish("w", tasks)


@pytest.mark.parametrize("what", ["more than the whole budget", "of a run", "of no agent with roles"])
async def test_a_refusal_of_this_one_task_says_nothing_of_others(crew: Crew, what: str) -> None:
    await give_roles(crew, ANN, BOB)
    await crew.submit("t0", agent="bob")
    (own,) = await taken(crew, "w")
    match what:
        case "more than the whole budget":
            answer = await ask(crew, "r", 101, limit())
        case "of a run":
            assert await ask(crew, "q", 90, limit(scope="Run")) == Reserved(0)
            await crew.client.hset(crew.keys.task("t0"), "budget:own:ann", _idle(await _counter(crew)))
            answer = await ask(crew, "r", 20, limit(scope="Run"))
        case _:
            answer = await ask(crew, "r", 101, limit(), agent="")
    assert isinstance(answer, Full)
    await crew.submit("t1", agent=REVIEWERS)
    tasks = await taken(crew, "w")
    assert given(tasks) == [("t1", "ann")]
    await crew.finish("w", [own, *tasks])


@pytest.mark.parametrize(("spent", "next_agent"), [("Agent", "bob"), ("Heartbeat", "ann")])
async def test_a_budget_of_heartbeats_says_nothing_of_the_agents_other_work(
    crew: Crew, spent: str, next_agent: str
) -> None:
    bound = [
        Budget.model_validate(
            {"name": scope.lower(), "scope": scope, "tokens": 100 if scope == spent else 1000, "onExhausted": "Wait"}
        )
        for scope in ("Agent", "Heartbeat")
    ]
    await give_roles(crew, ANN, BOB, budgets=bound)
    account = Account(crew.client, crew.keys, lambda: datetime.now(UTC), SYSTEM)
    try:
        of_task = account.of("t0", "1", "ann", "nightly")
        (await of_task.reserve("m", lambda _: (Amount(90), True))).settle(Amount(90))
        with pytest.raises(Postponed, match=f"budget '{spent.lower()}' .*is exhausted"):
            await of_task.reserve("m", lambda _: (Amount(20), True))
    finally:
        await account.close()
    await crew.submit("t1", agent=REVIEWERS)
    tasks = await taken(crew, "w")
    assert given(tasks) == [("t1", next_agent)]
    await crew.finish("w", tasks)


async def _counter(crew: Crew) -> str:
    return str(await crew.client.hget(crew.keys.task("t0"), "budget:own:ann"))


def _idle(counter: str) -> str:
    """The counter when its last request was long ago."""
    parts = counter.split("\x1f")
    parts[7] = "1"
    return "\x1f".join(parts)


@pytest.mark.parametrize("what", ["a pause", "a turn"])
async def test_a_model_that_wants_no_requests_keeps_its_agents_from_more_work(crew: Crew, what: str) -> None:
    await give_roles(crew, ANN, BOB)
    await crew.submit("t0", agent="bob")
    (own,) = await taken(crew, "w")
    if what == "a pause":
        await budgets.settle(crew.client, crew.keys, crew.uid, [], {"m": 60_000})
        assert isinstance(await ask(crew, "r", 1, patience_ms=1000), Paused)
    else:
        rate = limits.of_model([ModelLimit(model="m", requests=1, periodSeconds=60)], "m")
        assert await ask(crew, "q", 1, rate=rate, turn="turn:m") == Reserved(0)
        assert isinstance(await ask(crew, "r", 1, rate=rate, turn="turn:m", patience_ms=1000), Later)
    await crew.submit("t1", agent=REVIEWERS)
    tasks = await taken(crew, "w")
    assert given(tasks) == [("t1", "bob")], "though it has one, and ann none"
    await crew.finish("w", [own, *tasks])


async def away_seconds(crew: Crew, agent: str = "ann") -> int:
    """For how long the agent is away from now on, to the nearest ten minutes; 0: it is not."""
    until_ms = str(await crew.client.hget(crew.keys.meta, f"away:{agent}") or 0).partition(" ")[0]
    return max(round((int(until_ms) - await server_ms(crew.client)) / 600_000), 0) * 600


@pytest.mark.parametrize(
    ("pauses", "asked", "seconds"),
    [
        ({"m": 3_600_000, "next": 7_200_000}, ["m", "next"], 3600),  # the first was refused by that
        ({"m": 3_600_000, "next": 7_200_000}, ["next"], 3600),  # the first has just got its answer 429
        ({"m": 7_200_000, "next": 3_600_000}, ["m", "next"], 3600),
        ({"next": 7_200_000}, ["next"], 0),  # the first has failed, and may be asked
    ],
)
async def test_of_models_that_stand_in_for_each_other_the_first_to_go_says_for_how_long(
    crew: Crew, pauses: dict[str, int], asked: list[str], seconds: int
) -> None:
    await give_roles(crew, ANN, BOB)
    await budgets.settle(crew.client, crew.keys, crew.uid, [], pauses)
    for model in asked:
        request = Request(model, model, crew.keys.task("t0"), Amount(1), [], crew.keys.reserved(0), agent="ann")
        request = replace(request, first="m" if model != "m" else "")
        answer = await budgets.reserve(crew.client, crew.keys, crew.uid, crew.definition.digest(), request)
        assert isinstance(answer, Paused)
    assert await away_seconds(crew) == seconds


async def test_one_that_stands_in_and_goes_brings_the_agent_back(crew: Crew) -> None:
    await give_roles(crew, ANN, BOB)
    await budgets.settle(crew.client, crew.keys, crew.uid, [], {"first": 3_600_000})
    account = Account(crew.client, crew.keys, lambda: datetime.now(UTC), SYSTEM)
    try:
        of_task = account.of("t0", "1", "ann", "")
        with pytest.raises(Postponed, match="asked for a pause"):
            await of_task.reserve("first", lambda _: (Amount(1), True))
        assert await away_seconds(crew) == 3600
        await of_task.reserve("next", lambda _: (Amount(1), True))
    finally:
        await account.close()
    assert await away_seconds(crew) == 0


async def test_a_request_that_goes_by_a_batch_says_nothing_of_others(crew: Crew) -> None:
    await give_roles(crew, ANN, BOB)
    await budgets.settle(crew.client, crew.keys, crew.uid, [], {"m": 3_600_000})
    account = Account(crew.client, crew.keys, lambda: datetime.now(UTC), SYSTEM)
    try:
        for number, in_batch in enumerate((False, True)):
            of_task = account.of(f"t{number}", "1", "ann", "")
            if in_batch:
                await of_task.reserve("m", lambda _: (Amount(1), True), in_batch=True)
            else:
                with pytest.raises(Postponed, match="asked for a pause"):
                    await of_task.reserve("m", lambda _: (Amount(1), True))
            assert await away_seconds(crew) == 3600
    finally:
        await account.close()


async def test_a_pause_that_is_waited_for_in_the_slot_keeps_nobody_away(crew: Crew) -> None:
    await give_roles(crew, ANN, BOB)
    await budgets.settle(crew.client, crew.keys, crew.uid, [], {"m": 60_000})
    assert isinstance(await ask(crew, "r", 1, patience_ms=70_000), Paused)
    await crew.submit("t1", agent=REVIEWERS)
    tasks = await taken(crew, "w")
    assert given(tasks) == [("t1", "ann")]
    await crew.finish("w", tasks)


@pytest.mark.parametrize("done", ["nothing", "a request", "a step", "a batch", "an approval"])
async def test_what_was_given_to_it_before_goes_back_to_the_role_unless_some_of_it_is_done(
    crew: Crew, done: str
) -> None:
    await give_roles(crew, ANN, BOB)
    await crew.submit("t1", agent=REVIEWERS)
    (first,) = await taken(crew, "w")
    assert first.agent == "ann"
    usage = Usage(input_tokens=3, requests=1) if done == "a request" else None
    match done:
        case "a step":
            await checkpoints.store(crew.queue, "w", first, 1, "read", "{}")
        case "a batch":
            own = Batched("waiting", "id-1", "turn 1", "m", budget.NEVER_MS)
            await batches.gather(crew.queue, "w", first, own, "t1:1:1", "{}", Group("m", None, "", max_requests=2), 5)
        case "an approval":
            await crew.finish("w", [first], "approval", detail="to pay", ttl_ms=3_600_000)
            await approvals.decide(crew.client, crew.keys, crew.uid, "t1", "approved", "")
            (first,) = await taken(crew, "w")
    await spend_all(crew)
    await crew.finish("w", [first], "later", message="it is spent", usage=usage, is_of_agent=usage is None)
    again = await taken(crew, "w")
    said = [event["message"] for event in await crew.events() if event["event_type"] == "mission_event"]
    if done == "nothing":
        assert [(task.id, task.agent, task.attempt) for task in again] == [("t1", "bob", 1)]
        assert said == ["back to role reviewer: it is spent"]
        await crew.finish("w", again)
        await crew.assert_idle()
    else:
        assert (again, said) == ((), ["it is spent"])
        assert await crew.client.hget(crew.keys.task("t1"), "agent") == "ann"


async def test_it_stays_with_its_agent_where_no_other_can_begin_it(crew: Crew) -> None:
    await give_roles(crew, ANN, BOB)
    await crew.submit("t1", agent=REVIEWERS)
    (first,) = await taken(crew, "w")
    for name in ("ann", "bob"):
        await spend_all(crew, name)
    await crew.finish("w", [first], "later", message="it is spent", ttl_ms=3_600_000, is_of_agent=True)
    assert await taken(crew, "w") == ()
    told = explain(await why.seen(crew.client, crew.keys, "t1"))
    assert (told.reason, told.agent) == (Reason.POSTPONED, "ann")


async def test_where_all_have_to_wait_it_goes_to_the_one_that_may_begin_first_and_stays_there(crew: Crew) -> None:
    await give_roles(crew, ANN, BOB)
    await crew.submit("t1", agent=REVIEWERS)
    (first,) = await taken(crew, "w")
    assert first.agent == "ann"
    now = await server_ms(crew.client)
    await spend_all(crew, "ann", Span(now - 1000, now + 30 * 86_400_000))
    await spend_all(crew, "bob", Span(now - 1000, now + 3_600_000))
    await crew.finish("w", [first], "later", message="it is spent", ttl_ms=-(now + 30 * 86_400_000), is_of_agent=True)
    again = await taken(crew, "w")
    assert given(again) == [("t1", "bob")]
    await crew.finish("w", again, "later", message="it is spent", ttl_ms=-(now + 3_600_000), is_of_agent=True)
    assert await taken(crew, "w") == ()
    ((_, due),) = await crew.client.zrange(crew.keys.delayed, 0, -1, withscores=True)
    assert (due, await crew.client.hget(crew.keys.task("t1"), "agent")) == (now + 3_600_000, "bob")


async def test_one_turn_keeps_two_agents_away_until_the_same_time(crew: Crew) -> None:
    """Else a task would go from one to the other and back."""
    await give_roles(crew, ANN, BOB)
    await crew.submit("t0", agent="bob")
    (own,) = await taken(crew, "w")
    rate = limits.of_model([ModelLimit(model="m", requests=1, periodSeconds=60)], "m")
    assert await ask(crew, "q", 1, rate=rate, turn="turn:m") == Reserved(0)
    ends = set()
    for number in range(20):
        for name in ("ann", "bob"):
            answer = await ask(crew, f"{name}/{number}", 1, rate=rate, turn="turn:m", patience_ms=1000, agent=name)
            assert isinstance(answer, Later)
            ends.add(str(await crew.client.hget(crew.keys.meta, f"away:{name}")).partition(" ")[0])
    assert len(ends) == 1
    await crew.finish("w", [own])
