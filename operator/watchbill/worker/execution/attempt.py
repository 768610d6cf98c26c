"""One attempt of a task: its agent runs on the event loop, in a thread or in a process, until it ends, somebody stops
it, or its time is up.

The end is reported once: by the agent's return or by the stop, whichever comes first. Enforces the timeout.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from pydantic_core import from_json

from watchbill import logs, metrics, tracing
from watchbill.agents.context import Context
from watchbill.agents.loading import Runner
from watchbill.agents.tools import Tool
from watchbill.api.modes import When
from watchbill.clock import SYSTEM, Clock, Patience, PatientTimer, Timer
from watchbill.loggers import Logger
from watchbill.plan import flow
from watchbill.plan.hierarchy import Verdict
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store.queue import Claimed, Finished, Outcome
from watchbill.worker.execution import failures, outputs, processes
from watchbill.worker.execution.abandoned import CLEAN_UP_SECONDS, DIE_SECONDS, Abandoned
from watchbill.worker.execution.failures import Failed
from watchbill.worker.execution.outputs import Output
from watchbill.worker.execution.processes import Processes
from watchbill.worker.execution.results import Extras, Results, Waiting
from watchbill.worker.execution.shared_lease import LEASE_POLL_SECONDS, SharedLease
from watchbill.worker.execution.threads import run_in_thread

if TYPE_CHECKING:
    from watchbill.agents.crew_messaging import CrewMessaging
    from watchbill.agents.team import Team

logger = Logger("watchbill.worker")

CLOSE_SECONDS: Final = 2.0
"""The longest wait for the end of what an agent has left listening."""
_ADVICE_ON_LOOP: Final = "Let asyncio.CancelledError pass, after cleaning up."
_ADVICE_IN_PROCESS: Final = "Its process has been killed, and has not ended yet."
_ADVICE_IN_THREAD: Final = (
    'Return when context.cancelled is true, or ask for a process, which can be killed: runs_in = "process".'
)


@dataclass(frozen=True, slots=True)
class Role:
    """An agent under one definition. All its tasks share this."""

    crew: CrewDefinition
    agent: AgentDefinition
    runner: Runner
    tools: Mapping[str, Tool]
    reads: tuple[str, ...]
    """Agents whose outputs the agent is given."""
    wanted: tuple[str, ...]
    """Agents whose outputs must be known before it begins."""
    cites: tuple[str, ...]
    """Agents that its prompt cites."""
    inputs: frozenset[str]
    """Inputs that its prompt or its definition names."""
    timeout: float
    """Seconds."""
    plan: flow.Plan
    when: When | None = None
    """The condition of its steps."""
    needs_approval: bool = False
    """Somebody must approve of each of its tasks before it begins."""


class End(Protocol):
    """Takes the end of a task, and for how many seconds its agent ran; None if it did not begin."""

    def __call__(self, finished: Finished, ran_seconds: float | None = None, /) -> None: ...


class _Unsure(Exception):
    """The lease may have ended before the thread's first step."""


