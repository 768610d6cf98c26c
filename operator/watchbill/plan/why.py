"""Explains why a task has not begun, or has not ended, and when it is likely to begin. Pure.

A time is an estimate from what was measured, and None where too little was measured; it is never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from watchbill.plan import limits
from watchbill.plan.whereabouts import AgentLimit, Attempt, Holder, Seen
from watchbill.tasks import RUN_TERMINAL, TERMINAL, Approval, RunState, RunStatus, StepStatus, TaskState
from watchbill.terminal import span

MEASURED_LEAST: Final = 5
"""Fewer ended tasks than this tell nothing of how fast a crew is."""

_NEVER_SECONDS: Final = 100 * 365 * 86_400.0
"""A task that is due in more than a hundred years is due when somebody changes something."""

Kind = Literal["task", "step", "run"]


class Reason(StrEnum):
    """The reason why a task, a step or a run is where it is. Programs may rely on these values."""

    QUEUED = "queued"
    """It waits for a slot: the workers' slots are busy, or others are before it."""
    NO_WORKER = "no-worker"
    """No worker lives that could claim it."""
    DRAINING = "draining"
    """All workers drain, and claim nothing."""
    SUSPENDED = "suspended"
    """Its crew is suspended: no task begins until somebody resumes the crew."""
    NO_ROOM = "no-room"
    """The quota of its namespace has no room for its crew: no task begins until it has."""
    HANDED_BACK = "handed-back"
    """A worker returned it; the next claim takes it first in its class."""
    DELAYED = "delayed"
    """It was submitted for a later time."""
    RETRY = "retry"
    """An attempt failed, and the pause before the next one is not over."""
    POSTPONED = "postponed"
    """It may not go on yet: a budget of its crew is exhausted, or the provider of its model has asked for a pause."""
    AGENT_UNAVAILABLE = "agent-unavailable"
    """It is parked: no worker can run its agent, or no agent has its role."""
    CONCURRENCY = "concurrency"
    """It is parked: its run has as many steps at once as `maxParallelTasks` allows."""
    LIMITED = "limited"
    """It is parked: its agent has as many tasks at once as `maxConcurrent` allows, or starts none yet by its
    `rateLimit`; or so it is with each agent of its role."""
    INTERRUPTED = "interrupted"
    """Somebody set it aside; it waits to be resumed."""
    APPROVAL = "approval"
    """It waits until somebody approves of it, or rejects it."""
    DEPENDENCY = "dependency"
    """It is a step that waits for the end of other steps."""
    BEHIND_FAILURE = "behind-failure"
    """It is a step behind one that did not complete; it will begin only if that one is replayed."""
    STARTING = "starting"
    """A worker has claimed it, and its agent has not begun."""
    RUNNING = "running"
    """Its agent works, or the run goes on."""
    WORKER_SILENT = "worker-silent"
    """Its worker's lease is over; the next claim of another worker takes it over."""
    CANCELLING = "cancelling"
    """Its worker was asked to stop it."""
    MOVING = "moving"
    """Its entry was not found: it moves between two places, or more entries are before it than were read."""
    ENDED = "ended"
    """It has ended."""


@dataclass(frozen=True, slots=True)
class Why:
    """The explanation."""

    crew: str
    id: str
    kind: Kind
    state: str
    agent: str
    priority: str
    reason: Reason
    message: str
    """The reason as a sentence for people."""
    before: int | None
    """Tasks that are claimed before it: of higher priority, or of its own and older. None: it doesn't wait for a
    slot."""
    before_is_least: bool
    """There may be more before it than were counted."""
    starts_in_seconds: float | None
    """Seconds until its agent is likely to begin; None: unknown, or it has begun."""
    starts: str
    """A text about that for people, with what it was made of, or why it is unknown."""
    attempt: int
    max_attempts: int
    attempts: tuple[Attempt, ...]
    waits_for: tuple[str, ...]
    """The steps that must end before, or the unfinished steps of a run that are ready: those that run come last."""
    submitted_seconds_ago: float | None
    managed: bool
    """An operator manages the crew."""
    checkpoints: int = 0
    """Steps within the task (`context.step`) whose results are stored: another attempt goes on behind them."""
    last_checkpoint: str = ""
    """The name of the last of these steps."""
    approvals: tuple[Approval, ...] = ()
    """The approvals that it waits for or was given, in the order in which they were asked for."""
    role: str = ""
    """The role that it was submitted for; empty: for its agent."""
    step: Why | None = None
    """The explanation of a run's step that is ready; of one that doesn't run, if there is one."""


