"""The cost of budgets for a request to a model: LLMAgent in a worker's executor, with and without budgets, on a model
that answers at once over HTTP.

    python -m bench.budgets [--requests 300] [--rounds 5] [--json FILE]

Rounds with no budget and with four of them alternate. `check ms` is one reservation that takes along the settlement of
the request before; `trips` are those to the store that a request waits for, as the server counts scripts; `later` are
those that settle and hold up nobody, where no request came soon enough to take that along. `model ms` is the whole
request. Goal: a budget check ≤ 1 trip per request. Counts hold on any machine, milliseconds don't.

Exits with 1 when a budget has not counted what the model charged.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from datetime import UTC, datetime

from bench import ours, server
from bench.ours import Figures

from watchbill import connection, testing
from watchbill.agents import AgentLoader, aclose_clients
from watchbill.api.budgets import Budget
from watchbill.clock import SYSTEM
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import budgets, definitions
from watchbill.testing import FakeModel
from watchbill.worker.execution.account import Account

CHARGED = (100, 50)
LISTED = (
    {"name": "all", "tokens": 10**12, "usd": "999999"},
    {"name": "day", "tokens": 10**12, "window": "Daily", "timeZone": "Europe/Berlin"},
    {"name": "each", "scope": "Agent", "tokens": 10**12, "window": "Hourly"},
    {"name": "month", "usd": "999999", "window": "Monthly"},
)


def _definition(base_url: str, *, bounded: bool) -> CrewDefinition:
    agent = AgentDefinition(agent_id="a", model="openai-chat:gpt-5-mini", base_url=base_url, config={"max_tokens": 100})
    listed = [Budget.model_validate(one) for one in LISTED] if bounded else []
    return CrewDefinition(name="bench", agents=[agent], budgets=listed)


async def _round(store: server.Server, base_url: str, requests: int, *, bounded: bool) -> tuple[dict[str, float], int]:
    """The figures of one round, and how many tokens the budgets have counted in it."""
    keys, crew = CrewKeys("bench", "bench"), _definition(base_url, bounded=bounded)
    checks: list[float] = []
    async with connection.connected(store.url) as client:
        await definitions.apply(client, keys, crew)
        before = await budgets.counted(client, keys)
        account = Account(client, keys, lambda: datetime.now(UTC), SYSTEM)
        send, send_settled = account._send, account._send_settled
        later = 0

        async def settled() -> None:
            nonlocal later
            later += 1
            await send_settled()

        async def timed(*args: object) -> object:
            begun = time.perf_counter()
            answer = await send(*args)  # type: ignore[arg-type]
            checks.append((time.perf_counter() - begun) * 1e3)
            return answer

        account._send = timed  # type: ignore[assignment,method-assign]
        account._send_settled = settled  # type: ignore[method-assign]
        runner = AgentLoader().load(crew, crew.agents[0])
        await store.reset()
        times = []
        for number in range(requests):
            context = testing.context(prompt="hi", agent=runner.agent)
            context.spending = account.of(f"t{number}", "1", "a", "")
            begun = time.perf_counter()
            await runner.run(context)
            times.append((time.perf_counter() - begun) * 1e3)
        asked, settlements = await store.client.info("commandstats"), later
        await account.close()
        after = await budgets.counted(client, keys)
    counted = sum(one.spent.tokens for one in after.counters.values())
    counted -= sum(one.spent.tokens for one in before.counters.values())
    scripts = sum(int(asked[f"cmdstat_{name}"]["calls"]) for name in ("evalsha", "eval") if f"cmdstat_{name}" in asked)
    return {
        "check ms": statistics.median(checks),
        "check p99 ms": sorted(checks)[int(len(checks) * 0.99)],
        "trips": (scripts - settlements) / requests,
        "later": settlements / requests,
        "model ms": statistics.median(times),
    }, counted


async def measure(store: server.Server, requests: int, rounds: int) -> tuple[Figures, list[str]]:
    """Figures of each round, and what is wrong."""
    found: Figures = {"no budget": [], "four budgets": []}
    wrong: list[str] = []
    async with FakeModel(lambda _: "ok", input_tokens=CHARGED[0], output_tokens=CHARGED[1]) as model:
        for _ in range(rounds):
            for name in found:
                bounded = name != "no budget"
                figures, counted = await _round(store, model.base_url, requests, bounded=bounded)
                found[name].append(figures)
                wanted = len(LISTED) * sum(CHARGED) * requests if bounded else 0
                if counted != wanted:
                    wrong.append(f"{name} counted {counted} tokens, and the model charged {wanted}")
        await aclose_clients()
    return found, wrong


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    found, wrong = ours.on_own_store(lambda store: measure(store, arguments.requests, arguments.rounds))
    title = f"{arguments.requests} requests, {arguments.rounds} rounds, load average {load:.1f}"
    code = ours.report(title, found, wrong, arguments.json)
    most = max(figures["trips"] for rounds in found.values() for figures in rounds)
    # The first one of all loads the script.
    is_reached = most <= 1 + 1 / arguments.requests
    ours.goal(f"a budget check ≤ 1 round trip per model call: {most:.3f} in the worst round", is_reached=is_reached)
    return code


if __name__ == "__main__":
    sys.exit(main())
