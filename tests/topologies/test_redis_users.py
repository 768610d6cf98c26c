"""The users that the operator makes for crews: they do all their crew's work, and reach nothing of another crew."""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import servers
from everyday import work
from workshop import Crew

from ports import HOST
from watchbill import connection, message_names, names
from watchbill.connection import scripts
from watchbill.names import CrewKeys
from watchbill.store import users
from watchbill.store.crews import CrewRedis

CrewIn = Callable[..., Any]
Fresh = Callable[..., servers.Store]
USER, PASSWORD = "watchbill:0:test/crew", "hunter2"
HASH = hashlib.sha256(PASSWORD.encode()).hexdigest()


async def given(store: servers.Store, crew: Crew) -> str:
    """Makes the crew's user at each server. Returns the URL for it."""
    async with connection.connected(store.url) as client:
        for one in (await connection.servers(client)).values():
            server = await users.server(one)
            await users.put(one, server.newer, [(USER, crew.keys, [HASH])])
    return store.url.replace("://", f"://{USER.replace(':', '%3A').replace('/', '%2F')}:{PASSWORD}@")


def every_key(keys: CrewKeys) -> list[str]:
    """A key or channel of each kind that a crew has, as names.py makes them: of both of its queues."""
    found: set[str] = set()
    for queue in (keys, keys.deliveries()):
        for name in dir(CrewKeys):
            if name.startswith("_") or name in ("crew", "deliveries"):
                continue
            made = getattr(queue, name)
            if callable(made):
                made = made(
                    *(1 if p.annotation == "int" else "t1" for p in inspect.signature(made).parameters.values())
                )
            found.update([made] if isinstance(made, str) else made)
        for stem in (queue.prefix, queue.history):
            found |= {message_names.lock("l", stem), message_names.rate_log("r", "k", stem)}
            found |= {message_names.cache_recent(stem), message_names.cache_history(stem, "a")}
            found |= {message_names.stream("s", stem), message_names.channel("c", stem)}
    namespace, _, name = keys.crew.partition("/")
    found |= {names.crew_record(namespace, name), names.crew_index(namespace), names.crew_by_id(namespace, "i")}
    return sorted(found | {names.crew_tenants(), names.published("s", keys.crew), names.delivered("s")})


def attempts(mine: CrewKeys, theirs: CrewKeys) -> Iterator[tuple[Any, ...]]:
    """Commands by which a user of `mine` would read, write, forge or hear something of `theirs`."""
    own = mine.task("t")
    for key in every_key(theirs):
        yield from (("GET", key), ("SET", key, "x"), ("DEL", key), ("TYPE", key), ("HSET", key, "uid", "x"))
        yield from (("HGETALL", key), ("XADD", key, "*", "id", "x"), ("XRANGE", key, "-", "+"), ("EXPIRE", key, 1))
        yield from (("BLPOP", key, 1), ("XREAD", "STREAMS", key, "0"), ("MGET", own, key), ("RENAME", own, key))
        yield from (("COPY", key, own), ("DUMP", key), ("RESTORE", key, 0, "x"), ("ZADD", key, 1, "w"))
        yield from (("EVAL", "return redis.call('GET', KEYS[1])", 1, key),)
        yield from (("EVAL", f"return redis.call('GET', '{key}')", 1, own),)
        yield from (("PUBLISH", key, "x"), ("SUBSCRIBE", key), ("PSUBSCRIBE", key + "*"), ("SPUBLISH", key, "x"))
        yield from (("SSUBSCRIBE", key), ("EVAL", f"return redis.call('PUBLISH', '{key}', 'x')", 1, own))
    yield from (("KEYS", "*"), ("SCAN", "0"), ("RANDOMKEY",), ("DBSIZE",), ("FLUSHALL",), ("FLUSHDB",))
    yield from (("CONFIG", "GET", "*"), ("CONFIG", "SET", "requirepass", "x"), ("ACL", "LIST"), ("ACL", "WHOAMI"))
    yield from (("ACL", "SETUSER", USER, "allkeys"), ("ACL", "DELUSER", "default"), ("MONITOR",), ("CLIENT", "LIST"))
    yield from (("CLIENT", "KILL", "TYPE", "normal"), ("CLIENT", "PAUSE", "1"), ("SAVE",))
    yield from (("SWAPDB", "0", "1"), ("MOVE", own, "1"), ("SHUTDOWN",), ("REPLICAOF", "NO", "ONE"), ("ROLE",))
    yield from (("MIGRATE", HOST, "1", own, "0", "1"), ("PSUBSCRIBE", "*"), ("PSUBSCRIBE", "wb:{*}:wake"))
    yield from (
        ("PUBSUB", "CHANNELS"),
        ("PUBSUB", "NUMSUB", theirs.control),
        ("SCRIPT", "FLUSH"),
        ("SCRIPT", "LOAD", "x"),
    )
    yield from (("FUNCTION", "FLUSH"), ("FUNCTION", "LIST"), ("FCALL", "f", 0), ("MODULE", "LIST"), ("SLOWLOG", "GET"))
    yield from (("LATENCY", "LATEST"), ("MEMORY", "STATS"), ("OBJECT", "ENCODING", own), ("SORT", own, "BY", "w*"))
    yield from (("CLUSTER", "NODES"), ("CLUSTER", "RESET"), ("FAILOVER",), ("SYNC",), ("LASTSAVE",))


