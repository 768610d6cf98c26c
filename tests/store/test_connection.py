"""The way to the store: URLs, scripts on new servers, and what is a reason to wait."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from support import LEASE_MS, MANY, Crew, Feed, finished, flow_of, made, opened, payload, server_ms, until
from test_scripts import SCRIPTS

from watchbill import connection
from watchbill.api import Heartbeat
from watchbill.connection import outages, scripts
from watchbill.connection.url import parse, without_secret
from watchbill.errors import InvalidInput, StoreRefuses, StoreUnavailable
from watchbill.records import TaskPolicy
from watchbill.store import control, dead, definitions, figures, heartbeats, retention, runs
from watchbill.store.submissions import Submission
from watchbill.testing import FakeClock

# ---------------------------------------------------------------- URLs


@pytest.mark.pure
@pytest.mark.parametrize("connect", [connection.connect, connection.connect_sync])
@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@example.org:6379",
        "redis+sentinel://user:hunter2@example.org",  # names no service
        "redis+sentinel://user:hunter2@example.org/mymaster/first",
        "redis+cluster://user:hunter2@example.org/1",
        "redis+cluster://user:hunter2@example.org,,other",
        "redis+cluster://user:hunter2@example.org:port",
        "redis+clusters://user:hunter2@example.org",
        "redis://user:hunter2@example.org/first",
        "redis://user:hunter2@example.org?sokcet_timeout=1",
        "redis://user:hunter2@example.org?max_connections=-1",
        "redis://user:hunter2@example.org?ssl_ca_certs=/no/such/file",  # without TLS
        "rediss://user:hunter2@example.org?ssl_ca_certs=/no/such/file",
        "unix://user:hunter2@",
        "REDIS//user:hunter2@example.org",
        # no URL at all, and a password in the query, which redis-py takes, too
        "user:hunter2@example.org:6379",
        ":hunter2@example.org",
        "http://example.org/?password=hunter2",
        "",
    ],
)
def test_a_url_that_is_none_of_a_store_is_refused_without_its_password(
    connect: Callable[[str], object], url: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        connect(url)
    assert "hunter2" not in str(caught.value)
    (problem,) = caught.value.problems
    assert problem.fix


@pytest.mark.pure
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/2", "redis://localhost:6379/2"),
        ("redis://user:hunter2@host:1/0", "redis://host:1/0"),
        ("rediss://:hun@ter2@host", "rediss://host"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("unix://user:hunter2@/run/redis.sock", "unix:///run/redis.sock"),
        ("localhost:6379", "localhost:6379"),
        ("redis+sentinel://u:hunter2@a:1,b:2/mymaster/3", "redis+sentinel://a:1,b:2/mymaster/3"),
        ("rediss+cluster://u:hun@ter2@a:1,b?ssl_ca_certs=x", "rediss+cluster://a:1,b?ssl_ca_certs=x"),
    ],
)
def test_a_url_is_shown_without_user_and_password(url: str, shown: str) -> None:
    assert without_secret(url) == shown


@pytest.mark.pure
@pytest.mark.parametrize(
    ("url", "nodes", "service", "db"),
    [
        ("redis://h", (("h", 6379),), "", None),
        ("rediss://h:1/2", (("h", 1),), "", 2),
        ("redis+sentinel://a,b:2/mymaster", (("a", 26379), ("b", 2)), "mymaster", None),
        ("rediss+sentinel://u:p@a:1,b:2/my%20master/3", (("a", 1), ("b", 2)), "my master", 3),
        ("redis+cluster://[::1]:7000,h", (("::1", 7000), ("h", 6379)), "", None),
        ("rediss+cluster://u:p@h:7000/0", (("h", 7000),), "", None),
    ],
)
def test_a_url_says_which_servers(url: str, nodes: object, service: str, db: int | None) -> None:
    target = parse(url)
    assert (target.nodes, target.service, target.options.get("db")) == (nodes, service, db)
    assert target.tls == url.startswith("rediss")


@pytest.mark.pure
def test_servers_and_sentinels_may_have_passwords_of_their_own() -> None:
    url = "redis+sentinel://u:%40p@h/m?sentinel_username=su&sentinel_password=hunter2&socket_connect_timeout=1"
    target = parse(url)
    assert target.options == {"username": "u", "password": "@p", "socket_connect_timeout": 1.0}
    assert target.sentinel_options == {"username": "su", "password": "hunter2"}
    assert without_secret(url) == "redis+sentinel://h/m?socket_connect_timeout=1"


@pytest.mark.pure
@pytest.mark.parametrize("url", ["redis://host/0?password=hunter2&db=1", "unix:///s?username=u&password=hunter2"])
def test_a_password_in_the_query_is_not_shown(url: str) -> None:
    options = redis.asyncio.Redis.from_url(url).connection_pool.connection_kwargs
    assert options["password"] == "hunter2"
    assert "hunter2" not in without_secret(url)


# ---------------------------------------------------------------- what is a reason to wait


@pytest.mark.pure
@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("refused"),
        redis.TimeoutError("Timeout reading from socket"),
        redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
        redis.exceptions.ReadOnlyError("You can't write against a read only replica."),
        redis.exceptions.TryAgainError("TRYAGAIN"),
        redis.exceptions.ClusterDownError("CLUSTERDOWN"),
        redis.exceptions.MasterDownError("MASTERDOWN"),
        redis.exceptions.RedisClusterException("Redis Cluster cannot be connected"),
        redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
        redis.ResponseError("BUSY Redis is busy running a script."),
        redis.ResponseError("Command # 2 (HGET k (f)) of pipeline caused error: ('BUSY Redis is busy',)"),
        redis.ResponseError("Command # 1 (GET k) of pipeline caused error: MISCONF Redis is configured to save"),
        redis.ResponseError("UNBLOCKED force unblock from blocking operation"),
        redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'. script: x"),
        ConnectionResetError(104, "reset"),
        FileNotFoundError(2, "no socket"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_these_errors_may_pass(error: BaseException) -> None:
    assert isinstance(outages.unavailable(error), StoreUnavailable)
    with pytest.raises(StoreUnavailable) as caught, outages.translated():
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.pure
@pytest.mark.parametrize(
    "error",
    [
        redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        redis.ResponseError("ERR unknown command"),
        redis.ResponseError("BUSYGROUP Consumer Group name already exists"),
        redis.ResponseError("Command # 1 (SET k BUSY) of pipeline caused error: ('WRONGTYPE Operation',)"),
        redis.DataError("Invalid input"),
        ValueError("no"),
    ],
    ids=lambda error: str(error).split(" ", 1)[0],
)
def test_these_errors_will_not_pass(error: Exception) -> None:
    assert outages.unavailable(error) is None
    with pytest.raises(type(error)), outages.translated():
        raise error


@pytest.mark.pure
@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (redis.AuthenticationError("invalid username-password pair"), "Check user and password"),
        (redis.exceptions.NoPermissionError("this user has no permissions"), "docs/redis.md"),
        (redis.ResponseError("The user executing the script can't run this command script: 1"), "docs/redis.md"),
        (redis.ResponseError("ACL failure in script: User x has no permissions"), "docs/redis.md"),
        (redis.ConnectionError("Error 1. [SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), "ssl_ca_certs"),
        (redis.exceptions.MovedError("1 10.0.0.1:6379"), "redis+cluster://"),
        (redis.ResponseError("This instance has cluster support disabled"), "use redis://"),
    ],
    ids=lambda case: str(case).split(" ", 1)[0],
)
def test_what_somebody_must_change_is_said_so(error: Exception, advice: str) -> None:
    assert outages.unavailable(error) is None
    with pytest.raises(StoreRefuses, match=re.escape(advice)) as caught, outages.translated():
        raise error
    assert caught.value.__cause__ is error


class _Turning(FakeClock):
    """Time that passes for whoever sleeps."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)


