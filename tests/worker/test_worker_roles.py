"""Work for a role where agents work: real worker processes, one of which is killed, and the client's doors."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from workshop import Crew, Make, agent

from waiting import until
from watchbill.api.budgets import Budget
from watchbill.errors import InvalidInput
from watchbill.event_types import EventType
from watchbill.plan.why import Reason
from watchbill.records import AgentDefinition
from watchbill.store import help_requests
from watchbill.tasks import AgentTask
from watchbill.testing import FakeModel

TASKS = [f"t{i}" for i in range(20)]


def reviewers() -> list[AgentDefinition]:
    return [
        agent("one", "Gate", roles=["reviewer"], max_concurrent=1),
        agent("two", "Gate", roles=["reviewer"], max_concurrent=2),
    ]


async def _running(crew: Crew) -> Counter[str]:
    return Counter({name: int(n) for name, n in (await crew.redis.hgetall(crew.keys.agents)).items()})


async def test_agents_of_a_role_never_have_more_than_they_may_though_a_worker_is_killed(make_crew: Make) -> None:
    crew = await make_crew(reviewers())
    first, second = await crew.worker(), await crew.worker()
    for task in TASKS:
        await crew.submit(task, role="reviewer")
    await until(lambda: len(crew.executions()) == 3, what="three run")
    told = await until(lambda: crew.told("t19", Reason.LIMITED))
    assert (told.agent, told.role, told.starts_in_seconds) == ("", "reviewer", None)
    assert await _running(crew) == {"one": 1, "two": 2}
    figures = await crew.client.figures(crew.name)
    assert (figures.waiting, figures.parked_by["limit"]) == (0, 17)

    dead = max((first, second), key=lambda one: len(crew.started_by(one)))
    lost, names = crew.started_by(dead), await crew.incarnations(dead)
    dead.kill()
    await crew.queue.declare_dead(sorted(names))
    await until(lambda: sum(crew.executions().values()) == 3 + len(lost), what="the lost ones run again")
    assert await _running(crew) == {"one": 1, "two": 2}
    crew.open(*TASKS)
    results = await crew.results(TASKS)
    assert all(result.success for result in results)
    assert {result.task_id for result in results if result.attempt == 2} == lost
    assert {result.role for result in results} == {"reviewer"}
    assert {result.output.partition(":")[0] for result in results} == {"one", "two"}
    assert all(result.output.startswith(result.agent_name) for result in results)
    assert _most_at_once(crew, dead.pid) == {"one": 1, "two": 2}
    assert await until(crew.is_idle)


def _most_at_once(crew: Crew, dead: int) -> dict[str, int]:
    """Agent → the most of its tasks that ran at once, by their own notes. What the process `dead` ran has ended when
    the first of it runs again."""
    open_now: dict[str, tuple[str, int]] = {}
    most: Counter[str] = Counter()
    for line in sorted((*crew.notes("start"), *crew.notes("end")), key=lambda line: line["at"]):
        if line["attempt"] == 2:
            open_now = {task: one for task, one in open_now.items() if one[1] != dead}
        if line["what"] == "start":
            open_now[line["task"]] = (line["agent"], line["pid"])
        else:
            open_now.pop(line["task"], None)
        for name, count in Counter(name for name, _ in open_now.values()).items():
            most[name] = max(most[name], count)
    return dict(most)


async def test_the_client_refuses_what_has_no_agent_or_two_addresses(make_crew: Make) -> None:
    crew = await make_crew(
        [agent("a", "Brief", roles=["writer", "reviewer"]), agent("b", "Brief", prompt="{inputs.x}")]
    )
    for options, path, reason in (
        ({"role": "nobody"}, "role", f"crew {crew.definition.name!r} has no agent of role 'nobody'"),
        ({"role": "writer", "agent": "a"}, "role", "the work is for agent 'a' and for role 'writer'"),
        ({"role": ""}, "role", f"crew {crew.definition.name!r} has no agent of role ''"),
    ):
        with pytest.raises(InvalidInput) as caught:
            await crew.client.submit(crew.name, "x", **options)  # type: ignore[arg-type]
        (problem,) = caught.value.problems
        assert (problem.path, problem.reason) == (path, reason)
        assert problem.fix in ("Use one of: reviewer, writer.", "Name one of the two.")
    for many in ("a", None):
        with pytest.raises(InvalidInput) as caught:
            await crew.client.submit_many(crew.name, many, [AgentTask(agent_name="a", prompt="x", role="writer")])
        assert [(problem.path, problem.fix) for problem in caught.value.problems] == [
            ("tasks[0].role", "Name one of the two.")
        ]
    with pytest.raises(InvalidInput, match=r"tasks\[0\]\.role: crew .* has no agent of role 'nobody'"):
        await crew.client.submit_many(crew.name, None, ["x"], role="nobody")
    assert not await crew.redis.exists(crew.keys.ids)
    await crew.define(agents=[one.model_copy(update={"roles": []}) for one in crew.definition.agents])
    with pytest.raises(InvalidInput) as caught:
        await crew.client.submit(crew.name, "x", role="writer")
    assert caught.value.problems[0].fix == "Give an agent the role (agents[].roles), or name an agent."


async def test_many_tasks_for_roles_and_agents_come_in_one_call(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "Brief", roles=["writer", "reviewer"]), agent("b", "Brief", roles=["writer"])])
    tasks = [
        AgentTask(task_id="r", agent_name="", prompt="x", role="reviewer"),
        AgentTask(task_id="b", agent_name="b", prompt="x"),
    ]
    ids = [
        *await crew.client.submit_many(crew.name, None, tasks),
        *await crew.client.submit_many(crew.name, None, ["x", "x"], role="writer"),
    ]
    async with crew.in_process():
        results = await crew.results(ids)
    assert [result.role for result in results] == ["reviewer", None, "writer", "writer"]
    assert [result.agent_name for result in results[:2]] == ["a", "b"]
    assert {result.agent_name for result in results[2:]} == {"a", "b"}


async def test_work_for_a_role_that_goes_is_parked_and_begins_when_an_agent_has_it_again(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(help_requests, "INTERVALS_SECONDS", (0.0, 3600.0))
    crew = await make_crew([agent("a", "Brief", roles=["reviewer"]), agent("b", "Brief")])
    await crew.submit("t1", role="reviewer")
    await crew.define(agents=[one.model_copy(update={"roles": []}) for one in crew.definition.agents])
    async with crew.in_process():
        told = await until(lambda: crew.told("t1", Reason.AGENT_UNAVAILABLE))
        assert (told.agent, told.role) == ("", "reviewer")
        assert (told.message, told.starts) == (
            "no agent of the crew has its role 'reviewer'",
            "unknown: when an agent has the role",
        )
        (why,) = [event.message for event in await crew.events() if event.message.startswith("AgentUnavailable")]
        assert why == (
            f"AgentUnavailable: no agent of crew {crew.name!r} has role 'reviewer'. Task 't1' waits for an agent that "
            "has it"
        )

        async def helps() -> list[str]:
            found = [event for event in await crew.events() if event.event_type == EventType.MISSION_HELP_NEEDED]
            return [event.message.rpartition(": ")[2] for event in found]

        assert await until(helps, what="the worker leaves it parked") == ["no agent has role reviewer"]
        a, b = crew.definition.agents
        await crew.define(agents=[a, b.model_copy(update={"roles": ["reviewer"]})])
        result = await crew.result("t1")
    assert (result.agent_name, result.role, result.attempt) == ("b", "reviewer", 1)
    assert await until(crew.is_idle)


async def test_an_agent_that_no_worker_has_does_not_swallow_the_backlog(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "NoSuch", roles=["reviewer"]), agent("b", "Brief", roles=["reviewer"])])
    async with crew.in_process():
        ids = [await crew.submit(task, role="reviewer") for task in TASKS]
        results = await crew.results(ids)
        assert {(result.agent_name, result.attempt) for result in results} == {("b", 1)}
        back = [event.message for event in await crew.events() if event.message.startswith("back to role reviewer: ")]
        assert back
        assert all("AgentUnavailable: " in message and "waits" not in message for message in back)
        await crew.submit("direct", "a")
        await until(lambda: crew.told("direct", Reason.AGENT_UNAVAILABLE))
        a, b = crew.definition.agents
        await crew.define(agents=[a.model_copy(update={"agent_class": b.agent_class}), b])
        assert (await crew.result("direct")).agent_name == "a"
    assert await until(crew.is_idle)


async def test_a_worker_names_the_feeds_of_agents_that_got_the_role_while_it_lived(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "Brief"), agent("b", "Brief", roles=["reviewer"])])
    async with crew.in_process():
        await crew.result(await crew.submit("t1", role="reviewer"))
        a, b = crew.definition.agents
        await crew.define(agents=[a.model_copy(update={"roles": ["reviewer"]}), b.model_copy(update={"roles": []})])
        number = 0

        async def told() -> bool:
            nonlocal number
            number += 1
            await crew.result(await crew.submit(f"u{number}", role="reviewer"))
            found = [event.event_type for _, event in await crew.client.events(crew.name, agent="a", count=100)]
            return EventType.MISSION_WORK_ASSIGNED in found

        await until(told, what="the new agent's feed tells it")
    assert (await crew.client.result(crew.name, "u1")).agent_name == "a"  # type: ignore[union-attr]


async def test_an_agent_whose_budget_fails_its_tasks_leaves_the_backlog_to_another(make_crew: Make) -> None:
    each = {"name": "own", "scope": "Agent", "tokens": 200, "window": "Monthly", "onExhausted": "Fail"}
    async with FakeModel(lambda _: "ok", input_tokens=40, output_tokens=20) as model:
        fields: dict[str, Any] = {"model": "openai-chat:gpt-5-mini", "config": {"max_tokens": 100}}
        made = [
            AgentDefinition(agent_id=name, base_url=model.base_url, roles=["reviewer"], **fields) for name in ("a", "b")
        ]
        crew = await make_crew(made, budgets=[Budget.model_validate(each)])
        async with crew.in_process(concurrency=1):
            await crew.submit("t0", "a")
            assert (await crew.result("t0")).success
            await crew.submit("t1", role="reviewer")
            first = await crew.result("t1")
            await crew.submit("t2", role="reviewer")
            last = await crew.result("t2")
        back = [event.message for event in await crew.events() if event.message.startswith("back to role reviewer: ")]
    assert (first.agent_name, first.success, first.attempt) == ("b", True, 1)
    assert last.error is not None, "which has spent its own by now"
    assert last.error.startswith("BudgetExhausted: budget 'own' of agent ")
    assert back[0].startswith("back to role reviewer: BudgetExhausted: budget 'own' of agent 'a' is exhausted")


async def test_an_agent_whose_budget_is_spent_leaves_the_backlog_to_another(make_crew: Make) -> None:
    own = Budget.model_validate({"name": "own", "scope": "Agent", "agent": "a", "tokens": 200, "window": "Monthly"})
    async with FakeModel(lambda _: "ok", input_tokens=40, output_tokens=20) as model:
        fields: dict[str, Any] = {"model": "openai-chat:gpt-5-mini", "config": {"max_tokens": 100}}
        made = [
            AgentDefinition(agent_id=name, base_url=model.base_url, roles=["reviewer"], **fields) for name in ("a", "b")
        ]
        crew = await make_crew(made, budgets=[own])
        async with crew.in_process():
            await crew.submit("t0", "a")
            assert (await crew.result("t0")).success
            await crew.submit("waits", "a")
            await until(lambda: crew.told("waits", Reason.POSTPONED))
            for task in TASKS[1:]:
                await crew.submit(task, role="reviewer")
            results = await crew.results(TASKS[1:])
    assert {(result.agent_name, result.success, result.attempt) for result in results} == {("b", True, 1)}
