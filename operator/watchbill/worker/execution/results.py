"""Makes the result of a task, free of secrets, from what its agent returned or how it failed.

Does no I/O, and doesn't wait.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal, get_args

from watchbill.errors import AgentNotLoadable, NewerRecord, sentence
from watchbill.loggers import Logger
from watchbill.names import ROLE
from watchbill.plan import retry
from watchbill.plan.hierarchy import Verdict
from watchbill.records import TaskPolicy
from watchbill.store.queue import Aside, Claimed, Finished, Outcome, Transition, Wish
from watchbill.tasks import AgentTask, Usage
from watchbill.worker.execution import failures, outputs
from watchbill.worker.execution.failures import Failed
from watchbill.worker.execution.outputs import NOTHING, Output

logger = Logger("watchbill.worker")

MESSAGE_MAX: Final = 4000
_LINE_MAX: Final = 300
_NEXT: Final = "; the next is in "
_NAMES_WITHIN: Final = 300
"""Characters of a payload within which its id and the name of its agent are: the id has 128 at most."""
STOPPED: Final[Mapping[Wish, Literal["cancelled", "interrupted"]]] = {"cancel": "cancelled", "interrupt": "interrupted"}
"""The state of a task that was stopped, by the wish that stopped it."""


@dataclass(slots=True)
class Extras:
    """The usage and annotations that an agent reported beside its output."""

    usage: Usage | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


_NO_EXTRAS: Final = Extras()


@dataclass(frozen=True, slots=True)
class Waiting:
    """The reason why a task waits without a slot. Its attempt doesn't count, and its agent begins anew then."""

    outcome: Literal["approval", "members"]
    what: str
    """The approvals that it asks for, packed; the steps that work for it, joined."""
    message: str
    """A sentence about it for people."""
    seconds: float
    """The longest wait for approval; for members: for how long the record of its run is kept, if that ends."""


