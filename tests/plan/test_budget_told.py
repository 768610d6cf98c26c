"""What the status and the Events of a Crew say of its budgets."""

from __future__ import annotations

import dataclasses

import pytest
from crew_plans import conditions, planned, settled

from watchbill.api.budgets import Budget
from watchbill.plan import budget, events
from watchbill.plan.budget import Amount, Seen, State
from watchbill.plan.replicas import Load

pytestmark = pytest.mark.pure

DAY = Budget.model_validate({"name": "day", "tokens": 100, "window": "Daily"})
UNTIL_MS = 1_772_409_600_000


def test_an_exhausted_budget_is_a_condition_and_an_event_until_it_has_room() -> None:
    open_, spent = State(DAY, "", Amount(90), until_ms=UNTIL_MS), State(DAY, "", Amount(99), Amount(), UNTIL_MS, True)
    well = settled(budgets=Seen([open_], UNTIL_MS - 5000))
    assert planned(well).status is None
    exhausted = planned(dataclasses.replace(well, budgets=Seen([spent]))).status
    assert conditions(exhausted)["BudgetExhausted"] == ("True", "BudgetExhausted")
    assert conditions(exhausted)["Ready"] == ("True", "Available")
    assert exhausted is not None
    more = State(DAY, "", Amount(100), Amount(), UNTIL_MS, True)
    later = dataclasses.replace(well, status=exhausted, budgets=Seen([more]))
    assert planned(later).status is None, "what is spent changes, and what is said does not"

    away = planned(dataclasses.replace(later, load=None, fleet=None, budgets=Seen(), store_error="away")).status
    assert conditions(away)["BudgetExhausted"] == ("True", "BudgetExhausted")

    (told,) = events.of_status(well.status, exhausted)
    assert (told.reason, told.warning) == ("BudgetExhausted", True)
    assert told.note == (
        "budget 'day' (100 tokens daily) has no room for the next request until 2026-03-02T00:00:00Z, and its tasks "
        "wait"
    )
    ended = planned(dataclasses.replace(later, budgets=Seen([State(DAY, "")]))).status
    assert ended is not None
    assert [one.reason for one in events.of_status(exhausted, ended)] == ["BudgetAvailable"]


def test_a_crew_with_budgets_is_looked_at_again_while_it_works_and_when_a_window_ends() -> None:
    spent = State(DAY, "", Amount(90), until_ms=UNTIL_MS)
    well = settled(budgets=Seen([spent], UNTIL_MS - 5000))
    assert planned(well).again_seconds == 6.0
    works = dataclasses.replace(well, load=Load(0, 1), budgets=Seen([State(DAY, "")]))
    assert planned(works).again_seconds == budget.LOOK_SECONDS
