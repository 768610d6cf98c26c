"""The context of one run of an agent: its task, its inputs, and a way to send messages.

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
"""Maximum of each number in one report. A larger one would not be exact in every reader of JSON."""
_SPOKEN_MAX: Final = 100_000
"""Maximum length of one message. Far less is kept, but a secret must not be cut in two before it is redacted, which
happens on the worker's event loop."""
EMIT_SECONDS: Final = 30.0
"""Seconds that a thread waits until its message is taken. After that the event loop has ended or hangs."""


def spoken(message: object) -> str:
    """The message, cut to the length that is processed. Raises TypeError if it is not text."""
    if not isinstance(message, str):
        raise TypeError(f"emit takes a text, not {type(message).__name__}: {repr(message)[:80]}. Give it as text")
    return message[:_SPOKEN_MAX]


@dataclass(slots=True, kw_only=True)  # not frozen: that triples what making one costs, and each run has one
class Context:
    """The task, inputs and tools of one run of one agent. It is read-only: changes to it have no effect."""

    crew: str
    """`namespace/name`."""
    agent: AgentDefinition
    """The agent as its crew defines it, with the crew's default model filled in."""
    task: AgentTask
    run_id: str | None
    """The crew run that this step belongs to; None for a task of its own."""
    prompt: str
    """The prompt, composed from the agent's template."""
    inputs: Mapping[str, str]
    """The run's named inputs, in full."""
    outputs: Mapping[str, Any]
    """Outputs of the steps before, by agent id."""
    tools: Mapping[str, Tool]
    """The agent's own and shared tools by name; call one as `context.tools["calculator"]("6 * 7")`."""
    logger: logging.LoggerAdapter[logging.Logger]
    deadline: datetime | None
    """Time at which the worker cancels this run (aware, UTC). It is approximate: the worker itself measures on a
    monotonic clock."""
    attempt: int
    """Number of this attempt; the first is 1."""
    fence: int
    """A number that grows with every start of this task. Pass it to systems that should refuse a worker whose lease
    has ended."""
    emit: Say
    """Sends a message to the crew's event feed: `await context.emit("half way")`."""
    loop: asyncio.AbstractEventLoop | None = None
    """The event loop that `emit` belongs to; a worker always gives it."""
    _reported: list[Usage] = field(default_factory=list, repr=False, compare=False)
    _notes: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _asked: list[bool] = field(default_factory=list, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """True once this run should stop: its time is over, or somebody cancelled it, or its worker ends.

        An agent that runs in a thread can't be stopped: it should look between two pieces of work, and return or raise.
        An `async def run` gets asyncio.CancelledError as well; an agent in a process of its own is killed instead.
        """
        return bool(self._asked)

    def cancel(self) -> None:
        """Sets `cancelled`. The worker calls it; a test may call it, too."""
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
        """Add to the usage of this run. It may be called often, and from any thread.

        Raises TypeError if it is no Usage, ValueError for numbers below 0 or above 2**53.
        """
        if not isinstance(usage, Usage):
            raise TypeError(f"report_usage takes a watchbill.tasks.Usage, and not {type(usage).__name__!r}")
        counts = {name: getattr(usage, name) for name in ("input_tokens", "output_tokens", "requests")}
        for name, count in counts.items():
            if type(count) is not int or not 0 <= count <= USAGE_MAX:
                raise ValueError(f"report_usage: {name} must be an integer from 0 to {USAGE_MAX}")
        self._reported.append(Usage(**counts))

    def annotate(self, name: str, value: Any) -> None:
        """Add a name and a JSON value to the `metadata` of the result.

        Raises TypeError or ValueError if the value is not JSON, or has more than 4,000 characters.
        """
        text = json.dumps({str(name): sound(value)}, allow_nan=False)
        if len(text) > NOTE_MAX:
            raise ValueError(f"annotate: {name!r} is more than {NOTE_MAX} characters of JSON")
        self._notes.update(from_json(text))

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the result so far."""
        return dict(self._notes)

    @property
    def usage(self) -> Usage | None:
        """Sum of the reported usage so far; None when none was reported."""
        reported = list(self._reported)
        return sum(reported, Usage()) if reported else None
