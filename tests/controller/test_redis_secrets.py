"""The Secret of a crew's own user counts as written once the API server has it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

import pytest
import redis.asyncio

from watchbill import cluster_names, names
from watchbill.api.conditions import Reason
from watchbill.connection.url import without_user
from watchbill.controller.redis_users import RedisUsers
from watchbill.errors import (
    Conflict,
    KubernetesForbids,
    KubernetesRefuses,
    KubernetesUnavailable,
    NotLeader,
    StaleObject,
)
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan.redis_users import Address

NAMESPACE = "team"


class Secrets:
    """The Secrets of an API server. `error` is its answer to each write."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self.error: Exception | None = None
        self.tries = 0

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return self.kept.get(name)

    async def create(self, kind: str, manifest: dict[str, Any]) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error
        name, version = manifest["metadata"]["name"], str(self.tries)
        self.kept[name] = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": version}}

    apply = create


class Room:
    """The users of one crew, of a real store."""

    def __init__(self, client: redis.asyncio.Redis, url: str, crew: str) -> None:
        self.secrets, self.url, self.name = Secrets(), url, crew
        self.seen: dict[str, Any] = {"metadata": {"uid": "u1", "name": crew, "namespace": NAMESPACE}}
        kubernetes = cast(KubernetesApi, self.secrets)
        self.users = RedisUsers(client, kubernetes, f"ours-{crew}", Address(*without_user(url)))

    async def ensure(self) -> object:
        return await self.users.ensure((NAMESPACE, self.name), self.seen, may_write=True)

    async def works(self) -> bool:
        """Returns whether the store lets a worker in that has read the Secret."""
        data = self.secrets.kept[cluster_names.redis_secret(self.name)]["data"]
        own = base64.b64decode(data[cluster_names.REDIS_SECRET_KEY]).decode()
        async with redis.asyncio.Redis.from_url(own) as client:
            with suppress(redis.exceptions.ConnectionError):  # an AuthenticationError, as the connection has it
                return not await client.exists(names.CrewKeys(NAMESPACE, self.name).meta)
        return False


@pytest.fixture
async def room(redis_client: redis.asyncio.Redis, redis_url: str, crew_name: str) -> AsyncIterator[Room]:
    made = Room(redis_client, redis_url, crew_name.replace("/", "-"))
    yield made
    await made.users.remove((NAMESPACE, made.name))


FORBIDDEN = KubernetesForbids("exceeded quota: objects, requested: count/secrets=1", 403)


async def test_a_secret_that_may_not_be_written_is_tried_again_and_told_of_each_time(room: Room) -> None:
    room.secrets.error = FORBIDDEN
    for tries in (1, 2, 3):
        assert await room.ensure() == (Reason.FORBIDDEN, str(FORBIDDEN))
        assert room.secrets.tries == tries
    room.secrets.error = None
    assert await room.ensure() is None
    assert await room.works()
    assert (await room.ensure(), room.secrets.tries) == (None, 4), "then it is there"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KubernetesUnavailable("timed out"), KubernetesUnavailable),
        (NotLeader("another leads"), NotLeader),
        (Conflict("another version"), StaleObject),
    ],
)
async def test_whatever_keeps_a_secret_from_being_written_it_is_tried_again(
    room: Room, error: Exception, raised: type[Exception]
) -> None:
    room.secrets.error = error
    for tries in (1, 2):
        with pytest.raises(raised):
            await room.ensure()
        assert room.secrets.tries == tries
    room.secrets.error = None
    assert await room.ensure() is None
    assert await room.works()


async def test_a_secret_that_the_api_server_refuses_is_a_fault_of_the_crew_and_tried_again(room: Room) -> None:
    room.secrets.error = KubernetesRefuses("a policy wants a label", 422)
    for tries in (1, 2):
        assert await room.ensure() == (Reason.REDIS_USER_REFUSED, "a policy wants a label")
        assert room.secrets.tries == tries
    room.secrets.error = None
    assert await room.ensure() is None
    assert await room.works()


@pytest.mark.parametrize("error", [FORBIDDEN, KubernetesRefuses("a policy wants a label", 422)])
async def test_a_secret_that_can_t_be_changed_serves_as_it_is_until_a_resync(room: Room, error: Exception) -> None:
    assert await room.ensure() is None
    room.seen["metadata"]["annotations"] = {cluster_names.ANNOTATION_ROTATE: "now"}
    room.secrets.error = error
    for _ in range(2):
        assert (await room.ensure(), room.secrets.tries) == (None, 2), "the crew goes on"
        assert await room.works()
    before = next(iter(room.secrets.kept.values()))["data"]
    room.secrets.error = None
    room.users.invalidate()
    assert (await room.ensure(), room.secrets.tries) == (None, 3)
    assert next(iter(room.secrets.kept.values()))["data"] != before
    assert await room.works()


async def test_a_secret_of_another_address_serves_nobody(room: Room) -> None:
    assert await room.ensure() is None
    room.users.address = Address(*without_user("redis://127.0.0.1:1"))
    room.secrets.error = FORBIDDEN
    assert await room.ensure() == (Reason.FORBIDDEN, str(FORBIDDEN))


async def test_a_password_that_can_t_be_replaced_stays_valid_on_servers_that_restart(
    room: Room, redis_client: redis.asyncio.Redis
) -> None:
    assert await room.ensure() is None
    room.seen["metadata"]["annotations"] = {cluster_names.ANNOTATION_ROTATE: "now"}
    room.secrets.error = FORBIDDEN
    assert await room.ensure() is None
    user = next(name for name in await redis_client.execute_command("ACL USERS") if room.name in str(name))
    await redis_client.execute_command("ACL DELUSER", user)  # as a restart does
    assert not await room.works()
    await room.users.sweep({(NAMESPACE, room.name)}, is_gone=cast(Any, None))
    assert await room.works()
