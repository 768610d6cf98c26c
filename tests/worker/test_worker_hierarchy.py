"""Hierarchical crews with real workers: what is delegated and reviewed, beside workers that die."""

from __future__ import annotations

import json
from typing import Any

from workshop import Crew, Make, agent

from waiting import until
from watchbill.api.hierarchy import Hierarchy
from watchbill.api.modes import Synthesis
from watchbill.records import AgentDefinition, ExecutionMode
from watchbill.tasks import RunState, TaskState
from watchbill.testing import Answer, FakeModel, Request, ToolCall

TEAM = {"lead": "Lead", "coder": "Works", "tester": "Works", "critic": "Critic"}


async def _made(make_crew: Make, agents: dict[str, str] = TEAM, **options: Any) -> Crew:
    bounds = {name: options.pop(name) for name in ("maxItems", "maxDepth", "maxRounds") if name in options}
    heads = {"manager": "lead"} | ({"reviewer": "critic"} if "critic" in agents else {})
    above = Hierarchy.model_validate(heads | bounds)
    return await make_crew(agents, mode=ExecutionMode.HIERARCHICAL, hierarchy=above, **options)


async def _run(crew: Crew, prompt: str, run_id: str = "r") -> None:
    await crew.client.submit(crew.name, prompt, id=run_id)


async def test_members_work_at_once_and_in_rounds_until_the_reviewer_approves(make_crew: Make) -> None:
    crew = await _made(make_crew, max_parallel_tasks=2)
    async with crew.in_process(concurrency=1):  # a manager that waits holds no slot
        await _run(crew, "coder: a; tester: b")
        result = await crew.run_result("r")
    assert (result.status, result.error, result.success) == (RunState.COMPLETED, None, True)
    first, second = result.output
    assert first.startswith("A\n\nYOUR LAST RESULT, WHICH FOLLOWS, WAS REJECTED.")
    assert "CODER MUST DO BETTER" in first
    assert "TESTER MUST DO BETTER" in second
    each = ["", ":review", ":work2", ":review2"]
    done = {f"r/lead:{item}{step}" for item in (1, 2) for step in each}
    found = crew.executions()
    assert found.pop("r/lead") >= 3
    assert found == dict.fromkeys(done, 1)
    steps = (await crew.client.status(crew.name, "r")).steps
    assert {step.attempt for step in steps} == {1}
    assert await crew.is_idle()

    told = [(e.event_type.value, e.agent_id, e.child_agent_id or e.parent_agent_id) for e in await crew.events(run="r")]
    for member in ("coder", "tester"):
        assert told.count(("task_delegated", "lead", member)) == 2
        assert told.count(("reviewer_approval", "critic", member)) == 1
        kinds = {e.event_type.value for e in await crew.events(agent=member)}
        assert kinds >= {"task_delegated", "reviewer_approval", "task_completed"}
    assert told.count(("reviewer_handoff", "lead", "critic")) == 4
    rejected = [e.message for e in await crew.events(run="r") if e.message.startswith("rejected: ")]
    assert sorted(rejected) == ["rejected: coder must do better", "rejected: tester must do better"]


async def test_whoever_dies_meanwhile_nothing_is_delegated_twice(make_crew: Make) -> None:
    team = {name: kind for name, kind in TEAM.items() if name != "critic"}
    crew = await _made(make_crew, team, lease_seconds=1, tasks={"max_attempts": 9})
    first = await crew.worker(concurrency=3)
    await _run(crew, "coder: gate 1; tester: b; coder: gate 2")
    await crew.started("r/lead:1", "r/lead:2", "r/lead:3")
    await until(lambda: _waits(crew, "r/lead"), what="the manager waits")
    first.kill()
    second = await crew.worker(concurrency=1)
    crew.open("r/lead:1")
    await until(lambda: crew.executions()["r/lead:3"] == 2, what="the other item runs anew")
    second.kill()
    await crew.worker(concurrency=2)
    crew.open()
    result = await crew.run_result("r")
    assert (result.success, result.output) == (True, ["coder: gate 1", "B", "coder: gate 2"])
    assert set(crew.executions()) == {"r/lead", "r/lead:1", "r/lead:2", "r/lead:3"}
    assert crew.executions()["r/lead:2"] == 1
    delegated = [e for e in await crew.events(run="r") if e.event_type == "task_delegated"]
    assert [(e.child_agent_id, e.scope) for e in delegated] == [
        ("coder", "item gate 1"),
        ("tester", "item b"),
        ("coder", "item gate 2"),
    ]
    await until(crew.is_idle, what="nothing is left")


async def _waits(crew: Crew, step_id: str) -> bool:
    return await crew.client.state(crew.name, step_id) is TaskState.WAITING


async def test_a_manager_hears_why_work_came_to_nothing_and_the_run_goes_on(make_crew: Make) -> None:
    crew = await _made(make_crew, maxRounds=2, maxItems=4, tasks={"max_attempts": 1})
    async with crew.in_process():
        await _run(crew, "coder: break; tester: never; coder: mute; lead: x; critic: y; tester: z")
        result = await crew.run_result("r")
    assert result.status is RunState.COMPLETED
    assert result.output[0].startswith("DelegationFailed: coder failed at item 1: ValueError: it broke (")
    assert result.output[1].startswith("DelegationFailed: item 2 of tester was rejected in 2 rounds")
    assert "critic could not review item 3 of coder: a reviewer must return its verdict" in result.output[2]
    assert result.output[3].startswith("refused: agent: nothing can be delegated to 'lead'")
    assert result.output[4].startswith("refused: agent: nothing can be delegated to 'critic'")
    assert result.output[5].startswith("Z\n\nYOUR LAST RESULT")
    assert await crew.dead() == []


