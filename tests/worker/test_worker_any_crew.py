"""Crews of any kind, each in two runs at once, with workers that are taken for dead: what holds of every run."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from workshop import Crew, Make, agent

from waiting import until
from watchbill.api.limits import RateLimit
from watchbill.api.modes import Synthesis
from watchbill.plan import flow, values
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode, FlowRelation
from watchbill.tasks import RunResult, RunStatus, StepStatus, TaskState

RUNS = ("r1", "r2")
MODES = (ExecutionMode.SEQUENTIAL, ExecutionMode.PARALLEL, ExecutionMode.FLOW, ExecutionMode.LOOP)
FAILED = (TaskState.FAILED, TaskState.DEAD)


def _agent(rng: random.Random, name: str, before: list[str]) -> AgentDefinition:
    """One agent; `before`: those that have run when it does."""
    fields: dict[str, Any] = {"on_error": rng.choice([None, "Fail", "Continue"])}
    if before and rng.random() < 0.3:
        comparison: dict[str, Any] = rng.choice(
            [{"field": "flag", "eq": "true"}, {"exists": True}, {"field": "flag", "exists": False}]
        )
        fields["when"] = {"step": rng.choice(before), **comparison}
    lists = ["{inputs.list}", *(f"{{steps.{one}.list}}" for one in before)]
    if rng.random() < 0.3:
        fields["for_each"] = rng.choice(lists)
    fails = [f"{name}{at}" for at in ("", "@1", "@2", "@2@1") if rng.random() < 0.15]
    if rng.random() < 0.3:
        fields["max_concurrent"] = rng.randint(1, 2)
    if rng.random() < 0.3:
        fields["rate_limit"] = RateLimit(requests=100, burst=rng.randint(1, 2))
    return agent(name, "Varied", config={"fails": fails, "hopes": rng.choice([0, 0, 1])}, **fields)


def _crew(rng: random.Random, mode: ExecutionMode) -> tuple[list[AgentDefinition], dict[str, Any]]:
    """The agents and the other fields of a crew."""
    names = [f"n{i}" for i in range(rng.randint(1, 6))]
    before: dict[str, list[str]] = {name: [] for name in names}
    relations = []
    for i, name in enumerate(names):
        if mode is ExecutionMode.FLOW and i:
            sources = rng.sample(names[:i], rng.randint(0, min(i, 3)))
            relations += [FlowRelation(source=one, target=name) for one in sources]
            before[name] = sources
        elif mode is ExecutionMode.SEQUENTIAL:
            before[name] = names[:i]
    agents = [_agent(rng, name, before[name]) for name in names]
    fields: dict[str, Any] = {"flow_relations": relations, "on_error": rng.choice(["Fail", "Continue"])}
    if mode is ExecutionMode.LOOP:
        agents[-1].config["done_at"] = rng.randint(1, 4)
        agents[-1] = agents[-1].model_copy(update={"for_each": None})
        fields["loop"] = {"maxIterations": 3, "until": {"agent": names[-1], "field": "done"}}
    return agents, fields | {"max_parallel_tasks": rng.choice([1, 2, 100])}


async def die(crew: Crew, rng: random.Random, over: Callable[[], bool]) -> None:
    """Now and then a worker is taken for dead, while it has work."""
    for number in sorted(rng.sample(range(1, 12), 3)):
        await until(lambda n=number: over() or len(crew.notes("end")) >= n)  # type: ignore[misc]
        if names := sorted(await crew.incarnations()):
            await crew.queue.declare_dead([rng.choice(names)])


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_the_crew_and_whoever_dies_its_runs_keep_their_rules(make_crew: Make, seed: int) -> None:
    rng = random.Random(seed)
    mode = MODES[seed % len(MODES)]
    agents, fields = _crew(rng, mode)
    crew = await make_crew(agents, mode=mode, tasks={"max_attempts": 100, "backoff_seconds": 0}, **fields)
    if rng.random() < 0.5:
        written = {"class": "any_hands:Varied", "config": {"folder": str(crew.folder)}}
        await crew.define(synthesis=Synthesis.model_validate(written))
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(crew.in_process(concurrency=3))
        for run in RUNS:
            listed = json.dumps([f"{run} {n}" for n in range(rng.randint(0, 4))])
            await crew.submit(run, inputs={"who": run, "list": listed})
        ending = asyncio.gather(*map(crew.run_result, RUNS))
        await die(crew, rng, ending.done)
        results = await ending
    ends = await crew.ends()
    assert set(ends.values()) == {1}
    for result in results:
        status = await crew.client.status(crew.name, result.run_id)
        _check(crew.definition, status, result)
        reached = {s.name for s in status.steps if s.status is not TaskState.SKIPPED or s.is_passed_over}
        told = {name.partition("/")[2] for name, _ in ends if name.startswith(f"{result.run_id}/")}
        assert told == reached
        assert at_once(crew, result.run_id) <= fields["max_parallel_tasks"]
    for one in agents:
        assert at_once(crew, agent=one.agent_id) <= (one.max_concurrent or 100)
        if one.rate_limit:
            _check_rate(crew, one.agent_id, one.rate_limit)
    assert set(ends) >= {(result.run_id, result.status.value) for result in results}
    assert await crew.is_idle()


def _check(definition: CrewDefinition, status: RunStatus, result: RunResult) -> None:
    """A step has begun if, and only if, all before it had ended well enough; and ended as it had to."""
    plan = flow.Plan(definition)
    known = {step.name: step for step in status.steps}
    assert result.status is status.status is flow.outcome(status.steps)

    def lets_others_begin(step: StepStatus) -> bool:
        member = plan.member(step.agent)
        is_lenient = member is not None and flow.is_lenient(definition, member)
        return step.status is TaskState.COMPLETED or step.is_passed_over or (step.status in FAILED and is_lenient)

    for step in status.steps:
        if step.kind == "synthesis":
            others = [one for one in status.steps if one is not step]
            assert (step.status is TaskState.SKIPPED) is not any(one.status is TaskState.COMPLETED for one in others)
            continue
        before = [known[name] for name in step.after]
        if not all(map(lets_others_begin, before)):
            assert (step.status, step.is_passed_over) == (TaskState.SKIPPED, False), step.name
            continue
        assert step.status in (TaskState.COMPLETED, *FAILED) or step.is_passed_over, step.name
        if step.started_at:
            assert all(one.finished_at and one.finished_at <= step.started_at for one in before), step.name
        _check_end(plan, step, result)


def _check_end(plan: flow.Plan, step: StepStatus, result: RunResult) -> None:
    """A step of an agent has ended as its condition and the agent say."""
    member, kind = plan.member(step.agent), plan.place(step.agent, step.name).kind
    if member is None or kind not in ("agent", "item"):
        return
    if step.status is TaskState.COMPLETED:
        assert result.steps[step.name].output["run"] == result.run_id, "nothing is from another run"
    if member.when is None or kind == "item":
        assert (step.status in FAILED) is (step.name in member.config["fails"]), step.name
        return
    source = result.steps.get(member.when.step)
    given: Any = values.MISSING
    if source is not None:
        given = source.output if source.success else values.error(member.when.step, source)
    try:
        expected = "run" if values.holds(member.when, given) else "passed"
    except values.Unusable:
        expected = "failed"
    if expected == "run":
        assert (step.status in FAILED) is (step.name in member.config["fails"]), step.name
    else:
        assert (step.is_passed_over, step.status in FAILED) == (expected == "passed", expected == "failed"), step.name


def _check_rate(crew: Crew, name: str, rate: RateLimit) -> None:
    """In no span of time have more attempts begun than the rate lets: a fence is the time of its claim, in us."""
    every = rate.period_seconds * 1_000_000 / rate.requests
    begun = sorted({(line["fence"], line["task"]) for line in crew.notes() if line["agent"] == name})
    for i, (first, _) in enumerate(begun):
        for more, (last, _) in enumerate(begun[i:], 1):
            assert more <= rate.burst + (last - first + 10) / every, name


def at_once(crew: Crew, run_id: str = "", agent: str = "") -> int:
    """The most agents of a run, or tasks of an agent, that were at work at the same time, each in its last attempt."""
    times: dict[str, dict[str, float]] = defaultdict(dict)
    last: dict[str, int] = {}
    for line in crew.notes():
        last[line["task"]] = max(last.get(line["task"], 0), line["fence"])
    for what in ("start", "end"):
        for line in crew.notes(what):
            is_meant = line["agent"] == agent if agent else line["task"].startswith(f"{run_id}/")
            if is_meant and line["fence"] == last[line["task"]]:
                times[line["task"]][what] = line["at"]
    moments = Counter[int]()
    spans = [(at["start"], at["end"]) for at in times.values() if len(at) == 2]
    for number, (begun, _) in enumerate(spans):
        moments[number] = sum(start <= begun < end for start, end in spans)
    return max(moments.values(), default=0)
