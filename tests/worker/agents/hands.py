"""The agents of the worker tests. Each leaves a note of what it does in a file, so that executions can be counted.

`folder` of their config is where the notes are, and where files appear that they wait for. Standard library only, and
nothing of Watchbill: an agent needs none of it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
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
    """Ends, and what its child has started lives on, for a moment. Returns what became of another child."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, context: Any) -> int:
        note(self.folder, "start", context)
        subprocess.run(["sh", "-c", "sleep 0.05 &"], check=True)
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
    """Answers a cancellation as its prompt says, after as many seconds: `return`, `return nothing`, `raise`, `pass`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> str | None:
        note(self.folder, "start", context)
        how, _, seconds = context.prompt.partition(":")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            note(self.folder, "cancelled", context, cancelled=context.cancelled)
            await asyncio.sleep(float(seconds or 0))
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


class SilentlyFails:
    """On the event loop; its exception takes its time to say what it is."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> None:
        raise Silent(self.folder, context)


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


# ---------------------------------------------------------------- agents that break


class Odd(BaseException):
    """What no `except Exception` catches."""


class Mute(Exception):
    """Can't even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Unattributable(Exception):
    """Has an attribute of any name, or none: Python itself can't format its traceback."""

    def __getattr__(self, name: str) -> Any:
        return {"code": 17}[name]


class Untouchable(Exception):
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit("hands off")

    def __str__(self) -> str:
        return str(self.anything)

    __repr__ = __str__


class Silent(Exception):
    """Doesn't say what it is before its folder is open."""

    def __str__(self) -> str:
        note(self.args[0], "asked", self.args[1])
        while not is_open(self.args[0], self.args[1]):
            time.sleep(0.01)
        return "at last"


def _raise(error: BaseException) -> Any:
    raise error


def _recurse(depth: int = 0) -> Any:
    return _recurse(depth + 1)


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def _too_deep_to_read() -> list[Any]:
    """It can be written, and readers of JSON give up."""
    deep: list[Any] = []
    for _ in range(220):
        deep = [deep]
    return deep


def _hopes_for_ever() -> Any:
    error = ValueError("much later")
    error.retry_after = 10**400  # type: ignore[attr-defined]  # no float is as large
    raise error


def _rows() -> Any:
    yield 1
    raise ConnectionError("in a row")


def _group() -> Any:
    raise BaseExceptionGroup("several", [Odd("one"), ValueError("two")])


NOTHING: dict[str, Any] = {}
MISCHIEF: dict[str, Callable[[], Any]] = {
    "ValueError": lambda: _raise(ValueError("it broke")),
    "KeyError": lambda: NOTHING["missing"],
    "StopIteration": lambda: _raise(StopIteration("enough")),
    "TimeoutError": lambda: _raise(TimeoutError("of its own")),
    "RecursionError": _recurse,
    "MemoryError": lambda: _raise(MemoryError("no room")),
    "AssertionError": lambda: _raise(AssertionError()),
    "Mute": lambda: _raise(Mute()),
    "Unattributable": lambda: _raise(Unattributable("the API refused")),
    "Untouchable": lambda: _raise(Untouchable("of glass")),
    "an iterator's": lambda: {"rows": _rows()},
    "ConnectionError": lambda: _raise(ConnectionError("not the store's")),
    "concurrent.CancelledError": lambda: _raise(concurrent.futures.CancelledError("of a pool")),
    "SystemExit": lambda: _raise(SystemExit(3)),
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt("ctrl-c")),
    "GeneratorExit": lambda: _raise(GeneratorExit("bye")),
    "CancelledError": lambda: _raise(asyncio.CancelledError("of its own")),
    "Odd": lambda: _raise(Odd("odd")),
    "group": _group,
    "huge error": lambda: _raise(ValueError("x" * 20_000_000)),
    "surrogate error": lambda: _raise(ValueError("lone \ud800 and \udc80")),
    "endless pause": _hopes_for_ever,
    "object": lambda: object(),
    "circle": _circle,
    "deep": _deep,
    "too deep to read": _too_deep_to_read,
    "20 MB": lambda: "y" * 20_000_000,
    "20 MB of euros": lambda: "€" * 7_000_000,
    "endless": lambda: itertools.repeat("y" * 1_000_000),
    "long integer": lambda: {"n": [1, 10**4300]},
    "not a number": lambda: {"rows": [{"mean": 1.5}, {"mean": float("nan")}]},
    "one key": lambda: {1: "a", "1": "b"},
    "half an emoji": lambda: ["cut off \ud83c", "whole \ud83c\udf88"],
}


