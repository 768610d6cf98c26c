"""A table of who emits which type of event, when, and on which streams it is beside the whole crew's. Pure.

docs/reference/events.md is rendered from it, and tests/worker/test_events_provoked.py provokes every type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from watchbill.event_types import EventType


@dataclass(frozen=True, slots=True)
class Cause:
    """A change of which an event tells, which the script that makes the change writes."""

    by: str
    """The parts of the system that make the change."""
    when: str
    streams: tuple[str, ...]
    """The streams where it may be, beside the crew's: some of `agent`, `parent`, `child` and `run`."""


_STEP: Final = ("agent", "run")
"""The streams of a task's event; only a step has a run."""

CAUSES: Final[Mapping[EventType, Cause]] = {
    EventType.AGENT_SPAWNED: Cause(
        "worker",
        "The first worker that has the agent enters. Further workers tell nothing, however many there are. Its "
        "`spawn_mode` is `fresh`.",
        ("agent",),
    ),
    EventType.AGENT_STOPPED: Cause(
        "worker, client",
        "The last worker leaves, or is declared dead. One that has vanished is told when the next worker enters.",
        ("agent",),
    ),
    EventType.AGENT_STATE_CHANGED: Cause(
        "worker",
        "The agent begins a task while it runs no other (`idle` → `working`), or has ended its last (back to `idle`). "
        "Not told of a task that begins and ends within one call.",
        ("agent",),
    ),
    EventType.TASK_ASSIGNED: Cause("worker", "An attempt of a task or step has begun.", _STEP),
    EventType.TASK_COMPLETED: Cause("worker", "A task or step has completed.", _STEP),
    EventType.TASK_FAILED: Cause("worker", "A task or step has failed for good, or is dead.", _STEP),
    EventType.TASK_CANCELLED: Cause("client, worker", "A task or step was cancelled, and has ended.", _STEP),
    EventType.AGENT_INTERRUPTED: Cause("client, worker", "A task or step was set aside.", _STEP),
    EventType.AGENT_RESUMED: Cause(
        "client", "An interrupted task or step goes on, or somebody approved of what it asked, or rejected it.", _STEP
    ),
    EventType.AGENT_COMPLETED: Cause(
        "worker",
        "An agent has completed its step of a run. Not told of a task of its own: `task_completed` says the same, and "
        "with a second event the call that ends brief tasks would take 6% longer.",
        _STEP,
    ),
    EventType.AGENT_FAILED: Cause("worker", "An agent's step of a run has failed for good, or is dead.", _STEP),
    EventType.MISSION_STATE_CHANGED: Cause("client, worker, scheduler", "A run is in another state.", ("run",)),
    EventType.MISSION_WORK_PROMOTED: Cause(
        "worker", "A step is ready, because all steps before it have completed, or was replayed.", ("run",)
    ),
    EventType.MISSION_WORK_ASSIGNED: Cause(
        "worker",
        "An attempt of a step has begun; or a claim has given a task of a role to one of the role's agents.",
        _STEP,
    ),
    EventType.MISSION_WORK_COMPLETED: Cause("worker", "A step has completed.", ("run",)),
    EventType.MISSION_WORK_BLOCKED: Cause(
        "worker",
        "A step can't go on: no worker can run its agent, its requests to models have to wait, or a step "
        "before it has ended without success (told of the first 20 steps right behind that one).",
        _STEP,
    ),
    EventType.MISSION_HELP_NEEDED: Cause(
        "worker, agent, operator",
        "A task or step waits for approval, of its beginning, of what its agent asks (`context.approval`) or of calls "
        "of tools; an agent escalates. Or a step is dead: it has no attempt left, and waits for somebody to replay it. "
        "Or ready work makes no progress, because nobody is at work, or no worker can run its agent: told of the "
        "oldest task or step, 1 minute after that was noticed, 5 and 15 minutes later, and then each hour.",
        _STEP,
    ),
    EventType.MISSION_WATCH_TRIGGERED: Cause(
        "scheduler, client, worker", "A heartbeat has begun the run, or a watch the run or the task.", _STEP
    ),
    EventType.MISSION_EVENT: Cause(
        "agent, worker, scheduler, client",
        "An agent said something (`context.emit`); another attempt follows; no worker can run the agent; a task's "
        "requests to models have to wait; a dead letter was replayed; a heartbeat missed slots; a watch begins nothing "
        "on an event, or has missed some; the store has lost the crew's work.",
        _STEP,
    ),
    EventType.TASK_DELEGATED: Cause(
        "agent",
        "`context.delegate`: an agent gives a part of its work to another, the child. In a hierarchical crew the step "
        "of the child is made with that.",
        ("agent", "child", "run"),
    ),
    EventType.REVIEWER_HANDOFF: Cause(
        "agent",
        "`context.hand_off_for_review`: an agent's work goes to a reviewer, the child. In a hierarchical crew the step "
        "of the review is made with that, for the agent that has delegated the work.",
        ("agent", "child", "run"),
    ),
    EventType.REVIEWER_APPROVAL: Cause(
        "agent",
        "`context.approve`: a reviewer approves of the work of an agent, the parent. In a hierarchical crew its step "
        "ends with that.",
        ("agent", "parent", "run"),
    ),
    EventType.CONDUCTOR_ESCALATION: Cause(
        "agent",
        "`context.escalate`: an agent asks for guidance; the parent is whom it asks, if it says so.",
        ("agent", "parent", "run"),
    ),
    EventType.WORKER_LOST: Cause("worker, operator", "A worker's lease ran out: others take what it held.", ()),
}
"""The types that Watchbill emits, in the order in which things happen."""
