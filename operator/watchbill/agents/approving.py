"""Calls of tools that somebody must approve of before they are made.

An approval is bound to one call: to its id, its arguments, which whoever decides is shown, and the tool as its crew
declares it. So what was approved is what is made, once, also by another attempt of the task; and where a tool is
declared anew meanwhile, its calls are asked about again.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from watchbill.agents.asking import approval, connected, waiting
from watchbill.agents.text import sound
from watchbill.agents.tools import Tool
from watchbill.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from watchbill.agents.context import Context

T = TypeVar("T")

MARK: Final = "watchbill_needs_approval"
"""The entry of a tool's metadata, as pydantic-ai has it, which says so: it has the tool's declaration."""
ARGUMENTS_MAX: Final = 16 * 1024
"""Characters of the JSON of a call's arguments. Whoever decides must see all of them."""
_NAME_MAX: Final = 100
_SOON_SECONDS: Final = 0.02
"""Seconds within which calls of the same turn begin."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is to be approved of."""

    name: str
    """The call, whatever is declared: its step within the task is called so."""
    what: str
    """The approval, as `tasks.Approval.what` has it."""
    details: str
    """The arguments as JSON."""

    @classmethod
    def of(cls, tool: str, arguments: Mapping[str, Any], call_id: str, declaration: str) -> Call:
        """`call_id` tells the call from others of the same task, with the same arguments, say. `declaration`: the
        tool's. Raises InvalidInput for arguments that can't be shown: they are no JSON, or too long."""
        try:
            details = json.dumps(sound(arguments), ensure_ascii=False, allow_nan=False)
            ordered = json.dumps([call_id, tool, arguments], sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise _unshown(tool, f"are no JSON: {error}", "Give text, numbers, booleans, lists and dicts.") from error
        if len(details) > ARGUMENTS_MAX:
            raise _unshown(tool, f"are more than {ARGUMENTS_MAX} characters of JSON", "Give less in one call.")
        called = f"call {tool[:_NAME_MAX]} #"
        return cls(called + _digest(ordered), called + _digest(ordered + declaration), details)


class Calls:
    """The calls of tools that are under way in one conversation. Those that need approval end the attempt together, as
    those that wait for members do, and cut off no other: its result is stored before."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._running = 0
        self._waiting = 0
        """Calls that wait for members."""
        self._called: list[Call] = []
        """Calls that need approval, in the order of the model."""
        self._asking: set[str] = set()
        """Calls of which nobody has approved, by what they ask for."""
        self._changed = asyncio.Event()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Within it, a call is made, and its result is stored."""
        self._running += 1
        outer = under_way.get()
        under_way.set(self)
        try:
            yield
        finally:
            under_way.set(outer)
            self._running -= 1
            self._changed.set()

    async def for_members(self, wait: Callable[[], Awaitable[T]]) -> T:
        """Returns what `wait` returns, which may end the attempt, and is called once no call is under way that neither
        waits for members nor for an approval. The calls of one turn begin together."""
        self._waiting += 1
        self._changed.set()
        try:
            while self._running > len(self._asking) + self._waiting:
                self._changed.clear()
                await self._changed.wait()
            return await waiting(wait())
        finally:
            self._waiting -= 1
            self._changed.set()

    async def approved(self, call: Call) -> None:
        """Returns once somebody has approved of the call, which is under way. Raises ApprovalRejected,
        ApprovalTimedOut."""
        line = connected(self._context.to_worker)
        self._called.append(call)
        if await line.approved(call.what) is not None:
            return
        self._asking.add(call.what)
        self._changed.set()
        try:
            while True:
                while self._running > len(self._asking):
                    self._changed.clear()
                    await self._changed.wait()
                await asyncio.sleep(_SOON_SECONDS)
                if self._running == len(self._asking):
                    asked = {one.what: one.details for one in self._called if one.what in self._asking}
                    await waiting(line.wait_for_approval(asked))
        finally:  # whoever calls the tool may cancel one call of several
            self._asking.discard(call.what)


under_way: Final[ContextVar[Calls | None]] = ContextVar("under_way", default=None)
"""The calls of the conversation whose model has called the tool that runs here."""


def gated(tool: Tool, context: Context, uses: Counter[str]) -> Tool:
    """Returns the tool as an agent calls it that is no model: each call asks for approval, and is a step of the task.
    `uses` counts the calls with the same arguments, each of which has an approval of its own."""
    function = tool.function

    def call_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        given = {**({"": list(args)} if args else {}), **kwargs}
        first = Call.of(tool.name, given, "", tool.declaration)
        uses[first.name] += 1
        number = uses[first.name]
        return first if number == 1 else Call.of(tool.name, given, str(number), tool.declaration)

    async def approved(call: Call, *args: Any, **kwargs: Any) -> Any:
        await waiting(approval(context.to_worker, call.what, call.details))
        return await function(*args, **kwargs)

    def approved_sync(call: Call, *args: Any, **kwargs: Any) -> Any:
        context.await_in_thread(lambda: approval(context.to_worker, call.what, call.details))
        return function(*args, **kwargs)

    @functools.wraps(function)
    async def ask(*args: Any, **kwargs: Any) -> Any:
        call = call_of(args, kwargs)
        return await context.step(call.name, approved, call, *args, **kwargs)

    @functools.wraps(function)
    def ask_sync(*args: Any, **kwargs: Any) -> Any:
        call = call_of(args, kwargs)
        return context.step_sync(call.name, approved_sync, call, *args, **kwargs)

    return replace(tool, function=ask if tool.is_async else ask_sync, bare=function)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _unshown(tool: str, why: str, fix: str) -> InvalidInput:
    return InvalidInput(Problem(f"the arguments of tool {tool!r}, whose calls need approval, {why}", fix, path="tool"))
