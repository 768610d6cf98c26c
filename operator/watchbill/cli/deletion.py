"""Deletes crews once their work has ended: in the store, or, where an operator manages one, in the cluster."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final

from watchbill.cli import output, suspension
from watchbill.errors import Conflict, NotFound

if TYPE_CHECKING:
    from watchbill.client import Client

_LOOK_SECONDS: Final = 0.25
_READ_SECONDS: Final = 3.0
"""Seconds for which results that were just written are kept, for those who wait for them: who isn't told looks every
two."""


async def drained(client: Client, crews: list[str], timeout: float | None, *, running_only: bool) -> int:
    """Closes the crews to new work, and deletes them as soon as none of them has work, or work that runs. Returns the
    exit code.

    `timeout` is in seconds. After it, or after an error or a signal, no crew is deleted: the crews take work again, and
    those that were suspended for it are resumed.
    """
    async with AsyncExitStack() as clusters:
        managed = {
            crew: await clusters.enter_async_context(suspension.cluster_of(client, crew, _by_kubectl(client, crew)))
            for crew in crews
            if await client.owner(crew)
        }
        suspended: list[str] = []
        kept = list(crews)
        try:
            await _prepare(client, crews, suspended, running_only=running_only)
            waited = False
            async with asyncio.timeout(timeout):
                while await _close(client, crews, running_only=running_only):
                    waited = True
                    await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.sleep(_READ_SECONDS if waited else 0)
            for crew in crews:
                namespace, _, name = client.keys(crew).crew.partition("/")
                if crew in managed:
                    api, uid = managed[crew]
                    await api.delete("crews", namespace, name, uid=uid)
                else:
                    await client.delete(crew)
                kept.remove(crew)
                sys.stdout.write(f"crew/{name} deleted\n")
        except BaseException as error:
            said = "nothing was deleted" if kept == crews else "nothing else was deleted"
            await _give_up(client, kept, suspended, said, running_only=running_only)
            if isinstance(error, TimeoutError):
                return 1
            raise
    return 0


def _by_kubectl(client: Client, crew: str) -> str:
    namespace, _, name = client.keys(crew).crew.partition("/")
    return f"kubectl delete crew -n {namespace} {name}"


async def _prepare(client: Client, crews: list[str], suspended: list[str], *, running_only: bool) -> None:
    """Suspends the crews if only what runs is waited for, and adds them to `suspended`. Raises Conflict for work that
    would never begin."""
    for crew in crews:
        if (hold := await client.hold(crew)) and not running_only and await client.unfinished(crew):
            raise Conflict(f"no task of crew {crew!r} begins: {hold}. Add --running-only, and what waits is dropped")
        if await client.is_suspended(crew):
            if not running_only and await client.unfinished(crew):
                raise Conflict(
                    f"crew {crew!r} is suspended, so that its work does not begin. First: watchbill resume {crew}; "
                    f"or add --running-only, and what waits is dropped"
                )
        elif running_only:
            suspended.append(crew)  # before the call: if it fails half way, the crew may be suspended
            await suspension.turn(client, crew, on=True)
    for crew in crews:
        if (left := await _left(client, [crew], running_only=running_only)) and not (
            await client.figures(crew)
        ).workers:
            output.say(
                f"note: {left}, and no worker now. An operator starts one by itself; else: watchbill worker {crew}"
            )


async def _close(client: Client, crews: list[str], *, running_only: bool) -> str:
    """Closes the crews, also those that somebody has opened or the store has forgotten, and returns the work that is
    left: without any, no more can come."""
    for crew in crews:
        await client.close_crew(crew)
    return await _left(client, crews, running_only=running_only)


async def _left(client: Client, crews: list[str], *, running_only: bool) -> str:
    """Returns the work for which the crews are not deleted yet, in words; empty if there is none."""
    told = []
    for crew in crews:
        now = await client.figures(crew)
        counts = {"running": now.running}
        if not running_only:
            counts |= {"waiting": now.waiting, "set aside": now.parked, "due later": now.delayed}
        parts = [f"{count:,} {state}" for state, count in counts.items() if count]
        if not parts and not running_only and await client.unfinished(crew):
            parts = ["a run between two steps"]
        if now.deliveries and (sent := now.deliveries.waiting + now.deliveries.running):
            parts.append(f"{sent:,} to deliver")
        if parts:
            told.append(f"crew {crew!r} has {', '.join(parts)}")
    return "; ".join(told)


async def _give_up(client: Client, crews: list[str], suspended: list[str], said: str, *, running_only: bool) -> None:
    """Has the crews take work again, resumes those of them that are `suspended`, and writes what was `said` and the
    work that is left."""
    kept = list(crews)
    try:
        for crew in crews:
            with suppress(NotFound):
                if crew in suspended:
                    await suspension.turn(client, crew, on=False)
                await client.open_crew(crew)
            kept.remove(crew)
        left = await _left(client, crews, running_only=running_only)
        output.say(f"{said}: {left}" if left else said)
    finally:
        for crew in kept:
            output.say(f"{said}, and crew {crew!r} may still take no work: watchbill resume {crew}")
