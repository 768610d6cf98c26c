"""The agents of the worker tests. Each leaves a note of what it does in a file, so that executions can be counted.

`folder` of their config is where the notes are, and where files appear that they wait for. Standard library only, and
nothing of Watchbill: an agent needs none of it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, ClassVar


def note(folder: str, what: str, context: Any, **more: Any) -> None:
    """One line, in one write, so that those of several processes don't mix."""
    line = {
        "what": what,
        "task": context.task.task_id,
        "agent": context.agent.agent_id,
        "attempt": context.attempt,
        "fence": context.fence,
        "pid": os.getpid(),
        "at": time.monotonic(),
        **more,
    }
    with Path(folder, "notes").open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def gate(task: str) -> str:
    return f"open.{task.replace('/', '_')}"


def is_open(folder: str, context: Any) -> bool:
    return Path(folder, "open").exists() or Path(folder, gate(context.task.task_id)).exists()


class Gate:
    """Runs until its gate is open: the file `open`, or the one of its task."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> str:
        note(self.folder, "start", context)
        try:
            while not is_open(self.folder, context):
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            note(self.folder, "cancelled", context)
            raise
        note(self.folder, "end", context)
        return f"{context.agent.agent_id}: {context.prompt}"


class ThreadGate:
    """The same, in a thread, and it says so on the feed when it ends."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, context: Any) -> str:
        note(self.folder, "start", context, thread=threading.current_thread().name)
        while not is_open(self.folder, context):
            time.sleep(0.01)
        note(self.folder, "end", context)
        try:
            context.emit_sync(f"attempt {context.attempt} is through")
        finally:
            note(self.folder, "spoke", context)
        return f"{context.agent.agent_id}: {context.prompt}"


class SayingGate(Gate):
    """Says on the feed that it is through, and then goes on for a moment."""

    async def run(self, context: Any) -> str:
        result = await super().run(context)
        await context.emit(f"attempt {context.attempt} is through")
        return result


class SecondTime:
    """Never ends the first time; at once when somebody else tries again."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> str:
        note(self.folder, "start", context)
        if context.attempt == 1:
            await asyncio.Event().wait()
        note(self.folder, "end", context)
        return f"attempt {context.attempt}"


class Brief:
    """Ends at once, or after as many seconds as its prompt says."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> str:
        note(self.folder, "start", context)
        if context.prompt.replace(".", "", 1).isdigit():
            await asyncio.sleep(float(context.prompt))
        note(self.folder, "end", context)
        return str(context.prompt)


class FailsOnce:
    """Fails for good the first time that this task begins; then it tells its prompt."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> str:
        mark = Path(self.folder, f"failed.{context.task.task_id.replace('/', '_')}")
        note(self.folder, "start", context)
        if not mark.exists():
            mark.touch()
            raise TypeError("it broke")
        return str(context.prompt)


class ChangesItsMind(FailsOnce):
    """The same; then it tells something else."""

    async def run(self, context: Any) -> str:
        await super().run(context)
        return "Pay Ann"


class Poison:
    """Kills its worker's process."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> None:
        note(self.folder, "start", context)
        os._exit(66)


class SignalsOnce:
    """Sends its worker the signal that its prompt names, the first time."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> str:
        note(self.folder, "start", context)
        if context.attempt == 1:
            os.kill(os.getpid(), signal.Signals[context.prompt])
        note(self.folder, "end", context)
        return "sent"


class Spinner:
    """Computes on the event loop until its gate is open, and never lets anything else run there."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> str:
        note(self.folder, "start", context)
        while not is_open(self.folder, context):
            sum(range(10_000))
        return "computed"


