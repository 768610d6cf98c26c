"""Answers what an agent in a process of its own asks for, and does what it says: the worker's end of `child_line`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import to_jsonable_python

from watchbill import tracing
from watchbill.agents.asking import Ends, Waits, connected
from watchbill.agents.context import Context
from watchbill.agents.memory import Turn
from watchbill.event_types import EventType, SpawnMode, Telling
from watchbill.plan.budget import Amount
from watchbill.plan.hierarchy import Asked, Delegated
from watchbill.tasks import TaskResult, Usage
from watchbill.worker.execution import child_metrics, line_errors
from watchbill.worker.execution.child_line import pack

if TYPE_CHECKING:  # agents' part `llm` may not be installed
    from watchbill.agents.prices import Prices
    from watchbill.agents.spending import Reserved

_QUICK: Final = frozenset({"told", "find", "keep", "turns", "remember"})
"""Questions that are answered to the end, even when the agent has returned meanwhile."""


class Answers:
    """The questions of one run of an agent, and all else that it says over the line."""

    def __init__(self, context: Context, writer: asyncio.StreamWriter) -> None:
        self._context = context
        self._writer = writer
        self._open: dict[int, tuple[asyncio.Task[None], str]] = {}
        self._sending = asyncio.Lock()
        self._reserved: dict[int, Reserved] = {}

    def hear(self, told: Mapping[str, Any]) -> None:
        """Does what the process says, or begins to answer: it may ask for several things at once."""
        kind = told["kind"]
        if "id" in told:
            number: int = told["id"]
            task = asyncio.create_task(self._answer(told))
            self._open[number] = (task, kind)
            task.add_done_callback(lambda _: self._open.pop(number))
        elif kind == "withdrawn":
            self._forget(told["number"])
        elif kind == "log":
            _log(told, self._context)
        elif kind == "metric":
            child_metrics.count(told)
        elif kind == "span":
            tracing.forwarded(told["span"])
        elif kind == "usage":
            self._context.report_usage(Usage(**told["usage"]))
        elif kind == "pause":
            self._reserved[told["number"]].pause(told["seconds"])
        elif kind == "settle":
            self._reserved.pop(told["number"]).settle(None if told["cost"] is None else Amount(*told["cost"]))

    async def end(self) -> None:
        """Returns once all that was told is stored. The agent has returned."""
        await asyncio.gather(*(task for task, kind in self._open.values() if kind in _QUICK))

    def close(self) -> None:
        """Answers nothing more. What a request did cost that was not settled is not known."""
        for task, _ in self._open.values():
            task.cancel()
        while self._reserved:
            self._reserved.popitem()[1].settle(None)

    def _forget(self, number: int) -> None:
        """Ends answering a question whose answer nobody takes. A request that was reserved is not made."""
        if (open_ := self._open.get(number)) is not None and open_[1] not in _QUICK:
            open_[0].cancel()
        if (reserved := self._reserved.pop(number, None)) is not None:
            reserved.settle(Amount())

    async def send(self, message: Mapping[str, Any]) -> None:
        async with self._sending:
            self._writer.write(pack(json.dumps(message)))
            await self._writer.drain()

    async def _answer(self, told: Mapping[str, Any]) -> None:
        error = answer = None
        try:
            answer = to_jsonable_python(await self._answered(told))
        except Waits:  # the attempt ends, and the process with it
            return
        except Exception as failure:
            error = line_errors.packed(failure)
        try:
            await self.send({"kind": "answer", "id": told["id"], "error": error, "answer": answer})
        except ConnectionError:  # the end of the process is told by who reads
            self._forget(told["id"])

    async def _answered(self, told: Mapping[str, Any]) -> Any:
        context = self._context
        match told["kind"]:
            case "told":
                event = told["event"]
                mode = event["spawn_mode"] and SpawnMode(event["spawn_mode"])
                kind = EventType(event["event_type"])
                return await context.tell(Telling(**{**event, "event_type": kind, "spawn_mode": mode}))
            case "find":
                return await context.checkpoints.find(told["name"])
            case "keep":
                return await context.checkpoints.keep(told["name"], told["value"])
            case "turns" | "remember":
                return await self._of_memory(told)
            case "approved":
                return await connected(context.to_worker).approved(told["what"])
            case "wait_for_approval":
                return await connected(context.to_worker).wait_for_approval(told["asked"])
            case "delegate":
                work = Delegated(**{**told["work"], "asked": Asked(**told["work"]["asked"])})
                return await _delegated(context, work, told["ends"])
            case "reserve":
                return await self._reserve(told)
        raise ValueError(f"an agent's process asks for {told['kind']!r}")

    async def _of_memory(self, told: Mapping[str, Any]) -> Any:
        memory = self._context.checkpoints.memory
        session_id, follows = told["session_id"], told["follows"]
        if told["kind"] == "turns":
            return await memory.turns(session_id, follows, told["most"], told["most_bytes"])
        return await memory.remember(session_id, follows, Turn(*told["turn"]), told["seconds"])

    async def _reserve(self, told: Mapping[str, Any]) -> Any:
        """Reserves a request. Its process has priced it by what everybody knows; here are the crew's own prices."""
        model, price = told["model"], None

        def estimate(own: Prices) -> tuple[Amount, bool]:
            nonlocal price
            nano = told["nano"]
            if (price := own.get(model)) is not None:
                nano = told["reads"] * price.reads + told["writes"] * price.writes
            return Amount(told["reads"] + told["writes"], nano or 0), nano is not None

        if self._context.spending is None:
            raise RuntimeError("this task has no account")
        reserved = await self._context.spending.reserve(model, estimate)
        self._reserved[told["id"]] = reserved
        return {"number": told["id"], "is_bounded": reserved.is_bounded, "price": reserved.prices.get(model)}


async def _delegated(context: Context, work: Delegated, ends: Ends) -> TaskResult | None:
    """Returns the result of the delegated step; None: it has not ended, and the attempt goes on. Raises as
    `Line.delegate` does."""
    try:
        return await connected(context.to_worker).delegate(work, ends=ends)
    except Waits:
        if ends != "later":
            raise
        return None


def _log(told: Mapping[str, Any], context: Context) -> None:
    source = logging.getLogger(told["name"])
    if source.isEnabledFor(told["level"]):
        extra = dict(context.logger.extra or {})
        with suppress(Exception):  # a factory's or a filter's of the agent's module, which would cost the process
            record = source.makeRecord(told["name"], told["level"], "", 0, told["message"], (), None, extra=extra)
            record.exc_text = told["trace"]
            source.handle(record)
