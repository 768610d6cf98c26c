"""Gives each crew a user of its own in the store, by which its workers reach the keys of that crew and no others.

The Secret of a crew has the credential; plan/redis_users.py says what is in it. A server forgets its users when it
restarts, and shares them with no other, so each server is asked every second which process it is, and a new one is
given all users. No more than their hashes is remembered here, and all of it may be lost.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import redis.asyncio

from watchbill import cluster_names, connection, names
from watchbill.api.conditions import Reason
from watchbill.clock import SYSTEM, Clock
from watchbill.controller import faults
from watchbill.controller.cache import Key
from watchbill.errors import (
    Conflict,
    KubernetesForbids,
    KubernetesRefuses,
    StaleObject,
    StoreRefuses,
    StoreUnavailable,
    WatchbillError,
    sentence,
)
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan import redis_users as plan
from watchbill.plan.crew import Fault
from watchbill.store import users

logger = logging.getLogger("watchbill.operator")

LOOK_SECONDS: Final = 1.0
"""The pause between two questions whether a server has restarted."""


@dataclass(slots=True)
class _Known:
    wanted: plan.Wanted
    credential: plan.Credential
    is_checked: bool = False
    """Its Secret says so, as was read or written since the last resync."""


@dataclass(slots=True)
class _At:
    client: redis.asyncio.Redis
    server: users.Server


@dataclass(slots=True)
class RedisUsers:
    """The users that one operator makes for crews."""

    client: redis.asyncio.Redis
    kubernetes: KubernetesApi
    owner: str
    """It marks this operator's users in the store (names.redis_user)."""
    address: plan.Address
    rotate: timedelta | None = None
    """The age at which passwords are replaced; None: never."""
    check: Callable[[], object] = lambda: None
    """Called before writes. Raises NotLeader when this process may no longer write."""
    clock: Clock = SYSTEM
    _known: dict[Key, _Known] = field(default_factory=dict)
    _at: dict[str, _At] = field(default_factory=dict)
    """Address → a server that has all users."""
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _said: str = ""
    """The last trouble that was logged."""

    async def run(self) -> None:
        """Gives all users to each server that has restarted or is new, until cancelled."""
        while True:
            try:
                await self._look()
                self._said = ""
            except StoreUnavailable:
                pass  # others say so
            except (WatchbillError, redis.exceptions.RedisError, OSError) as error:
                if str(error) != self._said:
                    logger.warning("the crews' users can't be given to the store: %s", error)
                self._said = str(error)
            await self.clock.sleep(LOOK_SECONDS)

    async def ensure(self, key: Key, seen: Mapping[str, Any], *, may_write: bool) -> Fault | None:
        """Makes the crew's user in the store, and its Secret in the namespace. Returns why that can't be; None: all is
        well, or nothing is known of it yet.

        `seen`: the Crew as the API server has it. Without `may_write` no Secret is written: what is there counts.
        Raises StaleObject, KubernetesUnavailable, NotLeader.
        """
        wanted = self._wanted(key, seen)
        known = self._known.get(key)
        now = self.clock.now()
        if known is not None and known.is_checked and known.wanted == wanted and known.credential.lasts(now):
            return None
        try:
            return await self._ensure(key, wanted, now, may_write=may_write)
        except KubernetesRefuses as error:
            faults.count(error)
            lacks_right = isinstance(error, KubernetesForbids)
            return Reason.FORBIDDEN if lacks_right else Reason.REDIS_USER_REFUSED, str(error)

    async def _ensure(self, key: Key, wanted: plan.Wanted, now: datetime, *, may_write: bool) -> Fault | None:
        secret = await self.kubernetes.get("secrets", key[0], cluster_names.redis_secret(key[1]))
        try:
            step = plan.step(secret, wanted, secrets.token_urlsafe(32), now)
        except plan.NotOurs as error:
            self._known.pop(key, None)
            return Reason.REDIS_USER_REFUSED, str(error)
        if step.secret is not None and not may_write:
            return None
        self.check()
        known = self._known[key] = _Known(wanted, step.credential)
        try:
            if not self._at:
                await self._look()
            await self._give(list(self._at), [key])
        except StoreUnavailable:
            pass  # it gets the user when it is back
        except (StoreRefuses, redis.exceptions.ResponseError) as error:
            faults.count(error)
            self._known.pop(key)
            return Reason.REDIS_USER_REFUSED, (
                f"the store makes no user for the crew: {sentence(error)} The operator's user needs "
                "+acl|setuser +acl|deluser +acl|users (docs/redis.md); where the store has no such thing, set "
                "redis.aclPerCrew to false"
            )
        if step.secret is not None:
            write = self.kubernetes.create if secret is None else self.kubernetes.apply
            try:
                await write("secrets", step.secret)
            except Conflict as error:
                raise StaleObject(str(error)) from error
            except KubernetesRefuses as error:
                if secret is None or not plan.serves(secret, wanted):
                    raise
                faults.count(error)  # pods start with what is there; a resync tries again
                logger.warning("%s/%s: the Secret of its user of the store can't be changed: %s", *key, error)
            else:
                logger.info("%s/%s: the Secret of its user of the store is written", *key)
        known.is_checked = True
        return None

    async def remove(self, key: Key) -> None:
        """The crew is gone: removes its user from all servers. The Secret goes with its owner."""
        self._known.pop(key, None)
        for at in list(self._at.values()):
            await users.remove(at.client, [names.redis_user(self.owner, "/".join(key))])

    def forget(self) -> None:
        """Forgets all: another replica may have led meanwhile, and changed passwords."""
        self._known.clear()
        self._at.clear()

    def invalidate(self) -> None:
        """Has the next call for each crew make sure of its Secret."""
        for known in self._known.values():
            known.is_checked = False

    async def sweep(self, living: Collection[Key], is_gone: Callable[[Key], Awaitable[bool]]) -> None:
        """Makes users that somebody removed, and removes those of this operator's whose crews are gone.

        `living`: the crews that were listed. `is_gone` asks the API server, and raises when it may not know.
        """
        await self._look()
        prefix = names.redis_user(self.owner)
        for address, at in list(self._at.items()):
            there = await users.names_with(at.client, prefix)
            missing = [key for key in self._known if names.redis_user(self.owner, "/".join(key)) not in there]
            self.check()
            await self._give([address], missing)
            strays = []
            for user in sorted(there):
                namespace, _, name = user.removeprefix(prefix).partition("/")
                if (namespace, name) not in living and await _is_sure(is_gone, (namespace, name)):
                    strays.append(user)
            self.check()
            await users.remove(at.client, strays)

    # ------------------------------------------------------------ within

    def _wanted(self, key: Key, seen: Mapping[str, Any]) -> plan.Wanted:
        metadata = seen["metadata"]
        token = (metadata.get("annotations") or {}).get(cluster_names.ANNOTATION_ROTATE) or ""
        user = names.redis_user(self.owner, "/".join(key))
        return plan.Wanted(key[1], key[0], str(metadata["uid"]), user, self.address, str(token), self.rotate)

    async def _look(self) -> None:
        """Gives all users to servers that are new or have restarted."""
        async with self._looking:
            servers = await connection.servers(self.client)
            for gone in set(self._at) - set(servers):
                del self._at[gone]
            for address, client in servers.items():
                try:
                    server = await users.server(client)
                    before = self._at.get(address)
                    if before is None or before.server != server:
                        self.check()
                        self._at.pop(address, None)
                        await users.put(client, server.newer, self._users(self._known))
                        self._at[address] = _At(client, server)
                        if before is not None:
                            logger.warning(
                                "the store's server %s has restarted: it has the crews' users again", address
                            )
                except StoreUnavailable:
                    self._at.pop(address, None)  # it may come back without its users

    async def _give(self, addresses: Iterable[str], keys: Iterable[Key]) -> None:
        wanted = list(keys)
        for address in addresses:
            if (at := self._at.get(address)) is None:
                continue
            try:
                await users.put(at.client, at.server.newer, self._users(wanted))
            except StoreUnavailable:
                self._at.pop(address, None)

    def _users(self, keys: Iterable[Key]) -> list[tuple[str, names.CrewKeys, tuple[str, ...]]]:
        return [
            (known.wanted.user, names.CrewKeys(*key), known.credential.hashes)
            for key in list(keys)
            if (known := self._known.get(key)) is not None
        ]


async def _is_sure(is_gone: Callable[[Key], Awaitable[bool]], key: Key) -> bool:
    try:
        return await is_gone(key)
    except WatchbillError as error:
        logger.info("%s/%s: the user in the store stays, because the API server can't say more: %s", *key, error)
        return False
