"""Decides which budgets bind a request to a model, in which window of time, and what follows where one has no room.
Pure.

Money is counted in billionths of a US dollar, in whole numbers: the price of one token is some hundreds of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from watchbill.api.budgets import Budget, Price, Window

NANO: Final = 10**9
"""Units of money in a US dollar."""
NEVER_MS: Final = 253_402_300_799_000
"""The end of a window that never ends (ms since 1970): the end of the year 9999."""
LOOK_SECONDS: Final = 10.0
"""Seconds between two looks at the budgets of a crew that works."""
_TOLD_MOST: Final = 5
_HOUR: Final = timedelta(hours=1)


class Span(NamedTuple):
    """A window of time, in ms since 1970: from `start` until before `end`."""

    start: int
    end: int


class Amount(NamedTuple):
    """Tokens, and what they cost."""

    tokens: int = 0
    nano: int = 0

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens" + (f" ({usd(self.nano)} USD)" if self.nano else "")


NOTHING: Final = Amount()


class TokenPrice(NamedTuple):
    """The price of a model, in nano for each token."""

    reads: int
    writes: int
    batch_percent: int = 50
    """The part of it that a request by a batch costs."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget, as it binds one request."""

    budget: Budget
    subject: str
    """The agent or the heartbeat that is bound, where each is by itself; else empty."""
    span: Span

    @property
    def field(self) -> str:
        """The field of the counter, in the hash of the crew's counters or in the record of a run."""
        return field_of(self.budget, self.subject)

    @property
    def said(self) -> str:
        """The budget, as messages name it."""
        whose = f" of {self.budget.scope.lower()} {self.subject!r}" if self.subject else ""
        return f"budget {self.budget.name!r}{whose}"


class Spent(NamedTuple):
    """A limit that has no room for a request, as the store counts it."""

    limit: Limit
    is_exhausted: bool
    """False: there would be room if all requests under way cost nothing."""
    spent: Amount
    """Including the upper bounds of requests under way."""


class Refusal(NamedTuple):
    """The answer to a request for which there is no room."""

    kind: str
    """`soon`: it may fit once requests under way have ended. `wait`: not before `until_ms`. `fail`: the budget says
    that the task fails. `never`: it is more than the whole budget."""
    reason: str
    until_ms: int = 0


@dataclass(frozen=True, slots=True)
class Counter:
    """The count of one budget in its last window, as the store keeps it."""

    window: str
    """By `window_name`."""
    end_ms: int
    spent: Amount
    held: Amount
    """The upper bounds of requests under way, which `spent` includes."""
    refused_ms: int = 0
    """The time at which it last had no room for a request; 0: it has had some since."""
    allowed: str = "/"
    """The bounds that it had then."""


@dataclass(frozen=True, slots=True)
class State:
    """The state of a budget."""

    budget: Budget
    subject: str
    spent: Amount = NOTHING
    held: Amount = NOTHING
    until_ms: int = 0
    """The end of the window; 0: nothing was counted in the present one, or it has no end."""
    is_exhausted: bool = False
    """The last request found no room, and the budget is still the same."""

    @property
    def share(self) -> float:
        """The greater part, of tokens and of money, that is spent; 1 is all."""
        pairs = zip(self.spent, bounds(self.budget), strict=True)
        return max(part / most for part, most in pairs if most is not None)


@dataclass(frozen=True, slots=True)
class Seen:
    """The budgets of a crew, as they were read."""

    states: Sequence[State] = ()
    at_ms: int = 0
    """The time of the reading, by the store's clock."""


FIELDS: Final = "budget:"
"""The beginning of the names of all counters."""


def field_of(budget: Budget, subject: str) -> str:
    return f"{FIELDS}{budget.name}:{subject}"


def window_name(budget: Budget) -> str:
    """The window's name in a counter: one of another name begins anew."""
    return f"{budget.window} {budget.time_zone}"


def states(budgets: Sequence[Budget], counters: Mapping[str, Counter], now_ms: int) -> list[State]:
    """The state of each budget, and of each agent or heartbeat that it bounds by itself, in the order of the budgets.
    `counters`: by `field_of`. Budgets of runs are left out, since there may be any number of these."""
    found = []
    for budget in budgets:
        if budget.scope == "Run":
            continue
        prefix = field_of(budget, "")
        own = {field.removeprefix(prefix): one for field, one in counters.items() if field.startswith(prefix)}
        named = "" if budget.scope == "Crew" else budget.agent or budget.heartbeat
        current = {
            subject: _state(budget, subject, one)
            for subject, one in own.items()
            if one.window == window_name(budget) and now_ms < one.end_ms and named in (None, subject)
        }
        if named is not None and named not in current:
            current[named] = State(budget, named)
        found += [current[subject] for subject in sorted(current)]
    return found


def _state(budget: Budget, subject: str, counter: Counter) -> State:
    until = counter.end_ms if counter.end_ms < NEVER_MS else 0
    same = counter.allowed == "/".join("" if bound is None else str(bound) for bound in bounds(budget))
    return State(budget, subject, counter.spent, counter.held, until, bool(counter.refused_ms) and same)


def again(seen: Seen, *, works: bool) -> float | None:
    """Seconds after which these states may be others. `works`: agents are at work. None: nothing is expected."""
    ends = [(state.until_ms - seen.at_ms) / 1000 for state in seen.states if state.until_ms]
    pauses = [max(left, 0.0) + 1.0 for left in ends] + ([LOOK_SECONDS] if seen.states and works else [])
    return min(pauses, default=None)


