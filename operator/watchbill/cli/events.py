"""`events`: the events of a crew, past and new."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from watchbill.cli import output
from watchbill.cli.options import (
    CrewArgument,
    Output,
    refuse_together,
)
from watchbill.cli.stores import StoreOptions, with_store
from watchbill.errors import NewerRecord
from watchbill.plan import flow

if TYPE_CHECKING:
    from watchbill.client import Client
    from watchbill.connection.url import Target


@with_store()
def events(
    store: StoreOptions,
    crew: CrewArgument,
    agent: Annotated[
        str | None, typer.Option("--agent", help="Show only events of this agent.", show_default=False)
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="Show only events of this run.", show_default=False)
    ] = None,
    deliveries: Annotated[
        bool,
        typer.Option("--deliveries", help="Show events of deliveries. Each is a task, and destinations its agents."),
    ] = False,
    count: Annotated[int, typer.Option("--count", min=0, help="Number of events to show, the newest ones.")] = 20,
    after: Annotated[
        str | None,
        typer.Option(
            "--after", metavar="ID", help="Show only events later than the one of this id.", show_default=False
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new events as they come, until Ctrl-C.")
    ] = False,
) -> int:
    """Print the newest events of a crew, an agent or a run. With --output json: one object a line, with its id.

    Events call a run a mission. A line "events were missed" stands where events were deleted before they were read.
    """
    fix = "Choose one of the feeds."
    refuse_together(
        {
            ("--agent", "--run"): (agent, run, fix),
            ("--deliveries", "--agent"): (deliveries, agent, fix),
            ("--deliveries", "--run"): (deliveries, run, fix),
        }
    )
    which = Feed(crew, agent, run, deliveries)
    _check_id(after)

    async def work(client: Client, target: Target) -> int:
        if follow and after is not None:
            await _check_exists(client, which)
            last = after
        else:
            last = await _past(client, target, which, after, count, store.form)
        if follow:
            async for entry_id, event in client.follow(crew, **which.options, after=last):
                output.event(entry_id, event, store.form)
        return 0

    return store.run_on(work)


class Feed(NamedTuple):
    """The feed that is asked for."""

    crew: str
    agent: str | None
    run: str | None
    deliveries: bool

    @property
    def options(self) -> dict[str, Any]:
        return {"agent": self.agent, "run": self.run, "deliveries": self.deliveries}


async def _past(client: Client, target: Target, which: Feed, after: str | None, count: int, form: Output) -> str:
    """Prints past events. Returns the id of the last event. Raises NotFound."""
    from watchbill import connection
    from watchbill.store import events as feed

    last = after or feed.BEGINNING
    if after is not None:
        keys = client.keys(which.crew)
        keys = keys.deliveries() if which.deliveries else keys
        async with connection.connected(target) as redis:
            found = await feed.read(redis, feed.stream(keys, agent=which.agent, run=which.run), after, count)
    else:
        found = await client.events(which.crew, **which.options, count=count) if count else []
    if not found:
        await _check_exists(client, which)
    for entry_id, event in found:
        output.event(entry_id, event, form)
        last = entry_id
    if not count and after is None:  # only what comes from now on
        newest = await client.events(which.crew, **which.options, count=1)
        last = newest[-1][0] if newest else last
    return last


async def _check_exists(client: Client, which: Feed) -> None:
    """Raises NotFound if there is no such crew or run. The feed of a run may outlast its record, and that of an agent
    its place in the crew: so one that is not there is only told."""
    await client.figures(which.crew)
    if which.agent is not None and not which.deliveries:
        with contextlib.suppress(NewerRecord):  # which only the note needs
            plan = flow.Plan(await client.crew(which.crew))
            if plan.member(which.agent) is None:
                listed = ", ".join(agent.agent_id for agent in plan.crew.agents)
                output.say(f"note: crew {which.crew!r} has no agent {which.agent!r}; it has: {listed}")
    if which.run is not None and not await client.events(which.crew, run=which.run, count=1):
        await client.status(which.crew, which.run)


def _check_id(after: str | None) -> None:
    import re

    from watchbill.errors import InvalidInput, Problem

    if after is not None and not re.fullmatch(r"\d{1,19}(-\d{1,19})?", after):
        fix = "Use one that `watchbill events --output json` shows, as in 1763689523123-0."
        raise InvalidInput(Problem(f"{after!r} is not the id of an event", fix, path="--after"))