class Blocker:
    """Blocks the event loop, as an agent shouldn't."""

    def __init__(self, folder: str, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds

    async def run(self, context: Any) -> str:
        note(self.folder, "start", context)
        self.stands_here()
        note(self.folder, "end", context)
        return "blocked"

    def stands_here(self) -> None:
        time.sleep(self.seconds)


class Stubborn:
    """Swallows every attempt to cancel it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> str:
        note(self.folder, "start", context)
        while not is_open(self.folder, context):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                note(self.folder, "swallowed", context)
        return "at last"


class Deaf:
    """Swallows every attempt to cancel it, and runs until its gate is open."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> str:
        note(self.folder, "start", context)
        while not is_open(self.folder, context):
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                note(self.folder, "swallowed", context)
        note(self.folder, "end", context)
        return "at last"


class LeavesProcess:
    """Ends, while a child and what another one has started live on, for a moment. Returns what became of a third."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, context: Any) -> int:
        note(self.folder, "start", context)
        subprocess.run(["sh", "-c", "sleep 0.05 &"], check=True)
        subprocess.Popen(["sleep", "0.2"])
        return subprocess.run(["sh", "-c", "exit 7"], check=False).returncode


class LeavesTask:
    """Ends in good order, but leaves behind a task of asyncio that can't be cancelled."""

    tasks: ClassVar[list[Any]] = []

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> str:
        self.tasks.append(asyncio.create_task(Deaf(self.folder).run(context)))
        return "left it"


class Answers:
    """Answers a cancellation as its prompt says: `return`, `return nothing`, `raise`, `pass`; where that is followed by
    `:gate`, once its gate is open."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> str | None:
        note(self.folder, "start", context)
        how, _, late = context.prompt.partition(":")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            note(self.folder, "cancelled", context, cancelled=context.cancelled)
            while late and not is_open(self.folder, context):
                await asyncio.sleep(0.01)
            note(self.folder, "end", context)
            if how == "return":
                return "what there is"
            if how == "return nothing":
                return None
            if how == "raise":
                raise ValueError("of the cancellation") from None
            raise
        return "never"


async def cancels_itself(_: Any) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


class Looks:
    """In a thread, until it is asked to stop."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, context: Any) -> str | None:
        note(self.folder, "start", context, cancelled=context.cancelled)
        while not context.cancelled:
            time.sleep(0.005)
        note(self.folder, "end", context)
        if context.prompt == "return":
            return "what there is"
        if context.prompt == "return nothing":
            return None
        raise InterruptedError("asked to stop")


class RaisesLate:
    """In a thread: raises once its gate is open."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, context: Any) -> None:
        note(self.folder, "start", context, thread=threading.get_ident())
        while not is_open(self.folder, context):
            time.sleep(0.01)
        raise ValueError("too late")


async def closes_all(context: Any) -> None:
    """Descriptors that others have opened: the event loop's, for one."""
    os.closerange(3, 64)


LONG = 900_000


class LongOnLoop:
    """Says much, and fails with as much."""

    async def run(self, context: Any) -> None:
        await context.emit("s" * LONG)
        raise ValueError("e" * LONG)


def long_in_thread(context: Any) -> None:
    context.emit_sync("s" * LONG)
    raise ValueError("e" * LONG)


class LongApart:
    runs_in = "process"

    def run(self, context: Any) -> None:
        long_in_thread(context)


class Counts:
    """On the event loop: returns an iterator that has no end."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        return (time.sleep(0.001) for _ in itertools.count())  # type: ignore[func-returns-value]


class Stuck:
    """Blocks its thread for longer than any test lasts."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, context: Any) -> None:
        note(self.folder, "start", context)
        threading.Event().wait(3600)


class Inspect:
    """Returns what it was given."""

    def __init__(self, **config: Any) -> None:
        self.config = config

    async def run(self, context: Any) -> dict[str, Any]:
        await context.emit(f"hello from {context.agent.agent_id}")
        context.logger.warning("logged by %s", context.agent.agent_id)
        return {
            "crew": context.crew,
            "agent": context.agent.agent_id,
            "config": self.config,
            "task": context.task.model_dump(mode="json"),
            "run_id": context.run_id,
            "prompt": context.prompt,
            "inputs": dict(context.inputs),
            "outputs": {name: value["agent"] for name, value in context.outputs.items()},
            "order": list(context.outputs),
            "tools": sorted(context.tools),
            "answer": context.tools["calculator"]("6 * 7") if "calculator" in context.tools else None,
            "deadline": context.deadline.isoformat(),
            "attempt": context.attempt,
            "fence": context.fence,
        }


def inspect_sync(context: Any) -> str:
    """A function, in a thread; it speaks from there."""
    context.emit_sync("hello from a thread")
    return threading.current_thread().name
