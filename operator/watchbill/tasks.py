"""Tasks and results: what is submitted, what comes back, and the states between. Pure."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

PROMPT_MAX_BYTES: Final = 256 * 1024
"""A prompt above this is refused; larger text travels as an input."""
INPUT_MAX_BYTES: Final = 16 * 1024 * 1024
"""An input above this is refused; larger data belongs into a store of its own, with a reference here."""
INPUTS_MAX: Final = 1000
"""Inputs of one task or run."""
INPUTS_MAX_BYTES: Final = 64 * 1024 * 1024
"""All inputs of one task or run: they travel in one call, which must end within its time."""
LABEL_MAX_BYTES: Final = 512
"""A user_id, a session_id, a dedupe_key."""
METADATA_MAX_ENTRIES: Final = 64
METADATA_MAX_BYTES: Final = 64 * 1024
"""Maximum size of a task's metadata, names and values together: it is sent wherever the task is."""


class Priority(IntEnum):
    """Lower is more urgent. Within one priority, first in is first out."""

    CRITICAL = 1
    HIGH = 3
    NORMAL = 5
    LOW = 7
    BACKGROUND = 9


def _priority(value: Any) -> Any:
    """Accepts names as well as numbers, because YAML and people write names."""
    if isinstance(value, str) and value.upper() in Priority.__members__:
        return Priority[value.upper()]
    return value


PriorityField = Annotated[Priority, BeforeValidator(_priority)]


def _utc(value: datetime) -> datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)


UtcTime = Annotated[datetime, AfterValidator(_utc)]
"""A time, aware; one that is given without a zone is UTC."""


class Durability(StrEnum):
    """The safety that a submission must have before it is acknowledged. Without one it is in the server's memory, and
    it may be lost."""

    REPLICA = "replica"
    """A replica has it, too: it outlives the server."""
    FSYNC = "fsync"
    """It is on the server's disk: it outlives a loss of power. Needs appendonly, and Redis 7.2 or Valkey."""


class TaskState(StrEnum):
    """The state of a task, or of a step of a run."""

    WAITING = "waiting"
    RUNNING = "running"
    PARKED = "parked"
    DELAYED = "delayed"
    """It is due later: it was submitted so, or an attempt failed and another follows."""
    INTERRUPTED = "interrupted"
    """Set aside, until somebody resumes it."""
    APPROVAL = "approval"
    """Set aside, until somebody approves of what it waits for, or rejects it, or nobody has done so in time."""
    CANCELLING = "cancelling"
    """Its worker was asked to stop it. If it ends by itself before that, it has ended so."""
    COMPLETED = "completed"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    """Only steps: never started, because something before it didn't complete, or the run was cancelled; or passed over,
    because its own condition (`when`) did not hold."""


TERMINAL: Final = frozenset(
    {TaskState.COMPLETED, TaskState.FAILED, TaskState.DEAD, TaskState.CANCELLED, TaskState.SKIPPED}
)

_S = TaskState
_ENDS: Final = frozenset({_S.COMPLETED, _S.FAILED, _S.DEAD, _S.CANCELLED})
TRANSITIONS: Final[dict[TaskState, frozenset[TaskState]]] = {
    # from waiting to delayed or to an end: it was so brief that it was never seen to run
    _S.WAITING: _ENDS | {_S.RUNNING, _S.PARKED, _S.DELAYED, _S.INTERRUPTED, _S.APPROVAL, _S.CANCELLING, _S.SKIPPED},
    # a claim that finds it due can't write its record, so it is seen as delayed until it runs, returns or ends
    _S.DELAYED: _ENDS | {_S.RUNNING, _S.WAITING, _S.PARKED, _S.INTERRUPTED, _S.APPROVAL, _S.CANCELLING, _S.SKIPPED},
    _S.APPROVAL: _ENDS | {_S.RUNNING, _S.WAITING, _S.PARKED, _S.DELAYED, _S.INTERRUPTED, _S.CANCELLING, _S.SKIPPED},
    _S.PARKED: frozenset({_S.WAITING, _S.INTERRUPTED, _S.CANCELLED, _S.SKIPPED}),
    # back to waiting: the worker handed the task back, or was taken for dead
    _S.RUNNING: _ENDS | {_S.WAITING, _S.PARKED, _S.DELAYED, _S.INTERRUPTED, _S.APPROVAL, _S.CANCELLING, _S.SKIPPED},
    # to parked: its run has no place for it
    _S.INTERRUPTED: frozenset({_S.WAITING, _S.PARKED, _S.DELAYED, _S.APPROVAL, _S.CANCELLED}),
    _S.CANCELLING: _ENDS,
    _S.COMPLETED: frozenset(),
    _S.FAILED: frozenset(),
    _S.DEAD: frozenset({_S.WAITING, _S.PARKED}),  # replayed, with all its attempts
    _S.CANCELLED: frozenset(),
    _S.SKIPPED: frozenset(),
}
"""The legal moves. The scripts make them; tests/store checks each against this table."""


