"""The agents of bench.chaos. What they do is in the ledger, whatever becomes of their process.

The ledger is a file opened for appending: a line for each beginning of an attempt and for each end that the agent lives
to see, with attempt, fence, process and both clocks. A line is one write, so that those of several processes don't mix.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from typing import Any

from bench.chaos_work import FAILS, FAILS_AT_MOST, value_of

from watchbill.agents.context import Context

_ledger = os.open(os.environ["CHAOS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
_seed = os.environ["CHAOS_SEED"]
_parent = os.getppid()
"""The worker of an agent in a process of its own, which is killed and stopped."""


class Hopeless(Exception):
    """Not worth another attempt."""

    retryable = False


async def work(context: Context) -> dict[str, Any]:
    """Does what its prompt says."""
    todo = _begin(context)
    try:
        if todo["says"]:
            await context.emit(f"attempt {context.attempt} of {context.task.task_id}")
        await asyncio.sleep(todo["seconds"])
        return _end(context, todo)
    except asyncio.CancelledError:
        _note("cancelled", context)
        raise


def work_in_thread(context: Context) -> dict[str, Any]:
    """Works in a thread, which can't be cancelled: it goes on after its worker was taken for dead."""
    todo = _begin(context)
    if todo["says"]:
        context.emit_sync(f"attempt {context.attempt} of {context.task.task_id}")
    time.sleep(todo["seconds"])
    return _end(context, todo)


def work_in_process(context: Context) -> dict[str, Any]:
    """Works in a process, which is killed with its worker."""
    todo = _begin(context, _parent)
    if todo["says"]:
        context.emit_sync(f"attempt {context.attempt} of {context.task.task_id}")
    time.sleep(todo["seconds"])
    return _end(context, todo, _parent)


work_in_process.runs_in = "process"  # type: ignore[attr-defined]


def _begin(context: Context, pid: int = 0) -> dict[str, Any]:
    _note("begun", context, pid)
    return dict(json.loads(context.task.prompt))


def _end(context: Context, todo: dict[str, Any], pid: int = 0) -> dict[str, Any]:
    name = context.agent.agent_id
    if todo["hopeless"] == name:
        _note("refused", context, pid)
        raise Hopeless("it will never work")
    chance = random.Random(f"{_seed}/{context.task.task_id}/{context.attempt}").random()
    if context.attempt <= FAILS_AT_MOST and chance < FAILS:
        _note("failed", context, pid)
        raise OSError("something was away")
    _note("returned", context, pid)
    before = [output["value"] for output in context.outputs.values()]
    value = value_of(name, todo["number"], before)
    return {"value": value, "attempt": context.attempt, "fence": context.fence, "pad": "r" * todo["bytes"]}


def _note(what: str, context: Context, pid: int = 0) -> None:
    pid = pid or os.getpid()
    line = (what, context.task.task_id, context.attempt, context.fence, pid, time.monotonic(), time.time())
    os.write(_ledger, " ".join(map(str, line)).encode() + b"\n")