@pytest.mark.parametrize("name", ["valkey-standalone", "redis7-standalone", "valkey-cluster"])
async def test_it_does_all_work_of_its_crew_and_reaches_no_other(
    fresh_store: Fresh, crew_in: CrewIn, name: str
) -> None:
    store = fresh_store(name)
    theirs = await crew_in(store, {"a": "Brief"})
    await theirs.submit("t1", "a", "of another team")
    async with CrewRedis(theirs.url, tenant="test", db=0, strict=True) as records:
        await records.save_crew(theirs.definition)
    crew = await crew_in(store, {"a": "SayingGate", "b": "Shaky"}, tasks={"backoff_seconds": 0.1, "max_attempts": 2})
    confined = await crew.through(await given(store, crew))
    try:
        await work(confined)
    finally:
        confined.kill()
    before = contents(store, theirs.keys)
    assert theirs.keys.task("t1") in before
    home = store.home(crew.keys.meta)
    # Redis tells who may not do that before it looks where a key is, and whether the arguments make sense.
    with redis.Redis(host=HOST, port=home.port, username=USER, password=PASSWORD) as server:
        commands = list(attempts(crew.keys, theirs.keys))
        allowed = [command for command in commands if not refused(server, command)]
        assert allowed == []
        for script in ("claim", "submit", "finish", "delete", "apply", "figures", "drain"):
            text, _ = scripts.source(script)
            assert refused(server, ("EVAL", text, len(theirs.keys.fixed), *theirs.keys.fixed, theirs.uid, "x", "1"))
            mixed = (crew.keys.meta, *theirs.keys.fixed[1:])
            assert refused(server, ("EVAL", text, len(mixed), *mixed, crew.uid, "x", "1"))
    assert contents(store, theirs.keys) == before


def refused(server: redis.Redis, command: tuple[Any, ...]) -> bool:
    """Returns whether the server says that the user may not do that."""
    one = server.connection_pool.get_connection()
    try:
        one.send_command(*command)
        one.read_response()
    except redis.exceptions.ResponseError as error:
        said = str(error)  # what a script was refused has no class of its own
        in_script = "executing the script can't" in said or "ACL failure in script" in said
        return isinstance(error, redis.exceptions.NoPermissionError) or in_script
    else:
        one.disconnect()  # it may be subscribed now
        return False
    finally:
        server.connection_pool.release(one)


def contents(store: servers.Store, keys: CrewKeys) -> dict[str, Any]:
    """All that the store has of a crew, and of records, byte for byte."""
    found: dict[str, Any] = {}
    for server in store.servers:
        with server.client() as client:
            options = {**client.connection_pool.connection_kwargs, "decode_responses": False}
        with redis.Redis(**{k: options[k] for k in ("host", "port", "decode_responses")}) as client:
            for key in itertools.chain(client.scan_iter(f"{keys.root}*"), client.scan_iter("crew:*")):
                found[key.decode()] = client.dump(key)
    return found