async def reports_junk(context: Any) -> str:
    """Another library's usage, say."""
    context.report_usage({"prompt_tokens": 5})
    return "done"


async def say_odd_things(context: Any) -> list[str]:
    """Returns what was refused."""
    refused = []
    for message in ("plain", 'quotes " and \\ and \n and \x01 and €', "z" * 100_000, "lone \ud800", "lone \udc80"):
        try:
            await context.emit(message)
        except ValueError as error:
            refused.append(str(error))
    return refused


class Mischief:
    """Does what its prompt says: raises or returns something that it shouldn't."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        return MISCHIEF[context.prompt]()


class ThreadMischief:
    """The same in a thread."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, context: Any) -> Any:
        note(self.folder, "start", context)
        return MISCHIEF[context.prompt]()


def secrets_here() -> dict[str, str]:
    return {name: os.environ[name] for name in os.environ["NAMES_OF_SECRETS"].split(",")}


class Leak:
    """Tries to let out every secret that it finds in its environment: says, logs and raises them."""

    async def run(self, context: Any) -> None:
        for name, secret in secrets_here().items():
            await context.emit(f"says {name} is {secret}")
            context.logger.warning("logs %s", secret)
            try:
                raise ValueError(f"caught {secret}")
            except ValueError:
                context.logger.exception("with a traceback")
        raise RuntimeError(f"failed with {secrets_here().get(context.prompt)}")


def leak_sync(context: Any) -> None:
    """The same, from a thread, with the secret hidden in a cause."""
    for name, secret in secrets_here().items():
        context.emit_sync(f"says {name} is {secret}")
        context.logger.warning("logs %s", secret)
    try:
        NOTHING[secrets_here()["GITHUB_TOKEN"]]
    except KeyError:
        context.logger.exception("with a traceback")
    try:
        raise ValueError(secrets_here().get(context.prompt))
    except ValueError as error:
        raise RuntimeError(f"failed with {error}") from error


async def leak_repr(context: Any) -> None:
    """The same, quoted, as KeyError and many libraries do."""
    for name, secret in secrets_here().items():
        await context.emit(f"says {name} is {secret if name == 'GITHUB_TOKEN' else repr(secret)}")
        context.logger.warning("logs %r", secret)
        try:
            raise KeyError(secret)
        except KeyError:
            context.logger.exception("with a traceback")
    raise KeyError(f"failed with {secrets_here().get(context.prompt)}")


class Shaky:
    """Fails as its prompt says (`kind`, or `kind:attempts`), until that attempt is over; then it is done.

    Where it is busy, it is to be tried again after so many seconds.
    """

    def __init__(self, folder: str, again: float = 1.0) -> None:
        self.folder = folder
        self.again = again

    async def run(self, context: Any) -> str:
        note(self.folder, "start", context)
        kind, _, attempts = context.prompt.partition(":")
        if attempts and context.attempt > int(attempts):
            return f"attempt {context.attempt}"
        if kind == "hopeless":
            error: Exception = RuntimeError("it will never work")
            error.retryable = False  # type: ignore[attr-defined]
        elif kind == "busy":
            error = RuntimeError("come back later")
            error.retry_after = self.again  # type: ignore[attr-defined]
        elif kind == "bug":
            error = TypeError("a fault of the code")
        else:
            error = OSError("the network is away")
        raise error


# ---------------------------------------------------------------- agents in processes of their own


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
