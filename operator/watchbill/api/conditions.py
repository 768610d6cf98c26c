"""The conditions that a resource's status may carry, and their reasons. Pure.

As Kubernetes tools expect them: `Ready` sums up; the others are there only while they are true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import Field

from watchbill.api.meta import Strict

MESSAGE_MAX: Final = 32768

NO_STATUS: Final[dict[str, Any]] = {"default": {"observedGeneration": -1}}
"""A resource's status until the operator writes one, so that tools that wait do not take the resource for done."""


class ConditionType(StrEnum):
    """The type of a condition of a resource."""

    READY = "Ready"
    """The crew takes work, or the heartbeat will fire. The summary of all others."""
    RECONCILING = "Reconciling"
    """The resource has changed, and the cluster has not followed yet. No action is needed."""
    STALLED = "Stalled"
    """Nothing will go on until somebody changes something: the message says what."""
    SUSPENDED = "Suspended"
    """No task of the crew begins, as its spec says. The store knows: no worker has claimed any since."""
    BUDGET_EXHAUSTED = "BudgetExhausted"
    """A budget of the crew had no room for the last request to a model. Tasks that ask no model go on."""
    PAUSED = "Paused"
    """An annotation tells the operator to leave the crew alone. All other conditions are as they were before."""


class Reason(StrEnum):
    """The reason for the value of a condition."""

    AVAILABLE = "Available"
    """Ready: all is in place."""
    AGENTS_UNCHECKED = "AgentsUnchecked"
    """Ready: the crew takes work, and no worker has loaded all of its agents yet: there was none since the crew was
    made or changed, or it could not, and its log says why. Clears by itself when one has. Once a task waits for an
    agent that can't be loaded, the reason is AgentUnavailable."""
    STORE_EVICTS = "StoreEvicts"
    """Ready: the crew takes work, and may lose it, because the store's maxmemory-policy is another than noeviction: it
    deletes keys once its memory is full. The message says what to set. Clears within five minutes of that."""
    SUSPENDED = "Suspended"
    """Ready, Suspended: the spec has suspend: true. Tasks are taken, and none begins."""
    BUDGET_EXHAUSTED = "BudgetExhausted"
    """BudgetExhausted: the message names the budgets, until when they have no room, and the fate of their tasks. Clears
    by itself when the next window begins, when the budget is raised, or when a smaller request finds room."""
    CONFIG_OUTDATED = "ConfigOutdated"
    """Ready: the crew takes work; a Secret or ConfigMap has changed since its workers started, and they stay because
    workers.rolloutOnChange is false. The message names it, and says how to replace them."""
    PROGRESSING = "Progressing"
    """Reconciling, not Ready: the latest change is being put into effect."""
    ANNOTATED = "Annotated"
    """Paused: the Crew has the annotation watchbill.dev/paused with the value true."""
    FLOW_CYCLE = "FlowCycle"
    """Stalled: the flow relations of a crew go in a circle, so no step could ever start. The message names it."""
    AGENT_UNAVAILABLE = "AgentUnavailable"
    """Stalled: the class or a tool of an agent can't be loaded by the workers. The message names the agents whose tasks
    wait. Clears by itself when a worker comes that has them. Of a heartbeat: its crew has no agent of its name, or of
    its role."""
    INVALID_SCHEDULE = "InvalidSchedule"
    """Stalled: a heartbeat's cron expression or time zone is not one, or its schedule never comes."""
    INVALID_SPEC = "InvalidSpec"
    """Stalled: the spec says something that can't be; the message says what."""
    INVALID_PROMPT = "InvalidPrompt"
    """Stalled: the prompt, condition or list of an agent cites a step that isn't there, or that doesn't run before it;
    or one of these, or the end of a loop, cites a field that the step's `outputSchema` doesn't declare."""
    OWNER_CONFLICT = "OwnerConflict"
    """Stalled: the store has a crew of this name that another operator manages, in this cluster or in another that uses
    the same Redis, or that was stored by hand. Nothing of it is touched, and no worker is started. Clears by itself
    when the other lets go of it."""
    WORKERS_UNAVAILABLE = "WorkersUnavailable"
    """Stalled: workers are wanted, but their pods can't be made (a quota, Pod Security) or none of them becomes ready;
    the message is the Deployment's. Clears by itself when they do."""
    REDIS_SECRET_MISSING = "RedisSecretMissing"  # noqa: S105 - a reason
    """Stalled: the Secret with the store's URL isn't in the crew's namespace."""
    REFERENCE_MISSING = "ReferenceMissing"
    """Stalled: a Secret or ConfigMap that the workers' template refers to, and that is not optional, isn't in the
    crew's namespace. Workers that run go on, and none can start. Clears by itself when it is there."""
    REDIS_USER_REFUSED = "RedisUserRefused"
    """Stalled: the operator makes a user in the store for each crew, and can't make this crew's: the store doesn't let
    it, or the Secret for it is somebody else's. The message says which. Tried again by itself."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    """Stalled: the quota of the namespace has no room for the crew; the message has the figures and the setting. The
    crew takes no work and has no workers, and keeps what was queued. Clears by itself as soon as there is room."""
    TEMPLATE_INVALID = "TemplateInvalid"
    """Stalled: the API server refuses the workers' Deployment; the message is its own. Tried again when the spec
    changes; until then workers of the revision before go on, and are scaled."""
    FORBIDDEN = "Forbidden"
    """Stalled: the API server forbids the operator what the crew needs (a right, a quota). Tried again by itself, at
    most a minute apart."""
    STORE_UNAVAILABLE = "StoreUnavailable"
    """Not Ready: Redis doesn't answer the operator, for ten seconds or longer. Workers are held as they are; it goes on
    by itself."""
    CREW_NOT_FOUND = "CrewNotFound"
    """Stalled: there is no crew of the name that a heartbeat refers to."""
    CREW_NOT_STORED = "CrewNotStored"
    """Stalled: the crew that a heartbeat refers to was never taken up; the crew's own conditions say why."""


Said = tuple[ConditionType, bool, Reason, str]
"""One condition: whether it is so, why, and why in words."""


def stated(
    said: Sequence[Said], before: Sequence[Mapping[str, Any]], *, generation: int, now: datetime
) -> list[dict[str, Any]]:
    """Conditions as a status has them. `before`: those that are there, whose times stay while their values do."""
    known = {c["type"]: c for c in before}
    conditions = []
    for kind, value, reason, message in said:
        last, status = known.get(kind.value), "True" if value else "False"
        conditions.append(
            {
                "type": kind.value,
                "status": status,
                "reason": reason.value,
                "message": message[:MESSAGE_MAX],
                "lastTransitionTime": last["lastTransitionTime"] if last and last["status"] == status else stamp(now),
                "observedGeneration": generation,
            }
        )
    return conditions


def stamp(moment: datetime) -> str:
    """A time as the API server keeps it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Condition(Strict):
    """One observation about a resource (Kubernetes' metav1.Condition)."""

    type: str = Field(
        description="What is said: Ready, Reconciling, Stalled, Suspended, BudgetExhausted or Paused.",
        max_length=316,
        pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$",
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it is so.")
    observed_generation: int | None = Field(
        default=None, ge=0, description="The metadata.generation that this was observed of."
    )
    last_transition_time: datetime = Field(description="When the status last changed.")
    reason: str = Field(
        description="Why, in one CamelCase word.",
        min_length=1,
        max_length=1024,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
    )
    message: str = Field(description="Why, in words for people.", max_length=MESSAGE_MAX)
