"""The facts about a task, a step or a run from which `plan/why.py` explains why it isn't done. Pure values.

`store/why.py` reads them, as of one moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from watchbill.tasks import Approval, Priority, RunStatus


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a task that is over, or goes on."""

    number: int
    outcome: Literal["failed", "running", "lost"]
    """`lost`: it left no report, because its worker was taken for dead."""
    worker: str = ""
    """The incarnation; empty where that is not known."""
    seconds: float | None = None
    """Its duration, so far if it runs; None: not known."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """The worker that holds the task."""

    worker: str
    attempt: int
    started_ms: int
    """0: its agent has not begun."""
    lease_ms: int | None
    """Milliseconds left of the worker's lease; None: it has none."""
    returned: bool
    """The task was handed back, and nobody holds it."""


@dataclass(frozen=True, slots=True)
class AgentLimit:
    """The limits of an agent for which the task waits."""

    running: int
    """Tasks of the agent that workers hold."""
    most: int | None
    """`maxConcurrent`; None: there is no such limit."""
    every_seconds: float | None
    """Seconds between two starts by `rateLimit`; None: there is no such limit."""
    burst: int
    next_seconds: float
    """Seconds until the rate lets one more start."""
    before: int
    """Tasks of the agent that wait for the same, and come first."""
    role: str = ""
    """The role of which no agent has room; empty: the task waits for the limits of one agent."""
    away: int = 0
    """Agents of the role that a budget or the limits of a model let begin nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of the task's entry in its class."""

    before: int
    is_found: bool
    """False: it is not among the entries that were read; at least `before` are before it."""


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers that live."""

    alive: int = 0
    draining: int = 0
    slots: int = 0
    """The slots of workers that don't drain; `busy` of them run something."""
    busy: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that has ended lately."""

    at_ms: int
    seconds: float | None
    """Its run time; None: not known."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is known of the work, as of one moment."""

    crew: str
    id: str
    now_ms: int
    managed: bool = False
    """An operator manages the crew."""
    suspended: bool = False
    """No task of the crew begins until it is resumed."""
    hold: str = ""
    """The reason why the namespace has no room for the crew, which is suspended therefore; empty: it has."""
    state: str = ""
    """The state of a task or step; empty for a run."""
    agent: str = ""
    """The agent that has it, or had it last; empty: it is for a role, and none had it yet; or it is a run."""
    role: str = ""
    """The role that it was submitted for; empty: for its agent."""
    priority: Priority = Priority.NORMAL
    attempt: int = 0
    """The last one that began, as the record says."""
    max_attempts: int = 0
    """0: not known."""
    submitted_ms: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    tried: Sequence[Attempt] = ()
    """Failed attempts, in order."""
    approvals: Sequence[Approval] = ()
    """Its approvals, in the order in which they were asked for."""
    holder: Holder | None = None
    wish: str = ""
    """`cancel` or `interrupt`: what somebody wants of a task that a worker holds."""
    aside: str = ""
    """`delayed`, `agent` or `interrupt`: the place beside the streams where it was found."""
    aside_ms: int = 0
    """The time at which delayed work is due, or since which the other work is there."""
    postponed: str = ""
    """The reason why delayed work may not go on yet; empty: it was submitted for later, or an attempt failed."""
    limit: AgentLimit | None = None
    """None: it doesn't wait for the limits of its agent."""
    place: Place | None = None
    waiting: Sequence[tuple[Priority, int]] = ()
    """Number of tasks of each priority that wait, the most urgent first."""
    workers: Workers = Workers()
    run: RunStatus | None = None
    """The run, for a run and for a step."""
    active: int = 0
    """Steps of the run that wait on a stream or are held."""
    parallel: int = 0
    """The run's bound of those."""
    ended: Sequence[Ended] = ()
    """The tasks that have ended last, the newest first."""
    ended_from_ms: int = 0
    """The tasks that have ended since then are all in `ended`."""
    checkpoints: int = 0
    """Steps within the task whose results are stored."""
    last_checkpoint: str = ""
    """The name of the last of these steps."""