@pytest.mark.pure
async def test_of_all_who_wait_long_one_says_so(caplog: pytest.LogCaptureFixture) -> None:
    clock, notices = _Turning(), outages.Notices()

    async def away() -> None:
        raise redis.ConnectionError("nobody there")

    async def wait() -> None:
        with pytest.raises(StoreUnavailable):
            await outages.persist(away, until=lambda: clock.monotonic() > 45, notices=notices, clock=clock)

    await asyncio.gather(wait(), wait(), wait())
    waited = [int(message.removeprefix("waiting for the store, for ").split()[0]) for message in caplog.messages]
    assert len(waited) == 2
    assert 1 <= waited[0] <= 2, "pauses have jitter"
    assert 29 <= waited[1] - waited[0] <= 33
    assert "nobody there" in caplog.messages[0]


@pytest.mark.pure
async def test_time_before_the_store_was_away_is_not_told_as_waiting(caplog: pytest.LogCaptureFixture) -> None:
    clock = _Turning()
    lost = False

    async def listen() -> str:
        nonlocal lost
        if lost:
            return "a message"
        clock.advance(7200)  # it listens for so long, and then loses its connection
        lost = True
        raise redis.ConnectionError("closed")

    assert await outages.persist(listen, notices=outages.Notices(), clock=clock) == "a message"
    assert caplog.messages == []


