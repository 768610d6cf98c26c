"""What a task ends with when a model's server is slow, breaks off or talks nonsense: a real worker, a server over HTTP
for each protocol, and a budget that must come out right."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import pytest
from workshop import Crew, Make

from waiting import until
from watchbill.api.budgets import Budget
from watchbill.records import AgentDefinition
from watchbill.store import budgets
from watchbill.testing import (
    Answer,
    Dribbled,
    ErrorAnswer,
    FakeModel,
    Raw,
    Refusal,
    Request,
    Streamed,
    ToolCall,
)

pytestmark = pytest.mark.usefixtures("libraries")

PROVIDERS = {"chat": "openai-chat", "responses": "openai-responses", "anthropic": "anthropic"}
CHARGED = 15


async def never() -> None:
    await asyncio.Event().wait()


async def slowly() -> None:
    await asyncio.sleep(0.2)


class Case(NamedTuple):
    """A fault, and what each agent's task ends with."""

    answers: Callable[[int], Answer]
    """By the number of the request, from 1."""
    says: str = ""
    """In the error. Empty: the task succeeds."""
    requests: int = 1
    attempts: int = 1
    unknown: int = 0
    """Requests that may have cost all that was reserved. All others cost what the server says."""
    free: int = 0
    """Requests that cost nothing."""
    streams: tuple[bool, ...] = (False, True)
    seconds: float = 300.0
    """The timeout of each request."""


def at_first(fault: Answer) -> Callable[[int], Answer]:
    return lambda number: fault if number == 1 else "ok"


def always(fault: Answer) -> Callable[[int], Answer]:
    return lambda _: fault


STREAMED = (True,)
BRIEF = 12.0
CASES = {
    "bytes that dribble": Case(always(Dribbled("wörld 😀", 3))),
    "bytes that dribble past the timeout": Case(
        always(Dribbled("x" * 10_000, 1, slowly)), "gave no whole answer in time", 2, 2, 2, seconds=BRIEF
    ),
    "a stream that stalls past the timeout": Case(
        always(Streamed(["a", "b"], never)), "gave no whole answer in time", 2, 2, 2, streams=STREAMED, seconds=BRIEF
    ),
    "a stream that breaks off": Case(at_first(Streamed(["half ", "an"], broken=True)), "", 2, 2, 1, streams=STREAMED),
    "a stream without an end": Case(
        at_first(Streamed(["half ", "an"], unfinished=True)), "", 2, 2, 1, streams=STREAMED
    ),
    "arguments that are no JSON": Case(always(ToolCall("calculator", '{"expression": ')), "Invalid JSON", 3),
    "arguments that are no JSON once": Case(at_first(ToolCall("calculator", '{"expression": ')), "", 2),
    "too many requests": Case(at_first(ErrorAnswer(429, headers={"Retry-After": "1"})), "", 2, 2, free=1),
    "an error of the server": Case(always(ErrorAnswer(500, "on fire")), "(HTTP 500): on fire", 2, 2, 2),
    "no JSON": Case(always(Raw("{not json")), "readable", 2, 2, 2, streams=(False,)),
    "a refusal": Case(always(Refusal()), "content filter"),
    "an empty answer": Case(always([]), "can't be used", 4, 2),
}


async def spent(crew: Crew, agent: str) -> tuple[int, int]:
    """Tokens that the agent has spent, and that its requests under way hold."""
    found = (await budgets.counted(crew.redis, crew.keys)).counters[f"budget:each:{agent}"]
    return found.spent.tokens, found.held.tokens


@pytest.mark.parametrize(
    ("case", "stream"),
    [pytest.param(case, stream, id=f"{n}{'-stream' * stream}") for n, case in CASES.items() for stream in case.streams],
)
async def test_a_fault_of_a_models_server(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch, case: Case, stream: bool
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-nobody")
    asked: dict[str, list[float]] = defaultdict(list)
    most: dict[str, int] = {}

    async def answer(request: Request) -> Answer:
        asked[request.api].append(time.monotonic())
        if held := (await spent(crew, request.api))[1]:  # none, if the client has given up before this was read
            most.setdefault(request.api, held)
        return case.answers(len(asked[request.api]))

    async with FakeModel(answer) as model:
        agents = [
            AgentDefinition(
                agent_id=api,
                model=f"{provider}:any",
                base_url=model.anthropic_url if api == "anthropic" else model.base_url,
                config={"max_tokens": 100, "stream": stream, "timeout": case.seconds},
                tools=["calculator"],
            )
            for api, provider in PROVIDERS.items()
        ]
        each = Budget.model_validate({"name": "each", "scope": "Agent", "tokens": 10**6})
        crew = await make_crew(agents, budgets=[each], tasks={"max_attempts": 2, "backoff_seconds": 0})
        async with crew.in_process():
            ids = [await crew.submit(api, api, "hi") for api in PROVIDERS]
            results = dict(zip(PROVIDERS, await crew.results(ids, 300), strict=True))
            for api in PROVIDERS:
                assert not (await until(lambda a=api: _settled(crew, a), what="it is settled"))[1]  # type: ignore[misc]
    for api, result in results.items():
        assert result.success is not bool(case.says), result.error
        assert case.says.lower() in str(result.error).lower()
        assert (len(asked[api]), result.attempt) == (case.requests, case.attempts), (api, result.error)
        assert most[api] > 100
        charged = case.requests - case.unknown - case.free
        assert await spent(crew, api) == (case.unknown * most[api] + charged * CHARGED, 0), api
        if case.free:
            assert asked[api][1] - asked[api][0] >= 1.0
    assert len(await crew.dead()) == (3 if case.says else 0)


async def _settled(crew: Crew, agent: str) -> tuple[int, int] | None:
    found = await spent(crew, agent)
    return found if not found[1] else None
