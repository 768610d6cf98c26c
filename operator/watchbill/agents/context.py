"""The context of one run of an agent: its task, its inputs, and ways to tell what it does.

A value with three ways out (`tell`, which `emit`, `delegate` and others use; `annotate`; `report_usage`), one way in,
`cancelled`, and one both ways, `step`. It knows neither the store nor the worker.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic_core import from_json

from watchbill.agents import steps, tellings
from watchbill.agents.asking import Line, Waits, approval, waiting
from watchbill.agents.text import sound
from watchbill.agents.tools import Tool
from watchbill.event_types import SpawnMode, Telling
from watchbill.plan.approvals import checked
from watchbill.records import AgentDefinition
from watchbill.tasks import AgentTask, Approval, Usage

if TYPE_CHECKING:  # an agent's process imports this module, and no store
    from watchbill.agents.crew_messaging import CrewMessaging
    from watchbill.agents.spending import Spending
    from watchbill.agents.team import Team
    from watchbill.messaging import (
        AsyncRedisLock,
        AsyncRedisPubSub,
        AsyncRedisRateLimiter,
        AsyncRedisStream,
        RedisLock,
        RedisPubSub,
        RedisRateLimiter,
        RedisStream,
    )
    from watchbill.plan.demands import Demands

Tell = Callable[[Telling], Awaitable[None]]
T = TypeVar("T")

NOTE_MAX: Final = 4000
USAGE_MAX: Final = 2**53
"""Maximum of each number in one report. A larger one would not be exact in every reader of JSON."""
EMIT_SECONDS: Final = 30.0
"""Seconds that a thread waits until its message is taken. After that the event loop has ended or hangs."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


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
    """Outputs of the steps before, by agent id; of one that failed, `{"error": …}`."""
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
    tell: Tell
    """Puts an event on the feeds, in order, while the task is still this worker's. An event that is sent again because
    its answer was lost is there once. `emit` and the methods behind it use this."""
    loop: asyncio.AbstractEventLoop | None = None
    """The event loop that `tell` belongs to; a worker always gives it."""
    item: Any = None
    """The item of a list that this run is for, if its agent runs for each of them."""
    connect_messaging: Callable[[], CrewMessaging] | None = None
    """Makes the way to the crew's bus, streams, locks and limits; None in a test."""
    connect_checkpoints: Callable[[], steps.Checkpoints] | None = None
    """Makes the way to the task's checkpoints; a worker always gives it."""
    to_worker: Line | None = None
    """The line to the worker, for what needs an answer of the store; None in a test."""
    spending: Spending | None = None
    """The budgets that bind the agent's requests to models, which LLMAgent observes. None: it has no model, or is
    tested."""
    team: Team | None = None
    """The team of a step of a hierarchical crew."""
    demands: Demands | None = None
    """The demands of the rest of the crew on the output, which LLMAgent observes; None: there are none."""
    _reported: list[Usage] = field(default_factory=list, repr=False, compare=False)
    _notes: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _asked: list[bool] = field(default_factory=list, repr=False, compare=False)
    _connected: list[CrewMessaging] = field(default_factory=list, repr=False, compare=False)
    _kept: list[tuple[steps.Names, steps.Checkpoints]] = field(default_factory=list, repr=False, compare=False)

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

    async def emit(self, message: str) -> None:
        """Sends a message to the crew's event feed: `await context.emit("half way")`."""
        await self.tell(tellings.emission(message))

    async def delegate(
        self, agent: str, message: str = "", *, scope: str | None = None, spawn_mode: SpawnMode | str = SpawnMode.FRESH
    ) -> Any:
        """Gives a part of this agent's work to another agent of the crew (`task_delegated`).

        In a run of a hierarchical crew the other one does the work that `message` asks for, and this returns its output
        once the reviewer, if there is one, has approved of it. Until then the run of this agent ends here with
        asyncio.CancelledError, as with `approval`, and begins anew when one of those that it waits for has ended; so it
        must delegate the same work in the same order. Several may be awaited together, by asyncio.gather. Raises
        DelegationFailed if the work failed, or was rejected in each round, and InvalidInput for an agent that is no
        member, beyond the crew's bounds, and within a step (`step`), whose result another attempt gets without a call.

        Elsewhere it is only told: nothing is scheduled by it, and this returns None. `scope` says which part, in words
        for people; `spawn_mode` how much the other knows of this agent's context. It is told on the feeds of the crew,
        of both agents and of the run. Raises InvalidInput if the crew has no such agent.
        """
        if self.team is not None:
            return await waiting(
                self.team.delegate(agent, tellings.spoken(message, "delegate"), tellings.scope_of(scope) or "")
            )
        await self.tell(tellings.delegation(agent, message, scope, spawn_mode))

    async def hand_off_for_review(self, reviewer: str, message: str = "", *, scope: str | None = None) -> None:
        """Tells that this agent's work is to be reviewed by another agent (`reviewer_handoff`). It is only told, as by
        `delegate`, and raises as that does."""
        await self.tell(tellings.handoff(reviewer, message, scope))

    async def approve(self, agent: str, message: str = "") -> None:
        """Tells that this agent has reviewed the work of another agent, and approves of it (`reviewer_approval`). It is
        only told, as by `delegate`, and raises as that does."""
        await self.tell(tellings.approval(agent, message))

    async def escalate(self, message: str, *, to: str | None = None) -> None:
        """Tells that this agent needs guidance, or another priority (`conductor_escalation`): of the agent `to`, or of
        whoever conducts the crew. It is only told, as by `delegate`, and raises as that does."""
        await self.tell(tellings.escalation(message, to))

    def emit_sync(self, message: str) -> None:
        """`emit` for an agent that isn't async, and so runs in a thread. Returns once the message is taken.

        This and the other methods of this kind raise RuntimeError when called on the event loop itself, where they
        would wait for ever.
        """
        self.tell_sync(tellings.emission(message))

    def delegate_sync(
        self, agent: str, message: str = "", *, scope: str | None = None, spawn_mode: SpawnMode | str = SpawnMode.FRESH
    ) -> Any:
        """`delegate` for an agent that isn't async, whose run ends with InterruptedError. One item at a time."""
        if (team := self.team) is not None:
            text, part = tellings.spoken(message, "delegate"), tellings.scope_of(scope) or ""
            return self.await_in_thread(lambda: team.delegate(agent, text, part, in_thread=True))
        self.tell_sync(tellings.delegation(agent, message, scope, spawn_mode))
        return None

    def hand_off_for_review_sync(self, reviewer: str, message: str = "", *, scope: str | None = None) -> None:
        """`hand_off_for_review` for an agent that isn't async."""
        self.tell_sync(tellings.handoff(reviewer, message, scope))

    def approve_sync(self, agent: str, message: str = "") -> None:
        """`approve` for an agent that isn't async."""
        self.tell_sync(tellings.approval(agent, message))

    def escalate_sync(self, message: str, *, to: str | None = None) -> None:
        """`escalate` for an agent that isn't async."""
        self.tell_sync(tellings.escalation(message, to))

    async def approval(self, what: str) -> Approval:
        """Returns once somebody has approved of `what` (`watchbill approve`), with the reason.

        If nobody has yet, this run of the agent ends here with asyncio.CancelledError: the task waits without a slot,
        the attempt doesn't count, and the agent begins anew when somebody has decided. Then this returns at once. The
        same text is the same approval; a task may ask for several. Raises ApprovalRejected, with the reason, and
        ApprovalTimedOut when the crew's `approvalTimeoutSeconds` are over: each ends the task, unless the agent catches
        it. Raises RuntimeError in a test, and InvalidInput for a text that can't be asked about.
        """
        return await waiting(approval(self.to_worker, checked(what)))

    def approval_sync(self, what: str) -> Approval:
        """`approval` for an agent that isn't async, whose run ends with InterruptedError."""
        name = checked(what)
        return self.await_in_thread(lambda: approval(self.to_worker, name))

    def tell_sync(self, told: Telling) -> None:
        """`tell` for an agent that isn't async."""
        self.await_in_thread(lambda: self.tell(told))

    def await_in_thread(self, work: Callable[[], Awaitable[T]]) -> T:
        """Returns what `work` returns on the event loop, for a thread."""
        if self.loop is None:
            raise RuntimeError("emit_sync needs the event loop that emit belongs to, and this context has none")
        if self.loop is _running_loop():
            raise RuntimeError(
                "emit_sync would block the event loop: use `await context.emit(...)` in async code, "
                "and call a sync agent in a thread, as a worker does"
            )

        async def say() -> T:
            return await work()

        saying = say()
        try:
            future = asyncio.run_coroutine_threadsafe(saying, self.loop)
        except RuntimeError:
            saying.close()
            raise
        try:
            return future.result(EMIT_SECONDS)
        except TimeoutError:
            future.cancel()
            raise
        except Waits:
            raise InterruptedError("the task waits for somebody, and its agent begins anew then") from None

    async def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Calls a function once in this task, and returns its result: `await context.step("charge", charge, order)`.

        The result is stored as a checkpoint. Another attempt of the task gets it in place of a call, whatever ended
        this attempt. The function may be async; one that blocks belongs into a thread: `context.step("load",
        asyncio.to_thread, load, path)`. It is called again where it raises, and where its worker died before the
        result was stored.

        The result is read from its JSON, the first time, too: a tuple is a list. A name that is used again in the same
        attempt is another step: the first, second, … use of a name belong together in all attempts.

        Raises InvalidInput for a wrong name, and for a result that is no JSON or too large; Fenced when the task is no
        longer this attempt's; and what the function raises.
        """
        steps.check_function(name, function)
        names, checkpoints = self._steps()
        full = names.next(name)
        if (found := await checkpoints.find(full)) is not None:
            return steps.decode(found)
        with steps.under(name):
            result = function(*args, **kwargs)
            if inspect.isawaitable(result):
                result = await result
        text, value = steps.encode(name, result)
        await checkpoints.keep(full, text)
        return value

    def step_sync(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """`step` for an agent that isn't async. The function isn't async either."""
        if self.loop is not None and self.loop is _running_loop():
            raise RuntimeError(
                "step_sync would block the event loop: use `await context.step(...)` in async code, "
                "and call a sync agent in a thread, as a worker does"
            )
        steps.check_function(name, function)
        names, checkpoints = self._steps()
        full = names.next(name)
        if (found := checkpoints.find_in_thread(full)) is not None:
            return steps.decode(found)
        with steps.under(name):
            result = function(*args, **kwargs)
        text, value = steps.encode(name, result)
        checkpoints.keep_in_thread(full, text)
        return value

    @property
    def checkpoints(self) -> steps.Checkpoints:
        """The way to the task's checkpoints, for `step`."""
        return self._steps()[1]

    def _steps(self) -> tuple[steps.Names, steps.Checkpoints]:
        if self.connect_checkpoints is None:
            raise RuntimeError("this context has no place for checkpoints: a worker, or testing.context(), makes one")
        if not self._kept:
            self._kept.append((steps.Names(), self.connect_checkpoints()))  # the first counts, as in _messaging
        return self._kept[0]

    @property
    def bus(self) -> AsyncRedisPubSub:
        """The crew's bus: messages to all who listen to a channel now. It stops listening when this run ends.

        This, `stream`, `lock` and `limiter` are classes of `watchbill.messaging` on keys of the crew, shared by all its
        agents. They use the worker's connections; in a process of its own an agent has connections of its own.
        """
        return self._messaging().bus()

    @property
    def bus_sync(self) -> RedisPubSub:
        """The crew's bus, for an agent that isn't async."""
        return self._messaging().bus_sync()

    def stream(self, name: str, **options: Any) -> AsyncRedisStream:
        """Returns a stream of the crew: messages that are kept until somebody has done them. The options are those of
        `AsyncRedisStream`."""
        return self._messaging().stream(name, **options)

    def stream_sync(self, name: str, **options: Any) -> RedisStream:
        """Returns a stream of the crew, for an agent that isn't async."""
        return self._messaging().stream_sync(name, **options)

    def lock(self, name: str, expire: float | timedelta = 10.0) -> AsyncRedisLock:
        """Returns a lock of the crew, which the server ends `expire` seconds after it was taken or last renewed."""
        return self._messaging().lock(name, expire)

    def lock_sync(self, name: str, expire: float | timedelta = 10.0) -> RedisLock:
        """Returns a lock of the crew, for an agent that isn't async."""
        return self._messaging().lock_sync(name, expire)

    def limiter(self, name: str, rate: int, period: float | timedelta = 1.0) -> AsyncRedisRateLimiter:
        """Returns a limiter of the crew: at most `rate` calls in any `period` seconds, whichever agents make them."""
        return self._messaging().limiter(name, rate, period)

    def limiter_sync(self, name: str, rate: int, period: float | timedelta = 1.0) -> RedisRateLimiter:
        """Returns a limiter of the crew, for an agent that isn't async."""
        return self._messaging().limiter_sync(name, rate, period)

    @property
    def messaging(self) -> CrewMessaging | None:
        """The way to the crew's messaging, once the agent has used it."""
        return self._connected[0] if self._connected else None

    def _messaging(self) -> CrewMessaging:
        if self.connect_messaging is None:
            prefix = f"wb:{{{self.crew}}}:"
            raise RuntimeError(
                "this context has no connection to the store: its agent runs in a test. "
                f"Use watchbill.messaging with a URL, and with key_prefix={prefix!r} for keys of the crew"
            )
        if not self._connected:
            self._connected.append(self.connect_messaging())  # the first counts, if threads of an agent meet here
        return self._connected[0]

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
