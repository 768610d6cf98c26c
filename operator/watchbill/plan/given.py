"""Tells what a step of a run is given of the steps before it. Pure.

The worker reads it, unless the entry of the step carries it: whoever submits a run tells for which steps that may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from watchbill.plan import flow, prompts
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode

CARRIED_MOST: Final = 16
"""The most steps whose outputs an entry carries."""


def reads(plan: flow.Plan, agent: AgentDefinition, kind: flow.Kind) -> list[str]:
    """The agents whose outputs steps of this kind are given."""
    if kind == "each":
        named, name = prompts.list_of(agent.for_each or "")
        source = prompts.resolve(name, plan.ids)[0] if named == "steps" else ""
        return [plan.ids[source]] if source else []
    return plan.reads(agent.agent_id, kind, prompts.cited(agent.prompt, plan.ids)) if kind != "list" else []


def wanted(plan: flow.Plan, agent: AgentDefinition, kind: flow.Kind) -> list[str]:
    """The agents whose outputs must be known before steps of this kind begin: also the one that its condition is
    about."""
    names = dict.fromkeys(reads(plan, agent, kind))
    if agent.when is not None and kind != "item" and (about := plan.ids.get(agent.when.step)):
        names[about] = None
    return list(names)


def steps(crew: CrewDefinition, planned: tuple[flow.Step, ...] | None = None) -> tuple[flow.Step, ...]:
    """The steps with which a run of this crew begins, and what each reads, unless that is nothing, or more than an
    entry carries. `planned`: the steps without that, if they are known. Raises InvalidInput for a crew that can't be
    run."""
    if planned is None:
        planned = flow.steps(crew)
    if not any(step.after for step in planned):
        return planned
    # In a chain each is given all that came before it, so those further behind read too much.
    is_flow = crew.execution_mode is ExecutionMode.FLOW
    most = len(planned) if is_flow else 2 * CARRIED_MOST
    rank = {step.name: i for i, step in enumerate(planned)}
    plain = {agent.agent_id for agent in crew.agents if is_flow and _is_plain(agent)}
    # Of ten thousand agents it takes as long as the steps did, and few flows need it.
    plan = None if all(step.agent in plain for step in planned if step.after) else flow.Plan(crew)

    def reading(step: flow.Step) -> flow.Step:
        if plan is None or step.agent in plain:
            read = _right_before(step, rank)
        else:
            read = _worked_out(plan, step)
        return replace(step, reads=read) if 0 < len(read) <= CARRIED_MOST else step

    return tuple(reading(step) if step.after and i < most else step for i, step in enumerate(planned))


def _is_plain(agent: AgentDefinition) -> bool:
    """Returns whether a step of this agent reads, in a flow, what the steps right before it told, and nothing else."""
    return agent.when is None and not agent.for_each and "{" not in (agent.prompt or "")


def _right_before(step: flow.Step, rank: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(sorted(step.after, key=rank.__getitem__)) if len(step.after) <= CARRIED_MOST else ()


def _worked_out(plan: flow.Plan, step: flow.Step) -> tuple[str, ...]:
    at = plan.place(step.agent, step.name)
    agent = plan.member(step.agent) or AgentDefinition(agent_id=step.agent)
    return tuple(plan.sources(agent.agent_id, at, wanted(plan, agent, at.kind)).values())
