"""Conditions, lists, errors that are passed on, and the synthesis, as workers run them."""

from __future__ import annotations

from typing import Any

import pytest
from workshop import Crew, Make, agent

from waiting import until
from watchbill.api.modes import Synthesis
from watchbill.records import ExecutionMode
from watchbill.tasks import RunResult, RunState, TaskState
from watchbill.worker.execution import control_steps

STATES = {"completed": RunState.COMPLETED, "partial": RunState.PARTIAL, "failed": RunState.FAILED}


def tells(name: str, output: Any = None, **fields: Any) -> Any:
    return agent(name, "Tells", config={"output": output}, **fields)


def fails(name: str, **fields: Any) -> Any:
    return agent(name, "Fails", **fields)


async def ran(crew: Crew, prompt: str = "do it", **options: Any) -> RunResult:
    async with crew.in_process():
        await crew.submit("r", prompt=prompt, **options)
        return await crew.run_result("r")


def asked(crew: Crew, step: str) -> dict[str, Any]:
    (line,) = (line for line in crew.notes() if line["task"] == f"r/{step}")
    return line


def synthesis(crew: Crew, kind: str = "Tells", config: dict[str, Any] | None = None, **fields: Any) -> Synthesis:
    written = {"class": f"mode_hands:{kind}", "config": {"folder": str(crew.folder), **(config or {})}, **fields}
    return Synthesis.model_validate(written)


# ---------------------------------------------------------------- errors that are passed on


async def test_behind_a_failed_step_a_lenient_crew_goes_on_with_an_error_value(make_crew: Make) -> None:
    crew = await make_crew([fails("a"), tells("b"), tells("c", prompt="{steps.a.error.step}")], on_error="Continue")
    run = await ran(crew)
    assert run.status is RunState.PARTIAL
    assert run.output == "a"
    error = asked(crew, "b")["outputs"]["a"]["error"]
    assert (error["step"], error["agent"], error["attempts"]) == ("a", "a", 1)
    assert error["message"].startswith("TypeError: it broke")
    assert asked(crew, "b")["prompt"].startswith('do it\n\nWhat came before:\n\n## a\n\n{\n  "error": {')
    assert [letter["id"] for letter in await crew.dead()] == ["r/a"]


@pytest.mark.parametrize(("first", "last", "state"), [("Continue", "Fail", "failed"), ("Fail", "Continue", "failed")])
async def test_an_agents_own_rule_counts_before_the_crews(make_crew: Make, first: str, last: str, state: str) -> None:
    agents = [fails("a", on_error=first), fails("b", on_error=last), tells("c")]
    crew = await make_crew(agents, on_error="Fail")
    run = await ran(crew)
    assert run.status is STATES[state]
    assert set(run.steps) == ({"a", "b"} if first == "Continue" else {"a"})
    assert set(run.skipped) == {"a", "b", "c"} - set(run.steps)


async def test_a_step_that_is_replayed_lets_what_comes_after_it_begin_once(make_crew: Make) -> None:
    crew = await make_crew([fails("a"), tells("b")], on_error="Continue")
    async with crew.in_process():
        await crew.submit("r")
        assert (await crew.run_result("r")).status is RunState.PARTIAL
        (letter,) = [letter async for letter in crew.client.dead_letters(crew.name)]
        await crew.client.replay(crew.name, [letter.id])
        run = await crew.run_result("r")
    assert run.status is RunState.PARTIAL
    assert crew.executions() == {"r/a": 2, "r/b": 1}


# ---------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("when", "runs"),
    [
        ({"field": "score", "lt": 7}, True),
        ({"field": "score", "gt": 7}, False),
        ({"field": "none", "exists": True}, False),
    ],
)
async def test_a_step_runs_or_is_passed_over_and_the_run_goes_on(
    make_crew: Make, when: dict[str, Any], runs: bool
) -> None:
    crew = await make_crew([tells("a", {"score": 5}), tells("b", when={"step": "a", **when}), tells("c")])
    run = await ran(crew)
    assert run.status is RunState.COMPLETED
    assert run.skipped == (() if runs else ("b",))
    assert list(asked(crew, "c")["outputs"]) == (["a", "b"] if runs else ["a"])
    assert crew.executions() == {"r/a": 1, "r/c": 1, **({"r/b": 1} if runs else {})}
    if not runs:
        result: Any = await crew.result_of_run("r/b")
        assert result.error == "skipped: its condition (when) does not hold"
        told = [event.message for event in await crew.events() if event.task_id == "r/b"]
        assert any("skipped: its condition does not hold (a." in message for message in told)


