"""Execution mode → steps, and what a run's steps make of the run. Pure.

Every mode becomes steps with dependencies, and the store runs any such graph the same way. Some steps are made while
the run goes on: the next iteration of a loop, and those of a list's items. A step's name tells what it is
(`Plan.place`).
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from watchbill.api.models import ModelChoice
from watchbill.api.modes import Loop
from watchbill.errors import InvalidInput, Problem
from watchbill.names import DELEGATED, EACH, STEP_MARK, SYNTHESIS, UNTIL
from watchbill.records import DEFAULT_CLASS, AgentDefinition, CrewDefinition, ExecutionMode
from watchbill.tasks import RunState, StepKind, StepStatus, TaskState

ITERATION_MAX: Final = 500
"""Steps of one iteration of a loop: they are added in one call."""

Kind = Literal["agent", "each", "item", "list", "until", "synthesis"]
"""`each` makes the steps of a list's items, of which each is an `item`; `list` gathers their outputs."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run: one task on the stream."""

    name: str
    agent: str
    after: tuple[str, ...]
    """Steps that must have ended well first. A lenient one may also have failed."""
    successors: tuple[str, ...]
    lenient: bool = False
    """Its successors begin even if it fails (`onError: Continue`)."""
    kind: StepKind = "agent"
    reads: tuple[str, ...] = ()
    """Steps whose outputs its entry may carry (plan/given.py)."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a step in its run."""

    kind: Kind = "agent"
    iteration: int = 0
    """The number of its iteration, from 1; 0: it is in no loop."""
    item: int = 0
    """The number of its item, from 1; 0: it is for none."""
    name: str = ""
    """The step that its items belong to; else its own name."""


ALONE: Final = Place()
"""The place of a task that belongs to no run."""


# ---------------------------------------------------------------- who runs


def members(crew: CrewDefinition) -> list[AgentDefinition]:
    """All that a worker must be able to load: the crew's agents, a loop's predicate, and the synthesis."""
    found = list(crew.agents)
    until = crew.loop.until if crew.loop and crew.execution_mode is ExecutionMode.LOOP else None
    if until and until.predicate:
        found.append(AgentDefinition(agent_id=UNTIL, agent_class=until.predicate))
    if written := crew.synthesis:
        found.append(
            AgentDefinition(
                agent_id=SYNTHESIS,
                agent_class=written.agent_class or DEFAULT_CLASS,
                model=written.model or None,
                base_url=written.base_url or None,
                fallback_models=list(map(ModelChoice.of, written.fallback_models)),
                system_prompt=written.system_prompt or None,
                prompt=written.prompt or None,
                config=dict(written.config),
                timeout_seconds=written.timeout_seconds,
            )
        )
    return found


# ---------------------------------------------------------------- steps


def steps(crew: CrewDefinition) -> tuple[Step, ...]:
    """The steps with which a run of this crew begins, each after all that it depends on; ties keep the order of
    `agents`. Raises InvalidInput for a crew that can't be run."""
    _check(crew)
    order = [agent.agent_id for agent in crew.agents]
    match crew.execution_mode:
        case ExecutionMode.LOOP:
            planned = iteration(crew, 1)
        case ExecutionMode.SEQUENTIAL:
            planned = _with_lists(crew, _graph(order, list(itertools.pairwise(order))))
        case ExecutionMode.HIERARCHICAL:
            manager = crew.hierarchy.manager if crew.hierarchy else order[0]  # a record without one is refused
            planned = _with_lists(crew, _graph([crew.agent_ids()[manager]], []))
        case ExecutionMode.PARALLEL:
            planned = _with_lists(crew, _graph(order, []))
        case ExecutionMode.FLOW:
            planned = _with_lists(crew, _graph(order, crew.edges()))
    if crew.synthesis is not None:
        planned = (*planned, Step(SYNTHESIS, SYNTHESIS, (), (), kind="synthesis"))
    return planned


