"""`dead`: list, show, replay and purge the dead letters of a crew."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Final, ParamSpec, TypedDict

import typer

from watchbill.cli import output
from watchbill.cli.control import confirmed
from watchbill.cli.options import CrewArgument, Output, YesOption, add, age
from watchbill.cli.stores import StoreOptions, with_store
from watchbill.errors import InvalidInput, NotFound, Problem
from watchbill.terminal import one_line, printable

if TYPE_CHECKING:
    from watchbill.client import Client, DeadLetter, Replay

_OUTCOMES: Final = {
    "missing": "there is no such dead letter (it was replayed, purged or trimmed)",
    "taken": "its id belongs to other work by now",
    "expired": "its prompt and inputs are no longer stored",
}

_KEPT: Final = {
    "current": "the crew's current definition",
    "submitted": "the definition that its run began with",
    "unchanged": "the definition that its run began with: the store has the same one now",
}

IdsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", help="Ids of tasks, steps (RUN/STEP) or letters.", show_default=False),
]
AgentOption = Annotated[str | None, typer.Option("--agent", help="Select letters of this agent.", show_default=False)]
ReasonOption = Annotated[
    str | None,
    typer.Option(
        "--reason", metavar="TEXT", help="Select letters with this text in reason or error.", show_default=False
    ),
]
OlderOption = Annotated[
    str | None,
    typer.Option(
        "--older-than", metavar="AGE", help="Select letters older than this: 30m, 12h, 7d.", show_default=False
    ),
]
NewerOption = Annotated[
    str | None,
    typer.Option(
        "--newer-than", metavar="AGE", help="Select letters newer than this: 30m, 12h, 7d.", show_default=False
    ),
]
DeliveriesOption = Annotated[
    bool,
    typer.Option("--deliveries", help="Select letters of deliveries, not of tasks. Their agent is to:DESTINATION."),
]
AllOption = Annotated[bool, typer.Option("--all", help="Select all letters of the crew.")]
_FILTERS: Final[dict[str, tuple[Any, Any]]] = {
    "agent": (AgentOption, None),
    "reason": (ReasonOption, None),
    "older": (OlderOption, None),
    "newer": (NewerOption, None),
}


class Filter(TypedDict):
    """A selection of letters, as arguments of the client."""

    agent: str | None
    reason: str | None
    before: datetime | None
    after: datetime | None


@dataclass(frozen=True, slots=True)
class Selection:
    """The letters that a command acts on: those with these ids, those that match the filter, or all."""

    ids: list[str] | None
    chosen: Filter
    every: bool


P = ParamSpec("P")


def with_selection(
    what: str,
) -> Callable[[Callable[Concatenate[StoreOptions, Selection, P], int]], Callable[Concatenate[StoreOptions, P], int]]:
    """Gives a command the ids and options that select letters, which it takes as a Selection.

    `what`: what is done to the letters, for the error when nothing selects any.
    """
    added: dict[str, tuple[Any, Any]] = {"ids": (IdsArgument, None), **_FILTERS, "every": (AllOption, False)}

    def decorate(command: Callable[Concatenate[StoreOptions, Selection, P], int]) -> Callable[..., int]:
        @functools.wraps(command)
        def wrapped(store: StoreOptions, *args: Any, **kwargs: Any) -> int:
            given = {name: kwargs.pop(name) for name in added}
            ids, every = given.pop("ids"), given.pop("every")
            selection = Selection(ids, _filter(**given), every)
            _check_chosen(selection, what)
            return command(store, selection, *args, **kwargs)

        add(wrapped, command, added, without="selection")
        return wrapped

    return decorate


@with_store()
def list_(
    store: StoreOptions,
    crew: CrewArgument,
    agent: AgentOption = None,
    reason: ReasonOption = None,
    older: OlderOption = None,
    newer: NewerOption = None,
    deliveries: DeliveriesOption = False,
) -> int:
    """List dead letters, newest first."""
    chosen = _filter(agent, reason, older, newer)

    async def ask(client: Client) -> int:
        rows: list[tuple[str, ...]] = []
        found: list[dict[str, Any]] = []
        async for letter in client.dead_letters(crew, deliveries=deliveries, **chosen):
            if store.form is Output.TEXT:
                rows.append(_row(letter))
            else:
                shown = _plain(letter)
                found.append({name: value for name, value in shown.items() if name not in ("prompt", "raw")})
        if store.form is not Output.TEXT:
            output.write(found, store.form)
        elif rows:
            output.table(("TASK", "AGENT", "ATTEMPTS", "DIED", "REASON"), rows)
        else:
            output.say(_none(chosen))
        return 0

    return store.run(ask)


@with_store()
def show(
    store: StoreOptions,
    crew: CrewArgument,
    wanted: Annotated[str, typer.Argument(metavar="ID", help="Id of a task, a step (RUN/STEP) or a letter.")],
    deliveries: DeliveriesOption = False,
) -> int:
    """Show a dead letter: its reason, its prompt, and the last error with its traceback."""

    async def ask(client: Client) -> int:
        letter = await client.dead_letter(crew, wanted, deliveries=deliveries)
        shown = _plain(letter)
        if store.form is Output.TEXT:
            long = {name: shown.pop(name) for name in ("prompt", "error", "raw")}
            width = max(map(len, shown)) + 1
            for name, value in shown.items():
                sys.stdout.write(f"{(name + ':').ljust(width)} {one_line(str(value))}\n")
            for name, value in long.items():
                if value:
                    text = value if isinstance(value, str) else output.as_yaml(value)
                    sys.stdout.write(f"\n{name}:\n{printable(text.rstrip())}\n")
        else:
            output.write(shown, store.form)
        return 0

    return store.run(ask)


@with_store()
@with_selection("replayed")
def replay(
    store: StoreOptions,
    selection: Selection,
    crew: CrewArgument,
    as_submitted: Annotated[
        bool, typer.Option("--as-submitted", help="Continue runs with the definition that they were submitted with.")
    ] = False,
    deliveries: DeliveriesOption = False,
) -> int:
    """Replay dead tasks with all their attempts, and print the ids of those that were replayed.

    The tasks run with the crew's current definition. A step continues its run; if the run has not ended, or has another
    plan than the crew has now, the step keeps the definition of its run, and stderr says so. Exit 1: some could not be
    replayed; stderr says why.
    """

    async def ask(client: Client) -> int:
        told = await client.replay(
            crew,
            selection.ids or None,
            everything=selection.every,
            as_submitted=as_submitted,
            deliveries=deliveries,
            **selection.chosen,
        )
        if store.form is not Output.TEXT:
            output.write([dataclasses.asdict(one) for one in told], store.form)
        elif not told:
            output.say(_none(selection.chosen))
        for one in told:
            if one.outcome != "replayed":
                output.say(f"{one.task_id or one.id} was not replayed: {_OUTCOMES[one.outcome]}")
            elif store.form is Output.TEXT:
                sys.stdout.write(f"{printable(one.task_id)}\n")
        sys.stdout.flush()
        if not deliveries:
            _say_which([one for one in told if one.outcome == "replayed"])
        if any(one.outcome == "replayed" for one in told) and not (await client.figures(crew)).workers:
            output.say(
                f"note: crew {crew!r} has no worker now, so this waits. An operator starts one by itself; else: "
                f"watchbill worker {crew}, or watchbill run FILE --resume"
            )
        return 0 if all(one.outcome == "replayed" for one in told) else 1

    return store.run(ask)


@with_store()
@with_selection("purged")
def purge(
    store: StoreOptions,
    selection: Selection,
    crew: CrewArgument,
    yes: YesOption = False,
    deliveries: DeliveriesOption = False,
) -> int:
    """Remove dead letters for good. On a terminal the command asks first.

    Exit 2: there is no such letter, and nothing was removed.
    """

    async def ask(client: Client) -> int:
        wanted = None if not selection.ids else set(selection.ids)
        doomed: list[str] = []
        missing = set(wanted or ())
        async for letter in client.dead_letters(crew, deliveries=deliveries, **selection.chosen):
            if wanted is None or wanted & {letter.id, letter.task_id}:
                missing -= {letter.id, letter.task_id}
                doomed.append(letter.id)
        if missing:
            raise NotFound(f"crew {crew!r} has no such dead letter: {', '.join(sorted(missing))}. Nothing was removed")
        question = f"Remove {output.many(len(doomed), 'dead letter')} of crew {crew!r} for good?"
        if doomed and not yes and sys.stdin.isatty() and not await confirmed(question):
            output.say("nothing was removed")
            return 1
        purged = await client.purge(crew, doomed, deliveries=deliveries)
        if store.form is Output.TEXT:
            sys.stdout.write(f"{output.many(purged, 'dead letter')} removed\n")
        else:
            output.write({"crew": client.keys(crew).crew, "purged": purged}, store.form)
        return 0

    return store.run(ask)


def _say_which(replayed: list[Replay]) -> None:
    """Prints the definitions that the replayed tasks run with."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in replayed:
        groups.setdefault((one.definition, one.why), []).append(one.task_id)
    for (which, why), ids in groups.items():
        who = f"{ids[0]} runs" if len(ids) == 1 else f"{len(ids):,} of them run"
        output.say(f"{who} with {_KEPT[which]}" + (f": {why}" if why else ""))