@dataclass(frozen=True, slots=True)
class _Said:
    reason: Reason
    message: str
    starts_in: float | None = None
    starts: str = ""
    waits_for: tuple[str, ...] = ()


def explain(seen: Seen) -> Why:
    """Returns the explanation of what was seen of a task, a step or a run."""
    kind: Kind = "run" if seen.run is not None and not seen.state else "step" if seen.run is not None else "task"
    before, is_least = _before(seen)
    said = _of_run(seen.run) if kind == "run" and seen.run is not None else _of_task(seen, before, is_least)
    state = seen.run.status.value if kind == "run" and seen.run is not None else seen.state
    if seen.holder and seen.holder.started_ms and state in ("waiting", "delayed") and not seen.holder.returned:
        state = TaskState.RUNNING.value  # the record follows within milliseconds
    submitted = seen.submitted_ms or (int(seen.run.submitted_at.timestamp() * 1000) if seen.run else 0)
    return Why(
        crew=seen.crew,
        id=seen.id,
        kind=kind,
        state=state,
        agent=seen.agent,
        role=seen.role,
        priority=seen.priority.name.lower(),
        reason=said.reason,
        message=said.message,
        before=before,
        before_is_least=is_least,
        starts_in_seconds=said.starts_in,
        starts=said.starts,
        attempt=seen.holder.attempt if seen.holder and not seen.holder.returned else seen.attempt,
        max_attempts=seen.max_attempts,
        attempts=_attempts(seen),
        waits_for=said.waits_for,
        submitted_seconds_ago=max(seen.now_ms - submitted, 0) / 1000 if submitted else None,
        managed=seen.managed,
        checkpoints=seen.checkpoints,
        last_checkpoint=seen.last_checkpoint,
        approvals=tuple(seen.approvals),
    )


def seconds_per_task(seen: Seen) -> tuple[float, str] | None:
    """Returns the seconds from one end of a task to the next while there is enough to do, and where that comes from.
    None: too little was measured.

    While this task has waited, its crew had something to do: what has ended since then tells the rate. Otherwise the
    slots and the median of the run times tell what the crew could do.
    """
    since = [one.at_ms for one in seen.ended if one.at_ms >= seen.submitted_ms > 0]
    if len(since) >= MEASURED_LEAST and seen.state == TaskState.WAITING:
        first = max(seen.submitted_ms, seen.ended_from_ms)
        seconds = max(seen.now_ms - first, 1) / 1000 / len(since)
        return seconds, f"{_number(1 / seconds)} tasks end in a second"
    times = [one.seconds for one in seen.ended if one.seconds is not None]
    if len(times) >= MEASURED_LEAST and seen.workers.slots:
        median = _median(times)
        return median / seen.workers.slots, f"half of the tasks take less than {span(median)}"
    return None


# -------------------------------------------------------------------- within


def _before(seen: Seen) -> tuple[int | None, bool]:
    """Returns how many tasks are claimed before it, and whether there may be more."""
    if seen.place is None:
        return None, False
    urgent = sum(count for priority, count in seen.waiting if priority < seen.priority)
    return urgent + seen.place.before, not seen.place.is_found


def _of_run(run: RunStatus) -> _Said:
    ended = sum(step.status in TERMINAL for step in run.steps)
    if run.status in RUN_TERMINAL:
        return _Said(Reason.ENDED, f"the run has ended as {run.status}: {ended} of {len(run.steps)} steps ended")
    unfinished = [step for step in run.steps if step.status not in TERMINAL and not _open(run, step)]
    ready = tuple(s.name for s in sorted(unfinished, key=lambda step: step.status is TaskState.RUNNING))
    now = ", ".join(f"{s.name} {s.status}" for s in run.steps if s.name in ready[:5])
    more = f" and {len(ready) - 5} more" if len(ready) > 5 else ""
    reason = Reason.CANCELLING if run.status is RunState.CANCELLING else Reason.RUNNING
    message = f"{ended} of {len(run.steps)} steps have ended; now: {now or 'nothing'}{more}"
    return _Said(reason, message, waits_for=ready)


