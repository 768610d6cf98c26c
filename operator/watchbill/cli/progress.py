"""Waits for a run or task, and shows its progress."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from watchbill.cli import environment, failures, output
from watchbill.cli.process import end
from watchbill.cli.steps import Picture, View, view
from watchbill.client import Client, Result
from watchbill.errors import NotFound, WatchbillError
from watchbill.event_types import RUN_STREAM_MAX, EventType, Gap, TownEvent
from watchbill.names import split_step_id
from watchbill.tasks import RUN_TERMINAL, TERMINAL, RunState, RunStatus, StepStatus, TaskResult, TaskState

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

POLL_SECONDS: Final = 0.15
_SAID: Final = (EventType.MISSION_EVENT, EventType.MISSION_HELP_NEEDED)
"""The events whose messages are shown."""


def on_terminal() -> AbstractContextManager[View]:
    """The view of progress: a live tree on a terminal, else plain lines; nothing with -q."""
    if environment.is_quiet():
        return nullcontext(Picture())
    return view(terminal=sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"))


async def attend(
    client: Client, crew: str, task_id: str, shown: View, *, agent: str | None, timeout: float | None
) -> Result:
    """The result of the run (with `agent`: the task), once it has ended. Raises TimeoutError after `timeout` s."""
    watching = _Task(client, crew, task_id, agent, shown) if agent else _Run(client, crew, task_id, shown)
    beside = [asyncio.create_task(_lenient(work)) for work in watching.beside()]
    try:
        result = await client.wait(crew, task_id, timeout=timeout)
    finally:
        await end(*beside)
    with suppress(WatchbillError):
        await watching.ended(result)
    return result


async def _lenient(work: Coroutine[Any, Any, None]) -> None:
    """Runs the work of a view, whose failure must not cost the result."""
    with suppress(NotFound):
        await work


class _Run:
    """Follows a run by its status and its feed. A step is shown as far as the feed reports it: so all is in order."""

    def __init__(self, client: Client, crew: str, run_id: str, shown: View) -> None:
        self._client = client
        self._crew = crew
        self._run_id = run_id
        self._shown = shown
        self._now: RunStatus | None = None
        self._heard: set[str] = set()
        self._assigned: set[str] = set()
        self._ended: set[str] = set()
        self._missed = False

    def beside(self) -> list[Coroutine[Any, Any, None]]:
        return [self._poll(), self._listen()]

    async def _poll(self) -> None:
        while True:
            await self._read()
            self._show()
            await asyncio.sleep(POLL_SECONDS)

    async def _listen(self) -> None:
        async for entry_id, event in self._client.follow(self._crew, run=self._run_id):
            await self._hear(entry_id, event)

    async def ended(self, _: Result) -> None:
        """Shows the last messages and the end of the run."""
        await self.hear_all()
        self._shown.update(await self._client.status(self._crew, self._run_id))

    async def hear_all(self) -> None:
        for entry_id, event in await self._client.events(self._crew, run=self._run_id, count=RUN_STREAM_MAX):
            await self._hear(entry_id, event)

    async def _hear(self, entry_id: str, event: TownEvent | Gap) -> None:
        if isinstance(event, Gap):
            self._missed = True
            return
        step = split_step_id(event.task_id or "")
        if entry_id in self._heard or step is None:
            return
        self._heard.add(entry_id)
        name = step[1]
        if event.event_type in _SAID:
            self._shown.said(name, event.timestamp, event.message)
        elif event.event_type is EventType.TASK_ASSIGNED:
            self._assigned.add(name)
            await self._read_unless(name, TaskState.RUNNING, *TERMINAL)
        elif event.event_type in (EventType.TASK_COMPLETED, EventType.TASK_FAILED, EventType.TASK_CANCELLED):
            self._ended.add(name)
            if event.event_type is EventType.TASK_FAILED:
                self._shown.failed(name, event.message)
            await self._read_unless(name, *TERMINAL)
        self._show()

    async def _read_unless(self, name: str, *known: TaskState) -> None:
        """Reads the status, unless the last one has the step in a known state."""
        if self._now is None or not any(s.name == name and s.status in known for s in self._now.steps):
            await self._read()

    async def _read(self) -> None:
        try:
            self._now = await self._client.status(self._crew, self._run_id)
        except WatchbillError as error:
            if not failures.is_transient(error):
                raise

    def _show(self) -> None:
        if self._now is None:
            return
        change: dict[str, Any] = {"steps": tuple(map(self._as_heard, self._now.steps))}
        if self._now.status in RUN_TERMINAL:  # the end is shown by `ended`
            change |= {"status": RunState.RUNNING, "finished_at": None}
        self._shown.update(self._now.model_copy(update=change))

    def _as_heard(self, step: StepStatus) -> StepStatus:
        """Returns the step as the events so far have it, so that it doesn't end before its last message is shown."""
        over = step.status in TERMINAL and step.name not in self._ended
        begun = step.name in self._assigned
        if self._missed or not (over or (step.status is TaskState.RUNNING and not begun)):
            return step
        return step.model_copy(
            update={"status": TaskState.RUNNING if begun else TaskState.WAITING, "finished_at": None, "tokens": 0}
        )


_MOVES: Final = {
    EventType.TASK_ASSIGNED: TaskState.RUNNING,
    EventType.AGENT_INTERRUPTED: TaskState.INTERRUPTED,
    EventType.AGENT_RESUMED: TaskState.WAITING,
}
"""The events of a task of its own → its state."""


class _Task:
    """Shows a task of one agent as a run of one step: its begin comes from the feed, its end from the result."""

    def __init__(self, client: Client, crew: str, task_id: str, agent: str, shown: View) -> None:
        self._client = client
        self._crew = crew
        self._task_id = task_id
        self._shown = shown
        self._step = StepStatus(name=agent, agent=agent, status=TaskState.WAITING, index=0)
        self._submitted = output.now()

    def beside(self) -> list[Coroutine[Any, Any, None]]:
        return [self._listen()]

    async def _listen(self) -> None:
        self._show(RunState.RUNNING)
        async for _, event in self._client.follow(self._crew):
            if not isinstance(event, TownEvent) or event.task_id != self._task_id:
                continue
            if event.event_type in _MOVES:
                state = _MOVES[event.event_type]
                change = {"status": state, "started_at": event.timestamp if state is TaskState.RUNNING else None}
                self._step = self._step.model_copy(update=change)
                self._show(RunState.RUNNING)
            elif event.event_type in _SAID:
                self._shown.said(self._step.name, event.timestamp, event.message)

    async def ended(self, result: Result) -> None:
        at = (result.completed_at if isinstance(result, TaskResult) else result.finished_at) or output.now()
        took = timedelta(milliseconds=result.execution_time_ms)
        state = TaskState.COMPLETED if result.success else TaskState.FAILED
        change = {
            "status": TaskState.CANCELLED if result.cancelled else state,
            "started_at": self._step.started_at if result.cancelled else at - took,
            "finished_at": at,
            "tokens": result.usage.total_tokens if result.usage else 0,
        }
        self._step = self._step.model_copy(update=change)
        if not result.success and not result.cancelled:
            self._shown.failed(self._step.name, result.error or "")
        self._show(RunState(self._step.status.value))

    def _show(self, state: RunState) -> None:
        status = RunStatus(
            run_id=self._task_id,
            crew=self._client.keys(self._crew).crew,
            status=state,
            submitted_at=min(self._submitted, self._step.started_at or self._submitted),
            finished_at=self._step.finished_at,
            steps=(self._step,),
        )
        self._shown.update(status)
