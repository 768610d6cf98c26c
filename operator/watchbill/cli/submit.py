"""`submit` and `result`: giving work to a crew whose workers run elsewhere, and getting what became of it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from watchbill.cli import failures, output
from watchbill.cli.control import named
from watchbill.cli.options import (
    AgentOption,
    IdOption,
    InputOption,
    NamespaceOption,
    Output,
    OutputOption,
    PromptArgument,
    PromptFileOption,
    RedisUrlOption,
    StateOption,
    TimeoutOption,
    age,
    refuse_together,
)
from watchbill.errors import InvalidInput, NotFound, Problem

if TYPE_CHECKING:
    from watchbill.client import Client
    from watchbill.tasks import Durability, Priority

WaitOption = Annotated[bool, typer.Option("--wait", help="Wait for the end, showing progress on stderr.")]


def submit(
    crew: Annotated[str, typer.Argument(help="The crew: NAME or NAMESPACE/NAME.")],
    prompt: PromptArgument = None,
    file: PromptFileOption = None,
    given: InputOption = None,
    agent: AgentOption = None,
    priority: Annotated[
        str, typer.Option("--priority", help="CRITICAL, HIGH, NORMAL, LOW or BACKGROUND; or 1, 3, 5, 7, 9.")
    ] = "NORMAL",
    task_id: IdOption = None,
    dedupe_key: Annotated[
        str | None,
        typer.Option(
            "--dedupe-key", help="Work of the same key is done once within --dedupe-seconds.", show_default=False
        ),
    ] = None,
    dedupe_seconds: Annotated[float, typer.Option("--dedupe-seconds", min=0.001, help="See --dedupe-key.")] = 3600.0,
    delay: Annotated[
        str | None,
        typer.Option(
            "--in", metavar="TIME", help="Begin no sooner than in 90s, 30m, 12h, 7d. With --agent.", show_default=False
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="Begin no sooner than that: 2027-01-31T18:00Z, or +01:00. With --agent.",
            show_default=False,
        ),
    ] = None,
    durability: Annotated[
        str | None,
        typer.Option(
            "--durability",
            help="Return once it is on a replica, or on disk: replica, fsync. Else the server has it in memory.",
            show_default=False,
        ),
    ] = None,
    heartbeat: Annotated[
        str | None,
        typer.Option(
            "--heartbeat",
            metavar="NAME",
            help="In place of a prompt: fire this heartbeat of the crew now, beside its schedule. "
            "The same --id fires it once.",
            show_default=False,
        ),
    ] = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    redis_url: RedisUrlOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = None,
    form: OutputOption = Output.TEXT,
) -> int:
    """Give a crew work, and print the id of the run (with --agent, of the task).

    With --wait, print the result instead: exit 0 when all of it completed, else 1.
    """
    from watchbill.cli import environment, process, reading, stores
    from watchbill.client import Client

    refuse_together(
        {
            ("--heartbeat", "a prompt"): (heartbeat, prompt or file, "The heartbeat has a prompt of its own."),
            ("--heartbeat", "--input"): (heartbeat, given, "Heartbeats have no inputs."),
            ("--heartbeat", "--agent"): (heartbeat, agent, "The heartbeat says who does it."),
            ("--heartbeat", "--dedupe-key"): (heartbeat, dedupe_key, "Use --id, which fires it once."),
            ("--heartbeat", "--in"): (heartbeat, delay, "A heartbeat is fired now, or by its schedule."),
            ("--heartbeat", "--at"): (heartbeat, at, "A heartbeat is fired now, or by its schedule."),
            ("--heartbeat", "--durability"): (heartbeat, durability, "Submit the prompt by itself."),
            ("--in", "--at"): (delay, at, "Give one of the two."),
        }
    )
    text, inputs = reading.work(prompt, file, given or [])
    problems = []
    if text is None and heartbeat is None:
        problems.append(Problem("there is no prompt", "Give PROMPT, --file PATH, or - for stdin.", path="prompt"))
    if timeout is not None and not wait:
        problems.append(Problem("--timeout says how long to wait, but --wait is missing", "Add --wait."))
    if (given_time := "--in" if delay else "--at" if at else "") and agent is None:
        reason = f"{given_time} is for a task of one agent; a run of a whole crew can't be scheduled for a time"
        problems.append(Problem(reason, "Add --agent NAME, or use a Heartbeat."))
    if problems:
        raise InvalidInput(problems)
    urgency, safety, due = _priority(priority), _durability(durability), _due(at)
    later = None if delay is None else age(delay, "--in")
    settings = environment.read()
    where = stores.place(redis_url, state, settings)

    async def work() -> int:
        async with (
            stores.opened(where) as target,
            Client(target, namespace=namespace or settings.namespace) as client,
        ):
            if heartbeat is not None:
                task_id_given = await client.fire(crew, heartbeat, token=task_id)
            else:
                begin = due
                if later is not None:  # by the store's clock, as all that waits
                    now_ms = (await client.figures(crew)).now_ms
                    begin = datetime.fromtimestamp(now_ms / 1000, UTC) + later
                task_id_given = await client.submit(
                    crew,
                    text or "",
                    agent=agent,
                    inputs=inputs,
                    priority=urgency,
                    id=task_id,
                    dedupe_key=dedupe_key,
                    dedupe_seconds=dedupe_seconds,
                    scheduled_at=begin,
                    durability=safety,
                )
            if wait:
                return await _wait(client, crew, task_id_given, agent, timeout, form)
            with failures.kept(f"The work was given: watchbill result {crew} {task_id_given} --wait"):
                if form is Output.TEXT:
                    sys.stdout.write(f"{task_id_given}\n")
                    sys.stdout.flush()
                else:
                    ids = {"run_id" if agent is None else "task_id": task_id_given}
                    if heartbeat is not None:  # which says who does it
                        ids = named(task_id_given, await client.state(crew, task_id_given))
                    output.write({"crew": client.keys(crew).crew, **ids}, form)
            return 0

    return process.run_guarded(work())


def result(
    crew: Annotated[str, typer.Argument(help="The crew: NAME or NAMESPACE/NAME.")],
    task_id: Annotated[str, typer.Argument(metavar="ID", help="A run, a task, or a step of a run: RUN/STEP.")],
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    redis_url: RedisUrlOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = None,
    form: OutputOption = Output.TEXT,
) -> int:
    """Print how a run, a task, or a step of a run ended.

    Exit 0: all of it completed. Exit 1: it failed, or it hasn't ended (then nothing is on stdout, and stderr says
    where it stands). Exit 2: there is no such run or task.
    """
    from watchbill.cli import environment, process, stores
    from watchbill.client import Client

    if timeout is not None and not wait:
        raise InvalidInput(Problem("--timeout says how long to wait, but --wait is missing", "Add --wait."))
    settings = environment.read()
    where = stores.place(redis_url, state, settings)

    async def work() -> int:
        async with stores.opened(where) as target, Client(target, namespace=namespace or settings.namespace) as client:
            try:
                ended = await client.result(crew, task_id)
            except NotFound:
                await client.figures(crew)  # which says so where there is no such crew
                raise
            if ended is not None:
                return output.result(ended, form)
            if wait:
                return await _wait(client, crew, task_id, None, timeout, form)
            output.say(f"not finished: {await _standing(client, crew, task_id)}")
            return 1

    return process.run_guarded(work())


async def _wait(client: Client, crew: str, task_id: str, agent: str | None, timeout: float | None, form: Output) -> int:
    import asyncio

    from watchbill.cli import progress

    if not (await client.figures(crew)).workers:
        output.say(
            f"note: crew {crew!r} has no worker now. An operator starts one by itself; else: watchbill worker {crew}"
        )
    try:
        with progress.on_terminal() as view:
            ended = await progress.attend(client, crew, task_id, view, agent=agent, timeout=timeout)
    except TimeoutError:
        output.say(f"not finished after {timeout:g} s; it goes on. Later: watchbill result {crew} {task_id} --wait")
        return 1
    except asyncio.CancelledError:
        output.say(f"{task_id} goes on. Later: watchbill result {crew} {task_id} --wait")
        raise
    with failures.kept(f"It is kept: watchbill result {crew} {task_id}"):
        return output.result(ended, form)


async def _standing(client: Client, crew: str, task_id: str) -> str:
    """Where unfinished work stands, in a few words."""
    from watchbill.names import split_step_id

    run_id, step = split_step_id(task_id) or (task_id, None)
    try:
        status = await client.status(crew, run_id)
    except NotFound:  # a task of its own
        return f"{task_id}: {(await client.state(crew, task_id)).value}"
    states = [f"{s.name} {s.status.value}" for s in status.steps if step in (None, s.name)]
    return f"{task_id} {status.status.value if step is None else ''}: {', '.join(states)}".replace(" :", ":")


def _priority(text: str) -> Priority:
    from watchbill.tasks import Priority

    try:
        return Priority[text.upper()] if not text.isdigit() else Priority(int(text))
    except (KeyError, ValueError):
        known = ", ".join(f"{p.name} ({p.value})" for p in Priority)
        raise InvalidInput(Problem(f"{text!r} is not a priority", f"Use one of: {known}.", path="--priority")) from None


def _durability(text: str | None) -> Durability | None:
    from watchbill.tasks import Durability

    if text is None:
        return None
    try:
        return Durability(text.lower())
    except ValueError:
        known = ", ".join(d.value for d in Durability)
        raise InvalidInput(
            Problem(f"{text!r} is no durability", f"Use one of: {known}.", path="--durability")
        ) from None


def _due(at: str | None) -> datetime | None:
    """When it may begin. Raises InvalidInput."""
    if at is None:
        return None
    try:
        due = datetime.fromisoformat(at)
    except ValueError:
        due = None
    if due is None or due.tzinfo is None:
        fix = "Write date, time and zone, as in 2027-01-31T18:00Z or 2027-01-31T18:00+01:00."
        raise InvalidInput(Problem(f"{at!r} is not a time with its zone", fix, path="--at"))
    return due
