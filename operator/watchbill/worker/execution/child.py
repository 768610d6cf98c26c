"""The process of agents that ask for one: runs one task after another for its worker, and never outlives it.

Started by `processes`, which says what to do over a socket, in frames of JSON, and hears what the agent says, logs and
returns. Knows no store, and imports none, unless an agent uses the crew's messaging (`child_messaging`).
"""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import inspect
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from watchbill import init, logs, tracing
from watchbill.agents import aclose_clients, team
from watchbill.agents.context import EMIT_SECONDS, Context
from watchbill.agents.loading import AgentLoader, Runner
from watchbill.agents.tools import Tool
from watchbill.event_types import Telling
from watchbill.plan import flow
from watchbill.plan.demands import Demands
from watchbill.records import CrewDefinition
from watchbill.redaction import redact
from watchbill.tasks import AgentTask, Usage
from watchbill.worker.execution import child_metrics, child_traces, failures, outputs
from watchbill.worker.execution.child_line import Line, LineAccount, LineCheckpoints, OfTask
from watchbill.worker.execution.child_messaging import Connections
from watchbill.worker.execution.shared_lease import LEASE_POLL_SECONDS, SharedLease

_ROLES_KEPT: Final = 64
T = TypeVar("T")


def main(given: dict[str, Any]) -> None:
    """Runs tasks until the worker ends. `given` holds `line`, a socket to the worker; `life`, a pipe that ends with it;
    `lease`, its lease; `sources`, where agents' code comes from."""
    init.imported()
    faulthandler.enable()  # where a crash in C happened is seen on stderr
    _die_with(given["life"])
    lease = SharedLease(given["lease"])
    for ours in (given["line"], given["life"], lease.fd):  # what an agent starts must not hold it open when we are gone
        os.set_inheritable(ours, False)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # what an agent prints is seen while it runs, and survives a kill
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    line = Line(socket.socket(fileno=given["line"]))
    logging.getLogger().addHandler(_LogHandler(line))
    child_metrics.forward(line.count)
    spans = child_traces.Spans()
    sources = given["sources"]
    loader = AgentLoader(map(Path, sources["folders"]), modules=sources["modules"], chosen=sources["chosen"])

    @functools.lru_cache(_ROLES_KEPT)
    def role(definition: str, agent_id: str, place: str) -> tuple[Runner, dict[str, Tool], CrewDefinition]:
        crew = CrewDefinition.model_validate_json(definition)
        agent = flow.Plan(crew).member(agent_id)
        if agent is None:
            raise LookupError(f"agent {agent_id!r} is not in its crew")  # the worker has looked
        return loader.load(crew, agent), loader.tools(crew, agent, place), crew

    while True:
        asked = line.next_task()
        logging.getLogger().setLevel(asked["level"])
        metadata: dict[str, Any] = {}
        items = 0
        spans.begin(asked["trace"], OfTask(line).span)
        try:
            runner, tools, crew = role(asked["definition"], asked["agent"], asked["context"]["crew"])
            connections = Connections(asked["store"], asked["context"]["crew"])
            context = _context(asked, runner, tools, line, crew, connections)
            logs.bind(context.logger.extra or {})
            tracing.carry(context.task.metadata)
            while not lease.is_valid:  # others may have taken it, and done it: then we are killed
                time.sleep(LEASE_POLL_SECONDS)
            try:
                came: outputs.Output | failures.Failed = outputs.made(
                    asked["agent"], _run(runner, context, connections)
                )
            finally:
                metadata = context.metadata
                items = context.team.items if context.team is not None else 0
                connections.close()
        except BaseException as failure:  # SystemExit ends the task only
            came = failures.failed(failure, datetime.now(UTC))  # noqa: TID251 - shell
        spans.end()
        what = "output" if isinstance(came, outputs.Output) else "failed"
        line.end_task(json.dumps({"kind": "end", "metadata": metadata, "items": items, what: asdict(came)}))


def _die_with(life: int) -> None:
    """Ends this process, and all that it started, when the worker ends. On Linux the kernel does so, even while C code
    holds the interpreter. Elsewhere the end of the line does, as soon as Python code runs."""
    if sys.platform == "linux":
        import fcntl  # the worker imports this module, too, and not only where there is one

        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life, fcntl.F_SETFL, os.O_ASYNC)


def _run(runner: Runner, context: Context, connections: Connections) -> Any:
    async def on_a_loop(run: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await run()
        finally:  # they belong to this loop
            await connections.aclose()
            await aclose_clients()

    if runner.is_async:
        return asyncio.run(on_a_loop(lambda: runner.run(context)))
    output = runner.run(context)
    if inspect.isawaitable(output):  # a decorator may hide that it is async
        return asyncio.run(on_a_loop(lambda: output))
    return output


@dataclass(slots=True, kw_only=True)
class _Context(Context):
    """A context whose worker is another process."""

    line: OfTask

    def tell_sync(self, told: Telling) -> None:
        self.line.say(told).result(EMIT_SECONDS)

    def await_in_thread(self, work: Callable[[], Awaitable[T]]) -> T:
        """Returns what `work` returns, on an event loop for it alone: the line belongs to none."""

        async def on_a_loop() -> T:
            return await work()

        return asyncio.run(on_a_loop())

    def report_usage(self, usage: Usage) -> None:
        Context.report_usage(self, usage)
        self.line.spent(usage)  # at once: it may be killed in the next moment, and was spent all the same


def _context(
    asked: dict[str, Any],
    runner: Runner,
    tools: dict[str, Tool],
    line: Line,
    crew: CrewDefinition,
    connections: Connections,
) -> Context:
    given, of_task = asked["context"], OfTask(line)
    context = _Context(
        crew=given["crew"],
        agent=runner.agent,
        task=AgentTask.model_validate(given["task"]),
        run_id=given["run_id"],
        prompt=given["prompt"],
        inputs=given["inputs"],
        outputs=given["outputs"],
        item=given["item"],
        tools=tools,
        logger=logs.of_agent(
            given["crew"], asked["agent"], given["run_id"], given["task"]["task_id"], given["attempt"]
        ),
        deadline=datetime.fromisoformat(given["deadline"]) if given["deadline"] else None,
        attempt=given["attempt"],
        fence=given["fence"],
        tell=of_task,
        connect_messaging=connections.messaging,
        connect_checkpoints=lambda: LineCheckpoints(of_task),
        to_worker=of_task,
        spending=LineAccount(of_task) if given["has_account"] else None,
        demands=Demands(**given["demands"]) if given["demands"] else None,
        line=of_task,
    )
    if given["team"] is not None:
        team.join(context, crew, given["team"]["step"], of_task, given["team"]["reviews"])
    return context


class _LogHandler(logging.Handler):
    """Sends log lines to the worker, which knows where to write them and keeps secrets out of them."""

    def __init__(self, line: Line) -> None:
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