async def test_bounds_are_told_by_the_field_that_sets_them(make_crew: Make) -> None:
    team = {"lead": "Lead", "coder": "Lead", "tester": "Works"}
    crew = await _made(make_crew, team, maxDepth=2, maxItems=1)
    async with crew.in_process(concurrency=1):
        await _run(crew, "coder: coder: x")
        assert "nothing can be delegated to 'coder'" in str((await crew.run_result("r")).output)
        await _run(crew, "coder: tester: x", "deep")
        assert (await crew.run_result("deep")).output == [["X"]]
        await _run(crew, "tester: x; tester: y", "wide")
        assert "maxItems: agent 'lead' has delegated 1 items" in (await crew.run_result("wide")).output[1]
        await crew.define(hierarchy=Hierarchy(manager="lead"))
        await _run(crew, "coder: tester: x", "low")
        assert "maxDepth: agent 'coder' may not delegate" in str((await crew.run_result("low")).output)


async def test_a_manager_that_delegates_to_nobody_has_failed_and_says_so(make_crew: Make) -> None:
    crew = await _made(make_crew, {"lead": "Idle", "coder": "Works"}, tasks={"max_attempts": 1})
    async with crew.in_process():
        await _run(crew, "do it")
        result = await crew.run_result("r")
    assert result.status is RunState.FAILED
    assert result.error == "lead: manager 'lead' has ended without delegating anything: its members are coder"


async def test_a_manager_in_a_thread_delegates_one_item_after_the_other(make_crew: Make) -> None:
    crew = await _made(make_crew, {"lead": "LeadInThread", "coder": "Works", "tester": "Works"})
    async with crew.in_process(concurrency=1):
        await _run(crew, "coder: a; tester: b")
        assert (await crew.run_result("r")).output == ["A", "B"]
    assert crew.executions() == {"r/lead": 3, "r/lead:1": 1, "r/lead:2": 1}


async def test_a_manager_runs_for_each_item_of_a_list_and_all_is_summed_up(make_crew: Make) -> None:
    lead = agent("lead", "Lead", for_each="{inputs.works}", prompt="{item}")
    crew = await make_crew(
        [lead, agent("coder", "Works")], mode=ExecutionMode.HIERARCHICAL, hierarchy=Hierarchy(manager="lead")
    )
    written = {"class": "mode_hands:Tells", "config": {"folder": str(crew.folder)}, "prompt": "{steps.lead}"}
    await crew.define(synthesis=Synthesis.model_validate(written))
    async with crew.in_process(concurrency=2):
        await crew.submit("r", inputs={"works": '["coder: a", "coder: b; coder: c"]'})
        result = await crew.run_result("r")
    assert (result.status, result.error) == (RunState.COMPLETED, None)
    assert result.steps["lead"].output == [["A"], ["B", "C"]]
    assert json.loads(result.output) == [["A"], ["B", "C"]]
    items = {"r/lead@1:1", "r/lead@2:1", "r/lead@2:2"}
    assert {name for name in crew.executions() if ":" in name} == items
    assert await crew.is_idle()


async def test_a_run_whose_manager_waits_is_cancelled_as_a_whole(make_crew: Make) -> None:
    crew = await _made(make_crew, {"lead": "Lead", "coder": "Works"})
    async with crew.in_process(concurrency=2):
        await until(crew.is_heard, what="a worker that listens")
        await _run(crew, "coder: gate")
        await crew.started("r/lead:1")
        await until(lambda: _waits(crew, "r/lead"), what="the manager waits")
        await crew.client.cancel(crew.name, "r", reason="enough")
        result = await crew.run_result("r")
    assert result.status is RunState.CANCELLED
    assert await crew.is_idle()


async def test_a_model_as_manager_delegates_by_a_tool_and_is_asked_each_turn_once(make_crew: Make) -> None:
    def answer(request: Request) -> Answer:
        if not request.tool_results:
            return [
                ToolCall("delegate", {"member": "coder", "work": "a"}),
                ToolCall("delegate", {"member": "tester", "work": "break"}),
                ToolCall("escalate", {"message": "the tester is new"}),
            ]
        return " | ".join(request.tool_results)

    async with FakeModel(answer) as model:
        lead = AgentDefinition(agent_id="lead", model="openai:any", base_url=model.base_url)
        crew = await make_crew(
            [lead, agent("coder", "Works"), agent("tester", "Works")],
            mode=ExecutionMode.HIERARCHICAL,
            hierarchy=Hierarchy(manager="lead"),
            tasks={"max_attempts": 1},
        )
        async with crew.in_process(concurrency=1):
            await _run(crew, "go")
            result = await crew.run_result("r")
    coder, tester, told = result.output.split(" | ")
    assert (coder, told) == ("A", "told")
    assert "tester failed at item 2: ValueError: it broke" in json.loads(tester)["failed"]
    assert [len(request.tool_results) for request in model.requests] == [0, 3]
    assert sorted(model.requests[0].tools) == ["delegate", "escalate"]
    kinds = [e.event_type.value for e in await crew.events(run="r") if e.message == "the tester is new"]
    assert kinds == ["conductor_escalation", "mission_help_needed"]
