"""How the steps of a run are drawn on a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from watchbill.cli.steps import Picture
from watchbill.tasks import RunState, RunStatus, StepStatus, TaskState

pytestmark = pytest.mark.pure

BEGUN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def drawn(columns: int, *steps: StepStatus, errors: dict[str, str]) -> list[str]:
    picture = Picture()
    times = {"submitted_at": BEGUN, "finished_at": BEGUN}
    picture.update(RunStatus(run_id="r1", crew="default/c", status=RunState.FAILED, steps=steps, **times))
    for step in steps:
        picture.said(step.name, BEGUN, "attempt 2 failed: KeyError: 'user'; the next is in 1.0 s")
    for name, error in errors.items():
        picture.failed(name, error)
    drawn = StringIO()
    Console(file=drawn, width=columns).print(picture)
    return drawn.getvalue().splitlines()


def test_a_dead_step_shows_why_and_not_that_another_attempt_follows() -> None:
    step = StepStatus(name="b", agent="b", status=TaskState.DEAD, index=0, attempt=3)
    (_, line) = drawn(120, step, errors={"b": "KeyError: 'user' (agents.py:17, in run)\nmore"})
    assert line.endswith("attempt 3  KeyError: 'user' (agents.py:17, in run)")


def test_long_names_leave_room_for_what_is_said_on_a_narrow_terminal() -> None:
    name = "a-very-long-name-of-an-agent-" * 2
    step = StepStatus(name=name, agent="a", status=TaskState.DEAD, index=0, attempt=3, tokens=12_345)
    (_, line) = drawn(60, step, errors={step.name: "KeyError: 1"})
    assert "a-very-long-name-of…" in line
    assert "KeyError" in line
    assert len(line) <= 60
