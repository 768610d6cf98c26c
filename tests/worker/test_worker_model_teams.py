"""Hierarchical crews whose manager and reviewer are models, with real workers: a call of `delegate` is found again by
each attempt, and an answer that is no use is asked for again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from workshop import Crew, Make, agent

from waiting import until
from watchbill.api.hierarchy import Hierarchy
from watchbill.records import AgentDefinition, ExecutionMode
from watchbill.tasks import RunState
from watchbill.testing import Answer, ErrorAnswer, FakeModel, Request, ToolCall

Script = Callable[[Request], Answer | Awaitable[Answer]]


def work(member: str, asked: str) -> ToolCall:
    return ToolCall("delegate", {"member": member, "work": asked})


def noted(name: str, model: FakeModel, **fields: Any) -> AgentDefinition:
    """An agent in Python that has that model, and leaves a note of each of its runs."""
    return agent(name, "Noted", model="openai:any", base_url=model.base_url, **fields)


def plain(name: str, model: FakeModel, **fields: Any) -> AgentDefinition:
    """An agent that is that model."""
    return AgentDefinition(agent_id=name, model="openai:any", base_url=model.base_url, **fields)


async def made(make_crew: Make, *agents: AgentDefinition, reviewer: str | None = None, **options: Any) -> Crew:
    """A crew of these and two members in Python."""
    hands = [agent("coder", "Works"), agent("tester", "Works")]
    above = Hierarchy(manager="lead", reviewer=reviewer)
    tasks = {"backoff_seconds": 0.01} | options.pop("tasks", {})
    mode = ExecutionMode.HIERARCHICAL
    return await make_crew([*agents, *hands], mode=mode, hierarchy=above, tasks=tasks, **options)


def known(model: FakeModel) -> list[int]:
    """How many results of tools each request knew."""
    return [len(request.tool_results) for request in model.requests]


async def test_a_model_delegates_in_two_turns(make_crew: Make) -> None:
    turns = [work("coder", "research"), work("tester", "write"), work("coder", "shorten")]

    def answer(request: Request) -> Answer:
        done = len(request.tool_results)
        return turns[done] if done < len(turns) else " | ".join(request.tool_results)

    async with FakeModel(answer) as model:
        crew = await made(make_crew, noted("lead", model))
        async with crew.in_process(concurrency=1):
            await crew.client.submit(crew.name, "go", id="r")
            result = await crew.run_result("r", timeout=300)
    assert (result.output, result.status) == ("RESEARCH | WRITE | SHORTEN", RunState.COMPLETED)
    assert known(model) == [0, 1, 2, 3], "no turn is asked for again"
    assert crew.executions() == {"r/lead": 4, "r/lead:1": 1, "r/lead:2": 1, "r/lead:3": 1}


@pytest.mark.parametrize("slow", [1, 2])
async def test_members_of_one_turn_end_one_after_the_other(make_crew: Make, slow: int) -> None:
    asked = [work("coder", "gate" if slow == 1 else "a"), work("tester", "gate" if slow == 2 else "b")]

    def answer(request: Request) -> Answer:
        if not request.tool_results:
            return asked
        return work("coder", "sum up") if len(request.tool_results) == 2 else " | ".join(request.tool_results)

    async with FakeModel(answer) as model:
        crew = await made(make_crew, noted("lead", model))
        async with crew.in_process(concurrency=3):
            await crew.client.submit(crew.name, "go", id="r")
            await until(lambda: crew.executions()["r/lead"] == 2, 300, "the manager begins anew")
            crew.open()
            result = await crew.run_result("r", timeout=300)
    first, second = ("coder: gate", "B") if slow == 1 else ("A", "tester: gate")
    assert result.output == f"{first} | {second} | SUM UP"
    assert known(model) == [0, 2, 3]
    assert {name: count for name, count in crew.executions().items() if ":" in name} == {
        "r/lead:1": 1,
        "r/lead:2": 1,
        "r/lead:3": 1,
    }


async def test_a_tool_that_is_called_beside_delegations_is_called_once(make_crew: Make) -> None:
    """The attempt ends when no other call is under way, and the numbers of the items stay in order."""

    def answer(request: Request) -> Answer:
        if not request.tool_results:
            pays = ToolCall("pay", {"folder": str(crew.folder)})
            return [pays, work("coder", "a"), work("tester", "gate")]
        return work("coder", "c") if len(request.tool_results) == 3 else " | ".join(request.tool_results)

    async with FakeModel(answer) as model:
        lead = noted("lead", model, tools=["noted_hands:pay"])
        crew = await made(make_crew, lead, tasks={"max_attempts": 1})
        async with crew.in_process(concurrency=3):
            await crew.client.submit(crew.name, "go", id="r")
            await crew.started("r/lead:2")
            await until(lambda: crew.executions()["r/lead:1"] == 1, 300, "the members are at work beside it")
            crew.open()
            result = await crew.run_result("r", timeout=300)
    assert (result.output, result.error) == ("paid | A | tester: gate | C", None)
    assert (crew.folder / "paid").read_text() == "paid\n"
    assert known(model) == [0, 3, 4]
    assert {name for name in crew.executions() if ":" in name} == {"r/lead:1", "r/lead:2", "r/lead:3"}


async def test_a_model_that_is_out_behind_its_delegations_has_delegated(make_crew: Make) -> None:
    def answer(request: Request) -> Answer:
        if not request.tool_results:
            return [work("coder", "a"), work("tester", "b")]
        return ErrorAnswer(503) if len(model.requests) < 4 else " | ".join(request.tool_results)

    async with FakeModel(answer) as model:
        crew = await made(make_crew, noted("lead", model))
        async with crew.in_process():
            await crew.client.submit(crew.name, "go", id="r")
            result = await crew.run_result("r", timeout=300)
    assert (result.output, result.error) == ("A | B", None)
    assert known(model) == [0, 2, 2, 2]
    assert result.steps["lead"].attempt == 3


async def test_a_worker_that_is_killed_behind_the_delegations_costs_no_work(make_crew: Make) -> None:
    async def answer(request: Request) -> Answer:
        if not request.tool_results:
            return [work("coder", "a"), work("tester", "b")]
        if len(request.tool_results) == 2 and len(model.requests) < 3:
            await asyncio.Event().wait()
        if len(request.tool_results) == 2:
            return work("coder", "c")
        return " | ".join(request.tool_results)

    async with FakeModel(answer) as model:
        crew = await made(make_crew, noted("lead", model), lease_seconds=1)
        first = await crew.worker()
        await crew.client.submit(crew.name, "go", id="r")
        # On a busy machine the libraries of models take a minute to import.
        await until(lambda: known(model) == [0, 2], 300, "the turn behind the delegations")
        first.kill()
        async with crew.in_process():
            result = await crew.run_result("r", timeout=300)
    assert (result.output, result.error) == ("A | B | C", None)
    assert known(model) == [0, 2, 2, 3]
    done = crew.executions()
    assert {name: done[name] for name in done if ":" in name} == {"r/lead:1": 1, "r/lead:2": 1, "r/lead:3": 1}


async def test_a_turn_that_came_to_nothing_keeps_the_numbers_of_its_items(make_crew: Make) -> None:
    def answer(request: Request) -> Answer:
        if len(model.requests) == 1:
            return [work("coder", "a"), work("nobody", "x")]
        if "A" not in request.tool_results:
            raise AssertionError(request.tool_results)
        return work("coder", "b") if "B" not in request.tool_results else "done"

    async with FakeModel(answer) as model:
        crew = await made(make_crew, plain("lead", model, config={"output_retries": 0}))
        async with crew.in_process():
            await crew.client.submit(crew.name, "go", id="r")
            result = await crew.run_result("r", timeout=300)
    assert (result.output, result.error) == ("done", None)


def final(**fields: Any) -> ToolCall:
    return ToolCall("final_result", fields)


def reviewed(*verdicts: Answer) -> Script:
    """A manager that delegates once, and a reviewer that answers with one of these after the other."""
    left = list(verdicts)

    def answer(request: Request) -> Answer:
        if "delegate" not in request.tools:
            return left.pop(0)
        return " | ".join(request.tool_results) if request.tool_results else work("coder", "a")

    return answer


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("That is well done.", "Invalid JSON"),
        (final(approved="yes"), "is not of type 'boolean'"),
        (final(approved=False), "a reviewer has rejected work without a reason"),
    ],
)
async def test_a_reviewer_is_told_why_its_answer_is_no_verdict(make_crew: Make, wrong: Answer, told: str) -> None:
    async with FakeModel(reviewed(wrong, final(approved=True))) as model:
        crew = await made(make_crew, plain("lead", model), plain("critic", model), reviewer="critic")
        async with crew.in_process():
            await crew.client.submit(crew.name, "go", id="r")
            result = await crew.run_result("r", timeout=300)
    assert (result.output, result.error) == ("A", None)
    review = result.steps["lead:1:review"]
    assert (review.output, review.attempt) == ({"approved": True}, 1)
    again = [request for request in model.requests if "final_result" in request.tools][1]
    assert told in "".join([*again.tool_results, again.prompt])


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ('```json\n{"approved": true}\n```', {"approved": True}),  # models write JSON so, whatever they are told
        (final(approved=True, reasons=None), {"approved": True, "reasons": None}),
        ('{"approved": true, "reasons": []}', {"approved": True, "reasons": []}),
    ],
)
async def test_a_verdict_is_one_in_a_fence_and_with_no_reasons(
    make_crew: Make, answer: Answer, verdict: dict[str, Any]
) -> None:
    async with FakeModel(reviewed(answer)) as model:
        crew = await made(make_crew, plain("lead", model), plain("critic", model), reviewer="critic")
        async with crew.in_process():
            await crew.client.submit(crew.name, "go", id="r")
            result = await crew.run_result("r", timeout=300)
    assert (result.output, result.steps["lead:1:review"].output) == ("A", verdict)


async def test_a_manager_is_told_of_a_reviewer_that_never_gives_a_verdict(make_crew: Make) -> None:
    async with FakeModel(reviewed(final(approved=False), final(approved=False))) as model:
        critic = plain("critic", model, config={"output_retries": 1})
        crew = await made(make_crew, plain("lead", model), critic, reviewer="critic")
        async with crew.in_process():
            await crew.client.submit(crew.name, "go", id="r")
            result = await crew.run_result("r", timeout=300)
    told = json.loads(result.output)["failed"]
    assert told.startswith("critic could not review item 1 of coder: TaskFailed: model 'openai:any' at")
    assert "its answer is of no use, 2 times: a reviewer has rejected work without a reason" in told
    assert result.status is RunState.COMPLETED


async def test_a_manager_that_answers_without_delegating_is_told_so(make_crew: Make) -> None:
    def answer(request: Request) -> Answer:
        if request.tool_results:
            return " | ".join(request.tool_results)
        return work("coder", "a") if "delegating" in str(request.messages) else "I did it myself."

    async with FakeModel(answer) as model:
        crew = await made(make_crew, plain("lead", model))
        async with crew.in_process():
            await crew.client.submit(crew.name, "go", id="r")
            result = await crew.run_result("r", timeout=300)
    assert (result.output, result.error) == ("A", None)
    assert result.steps["lead"].attempt == 1


async def test_a_manager_that_delegates_nothing_fails_and_is_asked_again_by_a_replay(make_crew: Make) -> None:
    turns: list[Answer] = ["I did it myself.", work("coder", "a"), "done"]
    async with FakeModel(turns) as model:
        crew = await made(make_crew, plain("lead", model, config={"output_retries": 0}))
        async with crew.in_process():
            await crew.client.submit(crew.name, "go", id="r")
            result = await crew.run_result("r", timeout=300)
            assert "once: manager 'lead' has ended without delegating anything" in (result.error or "")
            await crew.client.replay(crew.name, "r/lead")
            result = await crew.run_result("r", timeout=300)
    assert (result.output, result.error) == ("done", None)


async def test_prompts_of_their_own_keep_neither_work_nor_reasons_from_reviewer_and_member(make_crew: Make) -> None:
    verdicts = [final(approved=False, reasons="It is too short."), final(approved=True)]
    drafts = ["Hello", "Dear Ada"]
    reviews: list[str] = []
    asked: list[str] = []

    def answer(request: Request) -> Answer:
        if "delegate" in request.tools:
            return "done" if request.tool_results else work("writer", "Greet Ada.")
        is_review = "final_result" in request.tools
        (reviews if is_review else asked).append(request.prompt)
        return verdicts.pop(0) if is_review else drafts.pop(0)

    async with FakeModel(answer) as model:
        critic = plain("critic", model, prompt="{input}\n\nBe strict.")
        writer = plain("writer", model, prompt="Write in verse.")
        crew = await made(make_crew, plain("lead", model), critic, writer, reviewer="critic")
        async with crew.in_process():
            await crew.client.submit(crew.name, "go", id="r")
            result = await crew.run_result("r", timeout=300)
    assert (result.output, result.error) == ("done", None)
    for review, draft in zip(reviews, ("Hello", "Dear Ada"), strict=True):
        assert review.startswith("Review what writer returned")
        assert review.endswith(f"\n\nBe strict.\n\nWhat came before:\n\n## writer\n\n{draft}")
    assert asked[0] == "Write in verse.\n\nGreet Ada."
    assert asked[1].startswith("Write in verse.\n\nGreet Ada.\n\nYour last result, which follows, was rejected.")
    assert asked[1].endswith("\n\nIt is too short.\n\nWhat came before:\n\n## writer\n\nHello")
