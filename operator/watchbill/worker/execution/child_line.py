"""The line of an agent's process to its worker, and the ways to the store that go over it.

Frames of JSON over a socket. Knows no store, and imports none: `line_answers` is the other end, in the worker.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import queue
import signal
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pydantic import TypeAdapter

from watchbill.agents.asking import Ends, Waits
from watchbill.agents.memory import Turn
from watchbill.event_types import Telling
from watchbill.plan.budget import Amount, TokenPrice
from watchbill.plan.hierarchy import Delegated
from watchbill.redaction import redact
from watchbill.tasks import Approval, TaskResult, Usage
from watchbill.worker.execution import left_children, line_errors

if TYPE_CHECKING:  # agents' part `llm` may not be installed
    from watchbill.agents.prices import Prices
    from watchbill.agents.spending import Estimate

HEADER: Final = struct.Struct("!I")
_APPROVAL: Final[TypeAdapter[Approval | None]] = TypeAdapter(Approval | None)


def pack(message: str) -> bytes:
    """Makes a frame: the length of the JSON, then the JSON."""
    data = message.encode()
    return HEADER.pack(len(data)) + data


class Question(Future[Any]):
    """A question to the worker: done with its answer, or with what it has raised there."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Line:
    """The connection to the worker. When it ends, this process ends."""

    def __init__(self, sock: socket.socket) -> None:
        self.task = 0
        """The number of the task that runs, or ran last."""
        self._runs = False
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._socket = sock
        self._sending = threading.RLock()  # a log line of a finalizer may come while one is sent
        self._ids = itertools.count(1)
        self._asked: dict[int, Question] = {}
        os.register_at_fork(after_in_child=self._leave)
        threading.Thread(target=self._listen, name="watchbill-line", daemon=True).start()

    def _leave(self) -> None:
        """Has a process that the agent has forked say nothing. Held open by it, the line would keep our death from the
        worker; and the lock may have been held by a thread that is not there any more."""
        self._socket.close()
        self._sending = threading.RLock()
        self._runs = False

    def next_task(self) -> dict[str, Any]:
        while True:
            seconds = left_children.SECONDS if left_children.reap() else None
            with suppress(queue.Empty):
                asked = self._requests.get(timeout=seconds)
                break
        with self._sending:
            self.task += 1
            self._runs = True
            self._socket.sendall(pack('{"kind": "begun"}'))
        return asked

    def end_task(self, message: str) -> None:
        with self._sending:
            self._runs = False
            self._socket.sendall(pack(message))

    def send(self, message: str) -> None:
        with self._sending:
            self._socket.sendall(pack(message))

    def count(self, told: Mapping[str, Any]) -> None:
        """Tells what is to be counted, unless this process was forked by the agent's."""
        with suppress(OSError):
            self.send(json.dumps(told))

    def note(self, task: int, kind: str, **message: Any) -> None:
        """Tells the worker something that it doesn't answer, unless the task has ended."""
        data = pack(json.dumps({"kind": kind, **message}))
        with self._sending:
            if task == self.task and self._runs:
                self._socket.sendall(data)

    def ask(self, task: int, kind: str, **message: Any) -> Question:
        """Asks the worker. Raises RuntimeError for a task that has ended: what one has left behind must not speak for
        another."""
        asked = Question(next(self._ids))
        data = pack(json.dumps({"kind": kind, "id": asked.number, **message}))
        with self._sending:
            if task != self.task or not self._runs:
                raise RuntimeError("its task has ended, or runs in the process that forked this one")
            self._asked[asked.number] = asked
            self._socket.sendall(data)
        return asked

    def withdraw(self, task: int, asked: Question) -> None:
        """Tells the worker that nobody takes the answer to this question, which may have come."""
        self._asked.pop(asked.number, None)
        self.note(task, "withdrawn", number=asked.number)

    def _listen(self) -> None:
        try:
            while True:
                told = json.loads(self._exactly(HEADER.unpack(self._exactly(HEADER.size))[0]))
                if told["kind"] == "run":
                    self._requests.put(told)
                else:
                    self._heard(told)
        finally:
            os.killpg(0, signal.SIGKILL)

    def _heard(self, told: dict[str, Any]) -> None:
        answered = self._asked.pop(told["id"], None)
        if answered is None or not answered.set_running_or_notify_cancel():
            return
        if told["error"] is None:
            answered.set_result(told["answer"])
        else:
            answered.set_exception(line_errors.unpacked(told["error"]))

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = self._socket.recv_into(view)
            if not got:
                raise EOFError
            view = view[got:]
        return data


