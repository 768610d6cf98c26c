"""Suspends and resumes crews: in the store, or, where an operator manages the crew, in the Kubernetes cluster."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from watchbill.cli import output
from watchbill.cli.options import Output
from watchbill.clock import Patience
from watchbill.errors import Conflict, UserActionRequired

if TYPE_CHECKING:
    from watchbill.client import Client
    from watchbill.kubernetes_api import KubernetesApi

TAKEN_UP_SECONDS: Final = 60.0
"""An operator that has not taken up a change after so long is not waited for."""
_LOOK_SECONDS: Final = 0.05
_QUIET_SECONDS: Final = 5.0


async def tell(client: Client, crew: str, form: Output, *, on: bool) -> int:
    """Suspends or resumes the crew, and prints its state. Returns the exit code."""
    full, state = client.keys(crew).crew, "suspended" if on else "resumed"
    was = await client.is_suspended(crew)
    is_opened = not on and await client.open_crew(crew)
    if was or not is_opened:
        await turn(client, crew, on=on)
    if hold := await client.hold(crew):
        output.say(f"no task of the crew begins in any case: {hold}")
    if form is Output.TEXT:
        sys.stdout.write(f"{state}\n")
        sys.stdout.flush()
        if is_opened:
            output.say(f"{crew} takes work again")
        elif was is on:
            output.say(f"nothing was changed: {crew} {'is suspended already' if on else 'was not suspended'}")
    else:
        output.write({"crew": full, "suspended": on}, form)
    if on and (running := (await client.figures(crew)).running):
        output.say(f"{output.many(running, 'task')} that began before will end as usual")
    return 0


async def turn(client: Client, crew: str, *, on: bool) -> None:
    """Suspends or resumes the crew. When this returns, the store knows. Raises UserActionRequired, Conflict."""
    if await client.owner(crew):
        await _in_cluster(client, crew, on=on)
    else:
        await (client.suspend(crew) if on else client.resume(crew))


@asynccontextmanager
async def cluster_of(client: Client, crew: str, command: str) -> AsyncIterator[tuple[KubernetesApi, str]]:
    """Connects to the cluster of the current kubeconfig, which has the Crew, and yields the Crew's uid, too.

    `command` does the same with kubectl, for messages. Raises UserActionRequired, Conflict.
    """
    from watchbill.kubernetes_api import KubernetesApi

    full = client.keys(crew).crew
    namespace, _, name = full.partition("/")
    try:
        connection = await KubernetesApi.connect()
    except UserActionRequired as error:
        raise UserActionRequired(f"an operator manages crew {full!r}, and {error}; or use: {command}") from error
    async with connection as api:
        seen = await api.get("crews", namespace, name)
        if seen is None or seen["metadata"]["uid"] != await client.uid(crew):
            raise Conflict(
                f"the operator that manages crew {full!r} is not in the cluster of the current kubeconfig. "
                f"In its own: {command}"
            )
        yield api, seen["metadata"]["uid"]


async def _in_cluster(client: Client, crew: str, *, on: bool) -> None:
    """Changes the Crew, and waits until the operator has told the store. Raises UserActionRequired, Conflict."""
    from watchbill.store import suspension

    keys = client.keys(crew)
    namespace, _, name = keys.crew.partition("/")
    async with cluster_of(client, crew, suspension.by_kubectl(keys, on=on)) as (api, uid):
        await api.merge("crews", namespace, name, {"metadata": {"uid": uid}, "spec": {"suspend": on}})
    waits = f"waiting until an operator has taken it up: {TAKEN_UP_SECONDS:.0f} s at most"
    notice = asyncio.get_running_loop().call_later(_QUIET_SECONDS, output.say, waits)
    try:
        async with Patience(TAKEN_UP_SECONDS):
            while await client.is_suspended(crew) is not on and not await client.hold(crew):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError as error:
        raise Conflict(
            f"the Crew {keys.crew!r} says it now, and no operator has taken it up after {TAKEN_UP_SECONDS:.0f} s. "
            f"Is it running? Why not: watchbill doctor"
        ) from error
    finally:
        notice.cancel()
