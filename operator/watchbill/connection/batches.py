"""Many commands at once: in batches, each to the server that has their keys. Knows nothing of what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import redis.asyncio
from redis.exceptions import NoScriptError, ReadOnlyError

from watchbill.connection import scripts
from watchbill.connection.client import BROKEN, LeanClient
from watchbill.connection.cluster import ELSEWHERE, ClusterClient, key_of

BATCH: Final = 250
AT_ONCE: Final = 2
"""Batches under way at one server: it works on one while the answers to the other are read."""

Command = Sequence[Any]


async def send(client: redis.asyncio.Redis, commands: Sequence[Command]) -> list[Any]:
    """Sends commands that each have a key, and that are safe to send twice. Returns their answers in order; an answer
    may be an exception. A server that is away delays no command for another. `client`: one made by `connect`."""
    if not isinstance(client, LeanClient):
        raise TypeError("only a client made by `connect` knows its servers")
    answers: list[Any] = [None] * len(commands)
    of_server: dict[LeanClient, list[int]] = {}
    for index, command in enumerate(commands):
        try:
            of_server.setdefault(await client.home(str(key_of(command))), []).append(index)
        except Exception as error:  # nobody serves its slot
            answers[index] = error

    async def send_to(server: LeanClient, indices: Sequence[int]) -> None:
        room = asyncio.Semaphore(AT_ONCE)

        async def send_batch(batch: Sequence[int]) -> None:
            async with room:
                found = await _answers(server, [commands[index] for index in batch])
            for index, answer in zip(batch, found, strict=True):
                moved = isinstance(answer, ELSEWHERE) and isinstance(client, ClusterClient)
                answers[index] = await _answer(client, commands[index]) if moved else answer

        await asyncio.gather(*(send_batch(indices[at : at + BATCH]) for at in range(0, len(indices), BATCH)))

    await asyncio.gather(*(send_to(server, indices) for server, indices in of_server.items()))
    return answers


async def run(
    client: redis.asyncio.Redis, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]
) -> list[Any]:
    """Runs a script for each of the calls (keys, arguments), as `scripts.run` does. Returns the answers in order; an
    answer may be an exception."""
    text, digest = scripts.source(name)
    answers = await send(client, [("EVALSHA", digest, len(keys), *keys, *args) for keys, args in calls])
    new = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    texts = [("EVAL", text, len(calls[index][0]), *calls[index][0], *calls[index][1]) for index in new]
    for index, answer in zip(new, await send(client, texts), strict=True):
        answers[index] = answer
    return answers


async def _answer(client: LeanClient, command: Command) -> Any:
    try:
        return await client.execute_command(*command)
    except Exception as error:
        return error


async def _answers(server: LeanClient, commands: Sequence[Command]) -> list[Any]:
    try:
        try:
            return await server.execute_all(commands)
        except (*BROKEN, ReadOnlyError):  # an old connection: once more, on a new one
            return await server.execute_all(commands)
    except Exception as error:
        return [error] * len(commands)
