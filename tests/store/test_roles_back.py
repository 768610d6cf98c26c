"""A task that its agent can't do goes back to the role that it came for, if another agent of the role can."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from asks import ask_to_cancel, ask_to_interrupt, ask_to_resume
from role_calls import REVIEWERS, give_roles, taken
from support import Crew, server_ms
from test_roles_away import ANN, BOB, given, limit, spend_all

from waiting import until
from watchbill.errors import BudgetExhausted, Postponed
from watchbill.records import TaskPolicy
from watchbill.store import checkpoints
from watchbill.store.queue import Claimed, Finished
from watchbill.tasks import AgentTask, Usage
from watchbill.testing import FakeClock
from watchbill.worker import redefined
from watchbill.worker.execution import failures, results
from watchbill.worker.state import WorkerState

WHY = "AgentUnavailable: there is no class 'Ann'."
WAITS = " Task 't1' waits for a worker that has it"


async def first_of_role(crew: Crew, **fields: Any) -> Claimed:
    """A crew whose agent ann has got the one task."""
    await give_roles(crew, ANN, BOB, **fields)
    await crew.submit("t1", agent=REVIEWERS)
    (task,) = await taken(crew, "w")
    assert (task.agent, task.attempt) == ("ann", 1)
    return task


async def said(crew: Crew) -> list[tuple[str, str]]:
    told = [event for event in await crew.events() if event["event_type"] == "mission_event"]
    return [(event["agent_id"], event["message"]) for event in told]


async def held_by(crew: Crew) -> dict[str, str]:
    meta = await crew.client.hgetall(crew.keys.meta)
    return {name: meta.get(f"held:{name}", "0") for name in ("ann", "bob")}


async def test_a_task_whose_agent_the_worker_lacks_goes_to_another_that_it_has(crew: Crew) -> None:
    task = await first_of_role(crew)
    assert await crew.queue.park("w", [task], WHY, WAITS) == ["returned"]
    assert await crew.queue.park("w", [task], WHY, WAITS) == ["repeated"], "whose answer was lost"
    assert await said(crew) == [("ann", f"back to role reviewer: {WHY}")]
    assert await crew.client.hmget(crew.keys.task("t1"), "state", "agent") == ["waiting", REVIEWERS]
    assert await crew.queue.parked_agents() == {}
    again = await taken(crew, "w")
    assert [(one.id, one.agent, one.attempt, one.entry) for one in again] == [("t1", "bob", 1, task.entry)]
    assert await held_by(crew) == {"ann": "0", "bob": "1"}
    await crew.finish("w", again)
    await crew.assert_idle()


async def test_a_claim_that_was_under_way_gives_it_the_same_agent_once_more_and_it_goes_back_again(crew: Crew) -> None:
    task = await first_of_role(crew)
    assert await crew.queue.park("w", [task], WHY, WAITS) == ["returned"]
    crew.queue.role_feeds.can_run("ann", able=True)  # as the claim said that was sent before
    (task,) = await taken(crew, "w")
    assert (task.agent, task.attempt) == ("ann", 1)
    assert await crew.queue.park("w", [task], WHY, WAITS) == ["returned"]
    again = await taken(crew, "w")
    assert given(again) == [("t1", "bob")]
    await crew.finish("w", again)
    await crew.assert_idle()


@pytest.mark.parametrize("what", ["lacks all", "can't read", "lacks an agent that isn't of the role's any more"])
async def test_a_worker_that_can_run_no_agent_of_the_role_parks_it_for_the_one_that_it_had(
    crew: Crew, what: str
) -> None:
    task = await first_of_role(crew)
    if what == "lacks all":
        crew.queue.role_feeds.can_run("bob", able=False)
    elif what != "can't read":
        await give_roles(crew, ANN, {**BOB, "roles": ["writer"]})
    assert await crew.queue.park("w", [task], WHY, WAITS, lacks_all=what == "can't read") == ["applied"]
    assert await said(crew) == [("ann", WHY + WAITS)]
    assert await crew.client.hmget(crew.keys.task("t1"), "state", "agent", "role") == ["parked", "ann", REVIEWERS]
    ((agent, (member,)),) = (await crew.queue.parked_agents()).items()
    assert (agent, member.task_id) == ("ann", "t1")


async def test_a_worker_that_doesnt_know_the_agents_role_yet_parks_it(crew: Crew) -> None:
    """Its claims can't say that it lacks the agent: each would give it the task again."""
    feeds = crew.queue.role_feeds
    await give_roles(crew, BOB)
    before = crew.definition
    await give_roles(crew, ANN, BOB)
    feeds.take_up(before, crew.definition.digest())
    await crew.submit("t1", agent=REVIEWERS)
    (task,) = await taken(crew, "w")
    assert task.agent == "ann"
    assert await crew.queue.park("w", [task], WHY, WAITS) == ["applied"]
    assert await said(crew) == [("ann", WHY + WAITS)]
    assert await crew.state("t1") == "parked"


