"""`cancel`, `interrupt`, `suspend`, `resume`, `workers` and `drain`: commands for submitted work and for workers."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from watchbill.cli import keyboard, output, suspension
from watchbill.cli.options import (
    CrewArgument,
    Output,
    YesOption,
    contradiction,
)
from watchbill.cli.stores import StoreOptions, with_store
from watchbill.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from watchbill.client import Client
    from watchbill.tasks import RunState, TaskState

ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Reason to put into events and result.", show_default=False)
]
STOP_SECONDS: Final = 6.0
"""Seconds for a worker to stop an agent, which has 5 s to clean up."""


@with_store()
def cancel(
    store: StoreOptions,
    crew: CrewArgument,
    task_id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="Id of a run or task, or RUN/STEP for a step of a run.", show_default=False),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Cancel every run and task of the crew that hasn't ended.")
    ] = False,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent", help="Cancel only tasks of this agent, and no runs. Only with --all.", show_default=False
        ),
    ] = None,
    reason: ReasonOption = "",
    yes: YesOption = False,
) -> int:
    """Cancel a run, a task, or a step of a run, and print its state. With --all: cancel all work of the crew.

    Waiting work ends at once, and so does work of a dead worker. Running work is stopped by its worker, and is
    "cancelling" until then; the command waits for that, for a lease and a few seconds at most. With --all it asks first
    on a terminal; work that is submitted meanwhile is not cancelled. Exit 2: there is no such work, or it has ended
    otherwise.
    """
    if every and task_id is not None:
        raise contradiction("--all", "ID", "Give one of the two.")
    if agent is not None and not every:
        reason_ = "--agent has no use without --all"
        raise InvalidInput(Problem(reason_, "Add --all, or leave --agent out.", path="--agent"))
    if task_id is None and not every:
        raise InvalidInput(Problem("neither an ID nor --all is given", "Give an ID, or --all."))

    async def ask(client: Client) -> int:
        if task_id is None:
            return await _cancel_all(client, crew, agent, reason, store.form, yes=yes)
        if not await client.cancel(crew, task_id, reason=reason):
            await _see_the_end(client, crew)
        if await say_state(client, crew, task_id, store.form) == "cancelling":
            output.say(f"a worker was asked to stop it. To see how it ends: watchbill result {crew} {task_id} --wait")
        return 0

    return store.run(ask)


@with_store()
def interrupt(
    store: StoreOptions,
    crew: CrewArgument,
    task_id: Annotated[str, typer.Argument(metavar="ID", help="A task, or a step of a run: RUN/STEP.")],
    reason: ReasonOption = "",
) -> int:
    """Set a task, or a step of a run, aside until it is resumed, and print its state.

    Running work is stopped by its worker, and begins anew when it is resumed; the attempt doesn't count. Exit 1: the
    work can't be interrupted just now. Exit 2: there is no such work, it has ended, or it is a whole run.
    """

    async def ask(client: Client) -> int:
        await client.interrupt(crew, task_id, reason=reason)
        aside = await say_state(client, crew, task_id, store.form) == "interrupted"
        what = "it waits until" if aside else "its worker was asked to set it aside, until"
        output.say(f"{what} somebody lets it go on: watchbill resume {crew} {task_id}")
        return 0

    return store.run(ask)


@with_store()
def suspend(
    store: StoreOptions,
    crew: CrewArgument,
) -> int:
    """Suspend a crew: no task of it begins until it is resumed.

    What runs goes on, what is submitted waits, heartbeats don't fire, results are delivered. If an operator manages the
    crew, its Crew is changed in the Kubernetes cluster of the current kubeconfig; its workers leave once they are idle.
    """
    return store.run(lambda client: suspension.tell(client, crew, store.form, on=True))


@with_store()
def resume(
    store: StoreOptions,
    crew: CrewArgument,
    task_id: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="A task, or a step of a run: RUN/STEP. Without it: the crew.", show_default=False
        ),
    ] = None,
) -> int:
    """Resume an interrupted task or step, with its prompt and inputs, and print its state. Without ID: a suspended
    crew."""

    async def ask(client: Client) -> int:
        if task_id is None:
            return await suspension.tell(client, crew, store.form, on=False)
        resumed = await client.resume(crew, task_id)
        await say_state(client, crew, task_id, store.form)
        if not resumed:
            output.say(f"{task_id} is not interrupted: nothing was changed")
        return 0

    return store.run(ask)


@with_store()
def workers(
    store: StoreOptions,
    crew: CrewArgument,
) -> int:
    """List the workers of a crew, the busiest first.

    ABANDONED: agents that still run although they were asked to stop; each holds a slot. LEASE: time until it ends.
    """

    async def ask(client: Client) -> int:
        found = await client.workers(crew)
        if store.form is not Output.TEXT:
            output.write([dataclasses.asdict(one) for one in found], store.form)
        elif found:
            from watchbill.cli import overview

            cells = zip(found, overview.worker_cells(found), strict=True)
            rows = [(*shown[:3], str(one.abandoned), *shown[3:]) for one, shown in cells]
            output.table((*overview.WORKERS.title[:3], "ABANDONED", *overview.WORKERS.title[3:]), rows)
        else:
            output.say(f"crew {crew!r} has no worker. To start one: watchbill worker {crew}")
        return 0

    return store.run(ask)


@with_store()
def drain(
    store: StoreOptions,
    crew: CrewArgument,
    worker: Annotated[str, typer.Argument(help="The worker: HOST-PID, or its name in `watchbill workers CREW`.")],
    off: Annotated[bool, typer.Option("--off", help="Let the worker claim tasks again.")] = False,
) -> int:
    """Stop a worker from claiming tasks. Its running tasks go on."""

    async def ask(client: Client) -> int:
        changed = await (client.undrain if off else client.drain)(crew, worker)
        if store.form is Output.TEXT:
            sys.stdout.write("claiming\n" if off else "draining\n")
            if not changed:
                output.say(f"nothing was changed: {worker} is {'claiming' if off else 'draining'} already")
        else:
            output.write({"crew": client.keys(crew).crew, "worker": worker, "draining": not off}, store.form)
        return 0

    return store.run(ask)


def named(work_id: str, status: RunState | TaskState) -> dict[str, str]:
    """The id of a run, or of a task or step, under its name in every output."""
    from watchbill.tasks import RunState

    return {"run_id" if isinstance(status, RunState) else "task_id": work_id}


async def confirmed(question: str) -> bool:
    """Asks on the terminal. Unlike input(), it ends at Ctrl-C."""
    output.say(f"{question} [y/N]")
    line: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def said(typed: bytes) -> None:
        if not line.done():
            line.set_result(typed)

    with keyboard.heard(said):
        return (await line).decode(errors="replace").strip().lower() in ("y", "yes")


async def _cancel_all(client: Client, crew: str, agent: str | None, reason: str, form: Output, *, yes: bool) -> int:
    if not yes and sys.stdin.isatty() and await client.unfinished(crew):
        now = await client.figures(crew)
        counts = {"waiting": now.waiting, "running": now.running, "parked": now.parked, "delayed": now.delayed}
        there = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        what = "all runs and tasks" if agent is None else f"all tasks of agent {agent!r}"
        if not await confirmed(f"Cancel {what} of crew {crew!r} ({there} in all)?"):
            output.say("nothing was cancelled")
            return 1
    done = await client.cancel_all(crew, agent=agent, reason=reason)
    if form is Output.TEXT:
        sys.stdout.write(f"{done.cancelled:,} cancelled\n")
        if done.cancelling:
            sys.stdout.write(f"{done.cancelling:,} cancelling\n")
    else:
        output.write({"crew": client.keys(crew).crew, **dataclasses.asdict(done)}, form)
    if done.cancelling:
        output.say("their workers were asked to stop them")
        left = await _see_the_end(client, crew)
        output.say(f"{left:,} have not ended yet: watchbill status {crew}" if left else "all of them have ended")
    return 0


async def _see_the_end(client: Client, crew: str) -> int:
    """Waits until workers have stopped the cancelled work, and returns how much is left.

    Work of a worker that has died ends when its lease is over.
    """
    now, told = time.monotonic, False  # noqa: TID251 - a person waits
    began = now()
    most = (await client.crew(crew)).tasks.lease_seconds + STOP_SECONDS
    while (left := await client.cancelling(crew)) and (waited := now() - began) < most:
        if waited > 1 and not told:
            told = True
            output.say(f"waiting until its worker has stopped, or is taken for dead: {most:.0f} s at most")
        await asyncio.sleep(0.05)
    return left


async def say_state(client: Client, crew: str, task_id: str, form: Output) -> str:
    """Prints the state of a task, a step or a run, and returns it."""
    now = await client.state(crew, task_id)
    if form is Output.TEXT:
        sys.stdout.write(f"{now.value}\n")
        sys.stdout.flush()
    else:
        output.write({"crew": client.keys(crew).crew, **named(task_id, now), "status": now.value}, form)
    return now.value
