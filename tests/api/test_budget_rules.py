"""Budgets in a Crew's spec: what is taken, and how what is wrong is told."""

from __future__ import annotations

from typing import Any

import pytest
from reading import CREW, only, read

from watchbill.records import CrewDefinition, from_crew, to_crew

pytestmark = pytest.mark.pure


def with_budget(text: str) -> str:
    return CREW + f"  budgets:\n    - {{name: day, {text}}}\n"


def test_a_budget_is_kept_by_the_crews_record() -> None:
    text = with_budget("window: Daily, timeZone: Europe/Berlin, usd: '20.00', onExhausted: Fail")
    text += "  prices:\n    - {model: 'openai:own', inputUSDPerMillion: '0.1', outputUSDPerMillion: '2'}\n"
    (crew,) = read(text).crews
    definition = CrewDefinition.model_validate_json(from_crew(crew).model_dump_json(), extra="ignore")
    (budget,) = definition.budgets
    assert (budget.scope, budget.window, budget.time_zone, budget.usd) == ("Crew", "Daily", "Europe/Berlin", "20.00")
    assert definition.prices[0].output_usd_per_million == "2"
    again = to_crew(definition, "default").spec
    assert (again.budgets, again.prices) == (crew.spec.budgets, crew.spec.prices)
    plain = from_crew(read(CREW).crews[0])
    assert plain.digest() != definition.digest()


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("window: Daily", "spec.budgets[0]", "neither tokens nor usd is given"),
        ("usd: '0.0'", "spec.budgets[0].usd", "usd is zero"),
        ("usd: '1,5'", "spec.budgets[0].usd", ""),
        ("tokens: 1, agent: writer", "spec.budgets[0].agent", "agent means something with scope Agent only"),
        ("tokens: 1, heartbeat: x", "spec.budgets[0].heartbeat", "heartbeat means something with scope Heartbeat only"),
        ("tokens: 1, scope: Run, window: Daily", "spec.budgets[0].window", "a run has one budget"),
        ("tokens: 1, timeZone: Europe/Berlin", "spec.budgets[0].timeZone", "where a window begins and ends only"),
        ("tokens: 1, window: Daily, timeZone: Europe/Berlim", "spec.budgets[0].timeZone", "is not a known time zone"),
        ("tokens: 1, scope: Agent, agent: nobody", "spec.budgets[0].agent", "no agent of this crew is called 'nobody'"),
    ],
)
def test_what_is_wrong_is_told_with_its_field(text: str, path: str, reason: str) -> None:
    found: Any = only(with_budget(text))
    assert found.path == path
    assert reason in found.reason
    assert found.fix


def test_names_stand_once() -> None:
    found = only(with_budget("tokens: 1") + "    - {name: day, tokens: 2}\n")
    assert (found.path, found.reason) == (
        "spec.budgets[1].name",
        "'day' stands twice: budgets[0] and budgets[1]",
    )
