"""The hierarchy of a Crew: who delegates work, who reviews it, and the bounds of that. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import Field, PlainSerializer

from watchbill.api.meta import AGENT_NAME_HINT, AgentName, Strict
from watchbill.api.problems import Finding
from watchbill.names import DELEGATED

_MEMBER: Final = (
    "a.name != self.hierarchy.manager && (!has(self.hierarchy.reviewer) || a.name != self.hierarchy.reviewer)"
)

RULES: Final[Sequence[dict[str, Any]]] = (
    {
        "rule": "(self.executionMode == 'hierarchical') == has(self.hierarchy)",
        "message": "executionMode hierarchical and hierarchy need each other. Give both, or neither",
        "fieldPath": ".hierarchy",
    },
    {
        "rule": "!has(self.hierarchy) || self.agents.exists(a, a.name == self.hierarchy.manager)",
        "message": "the manager is no agent of this crew. Add it to agents, or name one that is there",
        "fieldPath": ".hierarchy.manager",
    },
    {
        "rule": "!has(self.hierarchy) || !has(self.hierarchy.reviewer) || self.agents.exists(a, "
        "a.name == self.hierarchy.reviewer && a.name != self.hierarchy.manager)",
        "message": "the reviewer is no agent of this crew, or is its manager. Name another agent, or none",
        "fieldPath": ".hierarchy.reviewer",
    },
    {
        "rule": f"!has(self.hierarchy) || self.agents.exists(a, {_MEMBER})",
        "message": "the manager has nobody to delegate to. Add an agent that is neither manager nor reviewer",
        "fieldPath": ".agents",
    },
)


class Hierarchy(Strict):
    """The manager of a crew, its reviewer, and the bounds of what is delegated."""

    manager: Annotated[AgentName, AGENT_NAME_HINT] = Field(
        description="Name of the agent that is given the prompt, and delegates work to the others. Its output is the "
        "run's."
    )
    reviewer: Annotated[AgentName, AGENT_NAME_HINT] | None = Field(
        default=None,
        description="Name of the agent that approves of each item of work before it counts as done, or rejects it with "
        "reasons. Without it no work is reviewed.",
    )
    max_items: int = Field(
        default=20, ge=1, le=1000, description="Items of work that one step of an agent may delegate."
    )
    max_depth: int = Field(
        default=1,
        ge=1,
        le=5,
        description="Levels of delegation. 1: only the manager delegates; with more, members delegate, too.",
    )
    max_rounds: int = Field(
        default=3, ge=1, le=20, description="Times that an item is worked on, while its reviewer rejects it."
    )


StoredHierarchy = Annotated[
    Hierarchy, PlainSerializer(lambda value: value.model_dump(by_alias=True, exclude_none=True))
]
"""As records keep it."""


def fault(mode: str, hierarchy: Hierarchy | None, known: Mapping[str, str]) -> str:
    """Returns why nobody could delegate in a crew; empty: it has no hierarchy, or one that works. `known`: every name
    of its agents → agent_id."""
    if (mode == "hierarchical") != (hierarchy is not None):
        return "execution_mode hierarchical and hierarchy need each other. Give both, or neither"
    if hierarchy is None:
        return ""
    named = [name for name in (hierarchy.manager, hierarchy.reviewer) if name is not None]
    heads = {known.get(name) for name in named}
    if None in heads or len(heads) < len(named):
        return "manager and reviewer must be two agents of this crew. Name two that are there"
    if not set(known.values()) - heads:
        return "the manager has nobody to delegate to. Add an agent that is neither manager nor reviewer"
    marked = next((name for name in known if DELEGATED in name), "")
    return f"{marked!r} can't be an agent's name here. Use one without {DELEGATED!r}" if marked else ""


def broken_rules(mode: str, hierarchy: Hierarchy | None, agents: Sequence[str]) -> Iterator[Finding]:
    """Findings about a hierarchy that can't work; `RULES` say the same at the API server."""
    if (mode == "hierarchical") != (hierarchy is not None):
        reason = "executionMode hierarchical and hierarchy need each other"
        yield Finding(("hierarchy",), reason, "Give both, or neither.")
    if hierarchy is None:
        return
    fix = f"Add it to agents, or name one that is there: {', '.join(agents)}."
    for field, name in (("manager", hierarchy.manager), ("reviewer", hierarchy.reviewer)):
        if name is not None and name not in agents:
            yield Finding(("hierarchy", field), f"no agent of this crew is called {name!r}", fix)
    if hierarchy.reviewer == hierarchy.manager:
        reason = f"{hierarchy.manager!r} is the manager, and can't review what it delegates"
        yield Finding(("hierarchy", "reviewer"), reason, "Name another agent, or none.")
    if not set(agents) - {hierarchy.manager, hierarchy.reviewer}:
        reason = "the manager has nobody to delegate to"
        yield Finding(("agents",), reason, "Add an agent that is neither manager nor reviewer.")
