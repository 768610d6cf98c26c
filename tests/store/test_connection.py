"""The way to the store: URLs, scripts on new servers, and what is a reason to wait."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest
import redis
import redis.asyncio
from support import Crew

from watchbill import connection
from watchbill.connection import outages
from watchbill.connection.url import parse, without_secret
from watchbill.errors import InvalidInput, StoreRefuses, StoreUnavailable
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
        await asyncio.wait([task], timeout=180)
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


@pytest.mark.parametrize("options", ["timeout=60", "max_connections=9", "socket_read_size=1024&client_name=x"])
async def test_a_thread_may_have_what_the_url_says_of_connections_and_pools(redis_url: str, options: str) -> None:
    store = connection.Store(f"{redis_url}{'&' if '?' in redis_url else '?'}{options}")
    async with store:
        assert await store.client.ping()
    with store.connect_sync() as sync:
        assert sync.ping()


# ---------------------------------------------------------------- introducing itself


async def test_a_connection_says_which_library_it_is_of_and_reads_no_file_to_know(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis.utils.get_lib_version", lambda: pytest.fail("it looks up the version again"))
    async with connection.connected(redis_url) as client:
        with connection.connect_sync(redis_url) as blocking:
            for told in (await client.client_info(), blocking.client_info()):
                assert (told["lib-name"], told["lib-ver"]) == ("redis-py", redis.__version__)
