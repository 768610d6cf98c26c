"""Execution mode → steps, and what a run's steps make of the run. Pure.

sequential, parallel and flow all become steps with dependencies; the store runs any such graph the same way.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from watchbill.errors import InvalidInput, Problem
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode
from watchbill.tasks import RunState, StepStatus, TaskState


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run: one task on the stream."""

    name: str
    agent: str
    after: tuple[str, ...]
    """Steps that must have completed first."""
    successors: tuple[str, ...]


def steps(crew: CrewDefinition) -> tuple[Step, ...]:
    """The steps of a run of this crew, each after all that it depends on; ties keep the order of `agents`. Raises
    InvalidInput for a mode that can't be run."""
    order = [agent.agent_id for agent in crew.agents]
    match crew.execution_mode:
        case ExecutionMode.LOOP:
            fix = "Use sequential, parallel or flow, or submit to one of its agents."
            raise InvalidInput(Problem("crews of mode 'loop' can be stored, but not run", fix, path="execution_mode"))
        case ExecutionMode.SEQUENTIAL:
            joined = list(itertools.pairwise(order))
        case ExecutionMode.PARALLEL:
            joined = []
        case ExecutionMode.FLOW:
            joined = crew.edges()
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


def ancestors(planned: Iterable[Step]) -> dict[str, frozenset[str]]:
    """Step → every step that has completed when it starts."""
    found: dict[str, frozenset[str]] = {}
    for step in planned:
        found[step.name] = frozenset(step.after).union(*(found[name] for name in step.after))
    return found


def reads(crew: CrewDefinition, agent: AgentDefinition, planned: tuple[Step, ...], cited: Iterable[str]) -> list[str]:
    """The steps whose outputs this agent is given, in plan order.

    sequential: all before it ("the query and what came before", seed 000); flow: its direct dependencies;
    in both, what its template cites. An agent of any name (agent_id `*`) is no step, and is given none.
    """
    step = next((s for s in planned if s.name == agent.agent_id), None)
    if step is None:
        return []
    if crew.execution_mode is ExecutionMode.SEQUENTIAL:
        wanted = set(ancestors(planned)[step.name])
    else:
        wanted = set(step.after)
    wanted.update(cited)
    return [s.name for s in planned if s.name in wanted]


def outcome(steps_now: Iterable[StepStatus], *, cancelling: bool = False) -> RunState:
    """Returns the final state of a run that has nothing left to do. `cancelling`: somebody cancelled it before. The
    scripts decide by the same rule."""
    listed = list(steps_now)
    if all(s.status is TaskState.COMPLETED for s in listed):
        return RunState.COMPLETED
    if cancelling:
        return RunState.CANCELLED
    depended_on = {name for s in listed for name in s.after}
    if any(s.status is TaskState.COMPLETED and s.name not in depended_on for s in listed):
        return RunState.PARTIAL
    return RunState.FAILED


def output(steps_now: Iterable[StepStatus], outputs: Mapping[str, Any]) -> Any:
    """A run's output: the last step's; a mapping where there are several last steps; None where none completed."""
    listed = list(steps_now)
    depended_on = {name for s in listed for name in s.after}
    last = [s.name for s in listed if s.name not in depended_on]
    if len(last) == 1:
        return outputs.get(last[0])
    done = {name: outputs[name] for name in last if name in outputs}
    return done or None