async def test_a_definition_that_could_not_be_read_is_read_again(crew: Crew) -> None:
    feeds, clock, parked = crew.queue.role_feeds, FakeClock(), asyncio.Event()
    await give_roles(crew, BOB)
    digest = crew.definition.digest()
    await crew.client.hdel(crew.keys.meta, "def")
    feeds.agents = ()
    feeds.redefined.set()
    beside = asyncio.create_task(redefined.take_up(WorkerState(1.0, clock), crew.queue, parked))
    try:
        await until(lambda: clock.sleepers, what="it waits")
        await crew.client.hset(crew.keys.meta, "def", digest)
        clock.advance(redefined.AGAIN_SECONDS)
        async with asyncio.timeout(180):
            await parked.wait()
        assert list(feeds.agents) == ["bob"]
    finally:
        beside.cancel()


async def test_a_task_that_waits_for_its_agent_stays_with_it(crew: Crew) -> None:
    """Else a worker that has no other would park it, and one that lacks it take it back, for ever."""
    task = await first_of_role(crew)
    crew.queue.role_feeds.can_run("bob", able=False)
    assert await crew.queue.park("w", [task], WHY) == ["applied"]
    ((_, members),) = (await crew.queue.parked_agents()).items()
    assert await crew.queue.unpark(members) == 1
    for name in ("ann", "bob"):
        crew.queue.role_feeds.can_run(name, able=True)
    (task,) = await taken(crew, "w")
    assert await crew.queue.park("w", [task], WHY) == ["applied"]


async def put_off(crew: Crew, done: str = "", may_begin: Sequence[str] = ("ann", "bob")) -> Claimed:
    """A task whose agent ann has waited for a budget, as bob would have had to, and has got it again."""
    task = await first_of_role(crew)
    for name in ("ann", "bob"):
        await spend_all(crew, name)
    if done == "a step":
        await checkpoints.store(crew.queue, "w", task, 1, "read", "{}")
    await crew.finish("w", [task], "later", message="it is spent", ttl_ms=3_600_000, is_of_agent=True)
    await crew.client.hdel(crew.keys.meta, *(f"away:{name}" for name in may_begin))
    await crew.client.zadd(crew.keys.delayed, dict.fromkeys(await crew.client.zrange(crew.keys.delayed, 0, -1), 1))
    (task,) = await taken(crew, "w")
    assert (task.agent, task.attempt) == ("ann", 1)
    return task


async def test_one_that_has_waited_for_a_budget_of_an_agent_that_the_worker_lacks_goes_to_another(crew: Crew) -> None:
    task = await put_off(crew)
    assert await crew.queue.park("w", [task], WHY, WAITS) == ["returned"]
    assert await crew.queue.park("w", [task], WHY, WAITS) == ["repeated"], "whose answer was lost"
    assert await said(crew) == [("ann", "it is spent"), ("ann", f"back to role reviewer: {WHY}")]
    assert await crew.client.hmget(crew.keys.task("t1"), "state", "agent") == ["waiting", REVIEWERS]
    assert await crew.queue.parked_agents() == {}
    assert await held_by(crew) == {"ann": "0", "bob": "0"}
    again = await taken(crew, "w")
    assert [(one.id, one.agent, one.attempt) for one in again] == [("t1", "bob", 1)]
    assert await crew.queue.park("w", [task], WHY, WAITS) == ["repeated"], "and comes very late"
    await crew.finish("w", again)
    await crew.assert_idle()


