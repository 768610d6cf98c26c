"""Events (seed 004): their types, what an event holds, and how long the streams are that tell of it. No I/O.

What changes work writes the event of it in the same script, so that feed and state cannot disagree
(store/scripts/lib_events.lua). `watchbill.events` is the public door.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, field_validator

from watchbill.clock import SYSTEM, Clock
from watchbill.errors import InvalidInput, Problem

CREW_STREAM_MAX: Final = 1000
AGENT_STREAM_MAX: Final = 100
RUN_STREAM_MAX: Final = 500
RETENTION_SECONDS: Final = 86_400
"""A crew's stream goes this long after its last event."""


class EventType(StrEnum):
    """The type of an event. A mission is a run, as in the system that these events come from."""

    AGENT_STATE_CHANGED = "agent_state_changed"
    AGENT_SPAWNED = "agent_spawned"
    AGENT_STOPPED = "agent_stopped"
    TASK_ASSIGNED = "task_assigned"
    TASK_COMPLETED = "task_completed"
    TASK_FAILED = "task_failed"
    TASK_CANCELLED = "task_cancelled"
    MISSION_STATE_CHANGED = "mission_state_changed"
    MISSION_WORK_PROMOTED = "mission_work_promoted"
    MISSION_WORK_ASSIGNED = "mission_work_assigned"
    MISSION_WORK_COMPLETED = "mission_work_completed"
    MISSION_WORK_BLOCKED = "mission_work_blocked"
    MISSION_HELP_NEEDED = "mission_help_needed"
    MISSION_WATCH_TRIGGERED = "mission_watch_triggered"
    MISSION_EVENT = "mission_event"
    """Said by an agent with `context.emit`, by the scheduler of a missed slot, of a task that is tried again, or of a
    store that has lost all it had."""
    TASK_DELEGATED = "task_delegated"
    AGENT_INTERRUPTED = "agent_interrupted"
    AGENT_RESUMED = "agent_resumed"
    AGENT_COMPLETED = "agent_completed"
    AGENT_FAILED = "agent_failed"
    REVIEWER_HANDOFF = "reviewer_handoff"
    REVIEWER_APPROVAL = "reviewer_approval"
    CONDUCTOR_ESCALATION = "conductor_escalation"
    WORKER_LOST = "worker_lost"
    """A worker's lease ran out: what it held is given to others."""


class SpawnMode(StrEnum):
    """The knowledge that a new agent has of the one that began it."""

    FRESH = "fresh"
    """Nothing but its own prompt."""
    FORKED_CONTEXT = "forked_context"
    """A copy of the other's context."""
    RESUMED = "resumed"
    """The agent's own knowledge when it last ended."""


class TownEvent(BaseModel):
    """One event. Fields that don't apply are None, and are left out of the JSON on the streams.

    Each builder returns a copy and raises InvalidInput for a value that can't be used:

        TownEvent.new("task_delegated", "the sources").with_agent("lead").with_child_agent("researcher")
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    event_type: EventType
    agent_id: str | None = None
    task_id: str | None = None
    mission_id: str | None = None
    """Id of the run."""
    old_state: str | None = None
    new_state: str | None = None
    message: str
    timestamp: datetime
    parent_agent_id: str | None = None
    """The agent that delegated to `agent_id`, or handed over to it."""
    child_agent_id: str | None = None
    """The agent that `agent_id` has delegated to, or handed over to."""
    scope: str | None = None
    """The agent's work, in words for people."""
    spawn_mode: SpawnMode | None = None

    @field_validator("timestamp")
    @classmethod
    def _aware(cls, value: datetime) -> datetime:
        """A time without a zone is UTC."""
        return value if value.tzinfo else value.replace(tzinfo=UTC)

    @classmethod
    def new(cls, event_type: EventType | str, message: str, *, clock: Clock = SYSTEM) -> Self:
        """Returns an event of now. Raises InvalidInput."""
        if not isinstance(message, str):
            raise InvalidInput(Problem(f"{message!r} is no text", "Give a str; it may be empty.", path="message"))
        kind = _chosen(EventType, event_type, "event_type")
        return cls(event_type=kind, message=message, timestamp=clock.now())

    def with_agent(self, agent_id: str) -> Self:
        """Sets the agent that the event is about."""
        return self._with(agent_id=agent_id)

    def with_task(self, task_id: str) -> Self:
        """Sets the task, or the step of a run (`run/step`)."""
        return self._with(task_id=task_id)

    def with_mission(self, mission_id: str) -> Self:
        """Sets the run."""
        return self._with(mission_id=mission_id)

    def with_transition(self, old: str, new: str) -> Self:
        """Sets the state before and the state after."""
        return self._with(old_state=old, new_state=new)

    def with_parent_agent(self, agent_id: str) -> Self:
        """Sets the agent that delegated, or handed over."""
        return self._with(parent_agent_id=agent_id)

    def with_child_agent(self, agent_id: str) -> Self:
        """Sets the agent to which was delegated, or handed over."""
        return self._with(child_agent_id=agent_id)

    def with_scope(self, scope: str) -> Self:
        """Sets what the agent is to do, in words for people."""
        return self._with(scope=scope)

    def with_spawn_mode(self, mode: SpawnMode | str) -> Self:
        """Sets how much the new agent knows of the one that began it."""
        return self.model_copy(update={"spawn_mode": _chosen(SpawnMode, mode, "spawn_mode")})

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents on whose streams the event belongs, each once: its own, the parent, the child."""
        named = (self.agent_id, self.parent_agent_id, self.child_agent_id)
        return tuple(dict.fromkeys(agent for agent in named if agent is not None))

    def _with(self, **values: Any) -> Self:
        problems = [
            Problem(f"{value!r} is no text, or empty", "Give a str with at least one character.", path=name)
            for name, value in values.items()
            if not isinstance(value, str) or not value
        ]
        if problems:
            raise InvalidInput(problems)
        return self.model_copy(update=values)


@dataclass(frozen=True, slots=True)
class Telling:
    """An event that an agent tells while it runs, without what its worker knows: the agent, its task, its run, the
    time."""

    event_type: EventType
    message: str
    parent: str | None = None
    child: str | None = None
    scope: str | None = None
    spawn_mode: SpawnMode | None = None


def _chosen(kind: type[Any], value: object, path: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(member.value for member in kind)
        raise InvalidInput(Problem(f"{value!r} is none that there is", f"Use one of {known}.", path=path)) from None


class Gap(BaseModel):
    """Told to a follower: events may be missing here. It was slower than the stream is long, or the stream was lost."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    after_id: str
    """The last event the follower has seen."""
