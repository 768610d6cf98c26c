"""`apply`, `get` and `delete`: crews and heartbeats in a store, as kubectl has them in a cluster."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from watchbill.cli import deletion, output
from watchbill.cli.control import confirmed
from watchbill.cli.options import Output, TimeoutOption
from watchbill.cli.stores import StoreOptions, with_store
from watchbill.errors import InvalidInput, Problem, sentence

if TYPE_CHECKING:
    from watchbill.client import Client
    from watchbill.store.heartbeats import HeartbeatState

FileOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--filename", "-f", metavar="FILE", help="A YAML file, or a folder of them. Repeatable.", show_default=False
    ),
]
NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Names of the resources.", show_default=False),
]


class Kind(StrEnum):
    """The kinds of resources in a store, by the names that kubectl takes."""

    CREW = "crew"
    CREWS = "crews"
    HEARTBEAT = "heartbeat"
    HEARTBEATS = "heartbeats"


_CREWS: Final = (Kind.CREW, Kind.CREWS)


@with_store()
def apply(
    store: StoreOptions,
    files: FileOption = None,
) -> int:
    """Create or update the crews and heartbeats of YAML files in a store.

    This command runs no agents: start `watchbill worker CREW` where the crew's agents are. Heartbeats fire while an
    operator or `watchbill run FILE --watch` runs. A crew that an operator manages is refused.
    """
    from watchbill import local

    if not files:
        raise InvalidInput(Problem("there is no file", "Give one: watchbill apply -f FILE.", path="-f"))
    read = local.load(local.files(files), to_store=True)
    output.reserve_stdout()  # agents' modules print, too
    unloadable = local.unloadable(read)

    async def work(client: Client) -> int:
        done = await client.apply([*read.crews, *read.heartbeats])
        if store.form is Output.TEXT:
            for one in done:
                output.stdout().write(f"{one.kind}/{one.name.partition('/')[2]} {one.change}\n")
            output.stdout().flush()
        else:
            output.write([{"kind": one.kind, "name": one.name, "change": one.change} for one in done], store.form)
        for problem in unloadable:
            output.say(f"note: {problem.source}: {problem.path}: {sentence(problem.reason)} Workers need it")
        return 0

    return store.run(work, make=True)


@with_store()
def get(
    store: StoreOptions,
    kind: Annotated[Kind, typer.Argument(help="Kind of the resources: crews or heartbeats.", show_default=False)],
    chosen: NamesArgument = None,
) -> int:
    """Show the crews of a store, or their heartbeats: all, or those of the named crews.

    With -o yaml a crew is printed as a manifest that can be applied again.
    """

    async def work(client: Client) -> int:
        crews = [client.keys(name).crew for name in chosen] if chosen else await client.crews()
        if kind in _CREWS:
            await _show_crews(client, crews, store.form, one=len(chosen or ()) == 1)
        else:
            await _show_heartbeats(client, crews, store.form)
        return 0

    return store.run(work)


@with_store(output=False)
def delete(
    store: StoreOptions,
    kind: Annotated[
        Kind | None, typer.Argument(help="Kind of the resources: crew or heartbeat. Not with -f.", show_default=False)
    ] = None,
    chosen: NamesArgument = None,
    files: FileOption = None,
    of: Annotated[
        str | None, typer.Option("--crew", help="Name of the crew of the heartbeats.", show_default=False)
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Don't ask for confirmation, even if there is unfinished work.")
    ] = False,
    drain: Annotated[
        bool, typer.Option("--drain", help="Delete the crews once all their work has ended and is delivered.")
    ] = False,
    running_only: Annotated[
        bool,
        typer.Option(
            "--running-only", help="Suspend the crews first, and wait only for the work that runs. With --drain."
        ),
    ] = False,
    timeout: TimeoutOption = None,
) -> int:
    """Delete crews, with all their work and results, or heartbeats from a store: by name, or those of YAML files.

    On a terminal the command asks first if a crew has unfinished work that would be lost. A crew that an operator
    manages is refused, but with --drain: then its Crew is deleted in the cluster of the current kubeconfig.

    With --drain the crews take no work from then on: whoever submits is refused. After --timeout or Ctrl-C nothing is
    deleted, and the crews take work again.
    """
    crews, beats = _doomed(kind, chosen or [], files or [], of)
    _check_drain(crews, timeout, drain=drain, running_only=running_only)

    async def work(client: Client) -> int:
        for crew in crews:
            await client.crew(crew)  # all are there, before one goes
        if not yes and (running_only or not drain) and sys.stdin.isatty() and crews:
            busy = [crew for crew in crews if await client.unfinished(crew)]
            if busy and not await confirmed(f"Delete {', '.join(busy)}, and the work that waits or runs there?"):
                output.say("nothing was deleted")
                return 1
        if drain and (code := await deletion.drained(client, crews, timeout, running_only=running_only)):
            return code
        for crew, beat in beats:
            await client.delete(crew, heartbeat=beat)
            sys.stdout.write(f"heartbeat/{beat} deleted\n")
        for crew in () if drain else crews:
            await client.delete(crew)
            sys.stdout.write(f"crew/{client.keys(crew).crew.partition('/')[2]} deleted\n")
        return 0

    return store.run(work)


def _check_drain(crews: list[str], timeout: float | None, *, drain: bool, running_only: bool) -> None:
    """Raises InvalidInput for options that say nothing together."""
    if drain and not crews:
        raise InvalidInput(Problem("only crews have work to wait for", "Leave --drain out.", path="--drain"))
    for option, given in (("--running-only", running_only), ("--timeout", timeout is not None)):
        if given and not drain:
            fix = "Add --drain."
            raise InvalidInput(Problem("it says which work to wait for, and how long", fix, path=option))


def _doomed(
    kind: Kind | None, chosen: list[str], files: list[Path], of: str | None
) -> tuple[list[str], list[tuple[str, str]]]:
    """Crews, and heartbeats as (crew, name). Raises InvalidInput."""
    if bool(files) == (kind is not None):
        fix = "Write: watchbill delete crew NAME, or watchbill delete -f FILE."
        raise InvalidInput(Problem("give either a kind and names, or files", fix))
    if files:
        from watchbill import local

        read = local.load(local.files(files), to_store=True)

        def full(namespace: str | None, name: str) -> str:
            return f"{namespace}/{name}" if namespace else name

        crews = [full(crew.metadata.namespace, crew.name) for crew in read.crews]
        beats = [(full(beat.metadata.namespace, beat.spec.crew_ref.name), beat.name) for beat in read.heartbeats]
        return crews, [beat for beat in beats if beat[0] not in crews]  # the others go with their crew
    if not chosen:
        raise InvalidInput(Problem("no name is given", f"Write: watchbill delete {kind} NAME.", path="NAME"))
    if kind in _CREWS:
        return list(dict.fromkeys(chosen)), []
    if of is None:
        raise InvalidInput(Problem("the crew of the heartbeat is missing", "Add --crew NAME.", path="--crew"))
    return [], [(of, name) for name in chosen]


async def _show_crews(client: Client, crews: list[str], form: Output, *, one: bool) -> None:
    """Writes the crews. A single one must exist; among several, one that can't be read is left out with a note."""
    from watchbill.errors import UserActionRequired

    found: list[Any] = []
    for crew in crews:
        try:
            found.append(await client.manifest(crew) if form is not Output.TEXT else await _row(client, crew))
        except UserActionRequired as error:
            if one:
                raise
            output.say(f"note: crew {crew!r} is left out: {error}")
    if form is not Output.TEXT:
        output.write(found[0] if one else {"apiVersion": "v1", "kind": "List", "items": found}, form)
    elif found:
        output.table(("NAME", "MODE", "AGENTS", "HEARTBEATS"), found)
    else:
        output.say("there are no crews. To create one: watchbill apply -f FILE")