async def test_calls_go_on_until_the_store_answers_and_say_how_long_they_wait() -> None:
    waits: list[float] = []
    left = 3

    async def call() -> str:
        nonlocal left
        left -= 1
        if left >= 0:
            raise redis.ConnectionError("not yet")
        return "done"

    assert await outages.persist(call, on_wait=waits.append) == "done"
    assert waits == sorted(waits)
    assert len(waits) == 3


async def test_calls_end_when_it_is_time_and_at_once_for_other_errors() -> None:
    async def away() -> None:
        raise redis.ConnectionError("away")

    async def wrong() -> None:
        raise redis.ResponseError("WRONGTYPE")

    with pytest.raises(StoreUnavailable):
        await outages.persist(away, until=lambda: True)
    with pytest.raises(redis.ResponseError):
        await outages.persist(wrong, until=lambda: False)


# redis-py sends within asyncio.wait_for where there is a socket_timeout, and that of Python 3.11 drops a cancellation
# that comes when the sending is just done: here nine of ten are lost, and who waits for the task's end hangs.
async def test_a_task_that_talks_to_the_store_ends_when_it_is_cancelled(crew: Crew) -> None:
    over = False

    async def talk() -> None:
        while not over:
            await crew.client.ping()

    for _ in range(8):
        task = asyncio.create_task(talk())
        await asyncio.sleep(0.002)
        task.cancel()
        await asyncio.wait([task], timeout=5)
        over = not task.done()
        await asyncio.wait([task])
        assert not over


async def test_a_call_over_a_broken_connection_is_told_to_be_on_its_way_all_the_same(crew: Crew) -> None:
    """A worker begins tasks when the call that says so is on its way: unsaid, it would hold them for ever."""
    told = 0

    def sent() -> None:
        nonlocal told
        told += 1

    async with redis.asyncio.Redis.from_url(crew.url, decode_responses=True) as admin:
        for _ in range(20):
            told = 0
            me = await crew.client.client_id()
            assert await admin.client_kill_filter(_id=me) == 1
            assert await crew.client.execute_command("PING", sent=sent)
            assert told >= 1


@pytest.mark.parametrize("options", ["timeout=5", "max_connections=9", "socket_read_size=1024&client_name=x"])
async def test_a_thread_may_have_what_the_url_says_of_connections_and_pools(redis_url: str, options: str) -> None:
    store = connection.Store(f"{redis_url}{'&' if '?' in redis_url else '?'}{options}")
    async with store:
        assert await store.client.ping()
    with store.connect_sync() as sync:
        assert sync.ping()


# ---------------------------------------------------------------- scripts


