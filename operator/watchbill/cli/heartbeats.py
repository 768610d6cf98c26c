"""`heartbeats`: when a crew's heartbeats are fired next, and what became of what they fired."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from watchbill.cli import output
from watchbill.cli.options import Output
from watchbill.cli.stores import StoreOptions, with_store
from watchbill.errors import MissingExtra

if TYPE_CHECKING:
    from watchbill.client import Client
    from watchbill.store.fired import FiredWork, HeartbeatReport

_HEADER: Final = ("HEARTBEAT", "SCHEDULE", "NEXT", "MISSED", "LAST", "STATE")


@with_store()
def heartbeats(
    store: StoreOptions,
    crew: Annotated[
        str | None, typer.Argument(help="The crew: NAME or NAMESPACE/NAME. Without it: all.", show_default=False)
    ] = None,
    count: Annotated[
        int, typer.Option("--count", min=1, max=100, help="Number of times and of results for each heartbeat.")
    ] = 10,
) -> int:
    """Show when heartbeats are fired next, and what became of what they fired last.

    Of one crew, all times and results are shown; of several, the first of each. Times are in the local time zone.
    """

    async def ask(client: Client) -> int:
        crews = [crew] if crew else await client.crews()
        found = [one for name in crews for one in await client.heartbeat_reports(name, most=count)]
        if store.form is not Output.TEXT:
            output.write([_plain(one) for one in found], store.form)
        elif not found:
            output.say("there are no heartbeats. To create one: watchbill apply -f FILE")
        elif crew:
            for number, one in enumerate(found):
                if number:
                    output.blank()
                _show(one)
        else:
            output.table(("CREW", *_HEADER), [(one.crew.partition("/")[2], *_row(one)) for one in found])
        if store.form is Output.TEXT:
            for sentence in await _at_rest(found):
                output.say(sentence)
        return 0

    return store.run(ask)


def _show(one: HeartbeatReport) -> None:
    output.table(_HEADER, [_row(one)])
    if len(one.next) > 1:
        output.blank()
        output.table(("FIRED NEXT",), [(f"{at.astimezone():%F %T}",) for at in one.next])
    if one.last:
        output.blank()
        output.table(("FIRED", "ID", "STATE", "TOOK"), [_work(work) for work in one.last])


def _row(one: HeartbeatReport) -> tuple[str, ...]:
    at_rest = "no room for crew" if one.hold else "crew suspended" if one.crew_suspended else "suspended"
    following = f"{one.next[0].astimezone():%F %T}" if one.next else at_rest
    last = one.last[0] if one.last else None
    fired = f"{last.fired.astimezone():%F %T}" if last else "-"
    return one.name, one.schedule, following, str(one.missed), fired, last.state if last else "-"


async def _at_rest(found: Sequence[HeartbeatReport]) -> list[str]:
    """Sentences about the crews of these heartbeats that keep them from firing, or whose changes are not taken up."""
    told = {}
    for one in found:
        if one.hold:
            told[one.crew] = f"there is no room for crew {one.crew}, and none of its heartbeats fires: {one.hold}"
        elif one.crew_suspended:
            why = f"crew {one.crew} is suspended, and none of its heartbeats fires until: watchbill resume {one.crew}"
            told[one.crew] = why
    managed = {one.crew for one in found if one.managed}
    try:
        from watchbill.cli import pods
    except MissingExtra:
        return list(told.values())
    return [*told.values(), *(await pods.paused(managed) if managed else ())]


def _work(work: FiredWork) -> tuple[str, ...]:
    took = output.seconds(max((work.finished - work.fired).total_seconds(), 0)) if work.finished else "-"
    return f"{work.fired.astimezone():%F %T}", work.id, work.state, took


def _plain(one: HeartbeatReport) -> dict[str, Any]:
    from watchbill.store.heartbeats import iso

    works = [
        {**dataclasses.asdict(w), "fired": iso(w.fired), "finished": iso(w.finished) if w.finished else None}
        for w in one.last
    ]
    return {**dataclasses.asdict(one), "next": [iso(at) for at in one.next], "last": works}