@pytest.mark.parametrize(
    "fields",
    [
        {"when": {"step": "a", "field": "typo", "eq": "1"}},
        {"prompt": "{steps.a.typo}"},
    ],
)
async def test_what_is_missing_is_told_before_the_agent_is_called(make_crew: Make, fields: dict[str, Any]) -> None:
    crew = await make_crew([tells("a", {"score": 5}), tells("b", **fields)])
    run = await ran(crew)
    assert run.status is RunState.FAILED
    assert "step 'b' can't begin: the output of 'a' has no field 'typo'" in (run.error or "")
    assert crew.executions() == {"r/a": 1}


NEVER = {"when": {"step": "a", "field": "score", "gt": 9}}


async def test_a_join_cites_each_branch_and_the_skipped_one_is_empty(make_crew: Make) -> None:
    def branch(kind: str) -> Any:
        return tells(kind, {"text": f"the {kind}"}, when={"step": "a", "field": "kind", "eq": kind})

    last = tells("reply", prompt="{input}: <{steps.bug.text}><{steps.feature.text}><{steps.feature}>")
    crew = await make_crew([tells("a", {"kind": "bug"}), branch("bug"), branch("feature"), last])
    run = await ran(crew)
    assert (run.status, run.output) == (RunState.COMPLETED, "do it: <the bug><><>")
    assert run.passed_over == ("feature",)


@pytest.mark.parametrize(
    ("fields", "skipped", "output"),
    [
        ({"when": {"step": "b", "field": "x", "ne": "1"}}, ("b", "c"), {"score": 5}),
        ({"when": {"step": "b", "exists": False}, "prompt": "runs"}, ("b",), "runs"),
        ({"for_each": "{steps.b.documents}"}, ("b",), []),
    ],
)
async def test_what_was_skipped_stands_for_nothing(
    make_crew: Make, fields: dict[str, Any], skipped: tuple[str, ...], output: Any
) -> None:
    crew = await make_crew([tells("a", {"score": 5}), tells("b", **NEVER), tells("c", **fields)])
    run = await ran(crew)
    assert (run.status, run.passed_over, run.output) == (RunState.COMPLETED, skipped, output)
    if "c" in skipped:
        told = [event.message for event in await crew.events() if event.task_id == "r/c"]
        assert any("skipped: its condition is about b, which was skipped" in message for message in told)


async def test_a_task_of_one_agent_whose_crew_now_cites_steps_is_told_so(make_crew: Make) -> None:
    crew = await make_crew([tells("a"), tells("b")])
    await crew.submit("t", "b")
    await crew.define(
        agents=[crew.definition.agents[0], crew.definition.agents[1].model_copy(update={"prompt": "{steps.a}"})]
    )
    async with crew.in_process():
        result = await crew.result("t")
    assert (
        result.error
        == "step 't' can't begin: its prompt cites the output of 'a', which exists only in a run of the crew"
    )
    assert crew.executions() == {}


# ---------------------------------------------------------------- lists


async def test_each_item_has_a_step_and_the_results_are_in_order(make_crew: Make) -> None:
    documents = [{"name": f"d{i}"} for i in range(12)]
    reader = tells("reader", for_each="{steps.finder.documents}", prompt="{input} {item.name}")
    crew = await make_crew([tells("finder", {"documents": documents}), reader, tells("writer")], max_parallel_tasks=3)
    run = await ran(crew, "read")
    assert run.status is RunState.COMPLETED
    assert run.steps["reader"].output == [f"read d{i}" for i in range(12)]
    assert run.steps["reader@each"].output == 12
    assert run.steps["reader@3"].output == "read d2"
    assert asked(crew, "reader@3")["item"] == {"name": "d2"}
    assert asked(crew, "reader@3")["outputs"] == {}
    assert asked(crew, "writer")["outputs"]["reader"] == run.steps["reader"].output
    assert len(run.steps) == 12 + 4


@pytest.mark.parametrize(
    ("on_error", "state", "output"),
    [("Fail", "failed", None), ("Continue", "partial", [1, {"error": "reader@2"}, 3])],
)
async def test_a_failed_item_fails_the_list_or_stands_in_it_as_an_error(
    make_crew: Make, on_error: str, state: str, output: Any
) -> None:
    reader = agent("reader", "Fails", config={"output": [1, 3]}, for_each="{inputs.numbers}", on_error=on_error)
    crew = await make_crew([reader])
    run = await ran(crew, inputs={"numbers": "[1, 2, 3]"})
    assert run.status is STATES[state]
    found = run.output and [one if isinstance(one, int) else {"error": one["error"]["step"]} for one in run.output]
    assert found == output
    assert "reader@2: TypeError: it broke at 2" in (run.error or "")
    assert run.skipped == (("reader",) if on_error == "Fail" else ())


