"""Which budgets bind a request, in which window, and what follows where one has no room."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill.api.budgets import Budget, Price
from watchbill.plan import budget
from watchbill.plan.budget import Amount, Counter, Limit, Seen, Span, Spent, State

pytestmark = pytest.mark.pure

NOW = datetime(2026, 11, 29, 13, 45, tzinfo=UTC)
"""A Sunday."""


def of(name: str = "day", **fields: Any) -> Budget:
    return Budget.model_validate({"name": name, "tokens": 1000, **fields})


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("window", "zone", "at", "start", "end"),
    [
        ("Hourly", "UTC", "2026-11-29T13:45Z", "2026-11-29T13:00Z", "2026-11-29T14:00Z"),
        ("Hourly", "Asia/Kathmandu", "2026-11-29T13:50Z", "2026-11-29T13:15Z", "2026-11-29T14:15Z"),
        # an hour that comes twice
        ("Hourly", "Europe/Berlin", "2026-10-25T00:30Z", "2026-10-25T00:00Z", "2026-10-25T01:00Z"),
        ("Hourly", "Europe/Berlin", "2026-10-25T01:30Z", "2026-10-25T01:00Z", "2026-10-25T02:00Z"),
        # clocks go back by half an hour
        ("Hourly", "Australia/Lord_Howe", "2026-04-04T15:15Z", "2026-04-04T15:00Z", "2026-04-04T16:00Z"),
        ("Daily", "UTC", "2026-11-29T00:00Z", "2026-11-29T00:00Z", "2026-11-30T00:00Z"),
        ("Daily", "Europe/Berlin", "2026-11-29T23:30Z", "2026-11-29T23:00Z", "2026-11-30T23:00Z"),
        # days of 23 and of 25 hours
        ("Daily", "Europe/Berlin", "2026-03-29T12:00Z", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),
        ("Daily", "Europe/Berlin", "2026-10-25T12:00Z", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),
        # a day without midnight
        ("Daily", "Africa/Cairo", "2026-04-24T10:00Z", "2026-04-23T22:00Z", "2026-04-24T21:00Z"),
        ("Weekly", "UTC", "2026-11-29T13:45Z", "2026-11-23T00:00Z", "2026-11-30T00:00Z"),
        ("Weekly", "Europe/Berlin", "2026-10-25T12:00Z", "2026-10-18T22:00Z", "2026-10-25T23:00Z"),
        ("Monthly", "UTC", "2026-12-31T23:59Z", "2026-12-01T00:00Z", "2027-01-01T00:00Z"),
        ("Monthly", "America/New_York", "2026-03-01T04:00Z", "2026-02-01T05:00Z", "2026-03-01T05:00Z"),
    ],
)
def test_a_window_is_that_of_its_zone(window: Any, zone: str, at: str, start: str, end: str) -> None:
    assert budget.span(window, zone, datetime.fromisoformat(at)) == Span(ms(start), ms(end))


@given(
    window=st.sampled_from(["Hourly", "Daily", "Weekly", "Monthly"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "Africa/Cairo"]),
    at=st.integers(1_577_836_800, 2_051_222_400).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
)
def test_windows_follow_one_another_without_a_gap(window: Any, zone: str, at: datetime) -> None:
    found = budget.span(window, zone, at)
    assert found.start <= at.timestamp() * 1000 < found.end
    following = budget.span(window, zone, datetime.fromtimestamp(found.end / 1000, UTC))
    assert following.start == found.end
    assert budget.span(window, zone, datetime.fromtimestamp((found.end - 1) / 1000, UTC)) == found


def test_a_budget_binds_what_its_scope_says() -> None:
    budgets = [
        of("crew"),
        of("each", scope="Agent"),
        of("mine", scope="Agent", agent="writer"),
        of("beats", scope="Heartbeat"),
        of("beat", scope="Heartbeat", heartbeat="nightly"),
        of("run", scope="Run"),
    ]

    def fields(agent: str, heartbeat: str) -> list[str]:
        return [limit.field for limit in budget.binding(budgets, agent, heartbeat, NOW)]

    assert fields("writer", "") == ["budget:crew:", "budget:each:writer", "budget:mine:writer", "budget:run:"]
    assert fields("critic", "nightly") == [
        *("budget:crew:", "budget:each:critic", "budget:beats:nightly", "budget:beat:nightly", "budget:run:")
    ]


def spent(one: Budget, tokens: int, *, is_exhausted: bool = True, nano: int = 0) -> Spent:
    return Spent(Limit(one, "", budget.span(one.window, one.time_zone, NOW)), is_exhausted, Amount(tokens, nano))


def test_what_follows_of_a_refusal() -> None:
    day, month = of("day", window="Daily"), of("month", window="Monthly", usd="2.50")
    total = of("all", onExhausted="Wait")
    asked = Amount(200, 10**9)

    soon = budget.refused([spent(day, 900, is_exhausted=False)], asked)
    assert soon.kind == "soon"

    wait = budget.refused([spent(day, 900), spent(month, 950, nano=2 * 10**9), spent(day, 9)], asked)
    assert (wait.kind, wait.until_ms) == ("wait", ms("2026-12-01T00:00Z"))
    assert wait.reason == (
        "budget 'month' is exhausted: 950 tokens (2.00 USD) of 1,000 tokens and 2.50 USD monthly are spent, and the "
        "request may need 200 tokens (1.00 USD). The task waits until 2026-12-01T00:00:00Z"
    )
    endless = budget.refused([spent(total, 900)], asked)
    assert endless.until_ms == budget.NEVER_MS
    assert endless.reason.endswith("The task waits until the budget is raised")

    fails = of("hour", window="Hourly", onExhausted="Fail")
    assert budget.refused([spent(month, 950), spent(fails, 900)], asked).kind == "fail"


@pytest.mark.parametrize(
    ("fields", "fate"),
    [
        ({}, "fail"),
        ({"scope": "Agent"}, "fail"),
        ({"scope": "Run"}, "fail"),
        ({"window": "Monthly"}, "wait"),
        ({"window": "Total", "onExhausted": "Wait"}, "wait"),
        ({"scope": "Run", "onExhausted": "Wait"}, "wait"),
        ({"window": "Hourly", "onExhausted": "Fail"}, "fail"),
    ],
)
def test_a_task_waits_for_a_window_that_comes_and_for_no_other_unless_told_to(
    fields: dict[str, Any], fate: str
) -> None:
    one = of(**fields)
    assert budget.refused([spent(one, 900)], Amount(200)).kind == fate
    told = budget.exhausted(Seen([State(one, "", is_exhausted=True)]))
    assert told.endswith(f"and its tasks {fate}")


@pytest.mark.parametrize("asked", [Amount(1001, 0), Amount(1, 10**9 + 1)])
def test_a_request_above_the_whole_budget_never_waits(asked: Amount) -> None:
    found = budget.refused([spent(of(usd="1", window="Daily"), 0, is_exhausted=False)], asked)
    assert found.kind == "never"
    assert "Lower max_tokens in the agent's config, or raise the budget" in found.reason


def test_money_is_counted_in_whole_billionths_and_never_rounded_down() -> None:
    assert budget.nano_of("20.00") == 20 * 10**9
    assert budget.nano_of("0.000000001") == 1
    price = Price.model_validate({"model": "m", "inputUSDPerMillion": "0.0001", "outputUSDPerMillion": "2"})
    assert budget.prices([price]) == {"m": (1, 2000, 50)}
    assert [budget.usd(nano) for nano in (0, 10**9, 12_345_678, 1234)] == ["0.00", "1.00", "0.01", "0.000001"]


def counter(window: str, tokens: int, *, end_ms: int = 2000, refused_ms: int = 0, allowed: str = "1000/") -> Counter:
    return Counter(window, end_ms, Amount(tokens, 0), Amount(), refused_ms, allowed)


def test_states_are_those_of_the_present_windows() -> None:
    budgets = [
        of("day", window="Daily"),
        of("hour", window="Hourly"),
        of("old", window="Daily", timeZone="Europe/Berlin"),
        of("each", scope="Agent", window="Daily"),
        of("mine", scope="Agent", agent="a"),
        of("run", scope="Run"),
    ]
    counters = {
        "budget:day:": counter("Daily UTC", 900, refused_ms=5),
        "budget:hour:": counter("Hourly UTC", 900, end_ms=1000),
        "budget:old:": counter("Daily UTC", 900),
        "budget:each:b": counter("Daily UTC", 100),
        "budget:each:gone": counter("Daily UTC", 100, end_ms=1000),
        "budget:mine:b": counter("Total UTC", 100),
    }
    found = [
        (one.budget.name, one.subject, one.spent.tokens, one.until_ms, one.is_exhausted)
        for one in budget.states(budgets, counters, 1000)
    ]
    assert found == [
        ("day", "", 900, 2000, True),
        ("hour", "", 0, 0, False),
        ("old", "", 0, 0, False),
        ("each", "b", 100, 2000, False),
        ("mine", "a", 0, 0, False),
    ]


def test_a_budget_that_was_raised_is_not_exhausted_any_more() -> None:
    counters = {"budget:day:": counter("Total UTC", 900, refused_ms=5)}
    (before,) = budget.states([of()], counters, 1)
    (after,) = budget.states([of(tokens=2000)], counters, 1)
    assert (before.is_exhausted, before.share) == (True, 0.9)
    assert (after.is_exhausted, after.share) == (False, 0.45)


def test_the_greater_share_counts_and_a_condition_names_what_is_exhausted() -> None:
    one = State(
        of(usd="2", window="Daily"), "", Amount(100, 10**9), until_ms=ms("2026-11-30T00:00Z"), is_exhausted=True
    )
    each = State(of("each", scope="Agent", onExhausted="Fail"), "a", is_exhausted=True)
    assert one.share == 0.5
    assert budget.exhausted(Seen([State(of(), "")])) == ""
    assert budget.exhausted(Seen([one, each])) == (
        "budget 'day' (1,000 tokens and 2 USD daily) has no room for the next request until 2026-11-30T00:00:00Z, and "
        "its tasks wait; budget 'each' of agent 'a' (1,000 tokens) has no room for the next request until it is "
        "raised, and its tasks fail"
    )


def test_budgets_are_looked_at_while_agents_work_and_when_a_window_ends() -> None:
    counted, idle = State(of(), "", Amount(1), until_ms=5000), State(of(), "")
    assert budget.again(Seen((), 1000), works=True) is None
    assert budget.again(Seen([idle], 1000), works=False) is None
    assert budget.again(Seen([idle], 1000), works=True) == budget.LOOK_SECONDS
    assert budget.again(Seen([counted, idle], 1000), works=True) == 5.0
    assert budget.again(Seen([counted], 6000), works=False) == 1.0