async def test_one_that_goes_back_has_made_no_attempt(crew: Crew) -> None:
    task = await put_off(crew)
    assert [one.state for one in await crew.queue.start("w", [task])] == ["ok"]
    assert await crew.queue.park("w", [task], WHY, WAITS) == ["returned"]
    assert await crew.client.hget(crew.keys.task("t1"), "attempt") == "0"
    assert await ask_to_interrupt(crew, "t1")
    assert await ask_to_resume(crew, "t1")
    assert [one.attempt for one in await taken(crew, "w")] == [1]


async def test_one_whose_other_agents_may_begin_later_waits_for_its_own(crew: Crew) -> None:
    task = await put_off(crew, may_begin=["ann"])
    assert await crew.queue.park("w", [task], WHY, WAITS) == ["applied"]
    assert await crew.client.hmget(crew.keys.task("t1"), "state", "agent") == ["parked", "ann"]


@pytest.mark.parametrize("why", ["some of it is done", "the worker lacks all", "it doesn't know ann's role"])
async def test_one_that_has_waited_for_a_budget_waits_for_its_agent_where(crew: Crew, why: str) -> None:
    task = await put_off(crew, "a step" if why == "some of it is done" else "")
    feeds = crew.queue.role_feeds
    if why == "the worker lacks all":
        feeds.can_run("bob", able=False)
    elif why != "some of it is done":
        feeds.take_up(crew.definition.model_copy(update={"agents": crew.definition.agents[1:]}), "another")
    assert await crew.queue.park("w", [task], WHY, WAITS) == ["applied"]
    assert (await said(crew))[-1] == ("ann", WHY + WAITS)
    feeds.take_up(crew.definition, crew.definition.digest())
    ((_, members),) = (await crew.queue.parked_agents()).items()
    assert await crew.queue.unpark(members) == 1
    (task,) = await taken(crew, "w")
    assert await crew.queue.park("w", [task], WHY, WAITS) == ["applied"], "it waits for a worker now, for no budget"


async def test_one_that_somebody_cancels_meanwhile_goes_to_nobody(crew: Crew) -> None:
    task = await first_of_role(crew)
    await ask_to_cancel(crew, "t1")
    assert await crew.queue.park("w", [task], WHY) == ["stopped"]
    (task,) = await taken(crew, "w")
    assert task.wish == "cancel"
    await crew.finish("w", [task], "cancelled")
    assert await crew.state("t1") == "cancelled"


async def exhausted(crew: Crew, task: Claimed, usage: Usage | None = None) -> str:
    """Ends it as a worker does to whose agent a budget says Fail."""
    end = Finished(task, "dead", "{}", "BudgetExhausted: it is spent", usage=usage, is_of_agent=True)
    (outcome,), _ = await crew.queue.finish("w", [end])
    return outcome


async def test_a_task_that_a_budget_fails_goes_to_another_agent(crew: Crew) -> None:
    task = await first_of_role(crew, budgets=[limit(onExhausted="Fail").budget])
    await spend_all(crew)
    assert await exhausted(crew, task) == "returned"
    assert await said(crew) == [("ann", "back to role reviewer: BudgetExhausted: it is spent")]
    again = await taken(crew, "w")
    assert [(one.id, one.agent, one.attempt) for one in again] == [("t1", "bob", 1)]
    assert await exhausted(crew, task) == "repeated", "whose answer was lost"
    await crew.finish("w", again)
    await crew.assert_idle()


async def test_what_an_earlier_attempt_spent_doesnt_kill_it(crew: Crew) -> None:
    task = await first_of_role(crew)
    usage = Usage(input_tokens=3, requests=1)
    await crew.finish("w", [task], "retry", message="it failed", usage=usage, ttl_ms=0)
    (task,) = await taken(crew, "w")
    assert (task.agent, task.attempt) == ("ann", 2)
    await spend_all(crew)
    assert await exhausted(crew, task, usage) == "returned"
    again = await taken(crew, "w")
    assert [(one.agent, one.attempt) for one in again] == [("bob", 2)]
    await crew.finish("w", again)
    await crew.assert_idle()