@dataclass(frozen=True, slots=True)
class Approval:
    """One approval that a task or step waits for, or that somebody has decided."""

    what: str
    """The work that it is for, in words of the agent; `call TOOL #…` for a call of a tool; empty: the beginning of the
    task."""
    state: Literal["waiting", "approved", "rejected"]
    asked_at: datetime
    until: datetime
    """The time after which nobody can decide any more: then it counts as not given."""
    decided_at: datetime | None = None
    reason: str = ""
    """The reason of whoever decided."""
    details: str = ""
    """The arguments of a tool's call, or the prompt of a task that asks to begin, as JSON without secrets; else
    empty."""
    mark: str = field(default="", compare=False)
    """Tells this asking from others, before and after it: a decision that names it is about what was shown then."""


class RunState(StrEnum):
    """The state of a run."""

    CREATING = "creating"
    RUNNING = "running"
    CANCELLING = "cancelling"
    """No further step begins; it ends as soon as those that run have stopped."""
    COMPLETED = "completed"
    """Every step completed, or was passed over by its own condition."""
    PARTIAL = "partial"
    """Something failed, and yet at least one of the last steps completed, or was passed over."""
    FAILED = "failed"
    """Something failed, and none of the last steps completed."""
    CANCELLED = "cancelled"


RUN_TERMINAL: Final = frozenset({RunState.COMPLETED, RunState.PARTIAL, RunState.FAILED, RunState.CANCELLED})


def _task_id(value: object) -> object:
    return uuid.uuid4().hex if value is None else value


class AgentTask(BaseModel):
    """One piece of work for one agent of a crew (the task of seed AgentService)."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    # Not a default_factory: pydantic calls one for each task that is written as JSON, to compare.
    task_id: Annotated[str, BeforeValidator(_task_id)] = Field(
        default=None,
        validate_default=True,
        description="Unique within the crew; a second submission of the same id is the same task.",
    )
    agent_name: str
    prompt: str
    crew_name: str = ""
    priority: PriorityField = Priority.NORMAL
    user_id: str | None = None
    session_id: str | None = None
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        max_length=METADATA_MAX_ENTRIES,
        description="Any JSON by name. The agent sees it, and the result carries it.",
    )
    method_name: str | None = Field(
        default=None, description="The method that an AgentService calls instead of `ask`; its bot must declare it."
    )
    scheduled_at: UtcTime | None = Field(
        default=None, description="The task does not begin before this time. A time without a zone is UTC."
    )
    role: str | None = Field(
        default=None, description="The role of which any agent may do the task, in place of one agent (Client.submit)."
    )


class Usage(BaseModel):
    """The usage of models: tokens and requests of one task, or of all steps of a run."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            requests=self.requests + other.requests,
        )


class TaskResult(BaseModel):
    """The result of a task. `output` is any JSON value: what the agent returned."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    task_id: str
    agent_name: str
    success: bool
    output: Any = None
    error: str | None = None
    traceback: str | None = Field(None, description="Of the exception that ended it: its last 16,000 characters.")
    execution_time_ms: float = 0.0
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        description="The task's metadata, and what its agent annotated, which prevails. Steps of a run: the latter.",
    )
    cancelled: bool = Field(default=False, description="It did not complete because somebody cancelled it.")
    usage: Usage | None = None
    """By all attempts, as far as they could tell."""
    attempt: int = 1
    completed_at: datetime | None = None
    """The time of its end, however it ended."""
    role: str | None = None
    """The role that it was submitted for; None: for its agent."""


StepKind = Literal["agent", "until", "synthesis", "delegated"]
"""A step is one of an agent, the condition of a loop, the synthesis of its run, or work for the step that began it."""


class StepStatus(BaseModel):
    """One step of a run as the store has it now."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str
    agent: str
    status: TaskState
    index: int
    """Position in the plan: a step stands after all that it depends on."""
    after: tuple[str, ...] = ()
    attempt: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    tokens: int = 0
    kind: StepKind = "agent"

    @property
    def is_passed_over(self) -> bool:
        """It was skipped because its own condition (`when`) did not hold. What comes after it runs."""
        return self.status is TaskState.SKIPPED and self.attempt > 0


class RunStatus(BaseModel):
    """A run and its steps as the store has them now, without outputs."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    run_id: str
    crew: str
    status: RunState
    submitted_at: datetime
    finished_at: datetime | None = None
    steps: tuple[StepStatus, ...] = ()


class RunResult(BaseModel):
    """The result of a run.

    `output` is the last step's output; where several steps are last (parallel, or a flow with more than one
    end), a mapping of step to output.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    run_id: str
    crew: str
    status: RunState
    output: Any = None
    error: str | None = None
    steps: dict[str, TaskResult] = Field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    """The steps that never ran."""
    passed_over: tuple[str, ...] = ()
    """The steps among these that were skipped by their own conditions (`when`): nothing is wrong with that."""
    usage: Usage = Usage()
    execution_time_ms: float = 0.0
    finished_at: datetime | None = None

    @property
    def success(self) -> bool:
        """Every step completed, and what they returned can be read."""
        return self.status is RunState.COMPLETED and self.error is None

    @property
    def cancelled(self) -> bool:
        """Somebody cancelled it before all of it had completed."""
        return self.status is RunState.CANCELLED