async def _row(client: Client, crew: str) -> tuple[str, ...]:
    definition = await client.crew(crew)
    agents = ", ".join(agent.agent_id for agent in definition.agents)
    return crew.partition("/")[2], definition.execution_mode.value, agents, str(len(await client.heartbeats(crew)))


async def _show_heartbeats(client: Client, crews: list[str], form: Output) -> None:
    found = [(crew, beat) for crew in crews for beat in await client.heartbeats(crew)]
    if form is not Output.TEXT:
        output.write([_beat(crew, beat) for crew, beat in found], form)
    elif found:
        rows = []
        for crew, beat in found:
            shown = _beat(crew, beat)
            when = [shown["schedule"], shown["next"] or "suspended", shown["last"] or "-"]
            rows.append((beat.name, crew.partition("/")[2], *when))
        output.table(("NAME", "CREW", "SCHEDULE", "NEXT", "LAST"), rows)
    else:
        output.say("there are no heartbeats. To create one: watchbill apply -f FILE")


def _beat(crew: str, beat: HeartbeatState) -> dict[str, Any]:
    from watchbill.store.heartbeats import iso

    spec = beat.spec
    return {
        "name": beat.name,
        "crew": crew,
        "agent": None if spec.role else spec.agent,
        "role": spec.role,
        "prompt": spec.prompt,
        "schedule": beat.timing,
        "next": iso(beat.next) if beat.next else None,
        "last": iso(beat.last) if beat.last else None,
        "missed": beat.missed,
    }
