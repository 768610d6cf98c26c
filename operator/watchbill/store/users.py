"""The users of crews at the store's servers: makes them, lists them, removes them.

A server keeps its users to itself: no replica and no other node of a Cluster takes them over, and a restart forgets
them. So all of this is done server by server. A user's name says which operator made it (names.redis_user).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio

from watchbill.connection import outages
from watchbill.names import CrewKeys
from watchbill.store import rights

BATCH: Final = 200
"""Users that are made by one request."""
_WAITAOF_SINCE: Final = (7, 2)


@dataclass(frozen=True, slots=True)
class Server:
    """One start of a server's process, which forgets its users when it ends."""

    run_id: str
    newer: bool
    """It knows the commands that Redis 7.0 doesn't."""


async def server(client: redis.asyncio.Redis) -> Server:
    """Asks which process answers."""
    with outages.translated():
        info: Mapping[str, Any] = await client.info("server")
    version = tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2] if part.isdigit())
    return Server(str(info.get("run_id", "")), version >= _WAITAOF_SINCE)


async def put(client: redis.asyncio.Redis, newer: bool, users: Iterable[tuple[str, CrewKeys, Sequence[str]]]) -> None:
    """Makes users, or gives them anew what they should have.

    `users`: each with its name, its crew, and the SHA-256 of the passwords that are valid. A connection of a user stays
    as it is. Raises StoreRefuses when our own user may not do that.
    """
    wanted = list(users)
    with outages.translated():
        for start in range(0, len(wanted), BATCH):
            async with client.pipeline(transaction=False) as pipe:
                for name, keys, hashes in wanted[start : start + BATCH]:
                    passwords = (f"#{digest}" for digest in hashes)
                    rules = rights.of_crew(keys, newer=newer)
                    pipe.execute_command("ACL SETUSER", name, "reset", "on", *passwords, *rules)
                replies = await pipe.execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, Exception):  # a pipeline's own error quotes the command, and with it the hashes
                    raise reply


async def names_with(client: redis.asyncio.Redis, prefix: str) -> set[str]:
    """Returns the names of a server's users that begin so."""
    with outages.translated():
        return {name for name in map(str, await client.execute_command("ACL USERS")) if name.startswith(prefix)}


async def remove(client: redis.asyncio.Redis, users: Sequence[str]) -> None:
    """Removes users from a server, which closes their connections."""
    if users:
        with outages.translated():
            await client.execute_command("ACL DELUSER", *users)