def iteration(crew: CrewDefinition, number: int) -> tuple[Step, ...]:
    """The steps of one iteration of a loop: its agents one after the other, then its condition."""
    loop = bounds(crew)
    order = [agent.agent_id for agent in crew.agents]
    chain = _with_lists(crew, _graph(order, list(itertools.pairwise(order))), f"{STEP_MARK}{number}")
    if loop.until is None and number >= loop.max_iterations:
        return chain
    judge = f"{UNTIL}{STEP_MARK}{number}"
    last = replace(chain[-1], successors=(judge,))
    return (*chain[:-1], last, Step(judge, UNTIL, (last.name,), (), kind="until"))


def item_name(name: str, number: int) -> str:
    """The name of the step for an item of the list that step `name` gathers. `number` counts from 1."""
    return f"{name}{STEP_MARK}{number}"


def is_lenient(crew: CrewDefinition, agent: AgentDefinition) -> bool:
    """Returns whether a run goes on behind a failed step of this agent."""
    return (agent.on_error or crew.on_error) == "Continue"


def bounds(crew: CrewDefinition) -> Loop:
    """The bounds of a crew's loop. Raises InvalidInput for a loop without any."""
    if crew.loop is None:
        fix = "Give loop.maxIterations, and loop.until if a condition is to end it; or submit to one of its agents."
        raise InvalidInput(Problem("the loop has no bound, so no such crew is run", fix, path="execution_mode"))
    return crew.loop


def _check(crew: CrewDefinition) -> None:
    """Raises InvalidInput for a crew that can't be run."""
    is_loop = crew.execution_mode is ExecutionMode.LOOP
    if is_loop and bounds(crew) and len(crew.agents) >= ITERATION_MAX // 2:
        reason = f"an iteration would have {len(crew.agents)} agents, and fewer than {ITERATION_MAX // 2} are possible"
        raise InvalidInput(Problem(reason, "Make several crews of it.", path="agents"))
    known = crew.agent_ids()
    taken = {UNTIL} if is_loop else set()
    taken |= {SYNTHESIS} if crew.synthesis else set()
    if is_loop or any(agent.for_each for agent in crew.agents):
        taken |= {name for name in known if STEP_MARK in name}
    if wrong := sorted(taken & known.keys()):
        reason = f"the name {wrong[0]!r} of an agent stands for another step of the run"
        raise InvalidInput(Problem(reason, "Give the agent another name.", path="agents"))
    for i, agent in enumerate(crew.agents):
        is_asked = crew.hierarchy is not None and known[crew.hierarchy.manager] != agent.agent_id
        if is_asked and (agent.when or agent.for_each):
            reason = f"agent {agent.agent_id!r} works whenever it is asked to, and can have neither when nor forEach"
            raise InvalidInput(Problem(reason, "Remove them: its manager decides.", path=f"agents[{i}]"))


def _graph(order: Sequence[str], joined: Iterable[tuple[str, str]]) -> tuple[Step, ...]:
    """The steps of these agents, joined by (source, target)."""
    after: dict[str, list[str]] = defaultdict(list)
    successors: dict[str, list[str]] = defaultdict(list)
    for source, target in joined:
        after[target].append(source)
        successors[source].append(target)
    rank = {name: i for i, name in enumerate(order)}
    left = {name: len(after[name]) for name in order}
    ready = [rank[name] for name in order if not left[name]]
    heapq.heapify(ready)
    planned: list[Step] = []
    while ready:
        name = order[heapq.heappop(ready)]
        planned.append(Step(name, name, tuple(after[name]), tuple(successors[name])))
        for successor in successors[name]:
            left[successor] -= 1
            if not left[successor]:
                heapq.heappush(ready, rank[successor])
    return tuple(planned)