class Attempt:
    """One run of one agent, in an asyncio task of its own, which ends when the agent really ends."""

    __slots__ = (
        "_abandoned",
        "_asked_at",
        "_begun",
        "_clock",
        "_end",
        "_handle",
        "_lease",
        "_processes",
        "_results",
        "_span",
        "_timer",
        "_timer_at",
        "_verdict",
        "_waits",
        "_why",
        "context",
        "role",
        "task",
    )

    def __init__(
        self,
        task: Claimed,
        role: Role,
        context: Context,
        end: End,
        results: Results,
        abandoned: Abandoned,
        processes: Processes,
        lease: SharedLease,
        clock: Clock = SYSTEM,
        span: tracing.Span | None = None,
    ) -> None:
        self.task = task
        self.role = role
        self.context = context
        self._end: End | None = end
        self._results = results
        self._abandoned = abandoned
        self._processes = processes
        self._lease = lease
        self._span = span
        self._why: Literal["timed out", "cancelled", "interrupted"] | None = None
        self._waits: Waiting | None = None
        self._verdict: Verdict | None = None
        self._asked_at: float | None = None
        self._clock = clock
        self._begun = clock.monotonic()
        self._timer_at = 0.0
        self._timer: Timer = clock.call_later(role.timeout, self._time_out)
        self._handle = asyncio.create_task(self._run(), name=f"task {task.id}")

    def cancel(self) -> None:
        """Asks the agent to stop, and reports no end. The agent counts as abandoned until it ends."""
        if self._end is not None:
            tracing.end(self._span, "dropped")
        self._end = None
        self._timer.cancel()
        if not self._handle.done():
            self._leave(self._ask())

    def stop(self, outcome: Literal["cancelled", "interrupted"], seconds: float) -> None:
        """Asks the agent to stop. Reports `outcome` once the agent has ended, or after `seconds`: then it is abandoned.
        An agent that returns before that has completed; one that raises was stopped. May be called again: to hurry, or
        to cancel a task that is being interrupted."""
        if self._end is None:
            return
        if self._why != "cancelled":
            self._why = outcome
        self._end_within(seconds)

    def park(self, waits: Waiting) -> None:
        """Asks the agent to stop, because its task waits for something. To be cancelled or interrupted prevails."""
        if self._why is None:
            self._waits = waits
            self.stop("interrupted", CLEAN_UP_SECONDS)

    def _time_out(self) -> None:
        self._why = "timed out"
        self._end_within(CLEAN_UP_SECONDS)

    def _end_within(self, seconds: float) -> None:
        """Asks the agent to stop, and abandons it after `seconds`."""
        at = self._clock.monotonic() + seconds
        if self._asked_at is None or at < self._timer_at:
            self._timer.cancel()
            self._timer_at = at
            self._timer = PatientTimer(self._clock, seconds, self._abandon)
        self._ask()

    def _ask(self) -> float:
        """Asks the agent to stop, once: another cancellation would cut off its cleaning up. Returns when that was."""
        if self._asked_at is None:
            self._asked_at = self._clock.monotonic()
            self.context.cancel()
            self._handle.cancel()
            self._handle.add_done_callback(self._stopped)
        return self._asked_at

    def _abandon(self) -> None:
        if self._handle.done():  # what it came to was told, or couldn't be
            self._report_stop()
            return
        self._leave(self._ask())
        self._report_stop("; its agent did not stop in time, and was abandoned")

    def _leave(self, asked_at: float) -> None:
        runner = self.role.runner
        advice, seconds = _ADVICE_ON_LOOP if runner.is_async else _ADVICE_IN_THREAD, CLEAN_UP_SECONDS
        if runner.in_process:
            advice, seconds = _ADVICE_IN_PROCESS, DIE_SECONDS
        self._abandoned.add(self._handle, self.role.agent.agent_id, self.task.id, advice, asked_at, seconds)

    async def _run(self) -> None:
        logs.bind(self.context.logger.extra or {})
        tracing.enter(self._span, self.context.task.metadata)
        try:
            try:
                came = await self._call()
            except Exception as fault:  # there is no thread to be had, say
                came = failures.failed(fault, self._clock.now())
            if isinstance(came, Output) and self.context.team is not None:
                came = self._judged(came, self.context.team)
            if isinstance(came, Output) or (came is not None and self._why is None):
                self._report(came)
        finally:
            if (messaging := self.context.messaging) is not None and messaging.is_open:
                await self._close(messaging)

    def _judged(self, came: Output, team: Team) -> Output | Failed:
        """Returns the output, or why a step of a hierarchical crew has failed with it."""
        try:
            self._verdict = team.judged(from_json(came.text))
        except ValueError as error:
            return Failed(str(error))
        return came

    async def _close(self, messaging: CrewMessaging) -> None:
        """Ends what the agent has left listening. Its end is reported before: a handler may raise, or block."""
        try:
            async with Patience(CLOSE_SECONDS):
                await messaging.close()
        except Exception as error:
            logger.warning("the bus of task %s could not be closed: %r", self.task.id, error)

    async def _call(self) -> Output | Failed | None:
        """Returns the agent's output or failure; None if there is none, since it was asked to stop.

        Begins only under a valid lease. Otherwise the worker stood still or was cut off, and another may have done the
        task: if so, this is cancelled soon. All of the agent's own code runs here, within its time: also that which
        makes JSON of its output, and that of its exception."""
        runner, context = self.role.runner, self.context
        while not self._lease.is_valid:
            await self._clock.sleep(LEASE_POLL_SECONDS)
        try:
            if runner.in_process:
                request = processes.request(self.role.crew, context, tracing.handed_over(self._span))
                return await self._processes.run(request, context)
            if runner.is_async:
                return await self._awaited(runner.run(context))
            came = await self._call_in_thread()
            if inspect.isawaitable(came):  # a decorator may hide that it is async
                came = await self._awaited(came)
            return came  # type: ignore[no-any-return]
        except BaseException as failure:
            kind = type(failure)
            if self._is_asked():  # no failure, then
                if issubclass(kind, asyncio.CancelledError | GeneratorExit):
                    raise
                return None
            if kind is failures.AgentFailed or issubclass(kind, GeneratorExit):  # which may await nothing
                return failures.failed(failure, self._clock.now())
            return await run_in_thread(failures.failed, failure, self._clock.now())  # beside the loop: it may block

    async def _awaited(self, awaitable: Awaitable[Any]) -> Output | None:
        output = await awaitable
        if output is None and self._is_asked():
            return None
        return await outputs.made_on_loop(self.role.agent.agent_id, output)

    async def _call_in_thread(self) -> Any:
        """Returns what `_call` returns, or an awaitable."""

        def run() -> Any:
            if self._is_asked() or not self._lease.is_valid:
                raise _Unsure
            try:
                output = self.role.runner.run(self.context)
                if inspect.isawaitable(output):
                    return output
                if output is None and self._is_asked():
                    return None
                return outputs.made(self.role.agent.agent_id, output)
            except BaseException as failure:
                return None if self._is_asked() else failures.failed(failure, self._clock.now())

        while True:
            try:
                came = await run_in_thread(run)
            except _Unsure:
                if self._is_asked():  # which the wait for a thread doesn't tell
                    return None
                await self._clock.sleep(LEASE_POLL_SECONDS)
                continue
            if self._is_asked() and inspect.isawaitable(came):
                if inspect.iscoroutine(came):
                    came.close()
                return None
            return came

    def _is_asked(self) -> bool:
        """True if it was asked to stop."""
        return self._asked_at is not None

    def _stopped(self, _: asyncio.Task[None]) -> None:
        """Reports the stop. Called when the agent has ended after it was asked to stop."""
        if self._why is not None:
            self._report_stop()

    def _report_stop(self, addition: str = "") -> None:
        if self._why == "timed out":
            self._report(Failed(f"timed out after {self.role.timeout:g} s"))
        else:
            self._report(None, f"{self._why}{addition}")

    def _report(self, came: Output | Failed | None, stopped: str = "") -> None:
        """Reports the end, once, and before all else that is to be done about it: nothing may lose it."""
        end, self._end = self._end, None
        if end is None:  # reported before, or cancelled
            return
        self._timer.cancel()
        seconds = self._clock.monotonic() - self._begun
        task, policy, extras = self.task, self.role.crew.tasks, Extras()
        try:
            extras = Extras(self.context.usage, self.context.metadata)
            if isinstance(came, Output):
                finished = self._results.completed(task, policy, came, extras, seconds)
                if self._verdict is not None and self.context.team is not None:
                    finished = self._results.reviewed(finished, self._verdict, self.context.team.reviews)
            elif came is not None:
                finished = self._results.failed(task, policy, came, extras, seconds)
            elif self._waits is not None and self._why == "interrupted":
                finished = self._results.waiting(task, self._waits, extras)
            else:
                outcome: Outcome = "interrupted" if self._why == "interrupted" else "cancelled"
                finished = self._results.stopped(task, policy, outcome, stopped, extras)
        except Exception as fault:  # our own: still the task's end, and reported in full
            finished = self._results.broken(task, fault)
            logger.exception("the end of task %s could not be told", task.id)
        end(finished, seconds)
        tracing.end(self._span, finished.outcome, came.error if isinstance(came, Failed) else "")
        if (usage := extras.usage) is not None and usage.total_tokens:
            metrics.TOKENS.labels(*self._labels, "input").inc(usage.input_tokens)
            metrics.TOKENS.labels(*self._labels, "output").inc(usage.output_tokens)
        if trace := tracing.recorded(self._span, self.context.task.metadata):
            metrics.TASK_RUN.labels(*self._labels).exemplify(seconds, trace, self._clock.now().timestamp())
        if isinstance(came, Failed):
            self._results.log(finished, came)

    @property
    def _labels(self) -> tuple[str, str, str]:
        """The crew and the agent, as metrics name them."""
        of_crew = metrics.of_crew(self.context.crew)
        return (*of_crew, metrics.AGENTS.shown(of_crew, self.role.agent.agent_id))


def on_stack(frame: FrameType | None) -> Attempt | None:
    """Returns the attempt whose agent has called this frame. Meant for other threads than the event loop's."""
    while frame is not None:
        if frame.f_code is _RUN:
            found = frame.f_locals.get("self")
            return found if isinstance(found, Attempt) else None
        frame = frame.f_back
    return None


_RUN: Final = Attempt._run.__code__
