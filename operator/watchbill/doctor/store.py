"""Examines the store: its version, policy, persistence and clock, and the rights of our user. Writes nothing.

Rights are tried out by queuing each command in a transaction that is discarded: the server checks a command's rights
when it queues it. ACL DRYRUN would need a right that no user of ours has.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import redis
import redis.asyncio

from watchbill import connection
from watchbill.connection import outages
from watchbill.connection.url import Target
from watchbill.doctor.findings import Finding, Severity, skew
from watchbill.errors import WatchbillError
from watchbill.store import eviction, rights

OLDEST: Final = (7, 0)
"""The oldest version of Redis whose scripts can do what ours do."""
_CLI: Final = 'redis-cli -u "$WATCHBILL_REDIS_URL"'
_RIGHTS: Final = (
    "~wb:* ~crew:* &wb:* &wb:{*}:wake +@read +@write +@connection +@pubsub +@transaction -@dangerous "
    "+eval +evalsha +info +time +wait +cluster|slots"
)

KEYS: Final = ("wb:{doctor}:probe", "crew:{doctor}:probe")


async def examine(target: Target, shown: str, *, makes_users: bool = False) -> list[Finding]:
    """`shown`: the store in words. `makes_users`: our user is to make users for crews. Raises nothing: a
    store that can't be reached is a finding."""
    try:
        async with connection.connected(target) as client:
            return [finding async for finding in _examine(client, shown, makes_users=makes_users)]
    except (WatchbillError, redis.exceptions.RedisError, OSError) as error:
        return [Finding("store", Severity.ERROR, f"{shown} doesn't answer: {error}", f"{_CLI} PING")]


async def _examine(client: redis.asyncio.Redis, shown: str, *, makes_users: bool) -> AsyncIterator[Finding]:
    with outages.translated():
        masters = await connection.masters(client)
        for address, server in masters.items():
            place = f"the store at {address}" if address else shown
            for finding in await _server(server, place):
                yield finding
            for finding in await _rights(server, place, makes_users=makes_users):
                yield finding
    if fault := await eviction.fault(client):
        yield Finding("store", Severity.ERROR, fault.reason, f"{_CLI} CONFIG SET maxmemory-policy {eviction.SAFE}")


async def _server(server: redis.asyncio.Redis, place: str) -> list[Finding]:
    try:
        info: dict[str, Any] = await server.info()
    except redis.exceptions.NoPermissionError:
        message = f"our user at {place} may not ask INFO, so neither its version nor its persistence is known"
        return [Finding("store", Severity.ERROR, message, f"{_CLI} ACL SETUSER NAME +info")]
    now = time.time  # noqa: TID251 - compared with the server's
    asked = now()
    seconds, micros = await server.time()
    clock = skew("clock", place, seconds + micros / 1e6, asked, now())
    return [*_version(info, place), *_persistence(info, place), clock]


def _version(info: dict[str, Any], place: str) -> Iterator[Finding]:
    redis_version = str(info.get("redis_version", "0"))
    named = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {redis_version}"
    numbers = tuple(int(part) for part in redis_version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        message = f"{place} is {named}, and Redis {'.'.join(map(str, OLDEST))} is the oldest that works"
        yield Finding(
            "store", Severity.ERROR, message, "helm upgrade watchbill charts/watchbill --set valkey.enabled=true"
        )
    else:
        yield Finding("store", Severity.OK, f"{place} is {named}, and answers")


def _persistence(info: dict[str, Any], place: str) -> Iterator[Finding]:
    if not info.get("aof_enabled"):
        message = f"{place} has appendonly off, so a restart loses all since its last snapshot"
        yield Finding("persistence", Severity.WARNING, message, f"{_CLI} CONFIG SET appendonly yes")
    elif info.get("aof_last_write_status", "ok") != "ok":
        message = f"{place} can't write its log to disk ({info['aof_last_write_status']})"
        yield Finding("persistence", Severity.ERROR, message, "df -h   # on its machine, in its data folder")
    else:
        yield Finding("persistence", Severity.OK, f"{place} writes its log to disk")


async def _rights(server: redis.asyncio.Redis, place: str, *, makes_users: bool) -> list[Finding]:
    refused: list[str] = []
    keys: list[str] = []
    commands = [line.replace(" K", f" {key}") for key in KEYS for line in rights.COMMANDS]
    commands += rights.FOR_USERS if makes_users else ()
    opened = await _sent(server, ["MULTI", "DISCARD"])
    if any(isinstance(reply, Exception) for reply in opened):  # without a transaction they would be carried out
        refused = ["MULTI", "DISCARD"]
    else:
        replies = await _sent(server, ["MULTI", *commands, "DISCARD"])
        for command, reply in zip(commands, replies[1:-1], strict=True):
            if isinstance(reply, redis.exceptions.NoPermissionError):
                about_keys = "key" in str(reply) or "channel" in str(reply)
                (keys if about_keys else refused).append(command.split()[1 if about_keys else 0])
    more = " +acl|setuser +acl|deluser +acl|users" if makes_users else ""
    fix = f"{_CLI} ACL SETUSER NAME {_RIGHTS}{more}   # docs/redis.md has those of a single crew"
    if refused:
        message = f"our user at {place} may not call {', '.join(dict.fromkeys(refused))}"
        return [Finding("acl", Severity.ERROR, message, fix)]
    if keys:
        message = (
            f"our user at {place} reaches only some keys: enough for a single crew's workers, not for the operator"
        )
        return [Finding("acl", Severity.WARNING, message, fix)]
    return [Finding("acl", Severity.OK, f"our user at {place} may do all that crews and the operator need")]


async def _sent(server: redis.asyncio.Redis, lines: Sequence[str]) -> list[Any]:
    """The replies to commands that one connection gets in one go; errors are among them.

    No pipeline, because redis-py would take the answer QUEUED for that of the command.
    """
    pool = server.connection_pool
    one = await pool.get_connection()
    replies: list[Any] = []
    try:
        await one.send_packed_command(one.pack_commands([line.split() for line in lines]))
        for _ in lines:
            try:
                replies.append(await one.read_response())
            except redis.exceptions.ResponseError as error:
                replies.append(error)
    finally:
        await one.disconnect()  # also out of a transaction
        await pool.release(one)
    return replies
