"""A crew's own user of a store behind Sentinels: before a failover, after it, and on a server that comes back."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any, cast

import servers

from waiting import until
from watchbill import connection, names
from watchbill.connection.url import without_user
from watchbill.controller.redis_users import RedisUsers
from watchbill.errors import StoreUnavailable
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan.redis_users import Address


class Secrets:
    """The Secrets of an API server."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return self.kept.get(name)

    async def create(self, kind: str, manifest: dict[str, Any]) -> None:
        made = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": "1"}}
        self.kept[manifest["metadata"]["name"]] = made


def has(server: servers.Server, user: str) -> bool:
    return user in server.ask("ACL", "USERS")


async def _does(crew: Any, name: str) -> bool:
    try:
        return bool((await crew.client.run(name, "now", agent="a", timeout=180)).success)
    except StoreUnavailable:  # the Sentinel that was asked has not heard of the new master yet
        return False


async def test_a_crews_user_outlives_its_master_and_reaches_servers_that_come_back(
    fresh_store: Callable[..., servers.Store], crew_in: Callable[..., Any]
) -> None:
    store = fresh_store("redis7-sentinel")
    crew = await crew_in(store, {"a": "SayingGate"})
    crew.open()
    namespace, _, name = crew.name.partition("/")
    secrets = Secrets()
    async with connection.connected(store.url) as client:
        address = Address(*without_user(store.url))
        users = RedisUsers(client, cast(KubernetesApi, secrets), "ours", address)
        seen = {"metadata": {"uid": crew.uid, "name": name, "namespace": namespace}}
        assert await users.ensure((namespace, name), seen, may_write=True) is None
        (secret,) = secrets.kept.values()
        url = base64.b64decode(secret["data"]["url"]).decode()
        own = names.redis_user("ours", crew.name)
        assert all(has(server, own) for server in store.servers), "the replica has it before it is needed"
        keeping = asyncio.create_task(users.run())
        confined = await crew.through(url)
        try:
            worker = await confined.worker()
            assert (await confined.client.run(crew.name, "now", agent="a", timeout=180)).success

            former = store.master
            former.kill()
            await until(lambda: store.failovers > 0, what="another master")
            await until(lambda: _does(confined, crew.name), what="work is taken and done")
            assert worker.lives

            former.start()  # without any user: it has forgotten them
            assert not has(former, own)
            await until(lambda: has(former, own), what="the server that is back has the user again")
        finally:
            keeping.cancel()
            confined.kill()
