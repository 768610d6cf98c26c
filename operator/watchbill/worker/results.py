"""Makes what the store is told of a task's end, from what its agent returned or how it failed. Free of secrets.

Does no I/O, and doesn't wait.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Literal

from watchbill.errors import AgentNotLoadable, NewerRecord
from watchbill.plan import retry
from watchbill.records import TaskPolicy
from watchbill.redaction import redact
from watchbill.store.queue import Claimed, Finished, Outcome, Wish
from watchbill.tasks import Usage
from watchbill.worker import failures, outputs
from watchbill.worker.failures import Failed

logger = logging.getLogger("watchbill.worker")

ERROR_MAX: Final = 16_000
MESSAGE_MAX: Final = 4000
_LINE_MAX: Final = 300
STOPPED: Final[Mapping[Wish, Literal["cancelled", "interrupted"]]] = {"cancel": "cancelled", "interrupt": "interrupted"}
"""What a task is that was stopped because somebody wished so."""


class Results:
    """The ends of one crew's tasks."""

    def __init__(self, crew: str, now: Callable[[], datetime]) -> None:
        """`now` is by the store's clock, as all that the store tells of times: this machine's may be wrong."""
        self._crew = crew
        self._now = now

    def completed(
        self, task: Claimed, policy: TaskPolicy, output: Any, usage: Usage | None, seconds: float
    ) -> Finished:
        """Its agent returned `output`; the task is dead all the same if that is no JSON."""
        try:
            return self._finished(task, "completed", policy, output=output, usage=usage, seconds=seconds)
        except outputs.Unstorable as error:
            self._mourn(task, str(error))
            return self._finished(task, "dead", policy, error=str(error), usage=usage, seconds=seconds)

    def failed(
        self, task: Claimed, policy: TaskPolicy, failure: Failed, usage: Usage | None, seconds: float
    ) -> Finished:
        """Its agent failed. Another attempt follows, or none: by the failure, and the attempts that are left. Then the
        task is dead, and can be tried again once the cause is mended; unless the agent has given it up for good."""
        wait = retry.pause(
            failure.judged,
            task.attempt,
            max_attempts=policy.max_attempts,
            base_seconds=policy.backoff_seconds,
            chance=random.random(),
        )
        what = self._last((failure.traceback or failure.error).rstrip())
        logger.info("attempt %d of task %s of %s failed\n%s", task.attempt, task.id, self._crew, what)
        if wait is not None:
            return self._again(task, failure.error, wait)
        if failure.judged.given_up:
            return self._finished(
                task,
                "failed",
                policy,
                error=failure.error,
                trace=failure.traceback and what,
                usage=usage,
                seconds=seconds,
            )
        self._mourn(task, failure.error)
        finished = self._finished(
            task, "dead", policy, error=failure.error, trace=failure.traceback and what, usage=usage, seconds=seconds
        )
        return replace(finished, detail=what)

    def stopped(self, task: Claimed, policy: TaskPolicy, outcome: Outcome, message: str) -> Finished:
        """It was cancelled or interrupted, and so has no result."""
        ttl_ms = policy.result_ttl_seconds * 1000
        return Finished(
            task, outcome, "", self._first(message)[:MESSAGE_MAX], ttl_ms=ttl_ms, definition=task.definition
        )

    def not_begun(self, task: Claimed, policy: TaskPolicy, error: str) -> Finished:
        """It ended before an agent saw it."""
        self._mourn(task, error)
        return self._finished(task, "dead", policy, error=error)

    def _mourn(self, task: Claimed, error: str) -> None:
        """In one line; the traceback is in the dead letter, and at level INFO."""
        why = " ".join(self._first(error).split())[:_LINE_MAX]
        logger.warning("task %s of %s is dead after attempt %d: %s", task.id, self._crew, task.attempt, why)

    def broken(self, task: Claimed, failure: Exception) -> Finished:
        """We ourselves couldn't run it."""
        return _without_record(task, self._first(failures.describe(failure)))

    def _again(self, task: Claimed, error: str, seconds: float) -> Finished:
        told = f"attempt {task.attempt} failed: {self._first(error)}; the next is in {seconds:.1f} s"
        ttl_ms = math.ceil(seconds * 1000)
        return Finished(task, "retry", "", told[:MESSAGE_MAX], ttl_ms=ttl_ms, definition=task.definition)

    def _finished(
        self,
        task: Claimed,
        outcome: Outcome,
        policy: TaskPolicy,
        *,
        output: Any = None,
        error: str | None = None,
        trace: str = "",
        usage: Usage | None = None,
        seconds: float = 0.0,
    ) -> Finished:
        """Raises Unstorable."""
        error = self._first(error) if error else None
        result = outputs.as_json(
            task.id,
            task.agent,
            success=outcome == "completed",
            output=output,
            error=error,
            traceback=trace or None,
            seconds=seconds,
            usage=usage if usage and (usage.requests or usage.total_tokens) else None,
            attempt=task.attempt,
            completed_at=self._now(),
        )
        return Finished(
            task,
            outcome,
            result,
            message=(error or "")[:MESSAGE_MAX],
            tokens=usage.total_tokens if usage else 0,
            ttl_ms=policy.result_ttl_seconds * 1000,
            definition=task.definition,
        )

    def _first(self, text: str) -> str:
        """Its beginning, without secrets, and as UTF-8 can say it."""
        return redact(text)[:ERROR_MAX].encode("utf-8", "replace").decode()

    def _last(self, text: str) -> str:
        """Its end likewise: of a traceback, the frames that matter."""
        text = redact(text).encode("utf-8", "replace").decode()
        return text if len(text) <= ERROR_MAX else "…" + text[-ERROR_MAX + 1 :]


def missing(task: Claimed) -> Finished:
    """The end of a task whose record isn't there: nothing says what it should do."""
    return _without_record(task, "it has no record, so nothing says what to do")


def refused(finished: Finished) -> Finished:
    """In place of a result that the store refuses."""
    error = "the store refused its result"
    told = _without_record(finished.task, error)
    return replace(finished, outcome="dead", result=told.result, message=error)


def stopped(task: Claimed, wish: Wish, ttl_ms: int) -> Finished:
    """The end of a task that somebody wanted to stop before it began."""
    return Finished(task, STOPPED[wish], "", ttl_ms=ttl_ms, definition=task.definition)


def unloadable(task: Claimed, error: AgentNotLoadable | NewerRecord) -> str:
    """What the feed says of a parked task."""
    if isinstance(error, NewerRecord):
        return f"NewerRecord: {error}. Task {task.id!r} waits for a worker that can read it"
    return f"AgentUnavailable: {error}. Task {task.id!r} waits for a worker that has it"


def _without_record(task: Claimed, error: str) -> Finished:
    result = outputs.as_json(task.id, task.agent, success=False, error=error, attempt=task.attempt)
    return Finished(task, "dead", result, message=error[:MESSAGE_MAX], definition=task.definition)