def exhausted(seen: Seen) -> str:
    """The exhausted budgets, in words for a condition; empty: none is."""
    told = []
    for state in (one for one in seen.states if one.is_exhausted):
        whose = f" of {state.budget.scope.lower()} {state.subject!r}" if state.subject else ""
        until = f" until {iso(state.until_ms)}" if state.until_ms else " until it is raised"
        fate = "wait" if state.budget.fate == "Wait" else "fail"
        told.append(
            f"budget {state.budget.name!r}{whose} ({allowed(state.budget)}) has no room for the next request{until}, "
            f"and its tasks {fate}"
        )
    more = f"; and {len(told) - _TOLD_MOST} more" if len(told) > _TOLD_MOST else ""
    return "; ".join(told[:_TOLD_MOST]) + more


def bounds(budget: Budget) -> tuple[int | None, int | None]:
    """Tokens and money (nano) that the budget allows; None: it doesn't bound these."""
    return budget.tokens, None if budget.usd is None else nano_of(budget.usd)


def nano_of(usd: str) -> int:
    return int((Decimal(usd) * NANO).to_integral_value(ROUND_CEILING))


def usd(nano: int) -> str:
    """Money as people read it."""
    amount = Decimal(nano) / NANO
    return f"{amount:.2f}" if not nano or amount >= Decimal("0.01") else f"{amount:.6f}"


def binding(budgets: Sequence[Budget], agent: str, heartbeat: str, at: datetime) -> Iterator[Limit]:
    """The limits of a request that `agent` makes. `heartbeat`: the one that fired its task; empty: none. `at`: now, by
    the store's clock (aware)."""
    for budget in budgets:
        subject = {"Agent": agent, "Heartbeat": heartbeat}.get(budget.scope, "")
        if budget.scope in ("Agent", "Heartbeat"):
            only = budget.agent if budget.scope == "Agent" else budget.heartbeat
            if not subject or only not in (None, subject):
                continue
        yield Limit(budget, subject, span(budget.window, budget.time_zone, at))


def span(window: Window, zone: str, at: datetime) -> Span:
    """The window that `at` (aware) is in."""
    if window == "Total":
        return Span(0, NEVER_MS)
    local = at.astimezone(ZoneInfo(zone))
    if window == "Hourly":
        start = local.replace(minute=0, second=0, microsecond=0).astimezone(UTC)
        while start + _HOUR <= at:  # clocks went back by less than an hour
            start += _HOUR
        return Span(_ms(start), _ms(start + _HOUR))
    first = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if window == "Weekly":
        first -= timedelta(days=first.weekday())
        last = first + timedelta(days=7)
    elif window == "Monthly":
        first = first.replace(day=1)
        last = (first + timedelta(days=31)).replace(day=1)
    else:
        last = first + timedelta(days=1)
    return Span(_ms(first.replace(fold=0)), _ms(last.replace(fold=0)))


def refused(found: Sequence[Spent], asked: Amount) -> Refusal:
    """Decides what follows where the store has refused a request that may cost `asked`. `found` is not empty."""
    for limit, _, _ in found:
        if _exceeds(asked, bounds(limit.budget)):
            whole = f"{limit.said} allows {allowed(limit.budget)} in all, and one request may need {asked}"
            return Refusal("never", f"{whole}. Lower max_tokens in the agent's config, or raise the budget")
    exhausted = [one for one in found if one.is_exhausted]
    if not exhausted:
        limit, _, spent = found[0]
        return Refusal("soon", f"{limit.said}: requests under way may need what is left ({spent.tokens:,} tokens)")
    failing = next((one for one in exhausted if one.limit.budget.fate == "Fail"), None)
    last = failing or max(exhausted, key=lambda one: one.limit.span.end)
    reason = (
        f"{last.limit.said} is exhausted: {last.spent} of {allowed(last.limit.budget)} are spent, and the request "
        f"may need {asked}"
    )
    if failing:
        return Refusal("fail", reason)
    until = last.limit.span.end
    when = "the budget is raised" if until >= NEVER_MS else iso(until)
    return Refusal("wait", f"{reason}. The task waits until {when}", until)


def allowed(budget: Budget) -> str:
    """The bounds of the budget, in words."""
    tokens = f"{budget.tokens:,} tokens" if budget.tokens is not None else ""
    money = f"{budget.usd} USD" if budget.usd is not None else ""
    when = "" if budget.window == "Total" else f" {budget.window.lower()}"
    return " and ".join(part for part in (tokens, money) if part) + when


def _exceeds(asked: Amount, allowed: tuple[int | None, int | None]) -> bool:
    return any(most is not None and part > most for part, most in zip(asked, allowed, strict=True))


def prices(listed: Sequence[Price]) -> Mapping[str, TokenPrice]:
    """The prices, by model."""
    return {
        one.model: TokenPrice(
            _per_token(one.input_usd_per_million), _per_token(one.output_usd_per_million), one.batch_percent
        )
        for one in listed
    }


def _per_token(usd_per_million: str) -> int:
    return int((Decimal(usd_per_million) * NANO / 1_000_000).to_integral_value(ROUND_CEILING))


def iso(ms: int) -> str:
    """The time, in ms since 1970, as text: 2026-01-31T08:00:00Z."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