class Results:
    """Makes the results of one crew's tasks."""

    def __init__(self, crew: str, now: Callable[[], datetime]) -> None:
        """`now` returns the time by the store's clock: this machine's may be wrong."""
        self._crew = crew
        self._now = now

    def completed(self, task: Claimed, policy: TaskPolicy, output: Output, extras: Extras, seconds: float) -> Finished:
        """Makes the result of an agent that returned `output`."""
        return self._finished(task, "completed", policy, output=output, extras=extras, seconds=seconds)

    def failed(self, task: Claimed, policy: TaskPolicy, failure: Failed, extras: Extras, seconds: float) -> Finished:
        """Makes the result of an agent that failed. Another attempt follows if the failure and the attempts that are
        left allow it. Otherwise the task is dead, and can be replayed; or failed, if the agent has given it up. One
        that may not go on yet is set aside."""
        if failure.judged.later_ms is not None:
            message, later_ms = self._first(failure.error).partition(": ")[2][:MESSAGE_MAX], failure.judged.later_ms
            return Finished(
                task,
                "later",
                "",
                message,
                usage=_spent(task, extras),
                ttl_ms=later_ms,
                definition=task.definition,
                is_of_agent=_may_change_agent(task, extras),
            )
        wait = retry.pause(
            failure.judged,
            task.attempt,
            max_attempts=policy.max_attempts,
            base_seconds=policy.backoff_seconds,
            chance=random.random(),
        )
        if wait is not None:
            return self._again(task, failure.error, wait, extras)
        outcome: Outcome = "failed" if failure.judged.given_up else "dead"
        what = self._trace(failure)
        trace = what if failure.traceback else None
        finished = self._finished(
            task, outcome, policy, error=failure.error, trace=trace, extras=extras, seconds=seconds
        )
        if outcome != "dead":
            return finished
        is_of_agent = failure.judged.is_of_agent and _may_change_agent(task, extras)
        return replace(finished, detail=what, is_of_agent=is_of_agent)

    def log(self, finished: Finished, failure: Failed) -> None:
        """Logs a failure. Call it after the report: strangers' handlers of logging may do anything. What becomes of one
        that another agent may get is logged once the store has said it (`log_fate`)."""
        if finished.outcome == "later":
            if not finished.is_of_agent:
                _log_aside(finished, self._crew)
            return
        task, what = finished.task, finished.detail or self._trace(failure)
        logger.info("attempt %d of task %s of %s failed\n%s", task.attempt, task.id, self._crew, what)
        if finished.outcome == "dead" and not finished.is_of_agent:
            _log_dead(task, self._crew, failure.error)

    def stopped(self, task: Claimed, policy: TaskPolicy, outcome: Outcome, message: str, extras: Extras) -> Finished:
        """Makes the end of a task that was cancelled or interrupted. It has no result."""
        ttl_ms = policy.result_ttl_seconds * 1000
        message = self._first(message)[:MESSAGE_MAX]
        usage = _spent(task, extras)
        return Finished(task, outcome, "", message, usage=usage, ttl_ms=ttl_ms, definition=task.definition)

    def passed_over(self, task: Claimed, policy: TaskPolicy, why: str) -> Finished:
        """Makes the end of a step whose own condition does not hold. It has no result."""
        ttl_ms = policy.result_ttl_seconds * 1000
        return Finished(task, "skipped", "", why, ttl_ms=ttl_ms, definition=task.definition)

    def reviewed(self, finished: Finished, verdict: Verdict, agent: str) -> Finished:
        """Adds the verdict on the work of an agent to the end of its review."""
        if verdict.approved:
            return replace(finished, detail=agent)
        return replace(finished, message=self._first(f"rejected: {verdict.reasons}")[:MESSAGE_MAX])

    def waiting(self, task: Claimed, waits: Waiting, extras: Extras = _NO_EXTRAS) -> Finished:
        """Makes the end of an attempt whose task waits for something. It has no result."""
        message, ttl_ms = self._first(waits.message)[:MESSAGE_MAX], math.ceil(waits.seconds * 1000)
        finished = Finished(task, waits.outcome, "", message, usage=_spent(task, extras), ttl_ms=ttl_ms)
        return replace(finished, definition=task.definition, detail=waits.what)

    def not_begun(self, task: Claimed, policy: TaskPolicy, error: str) -> Finished:
        """Makes the result of a task that ended before an agent saw it."""
        _log_dead(task, self._crew, error)
        return self._finished(task, "dead", policy, error=error)

    def broken(self, task: Claimed, failure: BaseException) -> Finished:
        """Makes the result of a task that couldn't be run by a fault of Watchbill's own."""
        return _without_record(task, self._first(failures.describe(failure)))

    def lost(self, finished: Finished) -> Finished | None:
        """Makes the end of a task that the store has lost: one that was to go on can't. None: nobody waits for it."""
        if finished.result:
            return finished
        if finished.outcome not in get_args(Aside):
            return None
        error = f"the store has lost this task, so that it can't go on. {finished.message.partition(_NEXT)[0]}"
        return _without_record(finished.task, error, finished.usage)

    def _trace(self, failure: Failed) -> str:
        return _utf8(failures.ending((failure.traceback or failure.error).rstrip()))

    def _again(self, task: Claimed, error: str, seconds: float, extras: Extras) -> Finished:
        message = f"attempt {task.attempt} failed: {self._first(error)}{_NEXT}{seconds:.1f} s"
        ttl_ms = math.ceil(seconds * 1000)
        usage = _spent(task, extras)
        message = message[:MESSAGE_MAX]
        return Finished(task, "retry", "", message, usage=usage, ttl_ms=ttl_ms, definition=task.definition)

    def _finished(
        self,
        task: Claimed,
        outcome: Outcome,
        policy: TaskPolicy,
        *,
        output: Output = NOTHING,
        error: str | None = None,
        trace: str | None = None,
        extras: Extras = _NO_EXTRAS,
        seconds: float = 0.0,
    ) -> Finished:
        error = self._first(error) if error else None
        usage = _spent(task, extras)
        result = outputs.as_json(
            task.id,
            task.agent,
            success=outcome == "completed",
            output=output,
            error=error,
            traceback=trace,
            seconds=seconds,
            usage=usage if usage and (usage.requests or usage.total_tokens) else None,
            metadata={**_metadata_of(task), **extras.metadata},
            role=_role_of(task),
            attempt=task.attempt,
            completed_at=self._now(),
        )
        return Finished(
            task,
            outcome,
            result,
            message=(error or "")[:MESSAGE_MAX],
            usage=usage,
            ttl_ms=policy.result_ttl_seconds * 1000,
            definition=task.definition,
        )

    def _first(self, text: str) -> str:
        return _utf8(failures.beginning(text))


