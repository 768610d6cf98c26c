"""Reads what a step of a run is given of the steps before it, and tells whether it runs at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from watchbill.connection import outages
from watchbill.connection.gathering import GatheredReads
from watchbill.names import CrewKeys
from watchbill.plan import flow, prompts, values
from watchbill.store import packed, run_steps, runs
from watchbill.store.queue import Claimed
from watchbill.worker.execution.attempt import Role
from watchbill.worker.execution.reading import NOTHING, Read


def at_hand(task: Claimed, role: Role, at: flow.Place) -> Read | None:
    """Returns what a task needs, if it needs nothing, or its entry carries all of it; None: it must be read."""
    return None if _inputs(task, role, at) else _carried(task, role, at)


def _carried(task: Claimed, role: Role, at: flow.Place) -> Read | None:
    """The outputs and the item that a task needs, from its entry; None: they must be read."""
    is_item = at.kind == "item"
    if task.run_id is None or not (role.wanted or is_item):
        return NOTHING
    if not task.given or at.kind == "synthesis":
        return None
    steps = role.plan.sources(role.agent.agent_id, at, role.wanted)
    try:
        given = packed.given(task.given)
        outputs = {agent: runs.completed(given[step]) for agent, step in steps.items()}
        return Read(outputs=outputs, item=json.loads(given[""]) if is_item else values.MISSING)
    except (KeyError, ValueError, TypeError, RecursionError):  # the reader tells what is wrong
        return None


async def read(reads: GatheredReads, keys: CrewKeys, task: Claimed, role: Role, at: flow.Place) -> Read:
    """Reads what a task needs. Raises NotFound for an output that can't be read."""
    inputs: Mapping[str, str] = {}
    outputs: dict[str, Any] = {}
    item: Any = values.MISSING
    kept: frozenset[str] = frozenset()
    run_id, plan = task.run_id, role.plan
    if names := _inputs(task, role, at):
        inputs = await outages.persist(lambda: runs.inputs(reads, keys, task.id, names))
        if carried := _carried(task, role, at):
            return replace(carried, inputs=inputs)
    if run_id is not None and role.wanted:
        if at.kind == "synthesis":
            steps, kept = await outages.persist(lambda: run_steps.last_steps(reads.client, keys, run_id, plan))
        else:
            steps = plan.sources(role.agent.agent_id, at, role.wanted)
        found = await outages.persist(lambda: runs.outputs(reads, keys, run_id, list(steps.values())))
        outputs = {agent: found[step] for agent, step in steps.items() if step in found}
    if run_id is not None and at.kind == "item":
        item = await outages.persist(lambda: run_steps.item(reads, keys, run_id, task.step or ""))
    return Read(inputs, outputs, item, kept=kept)


def _inputs(task: Claimed, role: Role, at: flow.Place) -> Sequence[str]:
    """The inputs that are read. A step for an item gets those that it cites: the list may be one of them. So does one
    whose class looks at no others. One that gathers outputs needs none."""
    if at.kind == "list":
        return ()
    is_content = at.kind != "each" and role.agent.agent_class in prompts.READS_ITS_PROMPT_ONLY
    if at.kind == "item" or is_content:
        return [name for name in task.inputs if name in role.inputs]
    return task.inputs


def passed_over(role: Role, at: flow.Place, read: Read) -> str:
    """Returns why a step of a run is passed over; empty if it runs. Raises values.Unusable for a condition that can't
    be judged."""
    when = role.when
    if when is None:
        return ""
    step = role.plan.ids[when.step]
    if values.holds(when, output := read.outputs.get(step, values.MISSING)):
        return ""
    if when.exists is None and output is values.MISSING:
        became = "the loop has not come to yet" if _is_later(role, at, step) else "was skipped"
        return f"skipped: its condition is about {when.step}, which {became}"
    what = f"{when.step}.{when.field}" if when.field else when.step
    ((name, value),) = ((name, value) for name, value in when.comparisons().items() if value is not None)
    asked = f"{name} {repr(value)[:100]}"
    return f"skipped: its condition does not hold ({what} {asked})"


def _is_later(role: Role, at: flow.Place, agent: str) -> bool:
    """Returns whether a loop comes to that agent later, and for the first time."""
    return at.iteration == 1 and not role.plan.sources(role.agent.agent_id, at, [agent])


def named(
    role: Role, run_id: str | None, outputs: Mapping[str, Any], kept: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The outputs by every name that a template may cite. That of a step that was skipped, or that a loop has not come
    to yet, is missing. Raises values.Unusable for one that a failure `kept` from beginning, and for a task that belongs
    to no run, which has none to cite: its crew was given another prompt meanwhile."""
    if lost := next((agent for agent in role.cites if agent in kept), None):
        why = "whose last step never began: something failed before it"
        raise values.Unusable(f"its prompt cites the output of {lost!r}, {why}")
    if role.cites and run_id is None:
        cited = role.cites[0]
        raise values.Unusable(f"its prompt cites the output of {cited!r}, which exists only in a run of the crew")
    found = {agent: outputs.get(agent, values.MISSING) for agent in role.cites}
    members = (role.plan.member(agent) for agent in list(found))
    return found | {one.effective_name: found[one.agent_id] for one in members if one is not None}
