"""The watches of a crew: events of its own feed that begin work. Pure.

A rule that joins several fields stands twice, as in crew.py: for Python, and for the API server (CEL).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from watchbill.api.meta import (
    AGENT_NAME_HINT,
    SET,
    AgentName,
    InputTexts,
    ResourceName,
    RoleName,
    Strict,
    by_key,
    misnamed,
    once,
)
from watchbill.api.problems import Finding, raise_findings

WATCHES_MAX: Final = 20
PROMPT_MAX_CHARS: Final = 32_768
"""In UTF-8 half of what a task's prompt may have at most: the other half is for the texts of the event."""

OF_RUN: Final = "mission_state_changed"
Watched = Literal[
    "task_assigned",
    "task_completed",
    "task_failed",
    "task_cancelled",
    "agent_interrupted",
    "agent_resumed",
    "agent_completed",
    "agent_failed",
    "mission_state_changed",
    "mission_work_promoted",
    "mission_work_assigned",
    "mission_work_completed",
    "mission_work_blocked",
    "mission_help_needed",
    "task_delegated",
    "reviewer_handoff",
    "reviewer_approval",
    "conductor_escalation",
]
"""The types of events that name a task or run. Of others nobody could tell whether a watch has begun what caused them,
so that watches could go round in a circle. mission_watch_triggered and mission_event are what watches tell themselves;
a test holds this together with EventType."""
State = Literal["running", "cancelling", "completed", "partial", "failed", "cancelled"]


class Watch(Strict):
    """Events of the crew's feed, and the work that each of them begins."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": f"!has(self.states) || size(self.states) == 0 || '{OF_RUN}' in self.events",
                    "message": f"states are those of runs. Add {OF_RUN} to events, or remove states",
                    "fieldPath": ".states",
                },
                {
                    "rule": f"!has(self.ofAgent) || !('{OF_RUN}' in self.events)",
                    "message": f"the state of a run is no agent's. Remove {OF_RUN} from events, or remove ofAgent",
                    "fieldPath": ".ofAgent",
                },
                {
                    "rule": "!has(self.agent) || !has(self.role)",
                    "message": "agent and role are both given. Remove one of the two",
                    "fieldPath": ".role",
                },
            ]
        }
    )

    name: ResourceName = Field(description="Name of the watch, unique in the crew.")
    events: Annotated[list[Watched], AfterValidator(once)] = Field(
        min_length=1, max_length=len(get_args(Watched)), description="Types of the events.", json_schema_extra=SET
    )
    states: Annotated[list[State], AfterValidator(once)] = Field(
        default_factory=list,
        max_length=len(get_args(State)),
        description="New states of the run, of mission_state_changed. Default: each.",
        json_schema_extra=SET,
    )
    of_agent: Annotated[AgentName | None, AGENT_NAME_HINT] = Field(
        default=None, description="Agent whose events they are. Default: any."
    )
    of_heartbeat: ResourceName | None = Field(
        default=None, description="Heartbeat that has fired the task or run of which they tell. Default: none, or any."
    )
    agent: Annotated[AgentName | None, AGENT_NAME_HINT] = Field(
        default=None, description="Agent that does the work. Default: the whole crew runs."
    )
    role: Annotated[RoleName | None, AGENT_NAME_HINT] = Field(
        default=None, description="Role of which any agent that has room does the work, in place of one agent."
    )
    prompt: str = Field(
        default="",
        max_length=PROMPT_MAX_CHARS,
        description="What is asked. May cite the event: {event.task_id}, {event.mission_id}, {event.agent_id}, "
        "{event.message}, {event.new_state} and so on; what the event doesn't have is empty.",
    )
    inputs: InputTexts = Field(
        default_factory=dict,
        description="Texts by name, as a submission gives them. They may cite the event as prompt does.",
    )
    priority: Literal["CRITICAL", "HIGH", "NORMAL", "LOW", "BACKGROUND"] = Field(
        default="NORMAL", description="Urgency of the work; more urgent work starts first."
    )

    @model_validator(mode="after")
    def _sound(self) -> Watch:
        raise_findings(type(self), self._broken_rules())
        return self

    def _broken_rules(self) -> Iterator[Finding]:
        if self.states and OF_RUN not in self.events:
            yield Finding(("states",), "states are those of runs", f"Add {OF_RUN} to events, or remove states.")
        if self.of_agent is not None and OF_RUN in self.events:
            fix = f"Remove {OF_RUN} from events, or remove ofAgent."
            yield Finding(("ofAgent",), "the state of a run is no agent's", fix)
        if self.agent is not None and self.role is not None:
            yield Finding(("role",), "agent and role are both given", "Remove one of the two.")
        yield from misnamed(self.inputs)


Watches = Annotated[
    list[Watch],
    Field(
        max_length=WATCHES_MAX,
        description="Events of the crew's feed that begin work of the crew.",
        json_schema_extra=by_key("name"),
    ),
]

RULES: Final[list[dict[str, Any]]] = [
    {
        "rule": "!has(self.watches) || [self.agents.map(a, a.name)].all(names, self.watches.all(w, "
        "(!has(w.agent) || w.agent in names) && (!has(w.ofAgent) || w.ofAgent in names)))",
        "message": "a watch names an agent that is not in this crew. Add it to agents, or name one that is there",
        "fieldPath": ".watches",
    },
    {
        "rule": "!has(self.watches) || self.watches.all(w, !has(w.role) || self.agents.exists(a, has(a.roles) "
        "&& w.role in a.roles))",
        "message": "a watch names a role that no agent of this crew has. Give it to one, or name another",
        "fieldPath": ".watches",
    },
]
"""CEL: the rules of `broken_rules` for the spec of a crew. The API server itself refuses names that stand twice."""


def broken_rules(watches: Sequence[Watch], agents: Sequence[str], roles: Collection[str]) -> Iterator[Finding]:
    """Findings of what a crew's watches say beside its agents and their roles."""
    first: dict[str, int] = {}
    for i, watch in enumerate(watches):
        if watch.name in first:
            reason = f"{watch.name!r} stands twice: watches[{first[watch.name]}] and watches[{i}]"
            yield Finding(("watches", i, "name"), reason, "Remove one of the two, or name it otherwise.")
        first.setdefault(watch.name, i)
        for field, name in (("agent", watch.agent), ("ofAgent", watch.of_agent)):
            if name is not None and name not in agents:
                fix = f"Add it to agents, or name one that is there: {', '.join(agents)}."
                yield Finding(("watches", i, field), f"no agent of this crew is called {name!r}", fix)
        if watch.role is not None and watch.role not in roles:
            known = f", or name one that is there: {', '.join(sorted(roles))}" if roles else ""
            fix = f"Give it to an agent (agents[].roles){known}."
            yield Finding(("watches", i, "role"), f"no agent of this crew has the role {watch.role!r}", fix)


def stray(watches: Sequence[Watch], roles: Collection[str]) -> str:
    """Returns what is wrong with the roles that watches name; empty: each is an agent's."""
    found = next((watch.role for watch in watches if watch.role is not None and watch.role not in roles), None)
    return f"watches cites the role {found!r}, which no agent has. Give it to an agent" if found else ""
