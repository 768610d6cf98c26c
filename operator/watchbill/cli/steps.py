"""Draws the steps of a run: a live tree on a terminal, or a line for each change."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Final, Protocol

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from watchbill.cli import output
from watchbill.tasks import RUN_TERMINAL, TERMINAL, RunState, RunStatus, StepStatus, TaskState
from watchbill.terminal import indented, one_line

_ICONS: Final = {
    TaskState.WAITING: ("○", "dim"),
    TaskState.PARKED: ("◌", "yellow"),
    TaskState.DELAYED: ("◷", "yellow"),
    TaskState.INTERRUPTED: ("‖", "yellow"),
    TaskState.APPROVAL: ("?", "bold yellow"),
    TaskState.CANCELLING: ("⊘", "yellow"),
    TaskState.CANCELLED: ("⊘", "red"),
    TaskState.COMPLETED: ("✔", "green"),
    TaskState.FAILED: ("✘", "red"),
    TaskState.DEAD: ("✘", "red"),
    TaskState.SKIPPED: ("–", "dim"),
}
_NARROW: Final = 80
"""Columns below which messages take the place of counts."""
_SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_RUN_STYLES: Final = {
    RunState.COMPLETED: "bold green",
    RunState.PARTIAL: "bold yellow",
    RunState.CANCELLING: "bold yellow",
    RunState.CANCELLED: "bold red",
    RunState.FAILED: "bold red",
}


class View(Protocol):
    """A view of the progress of a run."""

    def update(self, status: RunStatus) -> None:
        """Shows the state of the run."""

    def said(self, step: str, at: datetime, message: str) -> None:
        """Shows a message of a running agent."""

    def failed(self, step: str, error: str) -> None:
        """Keeps the error of a step that has failed for good."""


@dataclass
class Picture:
    """A run as a tree. It is rendered at each refresh, so that its times go on."""

    status: RunStatus | None = None
    messages: dict[str, str] = field(default_factory=dict)

    def update(self, status: RunStatus) -> None:
        self.status = status

    def said(self, step: str, at: datetime, message: str) -> None:
        self.messages[step] = message

    def failed(self, step: str, error: str) -> None:
        self.messages[step] = error

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.status is None:
            return
        room = max(console.height - 6, 5) if console.is_terminal else 1000
        yield self._tree(self.status, room, options.max_width)

    def _tree(self, status: RunStatus, room: int, columns: int) -> Tree:
        tree = Tree(self._title(status), guide_style="dim")
        shown = status.steps
        if len(shown) > room:
            # what runs and what failed matters most; the others are counted
            quiet = {TaskState.WAITING, TaskState.COMPLETED, TaskState.SKIPPED}
            shown = tuple(sorted(shown, key=lambda s: (s.status in quiet, s.index))[:room])
            shown = tuple(sorted(shown, key=lambda s: s.index))
        # long names must leave room for what is said
        width = min(max((len(step.name) for step in shown), default=0), max(columns // 3, 8))
        for step in shown:
            tree.add(self._row(step, width, narrow=columns < _NARROW))
        if rest := [step for step in status.steps if step not in shown]:
            counts = ", ".join(
                f"{sum(step.status is state for step in rest)} {state.value}"
                for state in TaskState
                if any(step.status is state for step in rest)
            )
            tree.add(Text(f"… {len(rest)} more: {counts}", style="dim"))
        return tree

    def _title(self, status: RunStatus) -> Text:
        seconds = ((status.finished_at or output.now()) - status.submitted_at).total_seconds()
        title = Text(status.crew, style="bold", no_wrap=True, overflow="ellipsis")
        title.append(f"  {status.status.value}", style=_RUN_STYLES.get(status.status, "bold cyan"))
        title.append(f"  {output.seconds(max(seconds, 0))}")
        if tokens := sum(step.tokens for step in status.steps):
            title.append(f"  {output.many(tokens, 'token')}", style="magenta")
        title.append(f"  {status.run_id}", style="dim")
        return title

    def _row(self, step: StepStatus, width: int, *, narrow: bool) -> RenderableType:
        now = time.monotonic()  # noqa: TID251 - turns the spinner
        icon, style = _ICONS.get(step.status, (_SPINNER[int(now * 8) % len(_SPINNER)], "cyan"))
        row = Text(f"{icon} ", style=style, no_wrap=True, overflow="ellipsis")
        name = step.name if len(step.name) <= width else f"{step.name[: width - 1]}…"
        row.append(name.ljust(width), style="bold" if step.status is TaskState.RUNNING else "")
        row.append(f"  {step.status.value:<11}  {elapsed(step):>6}")
        message = self.messages.get(step.name, "").strip()
        counted = not (narrow and message)
        if step.tokens and counted:
            row.append(f"  {output.many(step.tokens, 'token')}", style="magenta")
        if step.attempt > 1 and counted:
            row.append(f"  attempt {step.attempt}", style="yellow")
        if message:
            row.append(f"  {one_line(message.splitlines()[0])}", style="dim italic")
        elif step.status is TaskState.WAITING and step.after:
            row.append(f"  after {', '.join(step.after)}", style="dim")
        return row


_NOT_RUN = (
    *(TaskState.WAITING, TaskState.PARKED, TaskState.DELAYED),
    *(TaskState.INTERRUPTED, TaskState.APPROVAL, TaskState.SKIPPED),
)


def elapsed(step: StepStatus) -> str:
    """The run time of the step so far; empty if it never started."""
    if step.started_at is None or step.status in _NOT_RUN:
        return ""
    return output.seconds(max(((step.finished_at or output.now()) - step.started_at).total_seconds(), 0))


class LiveTree:
    """The tree on a terminal's stderr, redrawn several times a second."""

    def __init__(self) -> None:
        self._picture = Picture()
        self.update = self._picture.update
        self.said = self._picture.said
        self.failed = self._picture.failed
        self._live = Live(self._picture, console=Console(stderr=True), refresh_per_second=8)

    def __enter__(self) -> LiveTree:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


