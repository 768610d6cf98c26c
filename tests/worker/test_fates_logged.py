"""What the log says of a task is what became of it: where the store decides that, only once it has."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from watchbill.errors import AgentNotLoadable, BudgetExhausted, Postponed
from watchbill.records import TaskPolicy
from watchbill.store.queue import Claimed, Transition
from watchbill.tasks import AgentTask, Priority
from watchbill.worker.execution import failures, results

pytestmark = pytest.mark.pure


def claimed(role: str | None) -> Claimed:
    payload = AgentTask(task_id="t1", agent_name="" if role else "ann", prompt="x", role=role).model_dump_json()
    return Claimed("t1", "1", 1, "ann", "1-1", Priority.NORMAL, taken_over=False, payload=payload)


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [(record.levelname, record.getMessage().partition("\n")[0]) for record in caplog.records]
    caplog.clear()
    return found


DEAD = ("WARNING", "task t1 of c is dead after attempt 1: BudgetExhausted: it is spent")
ATTEMPT = ("INFO", "attempt 1 of task t1 of c failed")
ASIDE = ("INFO", "task t1 of c is set aside: it is spent")


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (BudgetExhausted("it is spent"), [ATTEMPT], DEAD),
        (Postponed("it is spent", seconds=60), [], ASIDE),
    ],
    ids=["fails", "waits"],
)
@pytest.mark.parametrize("stored", ["applied", "returned", "stopped", "repeated"])
def test_the_log_says_where_a_task_goes_that_another_agent_may_get(
    caplog: pytest.LogCaptureFixture, error: Exception, before: list[Any], after: Any, stored: Transition
) -> None:
    caplog.set_level("INFO", "watchbill.worker")
    failure = failures.failed(error, datetime.now(UTC))
    made = results.Results("c", lambda: datetime.now(UTC))

    finished = made.failed(claimed(None), TaskPolicy(), failure, results.Extras(), 1.0)
    made.log(finished, failure)
    assert (logged(caplog), finished.is_of_agent) == ([*before, after], False), "it names its agent"

    finished = made.failed(claimed("reviewer"), TaskPolicy(), failure, results.Extras(), 1.0)
    made.log(finished, failure)
    assert (logged(caplog), finished.is_of_agent) == (before, True), "nobody knows yet"
    results.log_fate(finished, "c", stored)
    back = ("INFO", f"task t1 of c is its role's again: {finished.message}")
    assert logged(caplog) == {"applied": [after], "returned": [back]}.get(stored, [])


def test_the_log_says_that_a_task_is_parked_only_if_it_is(caplog: pytest.LogCaptureFixture) -> None:
    reason, waits = results.unloadable(claimed("reviewer"), AgentNotLoadable("there is no class 'Ann'"))
    expected: dict[Transition, list[str]] = {
        "applied": ["AgentUnavailable: there is no class 'Ann'. Task 't1' waits for a worker that has it"],
        "returned": ["AgentUnavailable: there is no class 'Ann'. Task 't1' is its role's again"],
        "repeated": ["AgentUnavailable: there is no class 'Ann'."],
        "stopped": [],
        "stale": [],
    }
    for stored, said in expected.items():
        results.log_unloadable(claimed("reviewer"), reason, waits, stored)
        assert [text for _, text in logged(caplog)] == said, stored
