"""`status`: the state of a store, a crew, or a run."""

from __future__ import annotations

import dataclasses
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from watchbill.cli import output
from watchbill.cli.options import Output
from watchbill.cli.stores import StoreOptions, with_store

if TYPE_CHECKING:
    from watchbill.client import Client
    from watchbill.connection.url import Target
    from watchbill.store.figures import Figures
    from watchbill.tasks import RunStatus, TaskState

SHOWN: Final = 20
"""Maximum of unfinished runs that are read one by one."""
_HEADER: Final = ("CREW", "WAITING", "RUNNING", "PARKED", "DELAYED", "DEAD", "WORKERS", "OLDEST")


@with_store()
def status(
    store: StoreOptions,
    crew: Annotated[
        str | None, typer.Argument(help="The crew: NAME or NAMESPACE/NAME. Default: all crews.", show_default=False)
    ] = None,
    run: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="Id of a run or task, or RUN/STEP for a step of a run.", show_default=False),
    ] = None,
) -> int:
    """Show the work of all crews or of one crew, the steps of one run, or the state of one task."""

    async def work(client: Client, target: Target) -> int:
        if crew is None:
            await _crews(client, target, store)
        elif run is None:
            await _crew(client, crew, store.form)
        else:
            await _work(client, crew, run, store.form)
        return 0

    return store.run_on(work)


async def _crews(client: Client, target: Target, store: StoreOptions) -> None:
    from watchbill import connection, settings
    from watchbill.store import figures

    crews = [client.keys(name) for name in await client.crews()]
    async with connection.connected(target) as redis:
        # None: a record that somebody saved, and nobody has worked for yet
        found = {crew: now async for crew, now in figures.each(redis, crews)}
    if store.form is not Output.TEXT:
        output.write([{"crew": crew, **_plain(now)} for crew, now in found.items()], store.form)
    elif not found:
        namespace = store.namespace or settings.read(settings.Settings).namespace
        output.say(f"no crews in namespace {namespace!r} of this store")
    else:
        output.table(_HEADER, [(crew.partition("/")[2], *_cells(now)) for crew, now in found.items()])
        if suspended := [crew.partition("/")[2] for crew, now in found.items() if now and now.suspended]:
            output.say(f"suspended: {', '.join(suspended)}")


def _plain(figures: Figures | None) -> dict[str, Any]:
    hidden = ("now_ms", "ended")
    return {} if figures is None else {k: v for k, v in dataclasses.asdict(figures).items() if k not in hidden}


def _cells(figures: Figures | None) -> tuple[str, ...]:
    if figures is None:
        return ("-",) * (len(_HEADER) - 1)
    counts = (figures.waiting, figures.running, figures.parked, figures.delayed, figures.dead, figures.workers)
    oldest = "-" if figures.oldest_ms is None else output.seconds(figures.oldest_ms / 1000)
    return (*(str(n) for n in counts), oldest)


async def _crew(client: Client, crew: str, form: Output) -> None:
    from watchbill.errors import NotFound
    from watchbill.tasks import TaskState

    figures = await client.figures(crew)
    unfinished = await client.unfinished(crew)
    runs: dict[str, RunStatus | TaskState] = {}
    for run_id in unfinished[:SHOWN]:
        with suppress(NotFound):  # its record has gone meanwhile
            try:
                runs[run_id] = await client.status(crew, run_id)
            except NotFound:  # a task of its own
                runs[run_id] = TaskState(await client.state(crew, run_id))
    if form is not Output.TEXT:
        listed = [
            {"task_id": run_id, "status": run.value}
            if isinstance(run, TaskState)
            else run.model_dump(mode="json", include={"run_id", "status", "submitted_at"})
            for run_id, run in runs.items()
        ]
        output.write({"crew": client.keys(crew).crew, **_plain(figures), "unfinished": listed}, form)
        return
    output.table(_HEADER, [(crew, *_cells(figures))])
    if figures.suspended and (hold := await client.hold(crew)):
        output.say(f"there is no room for the crew: {hold}")
    elif figures.suspended:
        output.say(f"the crew is suspended: no task begins until somebody resumes it (watchbill resume {crew})")
    if (to := figures.deliveries) and to.waiting + to.running + to.delayed + to.dead:
        output.say(
            f"deliveries: {to.waiting} waiting, {to.running} being sent, {to.delayed} delayed, {to.dead} dead "
            f"(watchbill deliveries list {crew})"
        )
    if runs:
        output.blank()
        output.table(("UNFINISHED", "STATUS", "SINCE", "DONE", "NOW"), [_line(i, run) for i, run in runs.items()])
    if len(unfinished) > SHOWN:
        output.say(f"… {len(unfinished) - SHOWN} more (of 100 at most)")