async def test_scripts_are_sent_again_to_a_server_that_has_forgotten_them(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1")
        await crew.client.script_flush()
        assert [t.id for t in await crew.take("w")] == ["t1"]
        sync = connection.connect_sync(crew.url)
        await crew.client.script_flush()
        await asyncio.to_thread(crew.queue.renew, sync, "w", 1000, "{}")
        sync.close()
        assert await crew.client.hlen(crew.keys.workers) == 1


async def test_scripts_touch_only_the_keys_that_were_declared(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store itself checks it: the user that runs a script may see the script's keys and no other."""
    server = await private_redis()
    url: str = server.url
    async with opened(url, crew_name) as crew:
        probe = connection.connect(url.replace("unix://", "unix://probe:x@"))
        plain = scripts.run
        ran: set[str] = set()

        async def guarded(
            client: redis.asyncio.Redis, name: str, keys: Sequence[str], args: list[object], *sent: Callable[[], None]
        ) -> object:
            ran.add(name)
            patterns = [f"~{key}" for key in dict.fromkeys(keys)]
            await crew.client.execute_command(
                "ACL", "SETUSER", "probe", "reset", "on", ">x", "+@all", "allchannels", *patterns
            )
            return await plain(probe, name, keys, args, *sent)

        with monkeypatch.context() as patch:
            patch.setattr(scripts, "run", guarded)
            await guarded(crew.client, "leave", crew.keys.fixed, [crew.uid, "nobody"])
            with pytest.raises(redis.ResponseError, match=r"No permissions|can't access"):  # the guard works
                await probe.eval("return redis.call('HGET', KEYS[1] .. 'x', 'uid')", 1, crew.keys.meta)
            await _everything_workers_do(crew)
            await _everything_people_do(crew)
            await crew.assert_idle()
            await definitions.delete(crew.client, crew.keys, crew.uid)
        await probe.aclose()
    assert ran | {"renew"} == set(SCRIPTS), "`renew`, which a thread calls, has the fixed keys only"


async def _everything_workers_do(crew: Crew) -> None:
    await crew.submit("t1", "t2", "ghost", dedupe_key="k", dedupe_ms=1000, inputs={"x": "1"})
    await crew.submit("t2", "ghost")
    await crew.submit("later", due_ms=1)
    await crew.submit("later-still", due_ms=await server_ms(crew.client) + 100)
    await crew.queue.move_due()
    await crew.run("r1", flow_of([("a", "b"), ("b", "c"), ("d", "e")]), parallel=1, dedupe_key="l", dedupe_ms=1000)
    await crew.run("r2", flow_of([("x", "y")]))
    await crew.client.delete(crew.keys.task("ghost"))
    await crew.client.xadd(crew.keys.streams[0], {"bad": "entry"})
    for i in range(300):
        if i > 20 and not await crew.queued() and not await crew.client.zcard(crew.keys.delayed):
            break
        if i % 2:
            tasks = (await crew.queue.claim(f"w{i}", 1, 3, begin=2, lease_ms=LEASE_MS, take_over=True)).tasks
            await crew.queue.finish(f"w{i}", [], begun=tasks, announced=tasks)
        else:
            tasks = await crew.take(f"w{i}", 1, 3)
        for task in tasks:
            await crew.queue.say(f"w{i}", task, "hello", 1)
        if i == 4:
            await crew.queue.park(f"w{i}", tasks, "not in this image")
            await crew.queue.unpark([m for members in (await crew.queue.parked_agents()).values() for m in members])
        if i % 3 == 0:
            await crew.queue.hand_back(f"w{i}", tasks)
        elif i % 3 == 1:
            await crew.queue.declare_dead([f"w{i}"])
        else:
            await crew.queue.finish(f"w{i}", [finished(t, "retry", ttl_ms=1) for t in tasks[:1] if i < 20])
            await crew.finish(f"w{i}", tasks, "dead" if any(t.id == "ghost" for t in tasks) else "completed")
            await crew.queue.leave(f"w{i}")


async def _everything_people_do(crew: Crew) -> None:
    of_crew = (crew.client, crew.keys, crew.uid)
    await dead.purge(*of_crew, [letter.id async for letter in dead.letters(crew.client, crew.keys)])
    await crew.submit("t3", "t4", "t5")
    await crew.run("r3", flow_of([("a", "b"), ("c", "d")]), parallel=1)
    for task in ("t3", "r3/a"):
        assert await control.interrupt(*of_crew, task, "wait")
        assert await control.resume(*of_crew, task)
    assert await control.cancel(*of_crew, "t4", "no more", LEASE_MS)
    assert await control.cancel(*of_crew, "r3/c", "no more", LEASE_MS)
    assert await runs.subscribe(crew.client, crew.keys, "r3", "nobody")
    tasks = await crew.take("p1")
    assert sorted(task.id for task in tasks) == ["r3/a", "t3", "t5"]
    assert not await control.cancel(*of_crew, "t5", "no more", LEASE_MS)
    assert await crew.finish("p1", tasks, "dead") == ["applied"] * 3
    letters = [letter async for letter in dead.letters(crew.client, crew.keys)]
    replayed = await dead.replay(*of_crew, letters, max_queued=MANY)
    assert [one.outcome for one in replayed] == ["replayed"] * 3
    assert await control.cancel_all(*of_crew, None, "enough", LEASE_MS) == control.CancelledAll(3, 0)
    await crew.queue.recover([finished(tasks[0])], "another time")
    await crew.queue.leave("p1")
    await _heartbeats(crew)
    assert await control.drain(*of_crew, "host", on=True)
    await definitions.record_loaded(*of_crew, crew.definition.digest())
    await definitions.record_loss(*of_crew, "another time")
    await figures.figures(crew.client, crew.keys)
    current = await definitions.current(crew.client, crew.keys)
    bounds = current.definition.model_copy(update={"tasks": TaskPolicy(max_results=1)})
    assert await retention.trim(*of_crew, replace(current, content=bounds.content()))


async def _heartbeats(crew: Crew) -> None:
    noon = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    for agent in ("a", None):
        spec = {"crewRef": {"name": "test"}, "schedule": "* * * * *", "prompt": "look", "agent": agent}
        beat = Heartbeat.model_validate({"metadata": {"name": "hb"}, "spec": spec})
        state = await heartbeats.apply(crew.client, crew.keys, crew.uid, beat, now=noon)
        assert (await heartbeats.run_now(crew.client, crew.keys, "hb", agent or "all", now=noon))[1]
        slots = {"first": state.next or noon, "following": noon + timedelta(minutes=9)}
        assert await heartbeats.miss(crew.client, crew.keys, state, **slots, count=8, message="missed")
    await heartbeats.remove(crew.client, crew.keys, crew.uid, "hb")
    await control.cancel_all(crew.client, crew.keys, crew.uid, None, "enough", LEASE_MS)


# ---------------------------------------------------------------- a server that comes and goes


async def test_a_killed_server_comes_back_with_all_that_was_acknowledged(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1", "t2")
        tasks = await crew.take("w", 1, 1)
        waited: list[float] = []
        await server.kill()
        with pytest.raises(StoreUnavailable):
            await crew.submit("t3")
        done = finished(tasks[0])
        finishing = asyncio.create_task(outages.persist(lambda: crew.queue.finish("w", [done]), on_wait=waited.append))
        await until(lambda: _true(waited))
        await server.restart()
        outcomes, _ = await asyncio.wait_for(finishing, 15)
        assert outcomes == ["applied"]
        assert [t.id for t in await crew.take("w", 2)] == ["t2"]


async def _true(value: object) -> bool:
    return bool(value)


async def test_a_follower_of_events_outlives_its_server(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1", "t2")
        async with Feed(crew).following() as feed:
            await crew.finish("w", await crew.take("w", 1, 1))
            await until(lambda: _true(feed.terminal()))
            await server.kill()
            await server.restart()
            await outages.persist(lambda: crew.client.ping())
            await crew.finish("w", await crew.take("w", 2, 1))
            await until(lambda: _true(feed.terminal()["t2"]))
        assert feed.terminal() == {"t1": 1, "t2": 1}


async def test_a_server_without_memory_refuses_new_tasks_and_takes_results(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1", "t2")
        await crew.run("r1")
        await crew.client.config_set("maxmemory", "1")
        before = await crew.dump()
        with pytest.raises(StoreUnavailable, match="memory"):
            await crew.submit("t3")
        with pytest.raises(StoreUnavailable, match="memory"):
            await crew.run("r2")
        assert await crew.dump() == before
        tasks = await crew.take("w")
        sync = connection.connect_sync(crew.url)
        await asyncio.to_thread(crew.queue.renew, sync, "w", 60_000, "{}")
        sync.close()
        await crew.queue.say("w", tasks[0], "tight here", 1)
        await crew.queue.hand_back("w", tasks[1:2])
        assert await crew.finish("w", tasks[:1]) == ["applied"]
        await crew.queue.leave("w")
        assert await crew.finish("w2", await crew.take("w2")) == ["applied"] * 3
        await crew.queue.leave("w2")
        await crew.client.config_set("maxmemory", "0")
        await crew.assert_idle()
        assert await crew.submit_all([Submission("t3", "a", payload("t3"))], max_queued=MANY) == ["t3"]


# Plain ZADD and RPUSH are refused then; scripts with allow-oom are not.
async def test_a_server_without_memory_can_be_told_of_dead_workers(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1")
        await crew.take("w")
        await crew.client.delete(crew.keys.bell)
        await crew.client.config_set("maxmemory", "1")
        await crew.queue.declare_dead(["w"])
        await crew.client.config_set("maxmemory", "0")
        assert await crew.client.llen(crew.keys.bell) == 1
        assert [t.id for t in await crew.claim("next")] == ["t1"]


async def test_a_read_only_server_is_a_reason_to_wait(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1")
        tasks = await crew.take("w")
        await crew.client.execute_command("REPLICAOF", "127.0.0.1", "1")
        before = await crew.dump()
        calls: tuple[Any, ...] = (
            crew.submit("t2"),
            crew.finish("w", tasks),
            crew.claim("w", 2),
            crew.queue.declare_dead(["w"]),
        )
        for call in calls:
            with pytest.raises(StoreUnavailable):
                await call
        assert await crew.dump() == before
        await crew.client.execute_command("REPLICAOF", "NO", "ONE")
        assert await crew.finish("w", tasks) == ["applied"]


async def test_a_server_that_misses_its_replicas_is_a_reason_to_wait(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    """docs/redis.md asks for min-replicas-to-write: a result must not be thrown away because a replica is restarted."""
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1")
        tasks = await crew.take("w")
        sync = connection.connect_sync(server.url)
        await crew.client.config_set("min-replicas-to-write", 1)
        calls: tuple[Any, ...] = (crew.submit("t2"), crew.finish("w", tasks), crew.claim("w", 2))
        for call in calls:
            with pytest.raises(StoreUnavailable):
                await call
        with pytest.raises(StoreUnavailable):
            await asyncio.to_thread(crew.queue.renew, sync, "w", 60_000, "{}")
        sync.close()
        finishing = asyncio.create_task(outages.persist(lambda: crew.finish("w", tasks)))
        await asyncio.sleep(0.1)
        await crew.client.config_set("min-replicas-to-write", 0)
        assert await finishing == ["applied"]


async def test_a_name_that_leads_to_another_server_by_now_is_followed(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str, tmp_path: Path
) -> None:
    """As that of a managed Redis does after a failover: the old master lives on, read-only, with our connections."""
    old, new = await private_redis(), await private_redis()
    name = tmp_path / "master.sock"
    name.symlink_to(old.socket)
    async with opened(new.url, crew_name) as crew, opened(f"unix://{name}", crew_name) as by_name:
        by_name.queue.uid = crew.uid
        sync = connection.connect_sync(f"unix://{name}")
        await by_name.client.execute_command("HSET", by_name.keys.meta, "uid", crew.uid)
        await by_name.take("w")
        await crew.take("w")
        await asyncio.to_thread(by_name.queue.renew, sync, "w", 1000, "{}")
        await by_name.client.execute_command("REPLICAOF", "127.0.0.1", "1")
        name.unlink()
        name.symlink_to(new.socket)
        assert await outages.persist(lambda: by_name.submit("t1")) == ["t1"]
        assert await crew.state("t1") == "waiting"
        with pytest.raises(StoreUnavailable):
            await asyncio.to_thread(by_name.queue.renew, sync, "w", 1000, "{}")
        await asyncio.to_thread(by_name.queue.renew, sync, "w", 1000, "{}")
        sync.close()


async def test_a_server_that_is_busy_with_a_script_is_a_reason_to_wait(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.client.config_set("busy-reply-threshold", "50")
        hog = redis.asyncio.Redis.from_url(server.url)
        looping: asyncio.Future[Any] = asyncio.ensure_future(hog.eval("while true do end", 0))
        try:
            await until(lambda: _is_busy(crew))
            with pytest.raises(StoreUnavailable):
                await crew.submit("t1")
            with pytest.raises(StoreUnavailable):  # several commands at once
                await runs.result(crew.client, crew.keys, "t1")
        finally:
            await crew.client.script_kill()
            with pytest.raises(redis.ResponseError):
                await looping
            await hog.aclose()
        assert await crew.submit("t1") == ["t1"]


async def _is_busy(crew: Crew) -> bool:
    try:
        await crew.client.ping()
    except redis.ResponseError:
        return True
    return False


async def test_a_server_that_is_not_there_is_said_to_be_so_quickly(tmp_path: Path) -> None:
    client = connection.connect(f"unix://{tmp_path}/none.sock")
    begun = time.monotonic()
    try:
        with pytest.raises(StoreUnavailable):
            await made(client, "nobody")
    finally:
        await client.aclose()
    assert time.monotonic() - begun < 30


async def test_bytes_that_are_no_text_survive_the_way_through_a_client(crew: Crew) -> None:
    key = crew.keys.prefix + "raw"
    async with redis.asyncio.Redis.from_url(crew.url) as raw:
        await raw.set(key, b"\xff\x00ok\xc3(")
        text = await crew.client.get(key)
        await crew.client.set(key, text)
        assert await raw.get(key) == b"\xff\x00ok\xc3("
