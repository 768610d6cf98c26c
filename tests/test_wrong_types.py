"""A wrong argument is named, whatever it is, and before anything is asked of the store."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from right_arguments import RIGHT
from watchbill import connection, messaging, network
from watchbill.client import Client, SyncClient, arguments
from watchbill.crews import CrewRedis
from watchbill.errors import InvalidInput
from watchbill.services import AgentService, AgentServiceClient, AgentServiceConfig, AgentTask, BotManager
from watchbill.tasks import Durability

pytestmark = pytest.mark.pure

NOWHERE = "redis://localhost:1"
BESIDE = {"dedupe_seconds": {"dedupe_key": "key"}}
"""Arguments without which another is not looked at."""


class Odd:
    """A value that no parameter takes."""

    def __repr__(self) -> str:
        return "<odd>"


LOCAL = ("close", "stop", "disconnect", "connect", "deliver_here", "check")
ANYTHING = ("agent", "message", "value")
"""Parameters that take many types: text, numbers and None, too."""


def cases(kind: type, *, constructor: bool = False) -> Iterator[Any]:
    """Method, arguments, and the one of these that is wrong."""
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if constructor != (name == "__init__") or (name.startswith("_") and not constructor) or name in LOCAL:
            continue
        parameters = {
            n: p
            for n, p in inspect.signature(method).parameters.items()
            if n not in ("self", "options", "clock") and p.kind is not p.VAR_POSITIONAL
        }
        needed = {n: RIGHT[n] for n, p in parameters.items() if p.default is p.empty}
        for parameter, declared in parameters.items():
            if declared.annotation == "bool":
                continue
            if (kind, parameter) == (network.RedisCache, "value"):  # kept as its text
                continue
            wrong = [Odd(), 5.5, None] if parameter in needed and parameter not in ANYTHING else [Odd()]
            for value in wrong:
                given = needed | BESIDE.get(parameter, {}) | {parameter: value}
                yield pytest.param(kind, name, given, parameter, id=f"{kind.__name__}.{name}-{parameter}-{value!r}")


async def ask(client: Any, method: str, given: dict[str, Any]) -> None:
    answer = getattr(client, method)(**given)
    if inspect.isasyncgen(answer):
        await anext(answer)
    elif inspect.isawaitable(answer):
        await answer
    else:
        async with answer:
            pass


MESSAGING = [getattr(messaging, name) for name in messaging.__all__ if name.startswith("Async")]
NEEDED = {
    messaging.AsyncRedisStream: {"name": "s"},
    messaging.AsyncRedisLock: {"name": "l"},
    messaging.AsyncRedisRateLimiter: {"prefix": "p"},
}
KINDS = [Client, AgentServiceClient, *MESSAGING, network.RedisStream, network.RedisCache]


async def made(kind: Any, client: Any) -> Any:
    if kind in (Client, AgentServiceClient):
        return kind(NOWHERE)
    found = kind(**NEEDED.get(kind, {}), client=client)
    if hasattr(found, "join"):
        found.join("g", "c")
    return found


@pytest.mark.parametrize(("kind", "method", "given", "wrong"), [case for kind in KINDS for case in cases(kind)])
async def test_a_method_names_the_argument_that_is_wrong(
    kind: Any, method: str, given: dict[str, Any], wrong: str
) -> None:
    async with connection.connected(NOWHERE) as client:
        found = await made(kind, client)
        with pytest.raises(InvalidInput) as caught:
            await ask(found, method, given)
    assert {problem.path.partition("[")[0].partition(".")[0] for problem in caught.value.problems} == {wrong}


CONSTRUCTED = [*MESSAGING, *(getattr(messaging, kind.__name__.removeprefix("Async")) for kind in MESSAGING)]
CONSTRUCTED += [network.RedisStream, network.RedisCache]


@pytest.mark.parametrize(
    ("kind", "method", "given", "wrong"), [case for kind in CONSTRUCTED for case in cases(kind, constructor=True)]
)
def test_a_constructor_names_the_argument_that_is_wrong(
    kind: Any, method: str, given: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        kind(**given)
    assert {problem.path for problem in caught.value.problems} == {wrong}


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: Client(5), "URL"),  # type: ignore[arg-type]
        (lambda: SyncClient(None), "URL"),  # type: ignore[arg-type]
        (lambda: AgentServiceClient(b"redis://x"), "URL"),  # type: ignore[arg-type]
        (lambda: AgentServiceClient(NOWHERE, redis_db="1"), "redis_db"),  # type: ignore[arg-type]
        (lambda: AgentServiceClient(NOWHERE, redis_db=-1), "redis_db"),
        (lambda: AgentServiceClient(NOWHERE, task_stream=5), "task_stream"),  # type: ignore[arg-type]
        (lambda: AgentServiceClient(NOWHERE, task_stream="half a pair: \ud800"), "task_stream"),
        (lambda: AgentServiceClient(NOWHERE, result_stream="wb:mine"), "result_stream"),
        (lambda: AgentService({}, BotManager()), "config"),  # type: ignore[arg-type]
        (lambda: AgentService(AgentServiceConfig(), {}), "bot_manager"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_of_a_constructor_are_named(make: Any, wrong: str) -> None:
    with pytest.raises(InvalidInput, match=wrong):
        make()


async def test_each_wrong_field_of_a_task_is_named_with_its_place_among_many() -> None:
    client = AgentServiceClient(NOWHERE)
    with pytest.raises(InvalidInput) as caught:
        await client.submit_tasks([AgentTask(agent_name="Bot", prompt="x"), {"prompt": 5, "metadat": {}}])
    assert [problem.path for problem in caught.value.problems] == ["tasks[1].metadat"]
    with pytest.raises(InvalidInput) as caught:
        await client.submit_task({"prompt": 5, "priority": "soon"})
    assert sorted(problem.path for problem in caught.value.problems) == ["agent_name", "priority", "prompt"]
    secret = {"agent_name": "Bot", "prompt": "x", "delivery": {"channel": "telegram", "telegram_bot_token": ["SECRET"]}}
    with pytest.raises(InvalidInput, match=r"delivery\.telegram_bot_token") as caught:
        await client.submit_task(secret)
    assert "SECRET" not in str(caught.value)


def test_a_durability_may_be_given_by_its_name_and_a_time_needs_a_zone() -> None:
    assert arguments.durability("replica") is Durability.REPLICA
    assert arguments.durability(None) is None
    with pytest.raises(InvalidInput, match=r"before: .* has no time zone"):
        arguments.moment(datetime.now(UTC).replace(tzinfo=None), "before")


async def test_a_crew_record_of_another_type_is_refused_as_other_records_are() -> None:
    async with CrewRedis(NOWHERE) as records, CrewRedis(NOWHERE, strict=True) as strict:
        assert await records.save_crew({"name": "x"}) is False  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="crew: a dict is no crew"):
            await strict.save_crew({"name": "x"})  # type: ignore[arg-type]