async def test_a_list_whose_failed_item_is_replayed_is_gathered_then(make_crew: Make) -> None:
    reader = agent("reader", "SecondLife", for_each="{inputs.numbers}")
    crew = await make_crew([reader, tells("after")])
    async with crew.in_process():
        await crew.submit("r", inputs={"numbers": "[1, 2, 3]"})
        assert (await crew.run_result("r")).status is RunState.FAILED
        letters = [letter async for letter in crew.client.dead_letters(crew.name)]
        await crew.client.replay(crew.name, [letter.id for letter in letters])
        run = await crew.run_result("r")
    assert run.status is RunState.COMPLETED
    assert run.steps["reader"].output == [1, 2, 3]


async def test_an_empty_list_has_an_empty_output(make_crew: Make) -> None:
    crew = await make_crew([tells("reader", for_each="{inputs.numbers}")])
    run = await ran(crew, inputs={"numbers": "[]"})
    assert (run.status, run.output) == (RunState.COMPLETED, [])


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("no list", "{steps.finder} is the text 'no list', and no list"),
        ({"a": 1}, "{steps.finder} is an object with a, and no list"),
        (list(range(10_001)), "{steps.finder} has 10001 items, and at most 10000 are possible"),
    ],
)
async def test_what_is_no_list_is_told_there_and_nothing_is_lost(make_crew: Make, output: Any, why: str) -> None:
    crew = await make_crew([tells("finder", output), tells("reader", for_each="{steps.finder}")])
    run = await ran(crew)
    assert run.status is RunState.FAILED
    assert f"reader@each: InvalidInput: forEach of agent 'reader': {why}" in (run.error or "")
    assert run.steps["finder"].output == output
    assert [letter["id"] for letter in await crew.dead()] == ["r/reader@each"]


async def test_a_list_that_the_crew_has_no_room_for_is_told(make_crew: Make) -> None:
    crew = await make_crew([tells("reader", for_each="{inputs.numbers}")], tasks={"max_queued": 10})
    run = await ran(crew, inputs={"numbers": str(list(range(20)))})
    assert run.status is RunState.FAILED
    assert "the list has 20 items, and tasks.maxQueued is 10" in (run.error or "")
    assert [(letter["id"], letter["attempt"]) for letter in await crew.dead()] == [("r/reader@each", "1")]


async def test_a_list_waits_for_room_without_an_attempt(make_crew: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_steps, "AGAIN_SECONDS", 0.01)
    agents = [tells("reader", for_each="{inputs.numbers}"), agent("gate", "Gate")]
    crew = await make_crew(agents, tasks={"max_queued": 6, "max_attempts": 2, "backoff_seconds": 0})

    async def has_waited() -> bool:
        told = [event.message for event in await crew.events() if event.event_type == "mission_work_blocked"]
        assert set(told) <= {"there is no room for the 4 items of {inputs.numbers}: tasks.maxQueued = 6"}
        return len(told) > 3

    async with crew.in_process():
        await crew.submit("held-1", "gate")
        await crew.submit("held-2", "gate")
        await crew.started("held-1", "held-2")
        await crew.submit("r", inputs={"numbers": "[1, 2, 3, 4]"})
        await until(has_waited)
        crew.open()
        run = await crew.run_result("r")
    assert run.status is RunState.COMPLETED
    assert len(run.steps["reader"].output) == 4
    assert run.steps["reader@each"].attempt == 1
    assert await crew.dead() == []


async def test_a_list_in_a_loop_is_read_anew_in_each_iteration(make_crew: Make) -> None:
    agents = [tells("finder", [1, 2]), tells("reader", for_each="{steps.finder}", prompt="{item}")]
    crew = await make_crew(agents, mode=ExecutionMode.LOOP, loop={"maxIterations": 2})
    run = await ran(crew)
    assert run.status is RunState.COMPLETED
    assert run.output == ["1", "2"]
    assert [run.steps[f"reader@{n}@{i}"].output for n in (1, 2) for i in (1, 2)] == ["1", "2", "1", "2"]


# ---------------------------------------------------------------- synthesis