def _of_task(seen: Seen, before: int | None, is_least: bool) -> _Said:
    if seen.state in TERMINAL:
        return _Said(Reason.ENDED, _end(seen))
    held = seen.holder if seen.holder is not None and not seen.holder.returned else None
    if held is not None:
        return _held(seen, held)
    if seen.state == TaskState.INTERRUPTED or seen.aside == "interrupt":
        message = "somebody interrupted it; it goes on when somebody resumes it"
        return _Said(Reason.INTERRUPTED, message, starts="unknown: when somebody resumes it")
    if seen.state == TaskState.APPROVAL and (asked := [one for one in seen.approvals if one.state == "waiting"]):
        return _unapproved(seen, asked)
    if seen.limit is not None:
        return _limited(seen, seen.limit)
    if seen.aside == "delayed":
        return _delayed(seen)
    if seen.aside == "agent" and seen.role and not seen.agent:
        message = f"no agent of the crew has its role {seen.role!r}"
        return _Said(Reason.AGENT_UNAVAILABLE, message, starts="unknown: when an agent has the role")
    if seen.aside == "agent":
        message = f"no worker can run its agent {seen.agent!r}; the crew's events say why"
        return _Said(Reason.AGENT_UNAVAILABLE, message, starts="unknown: when a worker comes that has the agent")
    if seen.run is not None and (step := _step(seen.run, seen.id)) is not None:
        if seen.run.status is RunState.CANCELLING:
            return _Said(Reason.CANCELLING, "its run is being cancelled, so it will not begin", starts="never")
        if missing := _open(seen.run, step):
            return _dependent(seen.run, missing)
        if seen.state == TaskState.PARKED:
            message = (
                f"its run has {seen.active} steps at once, and maxParallelTasks allows {seen.parallel}; it begins as "
                "one of them ends"
            )
            return _Said(Reason.CONCURRENCY, message, starts="unknown: when a step of its run ends")
    return _queued(seen, before, is_least)


def _held(seen: Seen, held: Holder) -> _Said:
    by = f"worker {held.worker}"
    if held.lease_ms is None or held.lease_ms <= 0:
        message = f"{by} holds it, and its lease is over; the next worker that claims takes it over"
        if seen.suspended:
            return _at_rest(seen, message)
        starts = "at the next claim of a worker" if seen.workers.alive else "unknown: no worker lives"
        return _Said(Reason.WORKER_SILENT, message, starts=starts)
    if seen.wish:
        return _Said(Reason.CANCELLING, f"{by} was asked to {seen.wish} it, and has not told its end yet")
    if not held.started_ms:
        return _Said(Reason.STARTING, f"{by} has claimed it, and begins it as a slot is free", 0.0, "now")
    lasts = span((seen.now_ms - held.started_ms) / 1000)
    usual = [one.seconds for one in seen.ended if one.seconds is not None]
    often = f"; half of the crew's tasks take less than {span(_median(usual))}" if usual else ""
    return _Said(Reason.RUNNING, f"{by} has been running attempt {held.attempt} for {lasts}{often}")


def _delayed(seen: Seen) -> _Said:
    left = (seen.aside_ms - seen.now_ms) / 1000
    when = f"in {span(left)}" if left > 0 else "now"
    starts = f"{when}, if a slot is free then"
    if seen.postponed and not seen.suspended:
        if left > _NEVER_SECONDS:
            return _Said(Reason.POSTPONED, seen.postponed, starts="unknown: when the budget is raised")
        return _Said(Reason.POSTPONED, seen.postponed, max(left, 0.0), starts)
    if seen.suspended:
        message = f"it is due {when}, but" if not seen.attempt else f"attempt {seen.attempt} failed;"
        return _at_rest(seen, f"{message} no task of its crew begins")
    if seen.attempt > 0:
        following = f"attempt {seen.attempt + 1}" + (f" of {seen.max_attempts}" if seen.max_attempts else "")
        message = f"attempt {seen.attempt} failed; {following} is due {when}"
        return _Said(Reason.RETRY, message, max(left, 0.0), starts)
    return _Said(Reason.DELAYED, f"it was submitted for later, and is due {when}", max(left, 0.0), starts)


def _limited(seen: Seen, limit: AgentLimit) -> _Said:
    if seen.suspended:
        return _at_rest(seen, "its agent has limits" if limit.role else f"its agent {seen.agent!r} has limits")
    return _Said(Reason.LIMITED, *limits.told(seen.agent, limit))


def _unapproved(seen: Seen, asked: Sequence[Approval]) -> _Said:
    since = span(max(seen.now_ms / 1000 - min(one.asked_at for one in asked).timestamp(), 0))
    left = min(one.until for one in asked).timestamp() - seen.now_ms / 1000
    whats = ", ".join(one.what for one in asked)
    what = f"of: {whats}" if whats else "to begin"
    ends = f"in {span(left)} it counts as not approved" if left > 0 else "nobody has approved in time"
    message = f"it has waited for approval {what}, for {since}; {ends}"
    return _Said(Reason.APPROVAL, message, starts="unknown: when somebody approves")


