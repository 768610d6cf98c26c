"""A worker goes from one brief step of a run to the next: the call that tells an end claims what that made ready, and
nobody is rung for it. What it has no room for is others', and so is all that comes while a step takes long."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from driver import only_rung
from workshop import Make, agent, shift_of

from waiting import until
from watchbill.records import ExecutionMode, FlowRelation
from watchbill.store.queue import Claimed, Queue
from watchbill.tasks import AgentTask, RunState
from watchbill.testing import FakeClock
from watchbill.worker import shift
from watchbill.worker.claims import READ_SECONDS
from watchbill.worker.execution.executor import Executor
from watchbill.worker.execution.reading import Read
from watchbill.worker.jobs import Jobs

CHAIN = [f"a{number}" for number in range(10)]


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of this process take all steps for brief ones, and hear of no work that they aren't rung for."""
    only_rung(monkeypatch.setattr)
    monkeypatch.setattr(Jobs, "go_on_alone", True)


@pytest.mark.usefixtures("brief")
async def test_a_step_of_a_chain_costs_one_call_and_no_bell(
    make_crew: Make, trips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shift, "ANNOUNCE_SECONDS", 3600.0)  # none takes long, however busy the machine is
    crew = await make_crew(dict.fromkeys(CHAIN, "Brief"))
    async with crew.in_process():
        for run in ("warm", "r"):
            trips.clear()
            await crew.submit(run)
            assert (await crew.run_result(run)).status is RunState.COMPLETED
    found = Counter(trips)
    assert found["finish"] == len(CHAIN)
    assert found["BLPOP claim"] <= 2, "before the run and after it"


@pytest.mark.usefixtures("brief")
async def test_what_a_worker_has_no_room_for_is_anothers_at_once(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However brief the tasks were: the end of a step claims nothing to hold, which would come back after 5 ms."""
    monkeypatch.setattr(shift, "ANNOUNCE_SECONDS", 3600.0)
    monkeypatch.setattr(Jobs, "are_brief", True)
    really, handed_back = Queue.hand_back, list[str]()

    async def hand_back(queue: Queue, incarnation: str, tasks: Sequence[Claimed]) -> Any:
        handed_back.extend(task.id for task in tasks)
        return await really(queue, incarnation, tasks)

    monkeypatch.setattr(Queue, "hand_back", hand_back)
    gates = [f"g{number}" for number in range(4)]
    relations = [FlowRelation(source="first", target=gate) for gate in gates]
    agents = {"first": "Brief", **dict.fromkeys(gates, "Gate")}
    crew = await make_crew(agents, mode=ExecutionMode.FLOW, flow_relations=relations)
    async with crew.in_process(concurrency=2), crew.in_process(concurrency=2):
        await crew.submit("r")
        await crew.started(*(f"r/{gate}" for gate in gates))
        crew.open()
        assert (await crew.run_result("r")).status is RunState.COMPLETED
    assert crew.executions() == dict.fromkeys(("r/first", *(f"r/{gate}" for gate in gates)), 1)
    assert handed_back == []


@pytest.mark.usefixtures("brief")
async def test_a_step_that_takes_long_keeps_its_worker_from_nothing_else(make_crew: Make) -> None:
    crew = await make_crew({"gate": "Gate", "brief": "Brief"})
    async with crew.in_process():
        await crew.submit("r")
        await crew.started("r/gate")
        await crew.submit("t", "brief")
        assert (await crew.result("t")).success
        crew.open()
        assert (await crew.run_result("r")).status is RunState.COMPLETED


@pytest.mark.usefixtures("brief")
async def test_a_step_whose_data_are_not_read_keeps_its_worker_from_nothing_else(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, answers = Executor.read, asyncio.Event()

    async def read(executor: Executor, task: Claimed) -> Read:
        if task.id == "r/hangs":
            await answers.wait()
        return await really(executor, task)

    monkeypatch.setattr(Executor, "read", read)
    crew, clock = await make_crew({"hangs": "Brief", "brief": "Brief"}), FakeClock()
    async with crew.in_process(clock=clock) as worker:
        await crew.submit("r")
        await until(lambda: READ_SECONDS in clock.sleepers, what="a worker that waits for the step's end")
        assert not shift_of(worker)._bell.is_waiting
        clock.advance(READ_SECONDS)
        await crew.submit("t", "brief")
        assert (await crew.result("t")).success
        assert crew.executions() == {"t": 1}
        answers.set()
        assert (await crew.run_result("r")).status is RunState.COMPLETED


async def test_while_data_take_long_to_be_read_nothing_is_held_and_steps_are_not_shared(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock of the worker, that of each task take 20 ms, and nothing else takes any time."""
    crew, clock = await make_crew({"a": "Brief"}), FakeClock()
    reads, finish, asked_beyond = Executor.read, Queue.finish, list[int]()

    async def slow(executor: Executor, task: Claimed) -> Read:
        read = await reads(executor, task)
        clock.advance(0.02)
        return read

    async def counted(queue: Queue, *given: Any, **rest: Any) -> Any:
        asked_beyond.append(rest.get("slots", -1) - rest.get("begin", 0))
        return await finish(queue, *given, **rest)

    monkeypatch.setattr(Executor, "at_hand", lambda *_: None)
    monkeypatch.setattr(Executor, "read", slow)
    monkeypatch.setattr(Queue, "finish", counted)
    tasks = [AgentTask(task_id=f"t{number}", agent_name="a", prompt="do it") for number in range(40)]
    await crew.client.submit_many(crew.name, "a", tasks)
    async with crew.in_process(clock=clock, concurrency=1) as worker:
        await crew.results(task.task_id for task in tasks)
        jobs = shift_of(worker)._jobs
        assert jobs.go_on_alone
        jobs.assume_long()
        assert not jobs.go_on_alone
    assert len(asked_beyond) >= len(tasks)
    assert max(asked_beyond) == 0


async def test_a_worker_that_dies_at_the_step_it_went_on_to_has_told_the_one_before(make_crew: Make) -> None:
    agents = [agent("a", "Brief"), agent("signals", "SignalsOnce", prompt=signal.SIGKILL.name), agent("b", "Brief")]
    crew = await make_crew(agents, lease_seconds=1)
    warm = [AgentTask(task_id=f"t{number}", agent_name="a", prompt="do it") for number in range(60)]
    await crew.client.submit_many(crew.name, "a", warm)
    await crew.client.submit(crew.name, "do it", id="r")
    killed = await crew.worker(doomed=True)
    assert await killed.ended() == -signal.SIGKILL, killed.log
    await crew.worker()
    result = await crew.run_result("r")
    assert result.status is RunState.COMPLETED
    assert {name: step.attempt for name, step in result.steps.items()} == {"a": 1, "signals": 2, "b": 1}
    steps = {task: count for task, count in crew.executions().items() if "/" in task}
    assert steps == {"r/a": 1, "r/signals": 2, "r/b": 1}
    ended = {what: count for what, count in (await crew.ends()).items() if what[0].startswith("r")}
    assert ended == dict.fromkeys(((name, "completed") for name in ("r/a", "r/signals", "r/b", "r")), 1)
