"""`sessions`: list, show and delete what agents remember."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from watchbill.cli import output
from watchbill.cli.options import CrewArgument, Output
from watchbill.cli.stores import StoreOptions, with_store
from watchbill.errors import InvalidInput, NotFound, Problem
from watchbill.terminal import one_line, printable

if TYPE_CHECKING:
    from watchbill.client import Client

_HEADER: Final = ("SESSION", "AGENT", "TURNS", "EXPIRES IN")

SessionArgument = Annotated[
    str, typer.Argument(metavar="SESSION", help="Id of a session: the session_id of its tasks.")
]


@with_store()
def list_(store: StoreOptions, crew: CrewArgument) -> int:
    """List the sessions that the crew's agents remember, the newest first."""

    async def ask(client: Client) -> int:
        found = await client.sessions(crew)
        if store.form is not Output.TEXT:
            plain = [
                {
                    "session": one.session_id,
                    "agent": one.agent,
                    "turns": one.turns,
                    "expires": one.expires_at.isoformat(),
                }
                for one in found
            ]
            output.write(plain, store.form)
        elif found:
            now = output.now()
            left = [output.seconds(max((one.expires_at - now).total_seconds(), 0)) for one in found]
            rows = zip(found, left, strict=True)
            output.table(_HEADER, [(one.session_id, one.agent, str(one.turns), when) for one, when in rows])
        else:
            output.say("no sessions")
        return 0

    return store.run(ask)


@with_store()
def show(
    store: StoreOptions,
    crew: CrewArgument,
    session: SessionArgument,
    agent: Annotated[str | None, typer.Option("--agent", help="Name of the agent, where several have it.")] = None,
) -> int:
    """Show the turns of a session, oldest first."""

    async def ask(client: Client) -> int:
        turns = await client.session(crew, session, agent=agent or await _only_agent(client, crew, session))
        if store.form is not Output.TEXT:
            plain = [
                {"task": turn.task_id, "at": turn.at.isoformat(), "prompt": turn.prompt, "answer": turn.answer}
                for turn in turns
            ]
            output.write(plain, store.form)
            return 0
        for turn in turns:
            sys.stdout.write(f"{turn.at.isoformat(timespec='seconds')} {one_line(turn.task_id)}\n")
            sys.stdout.write(f"> {printable(turn.prompt)}\n{printable(turn.answer)}\n\n")
        return 0

    return store.run(ask)


@with_store()
def delete(
    store: StoreOptions,
    crew: CrewArgument,
    session: SessionArgument,
    agent: Annotated[str | None, typer.Option("--agent", help="Name of one agent. Default: all that have it.")] = None,
) -> int:
    """Delete a session: its agents forget what was said in it."""

    async def ask(client: Client) -> int:
        agents = await client.delete_session(crew, session, agent=agent)
        if store.form is not Output.TEXT:
            output.write({"session": session, "agents": agents}, store.form)
        else:
            output.say(f"deleted session {session} of {', '.join(agents)}")
        return 0

    return store.run(ask)


async def _only_agent(client: Client, crew: str, session: str) -> str:
    agents = [one.agent for one in await client.sessions(crew) if one.session_id == session]
    if not agents:
        raise NotFound(f"crew {crew!r} has no session {session!r} (or it has expired)")
    if len(agents) > 1:
        reason = f"several agents have session {session!r}"
        raise InvalidInput(Problem(reason, f"Name one with --agent: {', '.join(sorted(agents))}.", path="--agent"))
    return agents[0]
