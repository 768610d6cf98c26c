"""What is counted of LLMAgent's requests to models, each of them to a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from asking import BOTH, ask, failure
from prometheus_client import REGISTRY

from ports import free_ports
from waiting import until
from watchbill import testing
from watchbill.agents import aclose_clients
from watchbill.agents.calculator import calculator
from watchbill.testing import ErrorAnswer, FakeModel, ToolCall


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    await aclose_clients()


class Counted:
    """The metrics of one model, of the crew whose agents the tests run."""

    def __init__(self, model: str) -> None:
        provider, _, name = model.partition(":")
        namespace, crew = testing.context().crew.split("/")
        self._labels = {"namespace": namespace, "crew": crew, "provider": provider, "model": name}

    def __call__(self, name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"watchbill_model_{name}", self._labels | labels) or 0.0


@BOTH
async def test_each_request_is_counted_timed_and_its_tokens_too(prefix: str) -> None:
    model = f"{prefix}:counted"
    counted, slow = Counted(model), 0.05
    answers: list[ToolCall | str] = [ToolCall("calculator", {"expression": "6 * 7"}), "It is 42."]

    async def answer(_: object) -> ToolCall | str:
        await asyncio.sleep(slow)
        return answers.pop(0)

    async with FakeModel(answer, input_tokens=12, output_tokens=3) as server:
        context = testing.context(tools={"calculator": calculator})
        await ask(context=context, model=model, base_url=server.base_url, tools=["calculator"])
    assert counted("requests_total", outcome="completed") == 2
    assert (counted("tokens_total", kind="input"), counted("tokens_total", kind="output")) == (24, 6)
    assert counted("request_seconds_count") == 2
    assert 2 * slow <= counted("request_seconds_sum") < 30


@BOTH
@pytest.mark.parametrize(
    ("status", "outcome"), [(429, "rate-limited"), (503, "unavailable"), (408, "unavailable"), (400, "refused")]
)
async def test_a_request_that_fails_is_counted_by_the_way_in_which_it_did(
    prefix: str, status: int, outcome: str
) -> None:
    model = f"{prefix}:fails-{status}"
    async with FakeModel(lambda _: ErrorAnswer(status, "the reason")) as server:
        await failure(model=model, base_url=server.base_url)
    counted = Counted(model)
    assert counted("requests_total", outcome=outcome) == 1
    assert (counted("requests_total", outcome="completed"), counted("request_seconds_count")) == (0, 0)


async def test_a_server_that_is_away_and_a_task_that_is_cancelled_are_told_apart() -> None:
    await failure(model="openai-chat:away", base_url=f"http://127.0.0.1:{free_ports(1)[0]}/v1")
    assert Counted("openai-chat:away")("requests_total", outcome="unreachable") == 1

    async with FakeModel(lambda _: asyncio.Event().wait()) as server:  # type: ignore[arg-type,return-value]
        asking = asyncio.create_task(ask(model="openai-chat:slow", base_url=server.base_url))
        await until(lambda: len(server.requests) == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert Counted("openai-chat:slow")("requests_total", outcome="cancelled") == 1