def log_fate(finished: Finished, crew: str, stored: Transition) -> None:
    """Logs what became of a task whose agent may do nothing, or which the store has lost. `stored`: what the store said
    of its end."""
    if stored == "returned":
        logger.info("task %s of %s is its role's again: %s", finished.task.id, crew, _line(finished.message))
    elif stored == "applied" and finished.outcome == "dead":
        _log_dead(finished.task, crew, finished.message)
    elif stored == "applied":
        _log_aside(finished, crew)


def log_unloadable(task: Claimed, reason: str, waits: str, stored: Transition) -> None:
    """Logs what became of a task that this worker can't run, as `unloadable` tells it. Nothing has of one that is to
    stop, or that somebody else has by now."""
    if stored == "applied":
        logger.warning("%s%s", reason, waits)
    elif stored == "returned":
        logger.warning("%s Task %r is its role's again", reason, task.id)
    elif stored == "repeated":  # the answer that said which of the two was lost
        logger.warning("%s", reason)


def _log_dead(task: Claimed, crew: str, error: str) -> None:
    """Logs a dead task in one line. The traceback is in the dead letter, and at level INFO."""
    logger.warning("task %s of %s is dead after attempt %d: %s", task.id, crew, task.attempt, _line(error))


def _log_aside(finished: Finished, crew: str) -> None:
    logger.info("task %s of %s is set aside: %s", finished.task.id, crew, finished.message)


def _line(error: str) -> str:
    return " ".join(_utf8(failures.beginning(error)).split())[:_LINE_MAX]


def _utf8(text: str) -> str:
    """Replaces what UTF-8 can't say."""
    return text.encode("utf-8", "replace").decode()


def missing(task: Claimed) -> Finished:
    """Makes the result of a task that has no record, so that nothing says what it should do."""
    return _without_record(task, "it has no record, so nothing says what to do")


def refused(finished: Finished) -> Finished:
    """Makes the result that takes the place of one that the store refuses."""
    error = "the store refused its result"
    told = _without_record(finished.task, error, finished.usage)
    return replace(finished, outcome="dead", result=told.result, message=error)


def stopped(task: Claimed, wish: Wish, ttl_ms: int) -> Finished:
    """Makes the result of a task that somebody stopped before it began."""
    return Finished(task, STOPPED[wish], "", usage=task.usage, ttl_ms=ttl_ms, definition=task.definition)


def unloadable(task: Claimed, error: AgentNotLoadable | NewerRecord) -> tuple[str, str]:
    """Says why a task is parked, for its feed; and behind that, what it waits for."""
    if isinstance(error, NewerRecord):
        return f"NewerRecord: {sentence(error)}", f" Task {task.id!r} waits for a worker that can read it"
    who = "an agent" if task.agent.startswith(ROLE) else "a worker"
    return f"AgentUnavailable: {sentence(error)}", f" Task {task.id!r} waits for {who} that has it"


def _without_record(task: Claimed, error: str, usage: Usage | None = None) -> Finished:
    usage = usage or task.usage
    result = outputs.as_json(task.id, task.agent, success=False, error=error, usage=usage, attempt=task.attempt)
    return Finished(task, "dead", result, message=error[:MESSAGE_MAX], usage=usage, definition=task.definition)


def _metadata_of(task: Claimed) -> Mapping[str, Any]:
    """Returns the metadata that a task of its own was submitted with."""
    if '"metadata":' not in task.payload or task.run_id is not None:  # within a text, the quotes would be escaped
        return {}
    try:
        return AgentTask.model_validate_json(task.payload).metadata
    except ValueError:
        return {}


def _role_of(task: Claimed) -> str | None:
    """Returns the role that a task of its own was submitted for: such a task names no agent."""
    if '"agent_name":"",' not in task.payload[:_NAMES_WITHIN] or task.run_id is not None:
        return None
    try:
        return AgentTask.model_validate_json(task.payload).role
    except ValueError:
        return None


def _may_change_agent(task: Claimed, extras: Extras) -> bool:
    """Returns whether another agent may get the task instead: this attempt has spent nothing, whatever earlier ones
    did, and it is one of a role."""
    return extras.usage is None and _role_of(task) is not None


def _spent(task: Claimed, extras: Extras) -> Usage | None:
    """Returns what all attempts so far have spent."""
    if task.usage is None or extras.usage is None:
        return task.usage or extras.usage
    return task.usage + extras.usage
