"""Steps of a task are done once, whatever becomes of the attempt, its worker and the store."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from test_worker_flush import _result as result_if_any
from workshop import Crew, Make, agent

from waiting import until
from watchbill import metrics
from watchbill.agents import steps
from watchbill.connection import scripts
from watchbill.records import ExecutionMode
from watchbill.store import definitions
from watchbill.tasks import RunState

PrivateRedis = Callable[[], Awaitable[Any]]
ALL = {"loop": "Stepper", "thread": "StepperInThread", "process": "StepperApart", "its-loop": "StepperApartAsync"}


def done(crew: Crew, task_id: str) -> dict[str, int]:
    """Step → how often it was done."""
    return Counter(note["step"] for note in crew.notes("did") if note["task"] == task_id)


async def stand(crew: Crew, *task_ids: str) -> None:
    """Until each of these tasks is in the step that it doesn't come back from."""
    await until(lambda: all(done(crew, task).get("!c") for task in task_ids), what="the middle of each task")


async def test_a_killed_worker_costs_no_more_than_the_step_that_was_under_way(make_crew: Make) -> None:
    """Of a task, and of a run's: on the loop, in a thread and in both kinds of processes."""
    crew = await make_crew(ALL, mode=ExecutionMode.PARALLEL, lease_seconds=1)
    first = await crew.worker(concurrency=8)
    await crew.submit("t", "loop", "a a b !c d")
    await crew.submit("r", None, "a a b !c d")
    tasks = ["t", *(f"r/{name}" for name in ALL)]
    await stand(crew, *tasks)
    told = [await crew.client.why(crew.name, task) for task in ("t", "r/loop")]
    assert [(one.checkpoints, one.last_checkpoint) for one in told] == [(3, "b")] * 2
    first.kill()
    await crew.worker(concurrency=8)
    run = await crew.run_result("r")
    for result in (await crew.result("t"), *run.steps.values()):
        assert result.output == [["a", 1], ["a", 1], ["b", 1], ["!c", 2], ["d", 2]]
    for task in tasks:
        assert done(crew, task) == {"a": 2, "b": 1, "!c": 2, "d": 1}, "a name that is used twice is two steps"


