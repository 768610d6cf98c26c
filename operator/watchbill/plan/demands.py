"""The demands of a crew on an agent's output: a field that is true or false, by which a loop ends, and lists
that have a step for each item. Pure.

A model is told so while it can correct its answer. One that ends its step is stored, and nobody asks for it again.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from watchbill.api.modes import ITEMS_MAX
from watchbill.plan import flow, prompts, values


@dataclass(frozen=True, slots=True)
class Demands:
    """The demands on one agent's output."""

    agent: str
    truth: str = ""
    """The path of a field that must be true or false; empty: of none."""
    lists: tuple[str, ...] = ()
    """The paths of fields that must be lists; an empty one: the whole output."""

    def check(self, output: Any) -> None:
        """Raises values.Unusable for an output that lacks it."""
        whose = repr(self.agent)
        if self.truth:
            values.truth(output, self.truth, whose)
        for path in self.lists:
            what = f"field {path!r} of the output of {whose}" if path else f"the output of {whose}"
            values.items(values.field(output, path, whose), what, ITEMS_MAX)


@functools.lru_cache(16)
def of(plan: flow.Plan) -> Mapping[str, Demands]:
    """Agent → what is demanded of its output; without those of which nothing is. No list is demanded for an agent that
    may do without: it may be skipped by its condition, the run goes on behind its failure, or it stands before the
    source in a loop, whose last iteration it never reads."""
    crew, lists = plan.crew, defaultdict[str, list[str]](list)
    order = [agent.agent_id for agent in crew.agents]
    for place, agent in enumerate(crew.agents):
        kind, name = prompts.list_of(agent.for_each or "")
        source, path = prompts.resolve(name, plan.ids) if kind == "steps" else ("", "")
        if not source or agent.when is not None or flow.is_lenient(crew, agent):
            continue
        if crew.loop is None or place > order.index(plan.ids[source]):
            lists[plan.ids[source]].append(path)
    until = crew.loop.until if crew.loop else None
    truths = {plan.ids[until.agent]: until.field} if until and until.agent and until.field else {}
    return {agent: Demands(agent, truths.get(agent, ""), tuple(lists.get(agent, ()))) for agent in {**lists, **truths}}
