"""Reads what a crew's budgets have counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from watchbill.client.connected import Connected
from watchbill.plan.budget import State, states
from watchbill.store import budgets


@dataclass(frozen=True, slots=True)
class Spending:
    """The spending of a crew on models."""

    budgets: Sequence[State]
    """In the order of the crew's definition, without those of runs."""
    unpriced: Sequence[str]
    """Models whose price is not known: budgets count only their tokens."""


class Budgets(Connected):
    """The client's methods for budgets."""

    async def spending(self, crew: str) -> Spending:
        """Reads how much of each budget of the crew is spent. Raises NotFound when there is no such crew."""
        keys = self._door(crew)
        current = await self._current(keys)
        found = await budgets.counted(self._redis, keys)
        return Spending(states(current.definition.budgets, found.counters, found.now_ms), found.unpriced)