def _none(chosen: Filter) -> str:
    return "no dead letters" if all(value is None for value in chosen.values()) else "no dead letter matches"


def _row(letter: DeadLetter) -> tuple[str, ...]:
    died = output.seconds(max((output.now() - letter.at).total_seconds(), 0)) + " ago"
    reason = (letter.reason.strip().splitlines() or [""])[0]
    short = reason if len(reason) <= 100 else f"{reason[:99]}…"
    return (letter.task_id or letter.id, letter.agent or "-", str(letter.attempts), died, short)


def _plain(letter: DeadLetter) -> dict[str, Any]:
    fields = dataclasses.asdict(letter)
    return {"id": fields.pop("id"), "died_at": letter.at.isoformat(), "replayable": letter.replayable, **fields}


def _filter(agent: str | None, reason: str | None, older: str | None, newer: str | None) -> Filter:
    """Parses the options that select letters. Raises InvalidInput."""
    problems: list[Problem] = []

    def ago(text: str | None, option: str) -> datetime | None:
        try:
            return None if text is None else output.now() - age(text, option)
        except InvalidInput as error:
            problems.extend(error.problems)
            return None

    before, after = ago(older, "--older-than"), ago(newer, "--newer-than")
    if before is not None and after is not None and before <= after:
        reason_ = f"nothing is older than {older} and newer than {newer}"
        problems.append(Problem(reason_, "Give --newer-than the larger age.", path="--older-than"))
    if problems:
        raise InvalidInput(problems)
    return {"agent": agent, "reason": reason, "before": before, "after": after}


def _check_chosen(selection: Selection, what: str) -> None:
    if selection.every and selection.ids:
        raise InvalidInput(Problem("--all and ids contradict each other", "Give one of the two."))
    if selection.every or selection.ids or any(value is not None for value in selection.chosen.values()):
        return
    fix = "Give ids, a filter (--agent, --reason, --older-than, --newer-than), or --all."
    raise InvalidInput(Problem(f"no dead letters are chosen to be {what}", fix))
