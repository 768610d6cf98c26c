"""Tools for tests of your own agents: a model that answers by script, a clock that you move, a throwaway store.

An agent of your own, without a crew or a store:

    from watchbill import testing

    class Shorten:
        def __init__(self, words: int) -> None:
            self.words = words

        async def run(self, context):
            await context.emit("shortening")
            return " ".join(context.prompt.split()[: self.words])

    async def test_the_answer_is_short():
        context = testing.context(prompt="a rather long text")
        assert await Shorten(words=2).run(context) == "a rather"
        assert context.messages == ["shortening"]

An `LLMAgent`, against a real HTTP server that speaks OpenAI's protocol and costs nothing:

    from watchbill.agents import AgentLoader
    from watchbill.records import AgentDefinition, CrewDefinition

    async def test_the_model_is_asked():
        async with testing.FakeModel(["42"]) as model:
            agent = AgentDefinition(agent_id="guide", model="openai:any", base_url=model.base_url)
            runner = AgentLoader().load(CrewDefinition(name="crew", agents=[agent]), agent)
            assert await runner.run(testing.context(prompt="6 * 7?")) == "42"
            assert model.requests[0].prompt == "6 * 7?"

Everything listens on loopback only, unless FakeModel is given a `host`, and is gone when its block ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from watchbill.embedded import EmbeddedStore
from watchbill.testing.contexts import RecordingContext, context
from watchbill.testing.fake_answers import (
    ANTHROPIC,
    CHAT,
    RESPONSES,
    Answer,
    CutOff,
    Dribbled,
    ErrorAnswer,
    Expired,
    Raw,
    Refusal,
    Streamed,
    ToolCall,
)
from watchbill.testing.fake_clock import FakeClock
from watchbill.testing.fake_model import FakeModel, Request

__all__ = [
    "ANTHROPIC",
    "CHAT",
    "RESPONSES",
    "Answer",
    "CutOff",
    "Dribbled",
    "ErrorAnswer",
    "Expired",
    "FakeClock",
    "FakeModel",
    "Raw",
    "RecordingContext",
    "Refusal",
    "Request",
    "Streamed",
    "ToolCall",
    "context",
    "store",
]


@asynccontextmanager
async def store() -> AsyncIterator[str]:
    """The URL of a store of your own, with nothing in it, and nothing left of it at the end."""
    opened = await EmbeddedStore.open(None)
    try:
        yield opened.url
    finally:
        await opened.close()
