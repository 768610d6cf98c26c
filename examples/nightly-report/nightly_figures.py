"""An agent that compares the last day of a CSV file with the week before it. No model should do sums."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import mean
from typing import Any

from pydantic import BaseModel

DAYS = 7
"""Days before the last one that it is compared with."""


class Figures:
    """Returns the last day, and for each column its value, the mean of the days before and the change in per cent."""

    class Config(BaseModel):
        """Its file lies beside this one, and has a column `day` and columns of numbers."""

        file: str

    def __init__(self, config: Config) -> None:
        self.path = Path(__file__).with_name(config.file)

    def run(self, context: Any) -> dict[str, Any]:
        with self.path.open(newline="", encoding="utf-8") as file:
            *before, last = sorted(csv.DictReader(file), key=lambda row: row["day"])
        if not before:
            raise ValueError(f"{self.path.name} has one day only: there is nothing to compare it with")
        week = before[-DAYS:]
        context.emit_sync(f"{self.path.name}: {last['day']} beside {len(week)} days")
        return {"day": last["day"], "figures": {name: _figure(name, last, week) for name in last if name != "day"}}


def _figure(name: str, last: dict[str, str], week: list[dict[str, str]]) -> dict[str, float | None]:
    value, usual = float(last[name]), mean(float(row[name]) for row in week)
    change = round(100 * (value - usual) / usual, 1) if usual else None
    return {"value": value, "mean_of_week": round(usual, 1), "change_percent": change}