class OfTask:
    """One task's part of the line (agents.asking.Line)."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._number = line.task

    def ask_in_thread(self, kind: str, **message: Any) -> Any:
        """Returns the worker's answer, or raises what that raised there. Blocks."""
        return self._line.ask(self._number, kind, **message).result()

    async def ask(self, kind: str, **message: Any) -> Any:
        """Does what `ask_in_thread` does, on an event loop."""
        asked = self._line.ask(self._number, kind, **message)
        try:
            return await asyncio.wrap_future(asked)
        except asyncio.CancelledError:
            self._line.withdraw(self._number, asked)
            raise

    def note(self, kind: str, **message: Any) -> None:
        self._line.note(self._number, kind, **message)

    def spent(self, usage: Usage) -> None:
        counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens, "requests": usage.requests}
        self.note("usage", usage=counts)

    def span(self, packed: str) -> None:
        self.note("span", span=packed)

    def say(self, told: Telling) -> Future[None]:
        """Done once the worker has it on the feeds; raises as `Line.ask` does."""
        clean = replace(told, message=redact(told.message), scope=told.scope and redact(told.scope))
        return self._line.ask(self._number, "told", event=asdict(clean))

    async def __call__(self, told: Telling) -> None:
        await asyncio.wrap_future(self.say(told))

    async def approved(self, what: str) -> Approval | None:
        return _APPROVAL.validate_python(await self.ask("approved", what=redact(what)))

    async def wait_for_approval(self, asked: Mapping[str, str]) -> NoReturn:
        clean = {redact(what): redact(details) for what, details in asked.items()}
        await self.ask("wait_for_approval", asked=clean)
        raise RuntimeError("its task goes on without an approval")  # the worker kills this process instead

    async def delegate(self, work: Delegated, *, ends: Ends) -> TaskResult:
        told = await self.ask("delegate", work=asdict(work), ends=ends)
        if told is None:
            raise Waits
        return TaskResult.model_validate(told)


class LineCheckpoints:
    """The checkpoints of one task, which the worker reads and stores."""

    lane = None

    def __init__(self, line: OfTask) -> None:
        self._line = line

    @property
    def memory(self) -> LineMemory:
        return LineMemory(self._line)

    async def find(self, name: str) -> str | None:
        found: str | None = await self._line.ask("find", name=name)
        return found

    async def keep(self, name: str, value: str) -> None:
        await self._line.ask("keep", name=name, value=value)

    def find_in_thread(self, name: str) -> str | None:
        found: str | None = self._line.ask_in_thread("find", name=name)
        return found

    def keep_in_thread(self, name: str, value: str) -> None:
        self._line.ask_in_thread("keep", name=name, value=value)


class LineMemory:
    """The session of one task (agents.memory.Memory)."""

    def __init__(self, line: OfTask) -> None:
        self._line = line

    async def turns(self, session_id: str, follows: str, most: int, most_bytes: int) -> Sequence[Turn]:
        found = await self._line.ask("turns", session_id=session_id, follows=follows, most=most, most_bytes=most_bytes)
        return [Turn(*turn) for turn in found]

    async def remember(self, session_id: str, follows: str, turn: Turn, seconds: float) -> None:
        await self._line.ask("remember", session_id=session_id, follows=follows, turn=turn, seconds=seconds)


class LineAccount:
    """The budgets that bind one task (agents.spending.Spending)."""

    def __init__(self, line: OfTask) -> None:
        self._line = line

    async def reserve(self, model: str, estimate: Estimate, *, in_batch: bool = False) -> LineReservation:
        # The worker knows the crew's prices of now, and this process what the request may need: a price of one for what
        # is read alone, or written, tells how much that is.
        (reads, _), (writes, _) = (estimate({model: price}) for price in (TokenPrice(1, 0), TokenPrice(0, 1)))
        most, is_priced = estimate({})
        answer = await self._line.ask(
            "reserve", model=model, reads=reads.nano, writes=writes.nano, nano=most.nano if is_priced else None
        )
        price = answer["price"]
        return LineReservation(
            self._line, answer["number"], answer["is_bounded"], {model: TokenPrice(*price)} if price else {}
        )


@dataclass(frozen=True, slots=True)
class LineReservation:
    """A request to a model that may be made (agents.spending.Reserved)."""

    line: OfTask
    number: int
    is_bounded: bool
    prices: Prices
    call: str = ""
    """Not told: an agent's process has no way to batches."""

    def settle(self, cost: Amount | None) -> None:
        self.line.note("settle", number=self.number, cost=cost)

    def pause(self, seconds: float) -> None:
        self.line.note("pause", number=self.number, seconds=seconds)
