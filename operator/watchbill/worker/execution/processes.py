"""Processes for CPU-heavy agents: each runs one task at a time, is used again, and is killed with a cancelled task.

Plain processes of the same Python, told what to do in JSON over a socket. What they have of the worker is its
environment, its sys.path and where its output goes. They end with the worker, however it ends; and with its lease, if
it is stopped for longer than that.

Not concurrent.futures.ProcessPoolExecutor or loky, because: a call that runs can't be cancelled, and one process that
dies breaks the pool and with it everybody's calls. Not pebble, which kills one, because: a task that runs can't say
anything before it returns, and its processes go on with theirs when the worker is killed or has lost its lease.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final, TextIO

from watchbill import logs
from watchbill.agents.context import Context
from watchbill.agents.sources import Sources
from watchbill.connection.url import Target
from watchbill.loggers import Logger
from watchbill.plan.retry import Failure
from watchbill.records import CrewDefinition
from watchbill.worker.execution import child_messaging
from watchbill.worker.execution.child_line import HEADER
from watchbill.worker.execution.failures import AgentFailed, Failed
from watchbill.worker.execution.line_answers import Answers
from watchbill.worker.execution.outputs import Output
from watchbill.worker.execution.shared_lease import SharedLease

logger = Logger("watchbill.worker")

_CODE: Final = (
    "import gc, json, sys; gc.disable(); given = json.loads(sys.argv[1]); sys.path[:] = given['path']; "
    "from watchbill.worker.execution.shared_lease import start_watch; start_watch(given); "
    "from watchbill.worker.execution.child import main; main(given)"
)
_POLL_SECONDS: Final = 0.005
_END_SECONDS: Final = 60.0
"""Seconds that a process which was killed may take to end, which needs the machine's time."""
_CLOSED_SECONDS: Final = 10.0
"""Seconds that a process which has closed its line may take to end by itself."""


