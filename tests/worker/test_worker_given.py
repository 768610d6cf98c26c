"""What a worker reads for a step: nothing that its entry carries, and all else from the run's record."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from test_worker_modes import asked, ran, tells
from workshop import Make

from watchbill.connection.gathering import GatheredReads
from watchbill.records import AgentDefinition, ExecutionMode, FlowRelation
from watchbill.store.queue import Finished
from watchbill.tasks import RunState, TaskResult

FORK = [FlowRelation(source="a", target="c"), FlowRelation(source="b", target="c")]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fields that workers of this process read for tasks."""
    found: list[str] = []
    really = GatheredReads.hmget

    async def counted(self: GatheredReads, key: str, fields: Sequence[str]) -> list[str | None]:
        found.extend(fields)
        return await really(self, key, fields)

    monkeypatch.setattr(GatheredReads, "hmget", counted)
    return found


@pytest.mark.parametrize(("second", "expected"), [("b", []), ("b" * 5000, ["a", "b"])])
async def test_outputs_that_are_small_are_not_read(
    make_crew: Make, read: list[str], second: str, expected: list[str]
) -> None:
    agents = [tells("a", {"n": [1, "ä"]}), tells("b", second), tells("c", prompt="{steps.a.n.1}")]
    crew = await make_crew(agents, mode=ExecutionMode.FLOW, flow_relations=FORK)
    run = await ran(crew)
    assert run.status is RunState.COMPLETED
    given = asked(crew, "c")
    assert (given["prompt"], given["outputs"]) == ("ä", {"a": {"n": [1, "ä"]}, "b": second})
    assert read == expected


async def test_a_condition_is_judged_by_what_the_entry_carries(make_crew: Make, read: list[str]) -> None:
    when = {"step": "a", "field": "n"}
    judged = [tells(name, name, when={**when, "eq": str(n)}) for n, name in enumerate("bc", 1)]
    crew = await make_crew([tells("a", {"n": 1}), *judged])
    run = await ran(crew)
    assert (sorted(run.steps), run.passed_over) == (["a", "b"], ("c",))
    assert read == []


async def test_items_that_are_small_are_not_read(make_crew: Make, read: list[str]) -> None:
    crew = await make_crew([tells("a", for_each="{inputs.list}", prompt="{item}")])
    run = await ran(crew, inputs={"list": '["one", {"two": 2}, null, "' + "x" * 5000 + '"]'})
    assert run.output[:3] == ["one", '{\n  "two": 2\n}', "null"]
    assert read == ["input:list", "item:a@4"]


async def test_beside_inputs_nothing_that_the_entry_carries_is_read(make_crew: Make, read: list[str]) -> None:
    listed = tells("b", for_each="{inputs.list}", prompt="{inputs.x} {item}")
    crew = await make_crew([tells("a", {"n": 1}), listed, tells("c", prompt="{inputs.x} {steps.a.n}")])
    run = await ran(crew, inputs={"list": '["one"]', "x": "y"})
    assert run.status is RunState.COMPLETED
    assert [asked(crew, step)["prompt"] for step in ("b@1", "c")] == ["y one", "y 1"]
    assert set(read) == {"input:list", "input:x"}


async def test_an_agent_that_only_looks_at_its_prompt_gets_the_inputs_that_it_cites(
    make_crew: Make, read: list[str]
) -> None:
    echo = AgentDefinition(agent_id="a", agent_class="EchoAgent", prompt="{inputs.x}")
    crew = await make_crew([echo, echo.model_copy(update={"agent_id": "b", "prompt": "{steps.a}"})])
    run = await ran(crew, inputs={"x": "y", "other": "z"})
    assert (run.status, run.output) == (RunState.COMPLETED, "y")
    assert read == ["input:x"]


@pytest.mark.parametrize("carried", ["b", "a\x1f{}", "a\x1f[", 'a\x1f{"success": false}'])
async def test_what_is_carried_and_no_result_is_read(make_crew: Make, carried: str) -> None:
    crew = await make_crew([tells("a", {"n": 1}), tells("b", prompt="{steps.a.n}")])
    await crew.submit("r")
    (task,) = (await crew.queue.claim("w", 1, 1, lease_ms=3_600_000, take_over=False, begin=1)).tasks
    result = TaskResult(task_id=task.id, agent_name="a", success=True, output={"n": 2}).model_dump_json()
    await crew.queue.finish("w", [Finished(task, "completed", result, definition=task.definition)])
    stream = crew.keys.streams[2]
    ((entry, fields),) = await crew.redis.xrange(stream)
    assert "given" in fields
    await crew.redis.xdel(stream, entry)
    await crew.redis.xadd(stream, {**fields, "given": carried})
    async with crew.in_process():
        assert (await crew.run_result("r")).status is RunState.COMPLETED
    assert asked(crew, "b")["prompt"] == "2"
