"""The Lua scripts: loading them, and calling them by their hash. Knows nothing of what they do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import Any

import redis
import redis.asyncio

from watchbill.connection.client import LeanClient


@cache
def source(name: str) -> tuple[str, str]:
    """(text, SHA-1) of store/scripts/NAME.lua with the shared parts that it uses put in behind its first line.
    `messaging/NAME` is messaging/scripts/NAME.lua.

    A script whose second line names no parts is sent as it is: all that know no crew. Those of crew records and of
    event streams have no first line `#!lua` either, because they run on fakeredis too, and that knows no such line.
    """
    package, _, file = name.rpartition("/")
    folder = resources.files(f"watchbill.{package or 'store'}").joinpath("scripts")
    text = folder.joinpath(f"{file}.lua").read_text("utf-8")
    shebang, uses, body = text.split("\n", 2)
    if uses.startswith("-- uses "):
        names = [f"lib_{part}" for part in uses.removeprefix("-- uses ").split() if part != "nothing"]
        lib, *parts = (folder.joinpath(f"{part}.lua").read_text("utf-8") for part in ("lib", *names))
        # In a function of their own: making those of the parts then costs a fifth less, at each call.
        text = "\n".join((shebang, lib, "return (function()", *parts, body, "end)()"))
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


async def run(
    client: redis.asyncio.Redis,
    name: str,
    keys: Sequence[str],
    args: Sequence[Any],
    sent: Callable[[], None] | None = None,
) -> Any:
    """Runs a script by its hash; sends its text when the server (new, restarted, failed over) doesn't know it.

    `sent` is called once the call is on its way, before its answer is waited for; and again if it is sent again.
    """
    text, digest = source(name)
    try:
        if sent is not None:
            call = client.execute_command("EVALSHA", digest, len(keys), *keys, *args, sent=sent)
            return await call
        return await client.evalsha(digest, len(keys), *keys, *args)
    except redis.exceptions.NoScriptError:
        return await client.eval(text, len(keys), *keys, *args)


async def wait_and_run(
    client: redis.asyncio.Redis, wait: Sequence[Any], name: str, keys: Sequence[str], args: Sequence[Any]
) -> tuple[Any, Any]:
    """Sends a command that blocks, and a script that runs the moment it ends. Returns both answers; each may be an
    error."""
    _, digest = source(name)
    call = ("EVALSHA", digest, len(keys), *keys, *args)
    if isinstance(client, LeanClient):
        waited, reply = await client.execute_two(wait, call)
    else:
        waited = await client.execute_command(*wait)
        reply = redis.exceptions.NoScriptError()
    if isinstance(reply, redis.exceptions.NoScriptError):
        reply = await run(client, name, keys, args)
    return waited, reply


async def run_and_confirm(
    client: redis.asyncio.Redis, name: str, keys: Sequence[str], args: Sequence[Any], confirm: Sequence[Any]
) -> tuple[Any, Any]:
    """Runs a script and, right behind it on its connection, a command that asks how safe its writes are. Returns both
    answers; the second may be an error."""
    text, digest = source(name)
    if not isinstance(client, LeanClient):
        raise TypeError("only a client made by `connect` can tell how safe a write is")
    for what in (("EVALSHA", digest), ("EVAL", text)):
        call = (*what, len(keys), *keys, *args)
        try:
            reply, confirmed = await client.execute_two(call, confirm)
        except (
            redis.exceptions.ConnectionError,
            redis.exceptions.ReadOnlyError,
        ):  # an old one: once more, on a new one
            reply, confirmed = await client.execute_two(call, confirm)
        if not isinstance(reply, redis.exceptions.NoScriptError):
            break
    if isinstance(reply, Exception):
        raise reply
    return reply, confirmed


def run_sync(client: redis.Redis, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
    """Runs a script from a thread. Closes the connections where the server is no master any more."""
    text, digest = source(name)
    try:
        return client.evalsha(digest, len(keys), *keys, *args)
    except redis.exceptions.NoScriptError:
        return client.eval(text, len(keys), *keys, *args)
    except redis.exceptions.ReadOnlyError:  # no master any more: whoever connects anew may find the one that is
        client.connection_pool.disconnect()
        raise
