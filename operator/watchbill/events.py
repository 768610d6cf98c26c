"""Lifecycle events (seed 004): what happened, and which streams tell of it. Pure.

The events are written by the same script that makes the change, so that feed and state cannot disagree
(store/scripts/lib_events.lua builds them); this module holds their shape and the bounds of the streams.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

CREW_STREAM_MAX: Final = 1000
AGENT_STREAM_MAX: Final = 100
RUN_STREAM_MAX: Final = 500
RETENTION_SECONDS: Final = 86_400
"""A stream goes this long after its last event."""


class EventType(StrEnum):
    """What happened. A mission is a run, as in the system these events come from."""

    AGENT_STATE_CHANGED = "agent_state_changed"
    TASK_ASSIGNED = "task_assigned"
    TASK_COMPLETED = "task_completed"
    TASK_FAILED = "task_failed"
    TASK_CANCELLED = "task_cancelled"
    AGENT_INTERRUPTED = "agent_interrupted"
    AGENT_RESUMED = "agent_resumed"
    MISSION_STATE_CHANGED = "mission_state_changed"
    MISSION_EVENT = "mission_event"
    """Said by an agent with `context.emit`, by the scheduler of a missed slot, of a task that is tried again, or of a
    store that has lost all it had."""
    WORKER_LOST = "worker_lost"
    """A worker's lease ran out: what it held is given to others."""


class CrewEvent(BaseModel):
    """One event. Fields that don't apply are None and are left out of the stream's JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    event_type: EventType
    timestamp: datetime
    message: str = ""
    agent_id: str | None = None
    task_id: str | None = None
    mission_id: str | None = None
    old_state: str | None = None
    new_state: str | None = None
    parent_agent_id: str | None = None
    child_agent_id: str | None = None


class Gap(BaseModel):
    """Told to a follower: events may be missing here. It was slower than the stream is long, or the stream was lost."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    after_id: str
    """The last event the follower has seen."""
