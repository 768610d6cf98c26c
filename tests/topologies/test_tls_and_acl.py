"""TLS with certificates of the test's own, and users with no more than the rights that docs/redis.md lists."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import servers
from everyday import work
from workshop import Crew

from ports import HOST
from waiting import until
from watchbill import connection
from watchbill.client import Client
from watchbill.errors import UserActionRequired
from watchbill.store import definitions
from watchbill.store.crews import CrewRedis

CrewIn = Callable[..., Any]
Fresh = Callable[..., servers.Store]
DOCS = Path(__file__).parents[2] / "docs" / "redis.md"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt, and server.crt and server.key that it signed for 127.0.0.1; other.crt signed nothing."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make certificates with")
    folder = tmp_path_factory.mktemp("tls")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "other"):
        out = ("-keyout", f"{name}.key", "-out", f"{name}.crt")
        openssl("req", "-x509", *key, *out, "-subj", f"/CN={name}", "-days", "2")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san", "-days", "2")
    openssl("x509", "-req", "-in", "server.csr", *signed, "-out", "server.crt")
    return folder


@pytest.fixture
def secure(certificates: Path, tmp_path: Path) -> Iterator[Callable[[servers.Kind], servers.Store]]:
    """`secure("cluster")`: a Redis 7.0 of that kind, that speaks TLS only."""
    binary = servers.redis7()
    if binary is None:
        pytest.skip("no Redis with TLS here: install Debian 12's redis-tools, or put a redis-server 7.0 on PATH")
    with ExitStack() as ends:

        def start(kind: servers.Kind) -> servers.Store:
            store: servers.Store = ends.enter_context(servers.KINDS[kind](binary, tmp_path / kind, tls=certificates))
            return store

        yield start


@pytest.mark.parametrize("kind", ["standalone", "sentinel", "cluster"])
async def test_everything_goes_over_tls(
    secure: Callable[[servers.Kind], servers.Store], certificates: Path, crew_in: CrewIn, kind: servers.Kind
) -> None:
    store = secure(kind)
    assert store.url.startswith("rediss")
    crew = await crew_in(store, {"a": "SayingGate"}, url=f"{store.url}?ssl_ca_certs={certificates}/ca.crt")
    crew.open()
    worker = await crew.worker()
    assert (await crew.client.run(crew.name, "now", agent="a", timeout=180)).success
    assert (await crew.client.run(crew.name, "now", timeout=180)).success
    await worker.drain()


@pytest.mark.parametrize("kind", ["standalone", "sentinel", "cluster"])
async def test_a_certificate_that_nobody_vouches_for_is_an_error_and_no_reason_to_wait(
    secure: Callable[[servers.Kind], servers.Store], certificates: Path, kind: servers.Kind
) -> None:
    store = secure(kind)
    async with Client(f"{store.url}?ssl_ca_certs={certificates}/other.crt") as client:
        with pytest.raises(UserActionRequired, match="ssl_ca_certs"):
            await client.figures("crew")


# ---------------------------------------------------------------- users


def documented_rights() -> dict[str, str]:
    """Role → its rights, as the docs list them."""
    found = dict(re.findall(r"^ACL SETUSER (\S+) on >PASSWORD (.+)$", DOCS.read_text(), re.MULTILINE))
    assert set(found) == {"watchbill", "blog-team"}
    return found


@pytest.mark.parametrize("name", ["valkey-standalone", "redis7-standalone", "valkey-cluster", "redis7-cluster"])
async def test_the_rights_that_the_docs_list_suffice(fresh_store: Fresh, crew_in: CrewIn, name: str) -> None:
    store = fresh_store(name)
    for server in store.servers:
        server.ask("ACL", "SETUSER", "watchbill", "on", ">hunter2", *documented_rights()["watchbill"].split())
        server.ask("ACL", "SETUSER", "admin", "on", ">x", "allkeys", "allchannels", "allcommands")
        server.ask("ACL", "SETUSER", "default", "off")
        server.client_options = {"username": "admin", "password": "x"}
    crew = await crew_in(
        store,
        {"a": "SayingGate", "b": "Shaky"},
        url=store.url.replace("://", "://watchbill:hunter2@"),
        tasks={"backoff_seconds": 0.1, "max_attempts": 2},
    )
    await everything(crew)


async def everything(crew: Crew) -> None:
    """What workers, clients, the command line and the operator ask of a store."""
    await work(crew)
    async with CrewRedis(crew.url, tenant="t", db=0, strict=True) as records:
        await records.save_crew(crew.definition)
        assert await records.list_crews() == [crew.definition.name]
        await records.clear_all_crews()


async def test_a_user_of_one_crew_works_for_it_and_reaches_no_other(fresh_store: Fresh, crew_in: CrewIn) -> None:
    store = fresh_store("redis7-standalone")
    theirs = await crew_in(store, {"a": "Brief"})
    await theirs.submit("secret", "a", "of another team")
    rights = documented_rights()["blog-team"]
    for server in store.servers:
        # The crew's name comes with its definition, which the operator stores, and so an administrator here.
        server.ask("ACL", "SETUSER", "admin", "on", ">x", "allkeys", "allchannels", "allcommands")
    crew = await crew_in(store, {"a": "SayingGate", "b": "Shaky"}, tasks={"backoff_seconds": 0.1, "max_attempts": 2})
    for server in store.servers:
        mine = rights.replace("team-a/blog-team", crew.name).split()
        server.ask("ACL", "SETUSER", "blog-team", "on", ">hunter2", *mine)
        server.ask("ACL", "SETUSER", "default", "off")
        server.client_options = {"username": "admin", "password": "x"}
    confined = await crew.through(store.url.replace("://", "://blog-team:hunter2@"))
    try:
        await work(confined)
        for attempt in (
            lambda: confined.client.figures(theirs.name),
            lambda: confined.client.status(theirs.name, "secret"),
            lambda: confined.client.events(theirs.name),
            lambda: confined.client.submit(theirs.name, "x", agent="a"),
            lambda: confined.client.cancel(theirs.name, "secret"),
            lambda: definitions.apply(confined.redis, theirs.keys, crew.definition),
        ):
            with pytest.raises((UserActionRequired, redis.exceptions.NoPermissionError)):
                await attempt()
        home = store.home(crew.keys.meta)
        with redis.Redis(host=HOST, port=home.port, username="blog-team", password="hunter2") as server:
            for command in (
                ("PUBLISH", theirs.keys.control, "x"),
                ("PUBLISH", theirs.keys.reply("c"), "x"),
                ("EVAL", f"return redis.call('HGETALL', '{theirs.keys.meta}')", 1, crew.keys.meta),
                ("SCAN", "0"),
                ("KEYS", "*"),
                ("RANDOMKEY",),
                ("PUBSUB", "CHANNELS"),
                ("FUNCTION", "FLUSH"),
                ("FLUSHALL",),
                ("CONFIG", "GET", "*"),
                ("ACL", "WHOAMI"),
            ):
                with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)permission|can't access"):
                    server.execute_command(*command)
    finally:
        confined.kill()


async def test_a_missing_right_is_said_and_what_to_do(fresh_store: Fresh, crew_in: CrewIn) -> None:
    store = fresh_store("valkey-standalone")
    crew = await crew_in(store, {"a": "Brief"})
    user = ["ACL", "SETUSER", "poor", "on", ">hunter2", *documented_rights()["watchbill"].split()]
    poor = store.url.replace("://", "://poor:hunter2@")
    for lack, what in (("-evalsha", "evalsha"), ("resetkeys", "key"), ("-publish", "publish"), ("-xadd", "xadd")):
        store.master.ask(*user, lack)
        async with Client(poor) as client:
            with pytest.raises(UserActionRequired, match=r"docs/redis\.md") as refusal:
                await client.submit(crew.name, "x", agent="a", id=f"t{lack}")
        assert "hunter2" not in str(refusal.value), what
    async with Client(store.url.replace("://", "://poor:wrong@")) as client:
        with pytest.raises(UserActionRequired, match="Check user and password"):
            await client.submit(crew.name, "x", agent="a")


async def test_a_worker_that_lacks_a_right_ends_and_says_which(fresh_store: Fresh, crew_in: CrewIn) -> None:
    store = fresh_store("valkey-standalone")
    crew = await crew_in(store, {"a": "Brief"})
    await crew.submit("t", "a")
    rights = documented_rights()["watchbill"].split()
    store.master.ask("ACL", "SETUSER", "poor", "on", ">hunter2", *rights, "-zadd")
    worker = await crew.worker(url=store.url.replace("://", "://poor:hunter2@"), doomed=True)
    await worker.ended()
    assert worker.process.returncode != 0
    assert "docs/redis.md" in worker.log
    assert "hunter2" not in worker.log


# ---------------------------------------------------------------- a URL of another kind than the store


async def test_a_cluster_that_is_named_as_one_server_is_said_to_be_one(store_named: Fresh) -> None:
    store = store_named("valkey-cluster")

    async def refused() -> str:
        for server in store.servers:
            async with Client(f"redis://{server.address}") as client:
                try:
                    await client.figures("crew")
                except UserActionRequired as error:
                    if "redis+cluster://" in str(error):
                        return str(error)
        return ""

    await until(refused, what="a node that has not the crew's slot")


async def test_a_server_that_is_named_as_a_cluster_is_said_to_be_none(store_named: Fresh) -> None:
    server = store_named("valkey-standalone").master
    async with Client(f"redis+cluster://{server.address}") as client:
        with pytest.raises(UserActionRequired, match="use redis://"):
            await client.figures("crew")


async def test_sentinels_that_know_no_such_service_are_quoted(store_named: Fresh) -> None:
    store = store_named("valkey-sentinel")
    async with connection.connected(store.url.replace(servers.SERVICE, "other")) as client:
        with pytest.raises(redis.ConnectionError, match="one knows no 'other'"):
            await client.ping()