class Lines:
    """A line on stderr for each change, for logs and pipes."""

    def __init__(self) -> None:
        self._seen: dict[str, TaskState] = {}
        self._errors: dict[str, str] = {}
        self._announced = False
        self._over = False

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def update(self, status: RunStatus) -> None:
        if not self._announced:
            self._announced = True
            output.say(f"{output.clock(status.submitted_at)} {status.crew} {status.run_id}")
        changed = [step for step in status.steps if self._seen.get(step.name, TaskState.WAITING) is not step.status]
        for step in sorted(changed, key=lambda s: (s.finished_at or s.started_at or output.now(), s.index)):
            self._seen[step.name] = step.status
            self._line(step)
        if status.status in RUN_TERMINAL and not self._over:
            self._over = True
            ended = status.finished_at or output.now()
            took = output.seconds((ended - status.submitted_at).total_seconds())
            output.say(f"{output.clock(ended)} {status.crew} {status.run_id} {status.status.value} {took}")

    def _line(self, step: StepStatus) -> None:
        at = (step.finished_at if step.status in TERMINAL else step.started_at) or output.now()
        parts = [output.clock(at), step.name, step.status.value]
        if step.status in TERMINAL:
            parts.append(elapsed(step))
        if step.tokens:
            parts.append(output.many(step.tokens, "token"))
        if step.status in (TaskState.FAILED, TaskState.DEAD):
            parts += self._errors.get(step.name, "").strip().splitlines()[:1]
        output.say(" ".join(part for part in parts if part))

    def failed(self, step: str, error: str) -> None:
        self._errors[step] = error

    def said(self, step: str, at: datetime, message: str) -> None:
        output.say(indented(f"{output.clock(at)} {step}: {message}"))


def view(*, terminal: bool) -> AbstractContextManager[View]:
    """The view for a terminal, or for other output."""
    return LiveTree() if terminal else Lines()
