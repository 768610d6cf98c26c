"""The process of agents that ask for one: runs one task after another for its worker, and never outlives it.

Started by `processes`, which says what to do over a socket, in frames of JSON, and hears what the agent says, logs and
returns. Knows no store, and imports none.
"""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import inspect
import itertools
import json
import logging
import os
import queue
import signal
import socket
import struct
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from watchbill import logs
from watchbill.agents.context import EMIT_SECONDS, Context
from watchbill.agents.loading import AgentLoader, Runner
from watchbill.agents.tools import Tool
from watchbill.event_types import Telling
from watchbill.records import CrewDefinition
from watchbill.redaction import redact
from watchbill.tasks import AgentTask, Usage
from watchbill.worker.execution import failures, outputs
from watchbill.worker.execution.shared_lease import LEASE_POLL_SECONDS, SharedLease

HEADER: Final = struct.Struct("!I")
_ROLES_KEPT: Final = 64


def pack(message: str) -> bytes:
    """Makes a frame: the length of the JSON, then the JSON."""
    data = message.encode()
    return HEADER.pack(len(data)) + data


def main(given: dict[str, Any]) -> None:
    """Runs tasks until the worker ends. `given` holds `line`, a socket to the worker; `life`, a pipe that ends with it;
    `lease`, its lease; `sources`, where agents' code comes from."""
    faulthandler.enable()  # where a crash in C happened is seen on stderr
    _die_with(given["life"])
    lease = SharedLease(given["lease"])
    for ours in (given["line"], given["life"], lease.fd):  # what an agent starts must not hold it open when we are gone
        os.set_inheritable(ours, False)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # what an agent prints is seen while it runs, and survives a kill
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    line = _Line(socket.socket(fileno=given["line"]))
    logging.getLogger().addHandler(_LogHandler(line))
    sources = given["sources"]
    loader = AgentLoader(map(Path, sources["folders"]), modules=sources["modules"], chosen=sources["chosen"])

    @functools.lru_cache(_ROLES_KEPT)
    def role(definition: str, agent_id: str) -> tuple[Runner, dict[str, Tool]]:
        crew = CrewDefinition.model_validate_json(definition)
        agent = crew.agent(agent_id)
        if agent is None:
            raise LookupError(f"agent {agent_id!r} is not in its crew")  # the worker has looked
        return loader.load(crew, agent), loader.tools(crew, agent)

    while True:
        asked = line.next_task()
        logging.getLogger().setLevel(asked["level"])
        metadata: dict[str, Any] = {}
        try:
            runner, tools = role(asked["definition"], asked["agent"])
            context = _context(asked, runner, tools, line)
            while not lease.is_valid:  # others may have taken it, and done it: then we are killed
                time.sleep(LEASE_POLL_SECONDS)
            try:
                came: outputs.Output | failures.Failed = outputs.made(asked["agent"], _run(runner, context))
            finally:
                metadata = context.metadata
        except BaseException as failure:  # SystemExit ends the task only
            came = failures.failed(failure, datetime.now(UTC))  # noqa: TID251 - shell
        what = "output" if isinstance(came, outputs.Output) else "failed"
        line.end_task(json.dumps({"kind": "end", "metadata": metadata, what: asdict(came)}))


def _die_with(life: int) -> None:
    """Ends this process, and all that it started, when the worker ends. On Linux the kernel does so, even while C code
    holds the interpreter. Elsewhere the end of the line does, as soon as Python code runs."""
    if sys.platform == "linux":
        import fcntl  # the worker imports this module, too, and not only where there is one

        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life, fcntl.F_SETFL, os.O_ASYNC)


def _run(runner: Runner, context: Context) -> Any:
    async def on_a_loop() -> Any:
        return await runner.run(context)

    if runner.is_async:
        return asyncio.run(on_a_loop())
    output = runner.run(context)

    async def hidden() -> Any:
        return await output

    return asyncio.run(hidden()) if inspect.isawaitable(output) else output  # a decorator may hide that it is async


@dataclass(slots=True, kw_only=True)
class _Context(Context):
    """A context whose worker is another process."""

    line: _Line
    number: int

    def tell_sync(self, told: Telling) -> None:
        self.line.say(self.number, told).result(EMIT_SECONDS)

    def report_usage(self, usage: Usage) -> None:
        Context.report_usage(self, usage)
        self.line.spent(self.number, usage)  # at once: it may be killed in the next moment, and was spent all the same


def _context(asked: dict[str, Any], runner: Runner, tools: dict[str, Tool], line: _Line) -> Context:
    number = line.task

    async def tell(told: Telling) -> None:
        await asyncio.wrap_future(line.say(number, told))

    given = asked["context"]
    return _Context(
        crew=given["crew"],
        agent=runner.agent,
        task=AgentTask.model_validate(given["task"]),
        run_id=given["run_id"],
        prompt=given["prompt"],
        inputs=given["inputs"],
        outputs=given["outputs"],
        tools=tools,
        logger=logs.of_agent(given["crew"], asked["agent"], given["run_id"], given["task"]["task_id"]),
        deadline=datetime.fromisoformat(given["deadline"]) if given["deadline"] else None,
        attempt=given["attempt"],
        fence=given["fence"],
        tell=tell,
        line=line,
        number=number,
    )


class _Line:
    """The connection to the worker. When it ends, this process ends."""

    def __init__(self, sock: socket.socket) -> None:
        self.task = 0
        """The number of the task that runs, or ran last."""
        self._runs = False
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._socket = sock
        self._sending = threading.Lock()
        self._ids = itertools.count(1)
        self._said: dict[int, Future[None]] = {}
        # A forked child of the agent's that held the line open would keep our death from the worker.
        os.register_at_fork(after_in_child=sock.close)
        threading.Thread(target=self._listen, name="watchbill-line", daemon=True).start()

    def next_task(self) -> dict[str, Any]:
        asked = self._requests.get()
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

    def spent(self, task: int, usage: Usage) -> None:
        counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens, "requests": usage.requests}
        data = pack(json.dumps({"kind": "usage", "usage": counts}))
        with self._sending:
            if task == self.task and self._runs:
                self._socket.sendall(data)

    def say(self, task: int, told: Telling) -> Future[None]:
        """Done once the worker has it on the feeds; holds what that raised there. Raises RuntimeError for a task that
        has ended: what one has left behind must not speak for another."""
        said: Future[None] = Future()
        known = next(self._ids)
        clean = replace(told, message=redact(told.message), scope=told.scope and redact(told.scope))
        data = pack(json.dumps({"kind": "told", "id": known, "event": asdict(clean)}))
        with self._sending:
            if task != self.task or not self._runs:
                raise RuntimeError("its task has ended")
            self._said[known] = said
            self._socket.sendall(data)
        return said

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
        said = self._said.pop(told["id"])
        if not said.set_running_or_notify_cancel():
            return
        if told["error"] is None:
            said.set_result(None)
        else:
            said.set_exception((ValueError if told["value"] else RuntimeError)(told["error"]))

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = self._socket.recv_into(view)
            if not got:
                raise EOFError
            view = view[got:]
        return data


class _LogHandler(logging.Handler):
    """Sends log lines to the worker, which knows where to write them and keeps secrets out of them."""

    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            trace = self._formatter.formatException(record.exc_info) if record.exc_info else record.exc_text
            told = {
                "kind": "log",
                "name": record.name,
                "level": record.levelno,
                "message": redact(record.getMessage()),
                "trace": redact(trace) if trace else None,
            }
            self._line.send(json.dumps(told))
        except Exception:
            with suppress(Exception):
                sys.stderr.write(f"{logs.unwritable(record)}\n")
