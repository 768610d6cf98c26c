"""The budgets of a crew, which bound what it spends on models, and the prices that they count with. Pure.

A rule that joins several fields stands twice, as in crew.py: for Python, and for the API server (CEL).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from watchbill.api.meta import (
    AGENT_NAME_HINT,
    NAME_MAX,
    ZONE_HINT,
    ZONE_MAX,
    ZONE_PATTERN,
    ZONE_RULE,
    AgentName,
    ResourceName,
    Strict,
    by_key,
)
from watchbill.api.problems import Finding, Hint, raise_findings

BUDGETS_MAX: Final = 32
PRICES_MAX: Final = 100
TOKENS_MAX: Final = 10**15
"""A count up to here is exact in the store's scripts, whose numbers are doubles."""

Window = Literal["Hourly", "Daily", "Weekly", "Monthly", "Total"]
Scope = Literal["Crew", "Agent", "Heartbeat", "Run"]
Fate = Literal["Wait", "Fail"]

_USD: Final = r"^[0-9]{1,6}(\.[0-9]{1,9})?$"
_USD_MAX: Final = 16
_USD_HINT: Final = Hint(
    "Write US dollars as a text with up to six digits before the point and nine behind it, as in '20.00'."
)


class Budget(Strict):
    """A bound of what agents may spend on models in a window of time."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "has(self.tokens) || has(self.usd)",
                    "message": "neither tokens nor usd is given, so nothing is bounded. Add one, or both",
                },
                {
                    "rule": "!has(self.usd) || !self.usd.matches('^[0.]*$')",
                    "message": "usd is zero, so no model could ever be asked. Raise it, or remove it",
                    "fieldPath": ".usd",
                },
                {
                    "rule": "!has(self.agent) || self.scope == 'Agent'",
                    "message": "agent means something with scope Agent only. Set scope: Agent, or remove agent",
                    "fieldPath": ".agent",
                },
                {
                    "rule": "!has(self.heartbeat) || self.scope == 'Heartbeat'",
                    "message": "heartbeat means something with scope Heartbeat only. Set scope: Heartbeat, or remove "
                    "heartbeat",
                    "fieldPath": ".heartbeat",
                },
                {
                    "rule": "self.scope != 'Run' || self.window == 'Total'",
                    "message": "a run has one budget from its beginning to its end. Remove window, or set it to Total",
                    "fieldPath": ".window",
                },
                {
                    "rule": "self.window != 'Total' || self.timeZone == 'UTC'",
                    "message": "timeZone means something where a window begins and ends only. Remove it, or set window",
                    "fieldPath": ".timeZone",
                },
            ]
        }
    )

    name: ResourceName = Field(description="Name of the budget, unique in the crew. Messages and metrics cite it.")
    scope: Scope = Field(
        default="Crew",
        description="What is bounded. Crew: all agents together. Agent: each agent by itself. Heartbeat: each "
        "heartbeat, with all that it fires. Run: each run, and each task that belongs to none.",
    )
    agent: Annotated[AgentName | None, AGENT_NAME_HINT] = Field(
        default=None, description="The only agent that is bounded, with scope Agent. Default: each one."
    )
    heartbeat: ResourceName | None = Field(
        default=None, description="The only heartbeat that is bounded, with scope Heartbeat. Default: each one."
    )
    window: Window = Field(
        default="Total",
        description="Time after which all may be spent again: the hour, the day, the week (from Monday) or the month "
        "of timeZone. Total: never.",
    )
    time_zone: Annotated[str, ZONE_HINT] = Field(
        default="UTC",
        max_length=ZONE_MAX,
        pattern=ZONE_PATTERN,
        description="Time zone in which the window begins and ends, as in Europe/Berlin.",
        json_schema_extra=ZONE_RULE,
    )
    tokens: int | None = Field(
        default=None, ge=1, le=TOKENS_MAX, description="Tokens that models may read and write, together."
    )
    usd: Annotated[str | None, _USD_HINT] = Field(
        default=None,
        max_length=_USD_MAX,
        pattern=_USD,
        description="US dollars that models may cost, as a text: '20.00'. Prices: spec.prices.",
    )
    on_exhausted: Fate | None = Field(
        default=None,
        description="Fate of a task whose next request to a model would exceed the budget. Wait: it is set aside until "
        "the next window begins, or the budget is raised; no attempt is counted. Fail: it becomes a dead letter. "
        "Default: Fail with window Total, as of a run, because no time would end the wait; else Wait.",
    )

    @property
    def fate(self) -> Fate:
        """The fate of a task for which it has no room."""
        return self.on_exhausted or ("Fail" if self.window == "Total" else "Wait")

    @model_validator(mode="after")
    def _sound(self) -> Budget:
        raise_findings(type(self), self._broken_rules())
        return self

    def _broken_rules(self) -> Iterator[Finding]:
        if self.tokens is None and self.usd is None:
            yield Finding((), "neither tokens nor usd is given, so nothing is bounded", "Add one, or both.")
        if self.usd is not None and not Decimal(self.usd):
            yield Finding(("usd",), "usd is zero, so no model could ever be asked", "Raise it, or remove it.")
        for field, scope in (("agent", "Agent"), ("heartbeat", "Heartbeat")):
            if getattr(self, field) is not None and self.scope != scope:
                reason = f"{field} means something with scope {scope} only"
                yield Finding((field,), reason, f"Set scope: {scope}, or remove {field}.")
        if self.scope == "Run" and self.window != "Total":
            reason = "a run has one budget from its beginning to its end"
            yield Finding(("window",), reason, "Remove window, or set it to Total.")
        if self.window == "Total" and self.time_zone != "UTC":
            reason = "timeZone means something where a window begins and ends only"
            yield Finding(("timeZone",), reason, "Remove it, or set window.")


class Price(Strict):
    """The price of one model, in place of the one that Watchbill knows."""

    model: str = Field(min_length=1, max_length=NAME_MAX, description="The model as agents name it: provider:name.")
    input_usd_per_million: Annotated[str, _USD_HINT] = Field(
        alias="inputUSDPerMillion",
        max_length=_USD_MAX,
        pattern=_USD,
        description="US dollars for a million tokens that it reads, as a text.",
    )
    output_usd_per_million: Annotated[str, _USD_HINT] = Field(
        alias="outputUSDPerMillion",
        max_length=_USD_MAX,
        pattern=_USD,
        description="US dollars for a million tokens that it writes, as a text.",
    )
    batch_percent: int = Field(
        default=50, ge=0, le=100, description="Percent of these prices that a request by a batch costs."
    )


Budgets = Annotated[
    list[Budget],
    Field(
        max_length=BUDGETS_MAX,
        description="Bounds of what the agents may spend on models. A request that could exceed one is not made.",
        json_schema_extra=by_key("name"),
    ),
]
Prices = Annotated[
    list[Price],
    Field(
        max_length=PRICES_MAX,
        description="Prices of models, in place of those that Watchbill knows.",
        json_schema_extra=by_key("model"),
    ),
]

RULE: Final[dict[str, Any]] = {
    "rule": "!has(self.budgets) || [self.agents.map(a, a.name)].all(names, "
    "self.budgets.all(b, !has(b.agent) || b.agent in names))",
    "message": "a budget is for an agent that is not in this crew. Add it to agents, or name one that is there",
    "fieldPath": ".budgets",
}
"""CEL: the rule of `broken_rules` for the spec of a crew. The API server itself refuses names that stand twice."""


def broken_rules(budgets: Sequence[Budget], prices: Sequence[Price], agents: Sequence[str]) -> Iterator[Finding]:
    """Findings of what a crew's budgets and prices say beside its agents."""
    for field, key, listed in (("budgets", "name", budgets), ("prices", "model", prices)):
        first: dict[str, int] = {}
        for i, one in enumerate(listed):
            value = getattr(one, key)
            if value in first:
                reason = f"{value!r} stands twice: {field}[{first[value]}] and {field}[{i}]"
                yield Finding((field, i, key), reason, "Remove one of the two, or name it otherwise.")
            first.setdefault(value, i)
    for i, budget in enumerate(budgets):
        if budget.agent is not None and budget.agent not in agents:
            reason = f"no agent of this crew is called {budget.agent!r}"
            fix = f"Add it to agents, or name one that is there: {', '.join(agents)}."
            yield Finding(("budgets", i, "agent"), reason, fix)