@pytest.mark.parametrize(
    ("last", "kind", "state", "output"),
    [
        ("Tells", "Tells", "completed", "sum"),
        ("Tells", "Fails", "completed", "the last"),
        ("Fails", "Tells", "failed", "sum"),
        ("Fails", "Fails", "failed", None),
    ],
)
async def test_a_synthesis_gets_all_outputs_and_never_fails_the_run(
    make_crew: Make, last: str, kind: str, state: str, output: Any
) -> None:
    agents = [tells("a", "first"), agent("b", last, config={"output": "the last" if last == "Tells" else None})]
    crew = await make_crew(agents)
    output_of = {"output": "sum" if kind == "Tells" else None}
    await crew.define(synthesis=synthesis(crew, kind, output_of, prompt="{input}: {steps.a}"))
    run = await ran(crew)
    assert run.status is STATES[state]
    assert run.output == output
    line = asked(crew, "synthesis")
    assert (line["prompt"], list(line["outputs"])) == ("do it: first", ["a", "b"])
    if last == "Fails":
        assert line["outputs"]["b"]["error"]["step"] == "b"


async def test_a_run_of_which_nothing_completed_has_nothing_to_sum_up(make_crew: Make) -> None:
    crew = await make_crew([fails("a")])
    await crew.define(synthesis=synthesis(crew))
    run = await ran(crew)
    assert (run.status, run.skipped) == (RunState.FAILED, ("synthesis",))


async def test_a_synthesis_of_a_loop_gets_the_last_iteration(make_crew: Make) -> None:
    agents = [agent("critic", "DoneAt", config={"output": 2})]
    crew = await make_crew(agents, mode=ExecutionMode.LOOP, loop={"maxIterations": 2})
    await crew.define(synthesis=synthesis(crew, prompt="{steps.critic.number}"))
    run = await ran(crew)
    assert (run.status, run.output) == (RunState.COMPLETED, "2")
    states = [step.status for step in (await crew.client.status(crew.name, "r")).steps]
    assert states == [TaskState.COMPLETED] * 4


async def test_a_synthesis_takes_what_a_failure_kept_from_beginning_for_no_text(make_crew: Make) -> None:
    crew = await make_crew([tells("a", "first"), fails("b"), tells("verdict")])
    await crew.define(synthesis=synthesis(crew, prompt="The verdict is: [{steps.verdict}]"))
    run = await ran(crew)
    assert (run.status, run.output) == (RunState.FAILED, None)
    error = run.steps["synthesis"].error
    assert "its prompt cites the output of 'verdict', whose last step never began: something failed before it" in str(
        error
    )
    assert set(crew.executions()) == {"r/a", "r/b"}


async def test_a_synthesis_takes_what_failed_for_its_error_and_what_was_passed_over_for_nothing(
    make_crew: Make,
) -> None:
    crew = await make_crew(
        [tells("a", "x"), tells("c", when={"step": "a", "eq": "y"}), fails("b")], on_error="Continue"
    )
    await crew.define(synthesis=synthesis(crew, prompt="[{steps.c}] {steps.b.error.step}"))
    assert (await ran(crew)).output == "[] b"


@pytest.mark.parametrize("cites", [True, False])
@pytest.mark.parametrize("on_error", ["Continue", "Fail"])
async def test_behind_a_loop_that_failed_a_synthesis_gets_what_became_of_the_last_iteration(
    make_crew: Make, on_error: str, cites: bool
) -> None:
    agents = [agent("gate", "FailsFrom", config={"output": 2}), tells("editor", "well")]
    crew = await make_crew(agents, mode=ExecutionMode.LOOP, loop={"maxIterations": 2}, on_error=on_error)
    prompt = "[{steps.editor}] {steps.gate.error.step}" if cites else "Sum up."
    await crew.define(synthesis=synthesis(crew, prompt=prompt))
    run = await ran(crew)
    assert crew.executions()["r/editor@1"] == 1
    if cites and on_error == "Fail":
        wrong = "its prompt cites the output of 'editor', whose last step never began: something failed before it"
        assert wrong in str(run.steps["synthesis"].error)
        assert (run.status, run.output) == (RunState.FAILED, None)
        return
    line = asked(crew, "synthesis")
    assert list(line["outputs"]) == (["gate", "editor"] if on_error == "Continue" else ["gate"])
    assert line["outputs"]["gate"]["error"]["step"] == "gate@2"
    assert run.output == ("[well] gate@2" if cites else "Sum up.")


async def test_behind_a_loop_a_synthesis_takes_no_output_of_an_iteration_before_the_last(make_crew: Make) -> None:
    agents = [
        agent("critic", "DoneAt", config={"output": 2}),
        tells("editor", "well", when={"step": "critic", "field": "number", "lt": 2}),
    ]
    crew = await make_crew(agents, mode=ExecutionMode.LOOP, loop={"maxIterations": 2})
    await crew.define(synthesis=synthesis(crew, prompt="[{steps.editor}] {steps.critic.number}"))
    run = await ran(crew)
    assert crew.executions()["r/editor@1"] == 1
    assert run.output == "[] 2"