async def test_what_an_earlier_attempt_spent_has_it_wait_for_no_budget(crew: Crew) -> None:
    task = await first_of_role(crew)
    usage = Usage(input_tokens=3, requests=1)
    await crew.finish("w", [task], "retry", message="it failed", usage=usage, ttl_ms=0)
    (task,) = await taken(crew, "w")
    await spend_all(crew)
    until_ms = await server_ms(crew.client) + 30 * 86_400_000
    end = Finished(task, "later", "", "it is spent", usage=usage, ttl_ms=-until_ms, is_of_agent=True)
    assert (await crew.queue.finish("w", [end]))[0] == ["returned"]
    again = await taken(crew, "w")
    assert [(one.agent, one.attempt) for one in again] == [("bob", 2)], "not in 30 days"
    await crew.finish("w", again)
    await crew.assert_idle()


@pytest.mark.parametrize("usage", [None, Usage(input_tokens=3, requests=1)])
@pytest.mark.parametrize(
    ("error", "outcome"),
    [(BudgetExhausted("it is spent"), "dead"), (Postponed("it is spent", seconds=9.0), "later")],
    ids=["fails", "waits"],
)
@pytest.mark.parametrize("role", ["reviewer", None])
async def test_a_worker_gives_back_what_its_agent_has_spent_nothing_for(
    crew: Crew, error: Exception, outcome: str, usage: Usage | None, role: str | None
) -> None:
    task = await first_of_role(crew)
    payload = AgentTask(task_id="t1", agent_name="" if role else "ann", prompt="x", role=role).model_dump_json()
    failure = failures.failed(error, datetime.now(UTC))
    made = results.Results("c", lambda: datetime.now(UTC))
    before = replace(task, payload=payload, usage=Usage(input_tokens=5, requests=1))
    end = made.failed(before, TaskPolicy(), failure, results.Extras(usage), 1.0)
    assert (end.outcome, end.is_of_agent) == (outcome, usage is None and role is not None)
    assert end.usage == (before.usage if usage is None else Usage(input_tokens=8, requests=2))


@pytest.mark.parametrize("why", ["no other may begin", "some of it is done", "its own budget"])
async def test_it_is_dead_where_no_other_agent_may_take_it(crew: Crew, why: str) -> None:
    task = await first_of_role(crew)
    if why != "its own budget":
        await spend_all(crew)
    if why == "no other may begin":
        await spend_all(crew, "bob")
    if why == "some of it is done":
        await checkpoints.store(crew.queue, "w", task, 1, "read", "{}")
    assert await exhausted(crew, task) == "applied"
    assert await crew.state("t1") == "dead"
    (letter,) = await crew.client.xrange(crew.keys.dead)
    assert (letter[1]["agent"], letter[1]["role"]) == ("ann", REVIEWERS)
    assert await exhausted(crew, task) == "repeated"
    await crew.assert_idle()


async def test_it_waits_for_a_worker_that_has_another_agent_of_the_role(crew: Crew) -> None:
    task = await first_of_role(crew)
    await spend_all(crew)
    crew.queue.role_feeds.can_run("bob", able=False)
    now = await server_ms(crew.client)
    assert await exhausted(crew, task) == "returned"
    ((_, due),) = await crew.client.zrange(crew.keys.delayed, 0, -1, withscores=True)
    assert 0 <= due - now - 30_000 < 60_000, "not at once: this worker would get it again"
    assert await crew.client.hmget(crew.keys.task("t1"), "state", "agent") == ["delayed", REVIEWERS]
    await crew.client.zadd(crew.keys.delayed, dict.fromkeys(await crew.client.zrange(crew.keys.delayed, 0, -1), 1))
    crew.queue.role_feeds.can_run("bob", able=True)
    again = await taken(crew, "w")
    assert [(one.agent, one.attempt) for one in again] == [("bob", 1)]
    await crew.finish("w", again)
    await crew.assert_idle()


async def test_one_that_somebody_cancels_meanwhile_ends_so(crew: Crew) -> None:
    task = await first_of_role(crew)
    await spend_all(crew)
    await ask_to_cancel(crew, "t1")
    assert await exhausted(crew, task) == "stopped"
    assert await crew.state("t1") == "cancelled"
    await crew.assert_idle()


async def test_what_names_its_agent_is_dead(crew: Crew) -> None:
    await give_roles(crew, ANN, BOB)
    await crew.submit("t1", agent="ann")
    (task,) = await taken(crew, "w")
    await spend_all(crew)
    assert await exhausted(crew, task) == "applied"
    assert await crew.state("t1") == "dead"
