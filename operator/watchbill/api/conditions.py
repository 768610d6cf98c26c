"""The conditions that a resource's status may carry, and their reasons. Pure.

As Kubernetes tools expect them: `Ready` sums up; `Reconciling` and `Stalled` are there only while they are true.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from watchbill.api.meta import Strict


class ConditionType(StrEnum):
    """What is said about a resource."""

    READY = "Ready"
    """The crew takes work, or the heartbeat will fire. The summary of all others."""
    RECONCILING = "Reconciling"
    """What is wanted has changed, and what is there has not followed yet. No action is needed."""
    STALLED = "Stalled"
    """Nothing will go on until somebody changes something: the message says what."""


class Reason(StrEnum):
    """Why a condition has its value."""

    AVAILABLE = "Available"
    """Ready: all is in place."""
    PROGRESSING = "Progressing"
    """Reconciling, not Ready: the latest change is being put into effect."""
    FLOW_CYCLE = "FlowCycle"
    """Stalled: the flow relations of a crew go in a circle, so no step could ever start. The message names it."""
    AGENT_UNAVAILABLE = "AgentUnavailable"
    """Stalled: the class or a tool of an agent can't be loaded by the workers."""
    INVALID_SCHEDULE = "InvalidSchedule"
    """Stalled: a heartbeat's cron expression or time zone is not one, or its schedule never comes."""
    INVALID_SPEC = "InvalidSpec"
    """Stalled: the spec says something that can't be; the message says what."""
    REDIS_SECRET_MISSING = "RedisSecretMissing"  # noqa: S105 - a reason
    """Stalled: the Secret with the store's URL isn't in the crew's namespace."""
    TEMPLATE_INVALID = "TemplateInvalid"
    """Stalled: the API server refuses the workers' Deployment; the message is its own. Tried again when the spec
    changes."""
    FORBIDDEN = "Forbidden"
    """Stalled: the API server forbids the operator what the crew needs (a right, a quota). Tried again by itself."""
    STORE_UNAVAILABLE = "StoreUnavailable"
    """Not Ready: Redis doesn't answer the operator. Workers are held as they are; it goes on by itself."""
    CREW_NOT_FOUND = "CrewNotFound"
    """Stalled: there is no crew of the name that a heartbeat refers to."""


class Condition(Strict):
    """One observation about a resource (Kubernetes' metav1.Condition)."""

    type: str = Field(
        description="What is said: Ready, Reconciling or Stalled.",
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
    message: str = Field(description="Why, in words for people.", max_length=32768)
