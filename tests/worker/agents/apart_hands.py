"""Agents that run in processes of their own, and that report what they spend."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from broken_hands import MISCHIEF, Shaky
from hands import Gate, LeavesProcess, is_open, note


class Apart:
    """Does what its prompt says, in a process."""

    runs_in = "process"

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, context: Any) -> Any:
        note(self.folder, "start", context, group=os.getpgrp())
        what, _, argument = context.prompt.partition(":")
        return getattr(self, what)(context, argument)

    def pid(self, *_: Any) -> int:
        return os.getpid()

    def given(self, context: Any, _: str) -> dict[str, Any]:
        return {
            "crew": context.crew,
            "agent": context.agent.agent_id,
            "task": context.task.model_dump(mode="json"),
            "run_id": context.run_id,
            "inputs": dict(context.inputs),
            "outputs": dict(context.outputs),
            "answer": context.tools["calculator"]("6 * 7"),
            "deadline": context.deadline.isoformat(),
            "attempt": context.attempt,
            "fence": context.fence,
            "cancelled": context.cancelled,
            "thread": threading.current_thread() is threading.main_thread(),
        }

    def mischief(self, _: Any, what: str) -> Any:
        return MISCHIEF[what]()

    def say(self, context: Any, number: str) -> str:
        for i in range(int(number)):
            context.emit_sync(f"says {i}")
        return "said"

    def say_later(self, context: Any, path: str) -> str:
        """From a thread that outlives the task; `path` is what it then makes."""

        def late() -> None:
            while not Path(path).exists():
                time.sleep(0.005)
            try:
                context.emit_sync("too late")
            except RuntimeError as error:
                Path(path + ".refused").write_text(str(error))

        threading.Thread(target=late, daemon=True).start()
        return "left it"

    def log(self, context: Any, _: str) -> str:
        context.logger.warning("logged by %s: %s", context.agent.agent_id, os.environ.get("A_SECRET_TOKEN"))
        context.logger.debug("not worth telling")
        try:
            raise ValueError("caught")
        except ValueError:
            context.logger.exception("with its traceback")
        return "logged"

    def print(self, *_: Any) -> str:
        print("printed", flush=True)
        print("printed as an error", file=sys.stderr, flush=True)
        return "printed"

    def spend(self, context: Any, _: str) -> str:
        from watchbill.tasks import Usage

        context.report_usage(Usage(input_tokens=3, output_tokens=4, requests=1))
        context.annotate("of", "a process")
        return "spent"

    def tuple(self, *_: Any) -> Any:
        return (1, {"€": None}, [2.5])

    def end(self, _: Any, how: str) -> None:
        if how == "exit":
            os._exit(66)
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)

    def fork_and_die(self, *_: Any) -> None:
        """What it forked lives on, for a while, with all that it had open."""
        if os.fork() == 0:
            time.sleep(60)
        os._exit(66)

    def start_by_shell_and_die(self, *_: Any) -> None:
        """Starts it without Python's help, which would close what it shouldn't have."""
        os.system("sleep 60 &")
        os._exit(66)

    def start_another(self, context: Any, _: str) -> None:
        other = subprocess.Popen(["sleep", "3600"])
        note(self.folder, "other", context, other=other.pid)
        time.sleep(3600)

    def wait(self, context: Any, _: str) -> str:
        while not is_open(self.folder, context):
            time.sleep(0.01)
        return "waited"

    def hold_interpreter(self, *_: Any) -> None:
        """In C code that never lets another thread run."""
        ctypes.PyDLL(None).sleep(3600)

    def state(self, *_: Any) -> int:
        """How often it was asked in this process."""
        STATE.append(None)
        return len(STATE)


STATE: list[None] = []


class ApartAsync:
    """The same with an event loop of its own."""

    runs_in = "process"

    async def run(self, context: Any) -> Any:
        await asyncio.gather(*(context.emit(f"says {i}") for i in range(3)))
        if context.prompt == "fail":
            raise LookupError("not there")
        return [context.prompt, os.getpid()]


def apart(context: Any) -> int:
    """A function may ask for a process, too."""
    return os.getpid()


apart.runs_in = "process"  # type: ignore[attr-defined]


class ShakyApart(Shaky):
    """Shaky, in a process."""

    runs_in = "process"


class SpenderApart(Apart):
    """Spends likewise, in a process that then dies, or is killed."""

    def run(self, context: Any) -> str:
        from watchbill.tasks import Usage

        context.report_usage(Usage(input_tokens=1000, output_tokens=100, requests=1))
        if context.attempt == 1:
            os._exit(3)
        if context.attempt == 2:
            time.sleep(60)
        return "done"


class Spender(Gate):
    """Spends 1,000 input tokens, 100 output tokens and a request in each attempt, and fails in the first two.

    `hopeless` fails always; `wait` waits at the gate first, `slow` for longer than any timeout in the first two.
    """

    async def run(self, context: Any) -> str:
        from watchbill.tasks import Usage

        context.report_usage(Usage(input_tokens=1000, output_tokens=100, requests=1))
        note(self.folder, "spent", context)
        if context.prompt == "wait":
            await super().run(context)
        if context.prompt == "slow" and context.attempt < 3:
            await asyncio.sleep(60)
        if context.prompt == "hopeless" or context.attempt < 3:
            raise ConnectionError("the page did not load")
        return "done"


class LeavesProcessApart(LeavesProcess):
    """Does the same in a process of its own."""

    runs_in = "process"