def request(crew: CrewDefinition, context: Context, trace: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Makes the message that has a process run a task. `trace`: what it needs to make spans (`tracing.handed_over`)."""
    return {
        "definition": crew.model_dump_json(),
        "agent": context.agent.agent_id,
        "trace": trace,
        "context": {
            "crew": context.crew,
            "task": context.task.model_dump(mode="json"),
            "run_id": context.run_id,
            "prompt": context.prompt,
            "inputs": dict(context.inputs),
            "outputs": dict(context.outputs),
            "item": context.item,
            "deadline": context.deadline.isoformat() if context.deadline else None,
            "attempt": context.attempt,
            "fence": context.fence,
            "has_account": context.spending is not None,
            "team": {"step": context.team.step, "reviews": context.team.reviews} if context.team else None,
            "demands": asdict(context.demands) if context.demands else None,
        },
    }


class _Gone(Exception):
    """The process had ended before it took the task."""


class Processes:
    """The processes of one worker. There are as many as it has run tasks at once."""

    def __init__(self, sources: Sources, lease: SharedLease, store: Target) -> None:
        """`store`: where agents find the crew's bus, streams, locks and limits."""
        self._sources = sources
        self._lease = lease
        self._store = child_messaging.told(store)
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()

    async def run(self, request: Mapping[str, Any], context: Context) -> Output:
        """Returns the agent's output. Raises AgentFailed, with what it raised or how its process died. Cancelling kills
        the process, and returns once it has ended."""
        while True:
            process = self._taken()
            try:
                return await process.run({**request, "store": self._store}, context)
            except _Gone:  # the kernel took it, for want of memory, say
                continue
            finally:
                if process.is_idle:
                    self._idle.append(process)
                else:
                    await self._end(process)

    async def close(self) -> None:
        """Kills all processes."""
        processes = list(self._all)
        for process in processes:
            process.kill()
        for process in processes:
            await process.ended()
            process.close()
        self._all.clear()
        self._idle.clear()
        await asyncio.sleep(0)  # in which the loop closes their sockets: it may be closed next

    def _taken(self) -> _Process:
        if self._idle:
            return self._idle.pop()
        process = _Process(self._sources, self._lease)
        self._all.add(process)
        return process

    async def _end(self, process: _Process) -> None:
        process.kill()
        while await process.ended() is None:
            logger.warning("process %d was killed, and lives on", process.pid)
        process.close()
        self._all.discard(process)


class _Process:
    def __init__(self, sources: Sources, lease: SharedLease) -> None:
        self._lease = lease
        self.is_idle = False
        self._is_used = False
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._socket, line = socket.socketpair()
        life, self._life = os.pipe()
        given = {
            "path": [str(folder) for folder in sys.path],
            "sources": sources.to_json(),
            "line": line.fileno(),
            "life": life,
            "lease": lease.fd,
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CODE, json.dumps(given)],
                stdin=subprocess.DEVNULL,
                stdout=_same(sys.stdout),
                stderr=_same(sys.stderr),
                pass_fds=(line.fileno(), life, lease.fd),
                start_new_session=True,  # Ctrl-C is the worker's to answer; and what the agent starts is killed, too
            )
        except BaseException:
            self._socket.close()
            os.close(self._life)
            raise
        finally:
            line.close()
            os.close(life)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, as subprocess has it; None while it lives."""
        return self._process.poll()

    async def ended(self, seconds: float = _END_SECONDS) -> int | None:
        """The exit code once it has ended; None after so long if it hasn't."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            if (code := self.code) is not None or asyncio.get_running_loop().time() > deadline:
                return code
            await asyncio.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """Kills the process and all that its agent has started, unless that has left the process's group."""
        with suppress(ProcessLookupError, PermissionError):  # macOS says so of a zombie
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()  # and with it the socket
        else:
            self._socket.close()
        if self._life >= 0:
            os.close(self._life)
            self._life = -1

    async def run(self, request: Mapping[str, Any], context: Context) -> Output:
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(sock=self._socket)
        reader, writer = self._streams
        begun_at = time.monotonic()  # noqa: TID251 - the clock of the lease, which all processes share
        self.is_idle = begun = False
        level = logging.getLogger(logs.AGENTS).getEffectiveLevel()
        answers = Answers(context, writer)
        try:
            await answers.send({"kind": "run", "level": level, **request})
            while (told := await _receive(reader))["kind"] != "end":
                if told["kind"] == "begun":
                    begun = True
                else:
                    answers.hear(told)
            await answers.end()
        except (ConnectionError, EOFError):
            if self._is_used and not begun:
                raise _Gone from None
            raise AgentFailed(await self._died(begun_at)) from None
        finally:
            answers.close()
        self.is_idle = self._is_used = True
        for name, value in told["metadata"].items():
            context.annotate(name, value)
        if context.team is not None:
            context.team.items = told["items"]
        if failed := told.get("failed"):
            raise AgentFailed(Failed(failed["error"], Failure(**failed["judged"]), failed["traceback"]))
        return Output(**told["output"])

    async def _died(self, begun_at: float) -> Failed:
        """Returns how the process died. It has closed its line, so it has ended, or is about to."""
        code = await self.ended(_CLOSED_SECONDS)
        if code is None:
            return Failed("its process closed the line to its worker, and was killed")
        if code >= 0:
            return Failed(f"its process exited with code {code} before the agent returned")
        if self._lease.ended_at > begun_at:
            return Failed("its process was stopped, because its worker stood still for longer than its lease")
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        memory = " (out of memory?)" if -code == signal.SIGKILL else ""
        return Failed(f"its process died of {name}{memory} before the agent returned")


async def _receive(reader: asyncio.StreamReader) -> dict[str, Any]:
    size: int = HEADER.unpack(await reader.readexactly(HEADER.size))[0]
    message: dict[str, Any] = json.loads(await reader.readexactly(size))
    return message


def _same(stream: TextIO) -> int | None:
    """Returns the descriptor that this stream writes to, which needn't be 1 or 2; None if it has none."""
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # no file, as in a test or a notebook
        return None
