"""Hierarchies: the steps that a manager begins, what these are asked, and what a review decides. Pure.

A step that delegates begins with its first line whenever one of those that it waits for has ended. So the names of the
steps that it begins come from the order of its calls, and are the same each time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from watchbill.api.hierarchy import Hierarchy
from watchbill.errors import InvalidInput, Problem
from watchbill.names import DELEGATED
from watchbill.records import AgentDefinition, CrewDefinition

_VERDICT: Final = '{"approved": true or false, "reasons": "what must change, if it is rejected"}'
VERDICT_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "The verdict of a review.",
    "properties": {
        "approved": {"type": "boolean", "description": "Whether the work is done well."},
        "reasons": {"description": "What must change, as text, if the work is rejected."},
    },
    "required": ["approved"],
}
"""The form in which a model is asked for a verdict. Reasons for an approval may be of any type: nobody reads them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The request to a delegated step, beside what its crew says."""

    prompt: str
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Agent → the step whose output is given with it."""
    reviews: str = ""
    """The agent whose work is reviewed; empty: it is no review."""

    def pack(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def unpack(cls, text: str) -> Asked:
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Delegated:
    """A step that another one begins."""

    name: str
    agent: str
    asked: Asked
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of a review."""

    approved: bool
    reasons: str = ""


def of_run(crew: CrewDefinition, step: str | None) -> Hierarchy | None:
    """Returns the hierarchy that binds a step; None: it is in none, or no step of a run."""
    return crew.hierarchy if step is not None else None


def is_delegated(crew: CrewDefinition, step: str | None) -> bool:
    """Returns whether another step has begun this one."""
    return of_run(crew, step) is not None and step is not None and DELEGATED in step


def depth(step: str) -> int:
    """The levels of delegation above a step; 0: the manager's own."""
    return sum(part.isdecimal() for part in step.split(DELEGATED)[1:])


def work_step(parent: str, item: int, number: int) -> str:
    """The name of the step that works on an item in round `number`."""
    return f"{parent}{DELEGATED}{item}" + (f"{DELEGATED}work{number}" if number > 1 else "")


def review_step(parent: str, item: int, number: int) -> str:
    """The name of the step that reviews an item in round `number`."""
    return f"{parent}{DELEGATED}{item}{DELEGATED}review{number if number > 1 else ''}"


def members(crew: CrewDefinition) -> list[str]:
    """The agents to which may be delegated."""
    known, above = crew.agent_ids(), crew.hierarchy
    heads = {known[name] for name in (above.manager, above.reviewer) if name} if above else set()
    return [agent.agent_id for agent in crew.agents if agent.agent_id not in heads]


def member(crew: CrewDefinition, by: str, name: str) -> AgentDefinition:
    """Returns the agent to which the agent `by` delegates. Raises InvalidInput for one that is no member."""
    found, there = crew.agent(name), [one for one in members(crew) if one != by]
    if found is None or found.agent_id not in there:
        fix = f"Name a member of crew {crew.name!r}: {', '.join(there) or 'there is none'}."
        raise InvalidInput(Problem(f"nothing can be delegated to {name!r}", fix, path="agent"))
    return found


def check_item(by: str, step: str, item: int, above: Hierarchy) -> None:
    """Raises InvalidInput if that step of agent `by` may not delegate its `item`th item."""
    if depth(step) >= above.max_depth:
        reason = f"agent {by!r} may not delegate: {above.max_depth} level(s) of delegation are allowed"
        raise InvalidInput(Problem(reason, "Raise hierarchy.maxDepth, or have it do the work.", path="maxDepth"))
    if item > above.max_items:
        reason = f"agent {by!r} has delegated {above.max_items} items, and may not delegate another"
        raise InvalidInput(Problem(reason, "Raise hierarchy.maxItems, or make larger items.", path="maxItems"))


def again(prompt: str, reasons: str) -> str:
    """The prompt of an item that was rejected."""
    return (
        f"{prompt}\n\nYour last result, which follows, was rejected. Do the work again, and see to this:\n\n{reasons}"
    )


def review(prompt: str, agent: str) -> str:
    """The prompt of a review. The output that it is about follows as that of an earlier step."""
    return (
        f"Review what {agent} returned, which follows. It was asked:\n\n{prompt}\n\n"
        f"Decide whether that is done well. Answer with JSON and nothing else: {_VERDICT}"
    )


def verdict(output: Any) -> Verdict:
    """Returns the verdict that a reviewer returned. Raises ValueError, which says what is wrong, for anything else: no
    word in a text counts as one."""
    if isinstance(output, str):
        try:
            output = json.loads(output)
        except ValueError:
            output = None
    approved = output.get("approved") if isinstance(output, Mapping) else None
    if not isinstance(approved, bool):
        raise ValueError(f"a reviewer must return its verdict, and returned something else. Return {_VERDICT}")
    reasons = output.get("reasons") or ""
    if not approved and not (isinstance(reasons, str) and reasons.strip()):
        raise ValueError("a reviewer has rejected work without a reason. Return reasons, as text, beside approved")
    return Verdict(approved, reasons if isinstance(reasons, str) else "")
