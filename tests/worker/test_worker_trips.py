"""Trips to the store: what a step within a task costs, and a request to a model that budgets bind."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime

import pytest
from redis.exceptions import ResponseError
from workshop import Make

from watchbill import connection, testing
from watchbill.agents import AgentLoader, aclose_clients
from watchbill.api.budgets import Budget
from watchbill.connection.gathering import GatheredReads
from watchbill.records import AgentDefinition
from watchbill.testing import FakeClock, FakeModel
from watchbill.worker.execution.account import Account

STEPS = 40
REQUESTS = 6


async def test_what_is_asked_for_together_is_read_in_one_trip(make_crew: Make, trips: list[str]) -> None:
    crew = await make_crew({"a": "Brief"})
    first, second, text = (f"{crew.keys.prefix}{name}" for name in ("first", "second", "text"))
    async with connection.connected(crew.url) as client:
        await client.hset(first, mapping={"a": "1", "b": "2"})
        await client.hset(second, "a", "é")
        await client.set(text, "no hash")
        reads = GatheredReads(client)
        trips.clear()
        doomed = asyncio.create_task(reads.hmget(first, ["a"]))
        asked = [
            asyncio.create_task(reads.hmget(*one))
            for one in ((first, ["b", "c"]), (first, ["a", "b"]), (second, ["a"]))
        ]
        await asyncio.sleep(0)
        doomed.cancel()
        assert await asyncio.gather(*asked) == [["2", None], ["1", "2"], ["é"]]
        assert trips == ["HMGET", "HMGET"]
        for _ in range(2):
            with pytest.raises(ResponseError):
                await reads.hmget(text, ["a"])
        assert await reads.hmget(first, ["a"]) == ["1"]


async def test_a_step_costs_one_trip_and_steps_that_are_found_cost_one_together(
    make_crew: Make, trips: list[str]
) -> None:
    crew = await make_crew({"a": "Stumbler"}, tasks={"backoff_seconds": 0})
    done = [str(number) for number in range(1, STEPS)]
    async with crew.in_process():
        await crew.submit("warm", "a", "1")
        await crew.result("warm")
        trips.clear()
        await crew.submit("t", "a", " ".join([*done, "last"]))
        result = await crew.result("t")
    assert result.success
    assert [line["step"] for line in crew.notes("did") if line["attempt"] == 2] == ["last"]
    found = Counter(trips)
    assert (found["checkpoint"], found["checkpoints"]) == (STEPS, 2), "what is done, and what each attempt has found"
    assert found["HGET"] == 0, "no value is read by itself"


async def test_a_request_to_a_model_costs_one_trip_for_all_budgets(make_crew: Make, trips: list[str]) -> None:
    budgets = [
        Budget.model_validate({"name": name, "tokens": 10**9, **fields})
        for name, fields in {"all": {}, "day": {"window": "Daily"}, "each": {"scope": "Agent"}}.items()
    ]
    async with FakeModel(lambda _: "ok") as model:
        asked = AgentDefinition(agent_id="a", model="openai-chat:gpt-5-mini", base_url=model.base_url)
        crew = await make_crew([asked], budgets=budgets)
        runner = AgentLoader().load(crew.definition, asked)
        for number in range(REQUESTS):
            await crew.submit(f"t{number}", "a")
        async with connection.Store(crew.url) as store:
            account = Account(store.client, crew.keys, lambda: datetime.now(UTC), FakeClock())
            for number in range(REQUESTS):
                context = testing.context(prompt="hi", agent=runner.agent)
                context.spending = account.of(f"t{number}", "1", "a", "")
                await runner.run(context)
                if number == 0:  # the limits and the script are there
                    trips.clear()
            found = Counter(trips)
            await account.close()
        await aclose_clients()
        assert len(model.requests) == REQUESTS
    assert found == {"spend": REQUESTS - 1}
