"""Crew files end to end, in one process over a store of its own: what `watchbill.client.run` and the CLI stand on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from places import Place

import watchbill.client
from watchbill.embedded import EmbeddedStore
from watchbill.errors import InvalidInput
from watchbill.tasks import RunResult, RunState, TaskResult


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# ---------------------------------------------------------------- client.run


async def test_a_sequential_crew_runs_from_its_file(place: Place) -> None:
    file = place.crew(
        agents=[
            {"name": "count", "class": "count_lines"},
            {
                "name": "say",
                "class": "Say",
                "prompt": "{input}: {steps.count} of {inputs.log}",
                "config": {"suffix": "?"},
            },
        ]
    )
    run = await watchbill.client.run(file, "look", inputs={"log": "a\nb"}, timeout=180)
    assert isinstance(run, RunResult)
    assert run.success
    assert run.steps["count"].output == {"lines": 2}
    assert run.output == 'LOOK: {\n  "LINES": 2\n} OF A\nB?'
    assert sorted(place.executions().values()) == [1, 1]


async def test_a_parallel_crew_answers_by_agent(place: Place) -> None:
    file = place.crew(
        executionMode="parallel",
        agents=[{"name": name, "class": "Say", "config": {"suffix": name}} for name in ("a", "b", "c")],
    )
    run = await watchbill.client.run(str(file), "hi ", timeout=180)
    assert run.output == {"a": "HI a", "b": "HI b", "c": "HI c"}


async def test_a_flow_goes_along_its_relations(place: Place) -> None:
    file = place.crew(
        executionMode="flow",
        agents=[
            {"name": "join", "class": "Say", "prompt": "{steps.left}+{steps.right}"},
            {"name": "left", "class": "Say", "prompt": "l{steps.top}"},
            {"name": "right", "class": "Say", "prompt": "r{steps.top}"},
            {"name": "top", "class": "Say"},
        ],
        flowRelations=[
            {"source": ["top"], "target": ["left", "right"]},
            {"source": ["left", "right"], "target": ["join"]},
        ],
    )
    run = await watchbill.client.run(file, "x", timeout=180)
    assert isinstance(run, RunResult)
    assert run.output == "LX+RX"
    order = [line["task"].partition("/")[2] for line in place.notes()]
    assert (order[0], set(order[1:3]), order[3]) == ("top", {"left", "right"}, "join")


async def test_one_agent_of_a_crew_can_be_asked_alone(place: Place) -> None:
    file = place.crew(agents=[{"name": "broken", "class": "broken"}, {"name": "say", "class": "Say"}])
    result = await watchbill.client.run(file, "only you", agent="say", timeout=180)
    assert isinstance(result, TaskResult)
    assert (result.success, result.output) == (True, "ONLY YOU")
    assert sum(place.executions().values()) == 1


async def test_what_could_be_done_of_a_flow_is_a_partial_result(place: Place) -> None:
    file = place.crew(
        executionMode="flow",
        agents=[
            {"name": "broken", "class": "broken"},
            {"name": "behind", "class": "Say"},
            {"name": "good", "class": "Say"},
        ],
        flowRelations=[{"source": ["broken"], "target": ["behind"]}],
    )
    run = await watchbill.client.run(file, "x", timeout=180)
    assert isinstance(run, RunResult)
    assert run.status is RunState.PARTIAL
    assert not run.success
    assert run.output == {"good": "X"}
    assert run.skipped == ("behind",)
    assert (run.error or "").startswith("broken: ValueError: it broke (")
    assert "Traceback" in (run.steps["broken"].traceback or ""), "its store is gone, and the traceback is not"


async def test_tools_beside_the_file_and_shared_ones_are_there(place: Place) -> None:
    file = place.crew(
        agents=[{"name": "a", "class": "UsesTool", "tools": [f"{place.module}:shout"]}], sharedTools=["calculator"]
    )
    assert (await watchbill.client.run(file, "", agent="a", timeout=180)).output == "42!"


async def test_a_run_in_a_store_of_ones_own_leaves_nothing_behind(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[EmbeddedStore] = []
    original = EmbeddedStore.open.__func__  # type: ignore[attr-defined]

    async def watched(cls: type[EmbeddedStore], *args: Any, **options: Any) -> EmbeddedStore:
        opened.append(await original(cls, *args, **options))
        return opened[-1]

    monkeypatch.setattr(EmbeddedStore, "open", classmethod(watched))
    monkeypatch.chdir(place.folder)
    file = place.crew(agents=[{"name": "a", "class": "Say"}])
    await watchbill.client.run(file, "x", timeout=180)
    assert len(opened) == 1
    assert not opened[0].folder.exists()
    assert not (place.folder / ".watchbill").exists()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_crew_may_name_its_namespace(place: Place) -> None:
    file = place.crew(agents=[{"name": "a", "class": "Say"}])
    file.write_text(file.read_text().replace('"metadata": {', '"metadata": {"namespace": "team", '))
    run = await watchbill.client.run(file, "x", timeout=180)
    assert isinstance(run, RunResult)
    assert (run.success, run.crew) == (True, "team/crew")


async def test_a_run_that_takes_too_long_is_let_go(place: Place) -> None:
    file = place.crew(agents=[{"name": "a", "class": "Wait"}])
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await watchbill.client.run(file, "x", timeout=1)
    assert time.monotonic() - began < 180, "its agent would wait for ever"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_bad_file_stores_and_starts_nothing(place: Place, redis_url: str, crew_name: str) -> None:
    file = place.crew(name=crew_name, agents=[{"name": "a", "class": "Say"}, {"name": "b", "class": "Sey"}])
    with pytest.raises(InvalidInput) as caught:
        await watchbill.client.run(file, "x", redis_url=redis_url)
    (problem,) = caught.value.problems
    assert problem.path == "spec.agents[1].class"
    assert problem.source.startswith(str(file))
    assert "Sey" in problem.reason
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        assert await client.keys(f"*{crew_name}*") == []
    assert place.notes() == []


async def test_a_submission_that_cannot_be_worked_on_stores_nothing(
    place: Place, redis_url: str, crew_name: str
) -> None:
    file = place.crew(name=crew_name, agents=[{"name": "a", "class": "Say", "prompt": "{inputs.log}"}])
    with pytest.raises(InvalidInput, match="no such input was given"):
        await watchbill.client.run(file, "x", redis_url=redis_url)
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        assert await client.keys(f"*{crew_name}*") == []