def _dependent(run: RunStatus, missing: Sequence[StepStatus]) -> _Said:
    names = tuple(step.name for step in missing)
    if failed := [step for step in missing if step.status in TERMINAL]:
        told = ", ".join(f"{step.name} is {step.status}" for step in failed)
        message = f"it comes after steps that did not complete: {told}"
        return _Said(Reason.BEHIND_FAILURE, message, starts="never, unless that step is replayed", waits_for=names)
    told = ", ".join(f"{step.name} ({step.status})" for step in missing[:5])
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    message = f"it comes after {told}{more}"
    return _Said(Reason.DEPENDENCY, message, starts=f"unknown: when {names[0]} has completed", waits_for=names)


def _queued(seen: Seen, before: int | None, is_least: bool) -> _Said:
    if seen.suspended:
        return _at_rest(seen, _told_before(seen, before or 0, is_least))
    if before is None:
        return _Said(Reason.MOVING, "it moves between two places of the store; ask again", starts="unknown")
    workers = seen.workers
    told = _told_before(seen, before, is_least)
    if not workers.alive:
        message = f"no worker lives; {told}"
        return _Said(Reason.NO_WORKER, message, starts="unknown: when a worker comes")
    if workers.draining >= workers.alive:
        message = f"all {workers.alive} workers drain, and claim nothing; {told}"
        return _Said(Reason.DRAINING, message, starts="unknown: when another worker comes")
    free = max(workers.slots - workers.busy, 0)
    reason = Reason.HANDED_BACK if seen.holder is not None else Reason.QUEUED
    slots = f"{workers.busy} of {_many(workers.slots, 'slot')} are busy" if workers.slots else "slots not known yet"
    message = f"{told}; {slots}"
    if before < free and not is_least:
        return _Said(reason, message, 0.0, "now: a slot is free")
    pace = seconds_per_task(seen)
    if pace is None:
        return _Said(reason, message, starts="unknown: too few tasks have ended to tell how fast the crew is")
    seconds = (before - free + 1) * pace[0]
    least = "not before" if is_least else "in about"
    return _Said(reason, message, seconds, f"{least} {span(seconds)}: {pace[1]}")


def _at_rest(seen: Seen, message: str) -> _Said:
    if seen.hold:
        why = f"there is no room for its crew: {seen.hold}; {message}"
        return _Said(Reason.NO_ROOM, why, starts="unknown: when there is room for the crew")
    return _Said(
        Reason.SUSPENDED, f"its crew is suspended; {message}", starts="unknown: when somebody resumes the crew"
    )


def _told_before(seen: Seen, before: int, is_least: bool) -> str:
    if not before and not is_least:
        return "nothing is before it"
    own = seen.place.before if seen.place else 0
    least = "at least " if is_least else ""
    urgent = f" ({before - own:,} of higher priority)" if before > own else ""
    return f"{least}{_many(before, 'task')} {'is' if before == 1 else 'are'} before it{urgent}"


def _end(seen: Seen) -> str:
    took = ""
    if seen.started_ms and seen.finished_ms:
        took = f" after {span(max(seen.finished_ms - seen.started_ms, 0) / 1000)}"
    ago = f", {span(max(seen.now_ms - seen.finished_ms, 0) / 1000)} ago" if seen.finished_ms else ""
    of = f" of {seen.max_attempts}" if seen.max_attempts else ""
    number = f" in attempt {seen.attempt}{of}" if seen.attempt else ""
    return f"it has ended as {seen.state}{number}{took}{ago}"


def _attempts(seen: Seen) -> tuple[Attempt, ...]:
    """The attempts before the present one, and that one while it runs. One without a report was lost."""
    held = seen.holder if seen.holder is not None and not seen.holder.returned else None
    runs = held is not None and held.started_ms > 0
    last = (
        held.attempt if held is not None and runs else seen.attempt + 1 if seen.state not in TERMINAL else seen.attempt
    )
    known = {one.number: one for one in seen.tried}
    found = [known.get(number) or Attempt(number, "lost") for number in range(1, last)]
    if held is not None and runs:
        seconds = max(seen.now_ms - held.started_ms, 0) / 1000
        found.append(Attempt(held.attempt, "running", held.worker, seconds))
    return tuple(found)


def _step(run: RunStatus, task_id: str) -> StepStatus | None:
    name = task_id.partition("/")[2]
    return next((step for step in run.steps if step.name == name), None)


def _open(run: RunStatus, step: StepStatus) -> list[StepStatus]:
    """The steps before it that keep it from beginning."""
    states = {one.name: one for one in run.steps}
    before = [states[name] for name in step.after]
    return [one for one in before if one.status is not TaskState.COMPLETED and not one.is_passed_over]


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.1 else f"{value:.3f}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