def _line(run_id: str, run: RunStatus | TaskState) -> tuple[str, ...]:
    """The row of a run, or of a task of its own, which only has a state."""
    from watchbill.tasks import TERMINAL, TaskState

    if isinstance(run, TaskState):
        return (run_id, run.value, "", "", "")
    done = sum(step.status in TERMINAL for step in run.steps)
    now = ", ".join(step.name for step in run.steps if step.status is TaskState.RUNNING)
    since = output.seconds(max((output.now() - run.submitted_at).total_seconds(), 0))
    return (run_id, run.status.value, since, f"{done}/{len(run.steps)}", now or "-")


async def _work(client: Client, crew: str, work_id: str, form: Output) -> None:
    from watchbill.errors import NotFound

    try:
        run = await client.status(crew, work_id)
        errors = await _errors(client, crew, run)
        _run(run, errors, form)
    except NotFound:  # a task of its own, or a step
        now = await client.state(crew, work_id)
        if form is not Output.TEXT:
            output.write({"crew": client.keys(crew).crew, "task_id": work_id, "status": now.value}, form)
            return
        output.table(("TASK", "STATUS"), [(work_id, now.value)])
    if form is Output.TEXT:
        for task_id, known in (await client.approvals(crew, work_id)).items():
            for one in known:
                if one.state == "waiting" and one.until > output.now():
                    what, work = f"{one.what} {one.details}".rstrip(), f"{client.keys(crew).crew} {task_id}"
                    look = f"watchbill approve {work} --what {shlex.quote(one.what)} --mark {one.mark}"
                    if not one.what:  # its prompt may be long
                        what, look = "to begin", f"watchbill why {work}"
                    output.say(f"{task_id} waits for approval since {one.asked_at:%F %T} UTC: {what} ({look})")


async def _errors(client: Client, crew: str, run: RunStatus) -> dict[str, str]:
    """The errors of failed steps of the run, by name."""
    from watchbill.tasks import TaskState

    failed = [step.name for step in run.steps if step.status in (TaskState.FAILED, TaskState.DEAD)][:SHOWN]
    results = [await client.result(crew, f"{run.run_id}/{name}") for name in failed]
    return {name: ended.error or "" for name, ended in zip(failed, results, strict=True) if ended is not None}


def _run(run: RunStatus, errors: dict[str, str], form: Output) -> None:
    from watchbill.cli.steps import elapsed
    from watchbill.tasks import TaskState

    if form is not Output.TEXT:
        shown = run.model_dump(mode="json")
        for step in shown["steps"]:
            step["error"] = errors.get(step["name"])
        output.write(shown, form)
        return
    output.table(("RUN", "STATUS", "SUBMITTED"), [(run.run_id, run.status.value, f"{run.submitted_at:%F %T} UTC")])
    output.blank()
    rows = [
        (s.name, s.status.value, elapsed(s) or "-", str(s.tokens or "-"), str(s.attempt), ", ".join(s.after) or "-")
        for s in run.steps
    ]
    output.table(("STEP", "STATUS", "TIME", "TOKENS", "ATTEMPT", "AFTER"), rows)
    for name, error in errors.items():
        output.say(f"{name}: {(error.splitlines() or [''])[0]}")
    dead = [s.name for s in run.steps if s.status is TaskState.DEAD]
    for name in dead[:1]:
        letter = f"{run.crew} {run.run_id}/{name}"
        output.say(f"all of it: watchbill dead show {letter}; to try it again: watchbill dead replay {letter}")