def _with_lists(crew: CrewDefinition, planned: Iterable[Step], suffix: str = "") -> tuple[Step, ...]:
    """The steps with their leniency, and, before each that gathers a list, the one that makes its items. `suffix` is
    put behind the names of all."""
    agents = {agent.agent_id: agent for agent in crew.agents}
    lists = {agent.agent_id for agent in crew.agents if agent.for_each}
    found: list[Step] = []
    for step in planned:
        agent = agents[step.name]
        lenient, name = is_lenient(crew, agent), step.name + suffix
        after = tuple(before + suffix for before in step.after)
        if agent.for_each:
            maker = f"{name}{STEP_MARK}{EACH}"
            found.append(Step(maker, step.name, after, (name,), lenient))
            after = (maker,)
        successors = tuple(
            f"{one}{suffix}{STEP_MARK}{EACH}" if one in lists else one + suffix for one in step.successors
        )
        found.append(Step(name, step.name, after, successors, lenient))
    return tuple(found)


# ---------------------------------------------------------------- what a step is given


def ancestors(planned: Iterable[Step]) -> dict[str, frozenset[str]]:
    """Step → every step that has ended when it starts."""
    found: dict[str, frozenset[str]] = {}
    for step in planned:
        found[step.name] = frozenset(step.after).union(*(found[name] for name in step.after))
    return found


def before(crew: CrewDefinition) -> dict[str, frozenset[str]]:
    """Agent → the agents that have run when it does. In a loop that is all of them, from the second iteration on."""
    if crew.execution_mode is ExecutionMode.LOOP:
        everyone = frozenset(agent.agent_id for agent in crew.agents)
        return dict.fromkeys(everyone, everyone)
    planned = steps(crew)
    agent_of = {step.name: step.agent for step in planned}
    found = ancestors(planned)
    return {
        step.agent: frozenset(agent_of[name] for name in found[step.name]) - {step.agent}
        for step in planned
        if step.kind == "agent"
    }


class Plan:
    """The steps of one crew, with all that is worked out once: a crew may have ten thousand agents."""

    def __init__(self, crew: CrewDefinition) -> None:
        self.crew = crew
        self.ids = crew.agent_ids()
        """Every name by which an agent may be cited → its agent_id."""
        self._members = {one.agent_id: one for one in members(crew)}
        self._order = [agent.agent_id for agent in crew.agents]
        self._is_loop = crew.execution_mode is ExecutionMode.LOOP
        self._before: dict[str, list[str]] = defaultdict(list)
        if crew.execution_mode is ExecutionMode.FLOW:
            edges = crew.edges()
            for source, target in edges:
                self._before[target].append(source)
            self._order = [step.name for step in _graph(self._order, edges)]
        self._rank = {name: i for i, name in enumerate(self._order)}
        self._places: dict[str, Place] = {}
        """The places of steps that have the names of their agents, as far as they were asked for."""

    def member(self, name: str) -> AgentDefinition | None:
        """Returns the agent of this agent_id or effective name, or another of the crew's members."""
        return self._members.get(self.ids.get(name, name)) or self.crew.agent(name)

    def place(self, agent: str, step: str | None) -> Place:
        """The place of the step of this name. `step` is None for a task that belongs to no run."""
        if step is None:
            return ALONE
        if step != agent or step not in self._members:
            return self._placed(agent, step)
        if step not in self._places:
            self._places[step] = self._placed(agent, step)
        return self._places[step]

    def _placed(self, agent: str, step: str) -> Place:
        if step == SYNTHESIS and self.crew.synthesis is not None:
            return Place("synthesis", name=step)
        if self.crew.hierarchy is not None and DELEGATED in step:
            return Place(name=step)
        parts = step.removeprefix(agent).split(STEP_MARK)[1:]
        number, name = 0, agent
        if self._is_loop and parts:
            number = int(parts.pop(0))
            name = f"{agent}{STEP_MARK}{number}"
            if agent == UNTIL:
                return Place("until", number, name=name)
        if parts:
            return Place("each", number, name=name) if parts[0] == EACH else Place("item", number, int(parts[0]), name)
        found = self._members.get(agent)
        return Place("list" if found is not None and found.for_each else "agent", number, name=name)

    def reads(self, agent: str, kind: Kind, cited: Iterable[str]) -> list[str]:
        """The agents whose outputs a step of this agent is given, in plan order.

        sequential: all before it ("the query and what came before", seed 000); flow: its direct dependencies; loop:
        all. A step for an item: none, for a list of a thousand would be read a thousand times. Each of them also gets
        what its template cites. The synthesis, and a loop's predicate, get all. An agent of any name (agent_id `*`) is
        no step, and is given none.
        """
        if kind in ("until", "synthesis"):
            return self._order
        if agent not in self._rank:
            return []
        wanted = set(cited)
        if kind == "agent":
            match self.crew.execution_mode:
                case ExecutionMode.SEQUENTIAL:
                    wanted.update(self._order[: self._rank[agent]])
                case ExecutionMode.FLOW:
                    wanted.update(self._before[agent])
                case ExecutionMode.LOOP:
                    wanted.update(self._order)
        return sorted(wanted, key=self._rank.__getitem__)

    def sources(self, agent: str, at: Place, wanted: Iterable[str]) -> dict[str, str]:
        """Agent → the step whose output counts for a step of `agent`, in the order in which they ran.

        In a loop that is the agent's last step so far: of this iteration, or of the one before. An agent that has not
        run yet is not among them.
        """
        if not at.iteration:
            return {name: name for name in wanted}
        here = len(self._order) if at.kind == "until" else self._rank[agent]
        ranked = sorted(wanted, key=self._rank.__getitem__)
        earlier = [name for name in ranked if self._rank[name] >= here] if at.iteration > 1 else []
        found = {name: f"{name}{STEP_MARK}{at.iteration - 1}" for name in earlier}
        return found | {name: f"{name}{STEP_MARK}{at.iteration}" for name in ranked if self._rank[name] < here}