async def test_a_step_that_fails_is_done_again_and_those_before_it_are_not(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also large ones. One trip reads what there is, and each step costs one more; as does reading a large one."""
    crew = await make_crew({"a": "Stumbler"}, tasks={"backoff_seconds": 0})
    calls: list[str] = []
    plain = scripts.run

    async def counted(client: Any, name: str, *rest: Any) -> Any:
        calls.append(name)
        return await plain(client, name, *rest)

    monkeypatch.setattr(scripts, "run", counted)
    async with crew.in_process():
        await crew.submit("t", "a", "1 70000 3 fails")
        result = await crew.result("t")
    assert (result.attempt, result.output) == (2, ["x", "x" * 70_000, "xxx", 2])
    assert done(crew, "t") == {"1": 1, "70000": 1, "3": 1, "fails": 2}
    counts = Counter(calls)
    assert (counts["checkpoint"], counts["checkpoints"]) == (4, 2)
    of_crew = metrics.of_crew(crew.name)
    assert {
        outcome: metrics.CHECKPOINTS.labels(*of_crew, outcome)._value.get() for outcome in ("stored", "replayed")
    } == {"stored": 4, "replayed": 3}


@pytest.mark.parametrize(
    ("bound", "most", "error"),
    [
        ("STEPS_MAX", 2, "step: the task has 2 steps already. Do more in each step."),
        ("ALL_MAX_BYTES", 100, "step: the task has steps whose results are more than 100 bytes together."),
    ],
)
async def test_a_task_that_reaches_a_bound_of_its_steps_says_so_and_loses_none(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch, bound: str, most: int, error: str
) -> None:
    """What earlier attempts have stored counts."""
    crew = await make_crew({"a": "Stumbler"}, tasks={"backoff_seconds": 0})
    monkeypatch.setattr(steps, bound, most)
    async with crew.in_process():
        await crew.submit("t", "a", "10 fails 90 91")
        result = await crew.result("t")
        assert (result.attempt, error in result.error) == (2, True), result.error
        monkeypatch.undo()
        (letter,) = [letter async for letter in crew.client.dead_letters(crew.name)]
        await crew.client.replay(crew.name, letter.id)
        result = await until(lambda: result_if_any(crew, "t"), what="its end")
    assert [len(one) if isinstance(one, str) else one for one in result.output] == [10, 2, 90, 91]
    assert done(crew, "t") == {"10": 1, "fails": 2, "90": 1 if bound == "STEPS_MAX" else 2, "91": 1}


async def test_a_worker_that_was_taken_for_dead_stores_nothing_and_begins_no_further_step(make_crew: Make) -> None:
    crew = await make_crew({"a": "Stepper"}, lease_seconds=1)
    first = await crew.worker()
    await crew.submit("t", "a", "a !c d")
    await stand(crew, "t")
    first.signal(signal.SIGSTOP)
    await crew.worker()
    result = await crew.result("t")
    assert result.output == [["a", 1], ["!c", 2], ["d", 2]]
    crew.open()
    first.signal(signal.SIGCONT)
    await until(lambda: "silent for longer" in first.log, what="its knowledge of being fenced")
    await first.drain()
    assert done(crew, "t") == {"a": 1, "!c": 2, "d": 1}


async def test_a_thread_that_outlives_its_task_begins_no_further_step(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "LateStepper", timeout_seconds=1)], tasks={"max_attempts": 1})
    async with crew.in_process():
        await crew.submit("t", "a")
        assert "timed out" in (await crew.result("t")).error
        crew.open()
        (refused,) = await until(lambda: crew.notes("refused"), what="its next step")
    assert refused["error"] == "Fenced: task 't' is no longer this attempt's: it begins no further step"
    assert crew.notes("did") == []


async def test_neither_an_outage_nor_other_workers_nor_an_update_of_the_crew_costs_a_step(
    make_crew: Make, private_redis: PrivateRedis
) -> None:
    """A step of a run's task ends while the store is away, and the store comes back with its data. Then the worker
    stops in the middle of the next task, and the crew no longer has that agent; another worker finishes the run."""
    server = await private_redis()
    crew = await make_crew(
        {"a": "Stepper", "b": "Stepper"}, url=server.url, mode=ExecutionMode.PARALLEL, max_parallel_tasks=1
    )
    first = await crew.worker(grace_seconds=0.1)
    await crew.submit("r", None, "a b !c d")
    await stand(crew, "r/a")
    await server.kill()
    crew.open("r/a")
    await server.restart()
    await stand(crew, "r/b")
    await first.drain()
    await crew.define(agents=crew.definition.agents[:1])
    crew.open()
    second = await crew.worker()
    run = await crew.run_result("r")
    assert run.status is RunState.COMPLETED
    assert [step.output for step in run.steps.values()] == [[["a", 1], ["b", 1], ["!c", 1], ["d", 1]]] * 2
    assert done(crew, "r/a") == {"a": 1, "b": 1, "!c": 1, "d": 1}
    assert done(crew, "r/b") == {"a": 1, "b": 1, "!c": 2, "d": 1}, "handed back, it has its first attempt again"
    assert {note["pid"] for note in crew.notes("did") if note["step"] == "d"} == {first.pid, second.pid}


async def test_a_store_that_has_lost_all_ends_no_task_that_is_in_the_middle_of_its_steps(
    make_crew: Make, private_redis: PrivateRedis
) -> None:
    crew = await make_crew({"a": "Stepper"}, url=(await private_redis()).url, lease_seconds=1)
    async with crew.in_process():
        await crew.submit("t", "a", "a !c d")
        await stand(crew, "t")
        await crew.redis.flushall()
        crew.open()
        await definitions.apply(crew.redis, crew.keys, crew.definition, uid=crew.uid)
        result: Any = await until(lambda: result_if_any(crew, "t"), what="the result")
    assert result.output == [["a", 1], ["!c", 1], ["d", 1]]
