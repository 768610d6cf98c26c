"""What an agent is given when it runs: its task, its inputs, and a way to say something.

A value with three ways out, `emit`, `annotate` and `report_usage`, and one way in, `cancelled`. It knows neither the
store nor the worker.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from pydantic_core import from_json

from watchbill.agents.text import sound
from watchbill.agents.tools import Tool
from watchbill.records import AgentDefinition
from watchbill.tasks import AgentTask, Usage

Say = Callable[[str], Awaitable[None]]

NOTE_MAX: Final = 4000
USAGE_MAX: Final = 2**53
"""Of each number of one report; no more would be exact in JSON everywhere."""
_SPOKEN_MAX: Final = 100_000
"""Of one message: far more than is kept, as no secret may be cut in two before it is taken out. That happens on the
worker's event loop."""
EMIT_SECONDS: Final = 30.0
"""How long a thread waits for its message to be taken; past that the event loop is gone or stuck."""


def spoken(message: object) -> str:
    """What `emit` was given, which must be text; no more of it than is looked at. Raises TypeError."""
    if not isinstance(message, str):
        raise TypeError(f"emit takes a text, not {type(message).__name__}: {repr(message)[:80]}. Give it as text")
    return message[:_SPOKEN_MAX]


@dataclass(slots=True, kw_only=True)  # not frozen: that triples what making one costs, and each run has one
class Context:
    """What one run of one agent works with. To be read: nobody looks at what an agent writes into it, no later run
    either."""

    crew: str
    """`namespace/name`."""
    agent: AgentDefinition
    """The agent as its crew defines it, with the crew's default model filled in."""
    task: AgentTask
    run_id: str | None
    """The crew run that this step belongs to; None for a task of its own."""
    prompt: str
    """What is asked, composed from the agent's template."""
    inputs: Mapping[str, str]
    """The run's named inputs, in full."""
    outputs: Mapping[str, Any]
    """What the steps before returned, by agent id."""
    tools: Mapping[str, Tool]
    """The agent's own and shared tools by name, to be called: `context.tools["calculator"]("6 * 7")`."""
    logger: logging.LoggerAdapter[logging.Logger]
    deadline: datetime | None
    """When the worker will cancel this run (aware, UTC). For the agent's information: the worker itself measures on a
    clock that doesn't jump."""
    attempt: int
    """1 for the first time this task runs."""
    fence: int
    """Grows with every start of this task. Pass it to systems that should refuse a worker taken for dead."""
    emit: Say
    """Says something on the crew's event feed: `await context.emit("half way")`."""
    loop: asyncio.AbstractEventLoop | None = None
    """The event loop that `emit` belongs to; a worker always gives it."""
    _reported: list[Usage] = field(default_factory=list, repr=False, compare=False)
    _notes: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _asked: list[bool] = field(default_factory=list, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """True once this run should stop: its time is over, or somebody cancelled it, or its worker ends.

        For agents that run in a thread, which nobody can stop: look between two pieces of work, and return or raise.
        An `async def run` gets asyncio.CancelledError as well; an agent in a process of its own is killed instead.
        """
        return bool(self._asked)

    def cancel(self) -> None:
        """From now on `cancelled` is true. The worker's part; a test may play it."""
        self._asked.append(True)

    def emit_sync(self, message: str) -> None:
        """`emit` for an agent that isn't async, and so runs in a thread. Returns once the message is taken.

        Raises RuntimeError when called on the event loop itself, where it would wait for ever.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if self.loop is None:
            raise RuntimeError("emit_sync needs the event loop that emit belongs to, and this context has none")
        if running is self.loop:
            raise RuntimeError(
                "emit_sync would block the event loop: use `await context.emit(...)` in async code, "
                "and call a sync agent in a thread, as a worker does"
            )

        async def say() -> None:
            await self.emit(message)

        saying = say()
        try:
            future = asyncio.run_coroutine_threadsafe(saying, self.loop)
        except RuntimeError:
            saying.close()
            raise
        try:
            future.result(EMIT_SECONDS)
        except TimeoutError:
            future.cancel()
            raise

    def report_usage(self, usage: Usage) -> None:
        """Add to what this run has cost. May be called often, and from any thread.

        Raises TypeError for what is no Usage, ValueError for numbers below 0 or above 2**53.
        """
        if not isinstance(usage, Usage):
            raise TypeError(f"report_usage takes a watchbill.tasks.Usage, and not {type(usage).__name__!r}")
        counts = {name: getattr(usage, name) for name in ("input_tokens", "output_tokens", "requests")}
        for name, count in counts.items():
            if type(count) is not int or not 0 <= count <= USAGE_MAX:
                raise ValueError(f"report_usage: {name} must be an integer from 0 to {USAGE_MAX}")
        self._reported.append(Usage(**counts))

    def annotate(self, name: str, value: Any) -> None:
        """Say something about the result, in its `metadata`: a name, and a value that is JSON.

        Raises TypeError or ValueError for what is no JSON, or more than 4,000 characters of it.
        """
        text = json.dumps({str(name): sound(value)}, allow_nan=False)
        if len(text) > NOTE_MAX:
            raise ValueError(f"annotate: {name!r} is more than {NOTE_MAX} characters of JSON")
        self._notes.update(from_json(text))

    @property
    def metadata(self) -> dict[str, Any]:
        """All that was said about the result so far."""
        return dict(self._notes)

    @property
    def usage(self) -> Usage | None:
        """All that was reported so far; None when nothing was."""
        reported = list(self._reported)
        return sum(reported, Usage()) if reported else None
