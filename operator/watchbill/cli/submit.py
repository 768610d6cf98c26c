"""`submit` and `result`: submit work to a crew whose workers run elsewhere, and print its result."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from watchbill.cli import failures, output
from watchbill.cli.control import named
from watchbill.cli.options import (
    AgentOption,
    CrewArgument,
    IdOption,
    InputOption,
    Output,
    PromptArgument,
    PromptFileOption,
    TimeoutOption,
    age,
    refuse_together,
)
from watchbill.cli.stores import StoreOptions, with_store
from watchbill.errors import InvalidInput, NotFound, Problem

if TYPE_CHECKING:
    from watchbill.client import Client
    from watchbill.tasks import Durability, Priority

NORMAL: Final = "NORMAL"

WaitOption = Annotated[bool, typer.Option("--wait", help="Wait for the end, and show progress on stderr.")]
PriorityOption = Annotated[
    str,
    typer.Option(
        "--priority", help="Priority of the work: CRITICAL, HIGH, NORMAL, LOW or BACKGROUND; or 1, 3, 5, 7, 9."
    ),
]
DedupeKeyOption = Annotated[
    str | None,
    typer.Option(
        "--dedupe-key",
        help="Key of the work. Work with the same key is done once within --dedupe-seconds.",
        show_default=False,
    ),
]
DedupeSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--dedupe-seconds", min=0.001, help="Seconds for which --dedupe-key holds. Default: 3600.", show_default=False
    ),
]
SessionOption = Annotated[
    str | None,
    typer.Option("--session", help="Id of a session, of which agents may remember what was said.", show_default=False),
]
DelayOption = Annotated[
    str | None,
    typer.Option(
        "--in",
        metavar="TIME",
        help="Earliest begin, from now on: 90s, 30m, 12h, 7d. Only with --agent or --role.",
        show_default=False,
    ),
]
AtOption = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="Earliest begin: 2027-01-31T18:00Z, or with +01:00 in place of Z. Only with --agent or --role.",
        show_default=False,
    ),
]
DurabilityOption = Annotated[
    str | None,
    typer.Option(
        "--durability",
        help="Return once the work is on a replica (replica) or on disk (fsync). Default: in the server's memory.",
        show_default=False,
    ),
]
DeliverOption = Annotated[
    list[str] | None,
    typer.Option(
        "--deliver",
        metavar="NAME",
        help="Name of a destination of the crew, which the result is sent to. Repeatable. Default: all of them.",
        show_default=False,
    ),
]
RoleOption = Annotated[
    str | None,
    typer.Option(
        "--role",
        help="Run any one agent of this role that has room, instead of the whole crew.",
        show_default=False,
    ),
]
HeartbeatOption = Annotated[
    str | None,
    typer.Option(
        "--heartbeat",
        metavar="NAME",
        help="Fire this heartbeat of the crew now, in addition to its schedule; it has its own prompt. "
        "The same --id fires it once.",
        show_default=False,
    ),
]


@with_store()
def submit(
    store: StoreOptions,
    crew: CrewArgument,
    prompt: PromptArgument = None,
    file: PromptFileOption = None,
    given: InputOption = None,
    agent: AgentOption = None,
    role: RoleOption = None,
    priority: PriorityOption = NORMAL,
    task_id: IdOption = None,
    dedupe_key: DedupeKeyOption = None,
    dedupe_seconds: DedupeSecondsOption = None,
    session: SessionOption = None,
    delay: DelayOption = None,
    at: AtOption = None,
    durability: DurabilityOption = None,
    deliver: DeliverOption = None,
    heartbeat: HeartbeatOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
) -> int:
    """Submit work to a crew, and print the id of the run (with --agent or --role, of the task).

    With --wait, print the result instead. Exit 0: all of the work completed. Exit 1: it failed.
    """
    from watchbill.cli import reading

    whose = role if agent is None else agent
    if heartbeat is not None:
        _refuse_beside_beat(prompt or file, whose, priority, given, dedupe_key, session, delay, at, durability, deliver)
    refuse_together({("--in", "--at"): (delay, at, "Give one of the two.")})
    refuse_together({("--agent", "--role"): (agent, role, "Give one of the two.")})
    text, inputs = reading.work(prompt, file, given or [])
    _check(text is not None or heartbeat is not None, wait, timeout, "--in" if delay else "--at" if at else "", whose)
    urgency, safety, due = _priority(priority), _durability(durability), _due(at)
    later, window = None if delay is None else age(delay, "--in"), _window(dedupe_key, dedupe_seconds)

    async def work(client: Client) -> int:
        if heartbeat is not None:
            work_id = await client.fire(crew, heartbeat, token=task_id)
        else:
            work_id = await client.submit(
                crew,
                text or "",
                agent=agent,
                role=role,
                inputs=inputs,
                priority=urgency,
                id=task_id,
                dedupe_key=dedupe_key,
                dedupe_seconds=window,
                session_id=session,
                scheduled_at=due if later is None else await _from_now(client, crew, later),
                durability=safety,
                deliver=deliver or None,
            )
        if wait:
            return await _wait(client, crew, work_id, whose, timeout, store.form)
        with failures.hinting_at(f"The work was given: watchbill result {crew} {work_id} --wait"):
            known = None if heartbeat else "run_id" if whose is None else "task_id"
            await _write_id(client, crew, work_id, known, store.form)
        return 0

    return store.run(work, traced=True)


@with_store()
def result(
    store: StoreOptions,
    crew: CrewArgument,
    task_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a run or task, or RUN/STEP for a step of a run.")],
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
) -> int:
    """Print the result of a run, a task, or a step of a run.

    Exit 0: all of it completed. Exit 1: it failed, or has not ended (then stdout is empty, and stderr has its state).
    Exit 2: there is no such run or task.
    """
    if timeout is not None and not wait:
        raise InvalidInput(_WITHOUT_WAIT)

    async def work(client: Client) -> int:
        try:
            ended = await client.result(crew, task_id)
        except NotFound:
            await client.figures(crew)  # which says so where there is no such crew
            raise
        if ended is not None:
            return output.result(ended, store.form)
        if wait:
            return await _wait(client, crew, task_id, None, timeout, store.form)
        output.say(f"not finished: {await _standing(client, crew, task_id)}")
        return 1

    return store.run(work)


_WITHOUT_WAIT: Final = Problem("--timeout says how long to wait, but --wait is missing", "Add --wait.")


def _refuse_beside_beat(
    prompt: object,
    agent: object,
    priority: str,
    given: object,
    dedupe_key: object,
    session: object,
    delay: object,
    at: object,
    durability: object,
    deliver: object,
) -> None:
    """Raises InvalidInput for options that do not apply to a heartbeat."""
    refuse_together(
        {
            ("--heartbeat", "a prompt"): (True, prompt, "The heartbeat has a prompt of its own."),
            ("--heartbeat", "--input"): (True, given, "The heartbeat has inputs of its own."),
            ("--heartbeat", "--agent or --role"): (True, agent, "The heartbeat names its agent."),
            ("--heartbeat", "--dedupe-key"): (True, dedupe_key, "Use --id, which fires it once."),
            ("--heartbeat", "--session"): (True, session, "Submit the prompt by itself."),
            ("--heartbeat", "--in"): (True, delay, "A heartbeat is fired now, or by its schedule."),
            ("--heartbeat", "--at"): (True, at, "A heartbeat is fired now, or by its schedule."),
            ("--heartbeat", "--durability"): (True, durability, "Submit the prompt by itself."),
            ("--heartbeat", "--deliver"): (True, deliver, "The heartbeat names its destinations."),
            ("--heartbeat", "--priority"): (True, priority != NORMAL, "The heartbeat has a priority of its own."),
        }
    )


def _check(has_work: bool, wait: bool, timeout: float | None, time_option: str, agent: str | None) -> None:
    """Raises InvalidInput with all problems. `time_option`: the option that sets the earliest begin, if any."""
    problems = []
    if not has_work:
        problems.append(Problem("there is no prompt", "Give PROMPT, --file PATH, or - for stdin.", path="prompt"))
    if timeout is not None and not wait:
        problems.append(_WITHOUT_WAIT)
    if time_option and agent is None:
        reason = f"{time_option} is for a task of one agent; a run of a whole crew can't be scheduled for a time"
        problems.append(Problem(reason, "Add --agent NAME or --role NAME, or use a Heartbeat."))
    if problems:
        raise InvalidInput(problems)


def _window(dedupe_key: str | None, seconds: float | None) -> float:
    """The seconds for which a dedupe key holds. Raises InvalidInput for some without a key."""
    if seconds is not None and dedupe_key is None:
        raise InvalidInput(Problem("--dedupe-seconds is for --dedupe-key, which is missing", "Add --dedupe-key TEXT."))
    return 3600.0 if seconds is None else seconds


async def _from_now(client: Client, crew: str, later: timedelta) -> datetime:
    """The time by the store's clock, which decides when a scheduled task begins."""
    now_ms = (await client.figures(crew)).now_ms
    return datetime.fromtimestamp(now_ms / 1000, UTC) + later


async def _write_id(client: Client, crew: str, work_id: str, name: str | None, form: Output) -> None:
    """Writes the id. `name`: its name; None for the work of a heartbeat, which is a run or a task."""
    if form is Output.TEXT:
        sys.stdout.write(f"{work_id}\n")
        sys.stdout.flush()
    else:
        ids = {name: work_id} if name else named(work_id, await client.state(crew, work_id))
        output.write({"crew": client.keys(crew).crew, **ids}, form)


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
    with failures.hinting_at(f"It is kept: watchbill result {crew} {task_id}"):
        return output.result(ended, form)


async def _standing(client: Client, crew: str, task_id: str) -> str:
    """The state of unfinished work, for a message."""
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
    """The earliest begin. Raises InvalidInput."""
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
