"""`cancel`, `interrupt`, `resume` and `drain`: what is asked of work that is under way, and of those who do it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from watchbill.cli import output
from watchbill.cli.options import NamespaceOption, Output, OutputOption, RedisUrlOption, StateOption

if TYPE_CHECKING:
    from watchbill.client import Client

CrewArgument = Annotated[str, typer.Argument(help="The crew: NAME or NAMESPACE/NAME.")]
ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Told by events, and by the result.", show_default=False)
]


def cancel(
    crew: CrewArgument,
    task_id: Annotated[str, typer.Argument(metavar="ID", help="A run, a task, or a step of a run: RUN/STEP.")],
    reason: ReasonOption = "",
    redis_url: RedisUrlOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = None,
    form: OutputOption = Output.TEXT,
) -> int:
    """Cancel a run, a task, or a step of a run, and print where it stands then.

    What waits ends at once. What runs is stopped by its worker: it is "cancelling" until it has. Exit 2: there is no
    such work, or it has ended otherwise.
    """

    async def ask(client: Client) -> int:
        await client.cancel(crew, task_id, reason=reason)
        if await _say_state(client, crew, task_id, form) == "cancelling":
            output.say(f"a worker was asked to stop it. To see how it ends: watchbill result {crew} {task_id} --wait")
        return 0

    return with_client(redis_url, state, namespace, ask)


def interrupt(
    crew: CrewArgument,
    task_id: Annotated[str, typer.Argument(metavar="ID", help="A task, or a step of a run: RUN/STEP.")],
    reason: ReasonOption = "",
    redis_url: RedisUrlOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = None,
    form: OutputOption = Output.TEXT,
) -> int:
    """Set a task, or a step of a run, aside until it is resumed, and print where it stands then.

    What runs is stopped by its worker, and begins anew when it is resumed; the attempt doesn't count. Exit 1: it
    can't be done just now. Exit 2: there is no such work, it has ended, or it is a whole run.
    """

    async def ask(client: Client) -> int:
        await client.interrupt(crew, task_id, reason=reason)
        aside = await _say_state(client, crew, task_id, form) == "interrupted"
        what = "it waits until" if aside else "its worker was asked to set it aside, until"
        output.say(f"{what} somebody lets it go on: watchbill resume {crew} {task_id}")
        return 0

    return with_client(redis_url, state, namespace, ask)


def resume(
    crew: CrewArgument,
    task_id: Annotated[str, typer.Argument(metavar="ID", help="A task, or a step of a run: RUN/STEP.")],
    redis_url: RedisUrlOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = None,
    form: OutputOption = Output.TEXT,
) -> int:
    """Let what was interrupted go on, with its prompt and inputs, and print where it stands then."""

    async def ask(client: Client) -> int:
        resumed = await client.resume(crew, task_id)
        await _say_state(client, crew, task_id, form)
        if not resumed:
            output.say("it isn't interrupted: nothing was changed")
        return 0

    return with_client(redis_url, state, namespace, ask)


def drain(
    crew: CrewArgument,
    worker: Annotated[str, typer.Argument(help="A worker of it: HOST-PID, or as `watchbill top CREW` names it.")],
    off: Annotated[bool, typer.Option("--off", help="Let it claim again.")] = False,
    redis_url: RedisUrlOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = None,
    form: OutputOption = Output.TEXT,
) -> int:
    """Let a worker claim no more. What it runs goes on."""

    async def ask(client: Client) -> int:
        changed = await (client.undrain if off else client.drain)(crew, worker)
        if form is Output.TEXT:
            sys.stdout.write("claims\n" if off else "drains\n")
            if not changed:
                output.say("it did already")
        else:
            output.write({"crew": client.keys(crew).crew, "worker": worker, "draining": not off}, form)
        return 0

    return with_client(redis_url, state, namespace, ask)


def with_client(
    redis_url: str | None, state: Path | None, namespace: str | None, work: Callable[[Client], Awaitable[int]]
) -> int:
    """Finds and opens the store, and does this with a client of it. Returns the exit code."""
    from watchbill.cli import environment, process, stores
    from watchbill.client import Client

    settings = environment.read()
    where = stores.place(redis_url, state, settings)

    async def opened() -> int:
        async with stores.opened(where) as url, Client(url, namespace=namespace or settings.namespace) as client:
            return await work(client)

    return process.run_guarded(opened())


async def _say_state(client: Client, crew: str, task_id: str, form: Output) -> str:
    now = await client.state(crew, task_id)
    if form is Output.TEXT:
        sys.stdout.write(f"{now.value}\n")
        sys.stdout.flush()
    else:
        output.write({"crew": client.keys(crew).crew, "id": task_id, "state": now.value}, form)
    return now.value
