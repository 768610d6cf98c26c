"""`why`: why a task, or the oldest of a crew's work, has not begun or ended, and when it is likely to begin."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from pydantic_core import to_jsonable_python

from watchbill.cli import output
from watchbill.cli.options import Output
from watchbill.cli.stores import StoreOptions, with_store
from watchbill.errors import InvalidInput, MissingExtra, NotFound, Problem
from watchbill.terminal import one_line

if TYPE_CHECKING:
    from watchbill.client import Client, Why
    from watchbill.connection.url import Target
    from watchbill.tasks import Approval

LOOKED_AT: Final = 100
"""Tasks and steps of a crew that are looked at, the oldest first."""


@with_store()
def why(
    store: StoreOptions,
    crew: Annotated[
        str,
        typer.Argument(
            metavar="CREW|ID",
            help="The crew: NAME or NAMESPACE/NAME. Alone: its oldest work that waits for a worker. An ID alone: all "
            "crews are searched.",
        ),
    ],
    task_id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="Id of a task or run, or RUN/STEP for a step of a run.", show_default=False),
    ] = None,
) -> int:
    """Show why a task has not begun or ended: what it waits for, when it is likely to begin, and its attempts so far.

    If no worker lives and an operator manages the crew, the Kubernetes cluster of the current kubeconfig is asked why
    no pod runs. Only reads. Exit 2: there is no such work.
    """

    async def ask(client: Client, target: Target) -> int:
        told = await (_find(client, target, crew) if task_id is None else client.why(crew, task_id))
        pods, paused = await _in_cluster(told.step or told)
        if store.form is not Output.TEXT:
            known = {"pods": list(pods), "paused": bool(paused), "look": _look(told)}
            output.write({**to_jsonable_python(dataclasses.asdict(told)), **known}, store.form)
        else:
            _show(told, pods, paused)
        return 0

    return store.run_on(ask)


async def _find(client: Client, target: Target, task_id: str) -> Why:
    """The work of this id, in whichever crew of the namespace it is; else that of the crew of this name. Raises
    NotFound, InvalidInput."""
    found: list[Why] = []
    crews = await client.crews()
    for crew in crews:
        try:
            found.append(await client.why(crew, task_id))
        except NotFound:
            continue
    if not found:
        try:
            await client.crew(task_id)
        except (NotFound, InvalidInput):
            many = output.many(len(crews), "crew")
            raise NotFound(f"none of {many} in this namespace has a run or task {task_id!r}") from None
        return await _of_crew(client, target, task_id)
    if len(found) > 1:
        named = ", ".join(one.crew for one in found)
        raise InvalidInput(Problem(f"several crews have {task_id!r}: {named}", "Name the crew before the id."))
    return found[0]


async def _of_crew(client: Client, target: Target, crew: str) -> Why:
    """The oldest of a crew's work that waits for a worker or a slot; where none does, that begins later, or the oldest
    of all. Raises NotFound."""
    from watchbill import connection
    from watchbill.store import unfinished

    seen: list[Why] = []
    async with connection.connected(target) as redis:
        async for ids in unfinished.pages(redis, client.keys(crew)):
            for work in ids[:LOOKED_AT]:
                try:
                    seen.append(await client.why(crew, work))
                except NotFound:  # it has ended meanwhile
                    continue
                if _urgency(seen[-1]) == 0:
                    return seen[-1]
            break
    if not seen:
        raise NotFound(f"all work of crew {crew!r} has ended")
    return min(seen, key=_urgency)


def _urgency(told: Why) -> int:
    """0: it could begin, and doesn't; 1: it is not to begin yet; 2: it goes on, and tells nothing of what is wrong."""
    from watchbill.plan.why import Reason

    match (told.step or told).reason:
        case Reason.RUNNING | Reason.STARTING | Reason.CANCELLING | Reason.ENDED:
            return 2
        case Reason.DELAYED | Reason.RETRY | Reason.INTERRUPTED | Reason.DEPENDENCY | Reason.BEHIND_FAILURE:
            return 1
        case Reason.POSTPONED | Reason.APPROVAL:
            return 1
    return 0


async def _in_cluster(told: Why) -> tuple[Sequence[str], Sequence[str]]:
    """Returns why no pod of the crew runs, as Kubernetes says, and that the crew is paused; nothing where that is of no
    interest."""
    from watchbill.plan.why import Reason

    if not told.managed or told.reason is Reason.ENDED:
        return (), ()
    asks_pods = told.reason in (Reason.NO_WORKER, Reason.DRAINING, Reason.AGENT_UNAVAILABLE)
    try:
        from watchbill.cli import pods
    except MissingExtra as error:
        return (f"Kubernetes can't be asked: {error}",) if asks_pods else (), ()
    paused = await pods.paused([told.crew])
    return await pods.of_crew(*told.crew.split("/", 1)) if asks_pods else (), paused