# ---------------------------------------------------------------- what becomes of the run


def outcome(steps_now: Iterable[StepStatus], *, cancelling: bool = False) -> RunState:
    """Returns the final state of a run that has nothing left to do. `cancelling`: somebody cancelled it before. The
    scripts decide by the same rule."""
    listed = [s for s in steps_now if s.kind not in ("synthesis", "delegated")]
    well = {s.name for s in listed if s.status is TaskState.COMPLETED or s.is_passed_over}
    if len(well) == len(listed):
        return RunState.COMPLETED
    if cancelling:
        return RunState.CANCELLED
    if well - {name for s in listed for name in s.after}:
        return RunState.PARTIAL
    return RunState.FAILED


def output(steps_now: Iterable[StepStatus], outputs: Mapping[str, Any]) -> Any:
    """A run's output: that of its synthesis, if it has one of all other steps; else the last step's; a mapping where
    there are several last steps; None where none completed.

    In place of a loop's condition, and of a step that was skipped by its own condition, stand the steps before it.
    """
    listed = list(steps_now)
    for s in listed:
        if s.kind == "synthesis" and s.name in outputs and _is_newest(s, listed):
            return outputs[s.name]
    listed = [s for s in listed if s.kind != "synthesis"]
    known = {s.name: s for s in listed}
    depended_on = {name for s in listed for name in s.after}
    ends = [s for s in listed if s.name not in depended_on]
    last = dict.fromkeys(name for s in ends for name in _shown(s, known))
    if len(ends) == 1 and len(last) == 1:
        return outputs.get(next(iter(last)))
    done = {name: outputs[name] for name in last if name in outputs}
    return done or None


def _is_newest(synthesis: StepStatus, listed: Iterable[StepStatus]) -> bool:
    """Returns whether nothing was replayed after this synthesis."""
    at = synthesis.finished_at
    return at is not None and all(s.finished_at is None or s.finished_at <= at for s in listed)


def _shown(step: StepStatus, known: Mapping[str, StepStatus]) -> list[str]:
    """The steps whose outputs stand for this one's."""
    left, found = [step], dict[str, None]()
    seen: set[str] = set()
    while left:
        one = left.pop()
        if one.name in seen:
            continue
        seen.add(one.name)
        if one.kind == "until" or (one.is_passed_over and one.after):
            left += [known[name] for name in reversed(one.after)]
        else:
            found[one.name] = None
    return list(found)
