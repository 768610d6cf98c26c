"""Runs of any graph, with lists, failures, retries and the limits of agents, and workers that die: two at once, as they
share the crew's limits. Everything that must hold is worked out here, from the graph and from how each step is to end.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from run_checks import run_ended
from support import Crew, expected_run, finished, opened

from watchbill.api.limits import RateLimit
from watchbill.names import EACH, STEP_MARK
from watchbill.plan import flow
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode, FlowRelation
from watchbill.store import run_steps, runs
from watchbill.store.queue import Claimed
from watchbill.store.run_steps import Held
from watchbill.tasks import RunResult, RunState

RUNS = ("r1", "r2")
CLAIMS_MOST = 2000
SLACK_US = 10
"""A fence is the time of its claim, or a little later where two claims were made within one microsecond."""


@dataclass(frozen=True)
class Fate:
    """How a step ends, and how many attempts fail before that."""

    end: Literal["completed", "failed", "dead", "skipped"] = "completed"
    retries: int = 0


@dataclass(frozen=True)
class Scene:
    definition: CrewDefinition
    fates: Mapping[str, Fate]
    """Step → fate; of others the usual one."""
    items: int
    """Of each list."""
    parallel: int
    seed: int

    def fate(self, step: str) -> Fate:
        return self.fates.get(step, Fate())

    def makes_items(self, step: str) -> bool:
        return step.endswith(STEP_MARK + EACH) and self.fate(step).end == "completed"


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    names = [f"n{i}" for i in range(draw(st.integers(1, 7)))]
    few = st.sampled_from([None, None, None, 1, 2])
    agents, relations = [], []
    for i, name in enumerate(names):
        sources = draw(st.lists(st.sampled_from(names[:i]), unique=True, max_size=3)) if i else []
        relations += [FlowRelation(source=source, target=name) for source in sources]
        burst = draw(few)
        agents.append(
            AgentDefinition(
                agent_id=name,
                on_error=draw(st.sampled_from(["Fail", "Continue"])),
                for_each=draw(st.sampled_from([None, None, "{inputs.list}"])),
                max_concurrent=draw(few),
                rate_limit=RateLimit(requests=200, burst=burst) if burst else None,
            )
        )
    definition = CrewDefinition(
        name="test", execution_mode=ExecutionMode.FLOW, agents=draw(st.permutations(agents)), flow_relations=relations
    )
    items = draw(st.integers(0, 3))
    steps = [step.name for step in flow.steps(definition)]
    steps += [flow.item_name(one.agent_id, n) for one in agents if one.for_each for n in range(1, items + 1)]
    ends = st.sampled_from(["completed", "completed", "failed", "dead", "skipped"])
    fates = draw(st.dictionaries(st.sampled_from(steps), st.builds(Fate, ends, st.integers(0, 2))))
    return Scene(definition, fates, items, draw(st.sampled_from([1, 2, 5, 100])), draw(st.integers(0, 999)))


def planned(scene: Scene) -> list[flow.Step]:
    """The steps that there are in the end, each after all that it waits for."""
    first = flow.steps(scene.definition)
    known, _ = expected(first, scene)
    grown = planned_with(first, scene, known)
    while (now := expected(grown, scene)[0]) != known:  # items may fail, so that lists behind them are not made
        known = now
        grown = planned_with(first, scene, known)
    return grown


def planned_with(first: Sequence[flow.Step], scene: Scene, known: Mapping[str, str]) -> list[flow.Step]:
    found: list[flow.Step] = []
    for step in first:
        maker = f"{step.name}{STEP_MARK}{EACH}"
        if scene.makes_items(maker) and known.get(maker) == "completed":
            names = [flow.item_name(step.name, n) for n in range(1, scene.items + 1)]
            found += [flow.Step(name, step.agent, (), (step.name,), step.lenient) for name in names]
            step = replace(step, after=(*step.after, *names))
        found.append(step)
    return found


def expected(steps: Sequence[flow.Step], scene: Scene) -> tuple[dict[str, str], RunState]:
    """What each step ends as, and the run."""
    failing = {step.name for step in steps if scene.fate(step.name).end in ("failed", "dead")}
    passed = {step.name for step in steps if scene.fate(step.name).end == "skipped"}
    state, states = expected_run(steps, failing, passed)
    return states, state


@dataclass
class Story:
    """Two runs, told step by step: what workers hold, what has ended, and when each task began."""

    crew: Crew
    scene: Scene
    steps: Mapping[str, flow.Step]
    held: dict[str, tuple[str, Claimed]] = field(default_factory=dict)
    """Task → its worker, and what that was given."""
    ended: set[str] = field(default_factory=set)
    good: set[str] = field(default_factory=set)
    """Those of them that let others begin."""
    failures: Counter[str] = field(default_factory=Counter)
    begun: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Agent → the claims of its tasks, in microseconds."""
    names: list[str] = field(default_factory=lambda: ["w0", "w1"])
    claims: Counter[str] = field(default_factory=Counter)
    dead: int = 0
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.scene.seed)

    async def tell(self) -> None:
        for run in RUNS:
            await self.crew.run(run, self.scene.definition, parallel=self.scene.parallel)
        chance = self.chance
        while not all([await run_ended(self.crew, run) for run in RUNS]):
            worker = chance.choice(self.names)
            await self._claim(worker, chance.randint(1, 4))
            mine = [task for name, task in self.held.values() if name == worker]
            some = chance.sample(mine, chance.randint(0, len(mine)))
            await self.crew.queue.start(worker, some)
            what = chance.random()
            if what < 0.1:
                await self._die(worker)
            elif what < 0.2 and some:
                await self.crew.queue.hand_back(worker, some)
                self._lose(some)
            else:
                for task in some:
                    if worker in self.names:  # it lives
                        await self._end(worker, task)

    async def _claim(self, worker: str, slots: int) -> None:
        self.claims[worker] += 1
        assert self.claims.total() < CLAIMS_MOST, "it goes on for ever"
        claim = await self.crew.queue.claim(worker, self.claims[worker], slots, lease_ms=60_000, take_over=True)
        for task in claim.tasks:
            assert task.id not in self.held, "somebody holds it"
            assert task.id not in self.ended, "it has ended"
            before = self.steps[str(task.step)].after
            assert {f"{task.run_id}/{name}" for name in before} <= self.good, "before what it waits for"
            self.held[task.id] = worker, task
            self.begun[task.agent].append(int(task.fence))
        if not self.held:  # what there is waits for its time, or for the rate of its agent
            await self.crew.bell(max(claim.again_ms, 1) / 1000)
        for run in RUNS:
            assert sum(task.run_id == run for _, task in self.held.values()) <= self.scene.parallel
        of = Counter(task.agent for _, task in self.held.values())
        for agent in self.scene.definition.agents:
            assert of[agent.agent_id] <= (agent.max_concurrent or 100), "more than may run at once"

    async def _die(self, worker: str) -> None:
        """It is taken for dead, and another one comes."""
        await self.crew.queue.declare_dead([worker])
        self._lose([task for name, task in self.held.values() if name == worker])
        self.dead += 1
        self.names[self.names.index(worker)] = f"{worker.partition('-')[0]}-{self.dead}"

    def _lose(self, tasks: Sequence[Claimed]) -> None:
        for task in tasks:
            del self.held[task.id]

    async def _end(self, worker: str, task: Claimed) -> None:
        """The worker says how an attempt ended, or dies before it can."""
        name, scene = str(task.step), self.scene
        fate, agent = scene.fate(name), self.steps[name].agent
        if self.failures[task.id] < fate.retries:
            self.failures[task.id] += 1
            assert await self.crew.finish(worker, [task], "retry", ttl_ms=0) == ["applied"]
            return self._lose([task])
        if scene.makes_items(name):
            holder = Held(self.crew.keys, self.crew.uid, task.id, int(task.fence))
            lenient, items = self.steps[name].lenient, list(range(scene.items))
            await run_steps.add_items(self.crew.client, holder, agent, agent, items, lenient=lenient, room=10_000)
            if self.chance.random() < 0.2:
                return await self._die(worker)
        done = finished(task, fate.end, definition=scene.definition.digest(), message="given up")
        outcomes, _ = await self.crew.queue.finish(worker, [done])
        assert outcomes == ["applied"]
        self._lose([task])
        self.ended.add(task.id)
        if fate.end in ("completed", "skipped") or self.steps[name].lenient:
            self.good.add(task.id)

    async def check(self) -> None:
        states, state = expected(list(self.steps.values()), self.scene)
        reached = {name for name, ended_as in states.items() if ended_as != "skipped"}
        assert self.ended == {f"{run}/{name}" for run in RUNS for name in reached}
        told = Counter(row["id"] for row in await self.crew.results())
        assert told == Counter([*RUNS, *self.ended]), "each once"
        for run in RUNS:
            result = await runs.result(self.crew.client, self.crew.keys, run)
            assert isinstance(result, RunResult)
            assert result.status is state
            assert {name for name, one in result.steps.items() if one.success} == {
                name for name, ended_as in states.items() if ended_as == "completed"
            }
            assert set(result.passed_over) == {name for name, ended_as in states.items() if ended_as == "passed"}
            assert set(result.skipped) == {name for name in states if name not in result.steps}
        for agent in self.scene.definition.agents:
            if agent.rate_limit:
                check_rate(self.begun[agent.agent_id], agent.rate_limit)
        await self.crew.assert_idle()
        meta = await self.crew.client.hgetall(self.crew.keys.meta)
        assert {name: n for name, n in meta.items() if name.startswith("held:") and n != "0"} == {}


def check_rate(times: Sequence[int], rate: RateLimit) -> None:
    """In no span of time have more begun than the rate lets."""
    every = rate.period_seconds * 1_000_000 / rate.requests
    for i, first in enumerate(times):
        for more, last in enumerate(times[i:], 1):
            assert more <= rate.burst + (last - first + SLACK_US) / every, times


@settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # what fails is not made shorter, which takes minutes
    suppress_health_check=list(HealthCheck),
)
@given(scenes())
def test_whatever_the_graph_the_limits_and_the_deaths_each_step_keeps_its_place_and_ends_once(
    redis_url: str, scene: Scene
) -> None:
    async def told() -> None:
        async with opened(redis_url, f"crew-{uuid.uuid4().hex[:16]}") as crew:
            story = Story(crew, scene, {step.name: step for step in planned(scene)})
            await story.tell()
            await story.check()

    asyncio.run(told())
