"""What the operator reads of a crew's budgets, and what its metrics say of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from prometheus_client import REGISTRY
from test_figures_shown import store

from watchbill.controller.memory import CrewMemory
from watchbill.names import CrewKeys
from watchbill.plan.budget import Amount, binding
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import budgets


def shown(name: str, crew: str, budget: str) -> float | None:
    return REGISTRY.get_sample_value(f"watchbill_budget_{name}", {"namespace": "team", "crew": crew, "budget": budget})


async def test_the_greatest_share_of_a_budget_is_shown_until_the_crew_is_gone(
    private_redis: Callable[[], Awaitable[Any]],
) -> None:
    definition = CrewDefinition(
        name="spends",
        agents=[AgentDefinition(agent_id=name, agent_class="EchoAgent") for name in "ab"],
        budgets=[
            {"name": "all", "tokens": 1000},
            {"name": "each", "scope": "Agent", "tokens": 100, "window": "Monthly"},
        ],
    )
    seen = {"metadata": {"uid": "u", "generation": 1}}
    keys, key, memory = CrewKeys("team", "spends"), ("team", "spends"), CrewMemory()
    async with store(private_redis) as (client, stored):
        state = await stored.sync(key, seen, definition, [], memory)
        assert state is not None
        assert [one.budget.name for one in state.budgets.states] == ["all"]
        assert (shown("used_ratio", "spends", "all"), shown("exhausted", "spends", "all")) == (0, 0)

        for number, (agent, tokens) in enumerate((("a", 30), ("b", 90), ("b", 20))):
            limits = list(binding(definition.budgets, agent, "", datetime.now(UTC)))
            most = Amount(tokens)
            request = budgets.Request(f"{number}", "m", keys.task("t"), most, limits, keys.reserved(0))
            await budgets.reserve(client, keys, "u", definition.digest(), request)
            await budgets.settle(client, keys, "u", [budgets.Settlement(request, most)])
        state = await stored.sync(key, seen, definition, [], memory)
        assert state is not None
        assert [(one.subject, one.is_exhausted) for one in state.budgets.states] == [
            ("", False),
            ("a", False),
            ("b", True),
        ]
        assert (shown("used_ratio", "spends", "all"), shown("exhausted", "spends", "all")) == (0.12, 0)
        assert (shown("used_ratio", "spends", "each"), shown("exhausted", "spends", "each")) == (0.9, 1)

        without = definition.model_copy(update={"budgets": definition.budgets[:1]})
        await stored.sync(key, {"metadata": {"uid": "u", "generation": 2}}, without, [], memory)
        assert shown("used_ratio", "spends", "each") is None
        assert shown("used_ratio", "spends", "all") == 0.12
        await stored.remove(key, "u", memory)
        assert shown("used_ratio", "spends", "all") is None
