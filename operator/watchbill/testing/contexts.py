"""Contexts of tasks that were never submitted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from watchbill.agents.context import Context
from watchbill.agents.memory import Turn
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
    """The other events that it told, in order: `delegate`, `hand_off_for_review`, `approve`, `escalate`, and partial
    text of a model."""

    stored: dict[str, str] = field(default_factory=dict)
    """The checkpoints of its steps, as JSON by name and number (`charge#1`). Give it to the context of another attempt:
    `testing.context(stored=first.stored)`."""

    turns: list[Turn] = field(default_factory=list)
    """The turns of its session, oldest first: those that were given, and what the agent has added."""

    def tell_sync(self, told: Telling) -> None:
        """Tells as a worker's context does. Without an event loop, as in a test that isn't async, the event is just
        kept."""
        if self.loop is None:
            _keep(told, self.messages, self.events)
        else:
            Context.tell_sync(self, told)


class _Remembered:
    """A session in a list."""

    def __init__(self, turns: list[Turn]) -> None:
        self._turns = turns

    async def turns(self, session_id: str, follows: str, most: int, most_bytes: int) -> list[Turn]:
        kept: list[Turn] = []
        for turn in reversed(self._turns[-most:]):
            most_bytes -= len("".join(turn).encode())
            if most_bytes < 0:
                break
            kept.insert(0, turn)
        return kept

    async def remember(self, session_id: str, follows: str, turn: Turn, seconds: float) -> None:
        self._turns.append(turn)


class _Stored:
    """Checkpoints in a dictionary."""

    def __init__(self, stored: dict[str, str], turns: list[Turn]) -> None:
        self._stored = stored
        self.memory = _Remembered(turns)
        self.lane = None

    def find_in_thread(self, name: str) -> str | None:
        return self._stored.get(name)

    def keep_in_thread(self, name: str, value: str) -> None:
        self._stored[name] = value

    async def find(self, name: str) -> str | None:
        return self.find_in_thread(name)

    async def keep(self, name: str, value: str) -> None:
        self.keep_in_thread(name, value)


def _keep(told: Telling, messages: list[str], events: list[Telling]) -> None:
    if told.event_type is EventType.MISSION_EVENT and told.scope is None:
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
    stored: dict[str, str] | None = None,
    attempt: int = 1,
    session_id: str | None = None,
    turns: Sequence[tuple[str, str]] = (),
) -> RecordingContext:
    """The context of a task that was never submitted.

    `tools` are functions by name; `agent` is a definition to use instead of one made from `config`. What the agent
    emits is in `messages` of the result, what it tells of its work with others in `events`, what it reports as used in
    `usage`, and the results of its steps in `stored`. Where `stored` is given, its steps find them there. With a
    `session_id` it remembers `turns`: (what was asked, what was answered), oldest first.
    """
    definition = agent or AgentDefinition(agent_id="agent", agent_class="EchoAgent", config=dict(config or {}))
    messages: list[str] = []
    events: list[Telling] = []
    kept = {} if stored is None else stored
    remembered = [Turn(*turn) for turn in turns]
    task = AgentTask(
        task_id="task", agent_name=definition.agent_id, prompt=prompt, crew_name="crew", session_id=session_id
    )
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None

    async def tell(told: Telling) -> None:
        _keep(told, messages, events)

    return RecordingContext(
        crew="test/crew",
        agent=definition,
        task=task,
        run_id=run_id,
        prompt=prompt,
        inputs=dict(inputs or {}),
        outputs=dict(outputs or {}),
        tools={name: Tool(name, function) for name, function in (tools or {}).items()},
        logger=logging.LoggerAdapter(logging.getLogger("watchbill.testing"), {}),
        deadline=deadline,
        attempt=attempt,
        fence=attempt,
        tell=tell,
        connect_checkpoints=lambda: _Stored(kept, remembered),
        stored=kept,
        turns=remembered,
        loop=loop,
        messages=messages,
        events=events,
    )
