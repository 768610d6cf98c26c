"""Budgets and prices of a crew."""

from __future__ import annotations

from typing import Any, Final

from e2e.control_plane.manifests import Refused, crew

_AT: Final = "spec.budgets[0]"
_PRICE: Final = {"model": "m", "inputUSDPerMillion": "0.25", "outputUSDPerMillion": "2"}


def _budget(**fields: Any) -> dict[str, Any]:
    return crew({"spec.budgets": [{"name": "day", **fields}]})


ACCEPTED: Final = {
    "budgets of each scope and window": crew(
        {
            "spec.agents": [{"name": "a", "class": "EchoAgent"}],
            "spec.budgets": [
                {"name": "hour", "window": "Hourly", "tokens": 1},
                {"name": "day", "window": "Daily", "timeZone": "Europe/Berlin", "usd": "0.000000001"},
                {"name": "week", "scope": "Agent", "window": "Weekly", "usd": "999999.5", "onExhausted": "Fail"},
                {"name": "one", "scope": "Agent", "agent": "a", "window": "Monthly", "tokens": 5, "usd": "1"},
                {"name": "beat", "scope": "Heartbeat", "heartbeat": "nightly", "window": "Total", "tokens": 5},
                {"name": "beats", "scope": "Heartbeat", "tokens": 5},
                {"name": "run", "scope": "Run", "tokens": 5, "onExhausted": "Wait"},
            ],
            "spec.prices": [_PRICE],
        }
    ),
    "32 budgets and 100 prices": crew(
        {
            "spec.budgets": [{"name": f"b{i}", "tokens": 1, "timeZone": "UTC"} for i in range(32)],
            "spec.prices": [{**_PRICE, "model": f"m{i}"} for i in range(100)],
        }
    ),
}
REFUSED: Final = [
    Refused("a budget of nothing", _budget(), _AT, says="neither tokens nor usd is given"),
    Refused("a budget of no money", _budget(usd="0.00"), f"{_AT}.usd", says="usd is zero"),
    *(
        Refused(f"a budget of {usd!r} dollars", _budget(usd=usd), f"{_AT}.usd")
        for usd in ("", "1,5", "-1", "1e3", "1234567", "1.", ".5", 5)
    ),
    Refused("an agent for all", _budget(tokens=1, agent="researcher"), f"{_AT}.agent", says="with scope Agent only"),
    Refused(
        "a heartbeat for all",
        _budget(tokens=1, scope="Run", heartbeat="a"),
        f"{_AT}.heartbeat",
        says="with scope Heartbeat only",
    ),
    Refused("a run's day", _budget(tokens=1, scope="Run", window="Daily"), f"{_AT}.window", says="one budget from"),
    Refused(
        "a zone of no window",
        _budget(tokens=1, timeZone="Europe/Berlin"),
        f"{_AT}.timeZone",
        says="where a window begins",
    ),
    Refused(
        "a zone that there isn't",
        _budget(tokens=1, window="Daily", timeZone="Europe/Berlim"),
        f"{_AT}.timeZone",
        says="timeZone is not known",
    ),
    Refused(
        "a stranger's budget",
        _budget(tokens=1, scope="Agent", agent="nobody"),
        f"{_AT}.agent",
        server="spec.budgets",
        says="an agent that is not in this crew",
    ),
    Refused(
        "two budgets of one name",
        crew({"spec.budgets": [{"name": "day", "tokens": 1}, {"name": "day", "tokens": 2}]}),
        "spec.budgets[1].name",
        server="spec.budgets[1]",
    ),
    Refused(
        "two prices of one model",
        crew({"spec.prices": [_PRICE, _PRICE]}),
        "spec.prices[1].model",
        server="spec.prices[1]",
    ),
    Refused("33 budgets", crew({"spec.budgets": [{"name": f"b{i}", "tokens": 1} for i in range(33)]}), "spec.budgets"),
    *(
        Refused(f"a budget's {field}: {value!r}", _budget(tokens=1, **{field: value}), f"{_AT}.{field}")
        for field, value in (("scope", "crew"), ("window", "Yearly"), ("onExhausted", "wait"), ("onExhausted", ""))
    ),
    Refused("a price without its model", crew({"spec.prices": [{**_PRICE, "model": ""}]}), "spec.prices[0].model"),
]