def _show(told: Why, pods: Sequence[str], paused: Sequence[str]) -> None:
    whose = f"agent {told.agent} (role {told.role})" if told.agent and told.role else f"agent {told.agent}"
    whose = whose if told.agent else f"role {told.role}"
    what = told.kind if told.kind == "run" else f"{told.kind} of {whose}, priority {told.priority}"
    since = told.submitted_seconds_ago
    ago = f", submitted {output.seconds(since)} ago" if since is not None else ""
    lines = [(told.id, f"{told.state} ({what} of crew {told.crew}{ago})"), ("why", told.message)]
    waiting = told
    if told.step is not None:
        waiting = told.step
        lines.append(("", f"{waiting.id}: {waiting.message}"))
    lines += [("pods", one) for one in pods] + [("crew", one) for one in paused]
    if waiting.starts:
        lines.append(("starts", waiting.starts))
    if waiting.checkpoints:
        done = f"{output.many(waiting.checkpoints, 'step')} within it done, {waiting.last_checkpoint!r} the last"
        lines.append(("within", done))
    lines += [("before", _attempt(one)) for one in waiting.attempts if one.outcome != "running"]
    lines += [("before", _decided(one)) for one in waiting.approvals if one.decided_at]
    lines += [("asks", line) for one in _open(waiting) if one.details for line in _asked(one)]
    lines += [("look", command) for command in _look(told)]
    width = max(len(label) for label, _ in lines[1:])
    said = ""
    for label, text in lines:
        shown = "" if label == said else label
        output.stdout().write(one_line(f"{shown.ljust(width)}  {text}") + "\n")
        said = label


def _attempt(one: Any) -> str:
    by = f" on {one.worker}" if one.worker else ""
    took = f" after {output.seconds(one.seconds)}" if one.seconds is not None else ""
    if one.outcome == "lost":
        return f"attempt {one.number} left no report: its worker was taken for dead, or its report is no longer kept"
    told = one.message.removeprefix(f"attempt {one.number} failed: ")
    return f"attempt {one.number} failed{took}{by}: {told}"


def _open(told: Why) -> list[Approval]:
    """The approvals that it waits for now."""
    return [one for one in told.approvals if one.state == "waiting"]


def _asked(one: Approval) -> list[str]:
    """Returns what is to be approved, in full: the arguments of a call, or the lines of a prompt."""
    return [f"{one.what}: {one.details}"] if one.what else str(json.loads(one.details)).splitlines()


def _decided(one: Approval) -> str:
    why = f": {one.reason}" if one.reason else ""
    return f"{one.state} ({one.what or 'to begin'}) at {one.decided_at:%F %T} UTC{why}"


def _look(told: Why) -> list[str]:
    """The commands that show more, or let it go on."""
    from watchbill.plan.why import Reason
    from watchbill.tasks import TaskState

    work = f"{told.crew} {told.id}"
    if told.step is not None and told.step.reason in (Reason.SUSPENDED, Reason.NO_ROOM, Reason.APPROVAL):
        return _look(told.step)
    match told.reason:
        case Reason.ENDED if told.state == TaskState.DEAD:
            return [f"watchbill dead show {work}", f"watchbill dead replay {work}"]
        case Reason.ENDED if told.state == TaskState.SKIPPED:
            return [f"watchbill status {told.crew} {told.id.partition('/')[0]}"]
        case Reason.ENDED:
            return [f"watchbill result {work}"]
        case Reason.INTERRUPTED:
            return [f"watchbill resume {work}"]
        case Reason.APPROVAL:
            meant = [
                f"{f' --what {shlex.quote(one.what)}' if one.what else ''} --mark {one.mark}" for one in _open(told)
            ]
            return [f"watchbill {verb} {work}{which}" for which in meant for verb in ("approve", "reject")]
        case Reason.SUSPENDED:
            return [f"watchbill resume {told.crew}"]
        case Reason.AGENT_UNAVAILABLE | Reason.MOVING:
            return [f"watchbill events {told.crew}"]
        case Reason.NO_ROOM:
            return [f"watchbill explain crew {told.crew}"]
        case Reason.NO_WORKER if not told.managed:
            return [f"watchbill worker {told.crew}"]
        case Reason.NO_WORKER:
            namespace, _, name = told.crew.partition("/")
            return [f"kubectl -n {namespace} describe crew {name}"]
        case Reason.DRAINING:
            return [f"watchbill workers {told.crew}"]
        case Reason.DEPENDENCY | Reason.BEHIND_FAILURE | Reason.CONCURRENCY:
            run = told.id.partition("/")[0]
            return [f"watchbill why {told.crew} {run}/{name}" for name in told.waits_for[:2]] or [
                f"watchbill status {told.crew} {run}"
            ]
        case Reason.RUNNING if told.kind == "run":
            return [f"watchbill why {work}/{name}" for name in told.waits_for[:3]]
    return []
