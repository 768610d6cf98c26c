"""Contexts of tasks that were never submitted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from watchbill.agents.context import Context
from watchbill.agents.tools import Tool
from watchbill.event_types import EventType, Telling
from watchbill.records import AgentDefinition
from watchbill.tasks import AgentTask


@dataclass(slots=True, kw_only=True)
class RecordingContext(Context):
    """A `Context` that keeps what was said."""

    messages: list[str] = field(default_factory=list)
    """The messages that the agent emitted, in order."""

    events: list[Telling] = field(default_factory=list)
    """The other events that it told, in order: `delegate`, `hand_off_for_review`, `approve`, `escalate`."""

    def tell_sync(self, told: Telling) -> None:
        """Tells as a worker's context does. Without an event loop, as in a test that isn't async, the event is just
        kept."""
        if self.loop is None:
            _keep(told, self.messages, self.events)
        else:
            Context.tell_sync(self, told)


def _keep(told: Telling, messages: list[str], events: list[Telling]) -> None:
    if told.event_type is EventType.MISSION_EVENT:
        messages.append(told.message)
    else:
        events.append(told)


def context(
    prompt: str = "",
    *,
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    agent: AgentDefinition | None = None,
    run_id: str | None = None,
    deadline: datetime | None = None,
) -> RecordingContext:
    """The context of a task that was never submitted.

    `tools` are functions by name; `agent` is a definition to use instead of one made from `config`. What the agent
    emits is in `messages` of the result, what it tells of its work with others in `events`, and what it reports as used
    in `usage`.
    """
    definition = agent or AgentDefinition(agent_id="agent", agent_class="EchoAgent", config=dict(config or {}))
    messages: list[str] = []
    events: list[Telling] = []
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None

    async def tell(told: Telling) -> None:
        _keep(told, messages, events)

    return RecordingContext(
        crew="test/crew",
        agent=definition,
        task=AgentTask(task_id="task", agent_name=definition.agent_id, prompt=prompt, crew_name="crew"),
        run_id=run_id,
        prompt=prompt,
        inputs=dict(inputs or {}),
        outputs=dict(outputs or {}),
        tools={name: Tool(name, function) for name, function in (tools or {}).items()},
        logger=logging.LoggerAdapter(logging.getLogger("watchbill.testing"), {}),
        deadline=deadline,
        attempt=1,
        fence=1,
        tell=tell,
        loop=loop,
        messages=messages,
        events=events,
    )
