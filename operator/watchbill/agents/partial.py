"""Partial text of a model as events, while it comes: bounded and in batches, for people who watch.

The answer of the step is the whole text, whatever becomes of these events: they never hold up the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from contextlib import suppress
from typing import Any, Final

from watchbill.agents.context import Context
from watchbill.agents.fallbacks import Fallbacks
from watchbill.agents.text import sound
from watchbill.clock import SYSTEM, Clock
from watchbill.errors import needed
from watchbill.event_types import EventType, Telling

with needed("LLMAgent", "llm"):
    from pydantic_ai.messages import (
        PartDeltaEvent,
        PartStartEvent,
        TextPart,
        TextPartDelta,
        ThinkingPart,
        ThinkingPartDelta,
        ToolCallPart,
        ToolCallPartDelta,
    )
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.tools import RunContext

SCOPE: Final = "partial"
"""The scope of these events, by which a reader tells them from what an agent says."""
EVENTS_MAX: Final = 40
"""Events of one task. The feed of a run has 500, and must not be of one step's letters."""
EVENT_CHARACTERS: Final = 2000
_FIRST_SECONDS: Final = 1.0
_DOUBLED_EVERY: Final = 10
_OUTPUT: Final = (TextPart, ThinkingPart, ToolCallPart, TextPartDelta, ThinkingPartDelta, ToolCallPartDelta)


class Partial:
    """Tells the text of one run. Give it to pydantic-ai as `event_stream_handler`, and close it when the run ends."""

    def __init__(self, context: Context, models: Fallbacks, clock: Clock = SYSTEM) -> None:
        self._context = context
        self._models = models
        self._clock = clock
        self._text = ""
        self._told = 0
        self._next = 0.0
        self._telling: asyncio.Task[None] | None = None

    async def __call__(self, ctx: RunContext[None], events: AsyncIterable[Any]) -> None:
        """Reads the events of one request to the model, or of its tools."""
        first = True
        async for event in events:
            part = event.part if isinstance(event, PartStartEvent) else getattr(event, "delta", None)
            if not isinstance(part, _OUTPUT):
                continue
            if first and isinstance(model := self._models.current.model, WrapperModel):  # around a Counted, or one
                model.note_first()
            first = False
            self._add(event)
        if self._text and self._told < EVENTS_MAX:
            await self._flush()

    async def aclose(self) -> None:
        """Ends what is still being told: the run is over."""
        if self._telling is not None and not self._telling.done():
            self._telling.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._telling

    def _add(self, event: Any) -> None:
        if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
            self._text += event.part.content
        elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
            self._text += event.delta.content_delta
        now = self._clock.monotonic()
        idle = self._telling is None or self._telling.done()
        if not self._text or self._told >= EVENTS_MAX or not idle:
            return
        if self._next == 0.0:
            self._next = now + _FIRST_SECONDS
        if now >= self._next or len(self._text) >= EVENT_CHARACTERS:
            self._telling = asyncio.create_task(self._tell_next(now))

    async def _flush(self) -> None:
        """Tells what is left of one answer: no more comes, so this may wait."""
        if self._telling is not None:
            await asyncio.wait([self._telling])
        while self._text and self._told < EVENTS_MAX:
            await self._tell_next(self._clock.monotonic())

    async def _tell_next(self, now: float) -> None:
        text, self._text = self._text[:EVENT_CHARACTERS], self._text[EVENT_CHARACTERS:]
        self._told += 1
        self._next = now + _FIRST_SECONDS * 2 ** (self._told // _DOUBLED_EVERY)
        try:
            await self._context.tell(Telling(EventType.MISSION_EVENT, sound(text), scope=SCOPE))
        except Exception:  # the task has ended, or is another worker's: the run learns that by itself
            self._told = EVENTS_MAX
