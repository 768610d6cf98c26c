"""The check whether the store deletes keys by itself once its memory is full: its `maxmemory-policy`.

INFO tells it, within the rights that docs/redis.md lists; CONFIG, which managed services forbid, isn't needed. May not
change anything: whoever runs the store decides.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import redis.asyncio

from watchbill import connection
from watchbill.connection import outages
from watchbill.errors import Problem, WatchbillError
from watchbill.loggers import Logger

logger = Logger("watchbill.store")

SAFE: Final = "noeviction"
_FIX: Final = (
    f"Set it to {SAFE}: CONFIG SET maxmemory-policy {SAFE}, and the same in the server's configuration or the "
    "service's parameters"
)
_ANY: Final = "keys of any kind, work that waits among them"
_EXPIRING: Final = "keys that are to expire: results, events, and the marks that keep a slot from firing twice"


async def fault(client: redis.asyncio.Redis) -> Problem | None:
    """Returns the fault of the store's policy; None where there is none, or where the store doesn't say.

    Of a Cluster every master counts, and `source` says which of them it is. One that doesn't answer is left out;
    raises StoreUnavailable where none does, StoreRefuses where INFO is forbidden.
    """
    with outages.translated():
        servers = await connection.masters(client)
        replies = await asyncio.gather(*(server.info("memory") for server in servers.values()), return_exceptions=True)
        if all(isinstance(reply, BaseException) for reply in replies):
            raise next(reply for reply in replies if isinstance(reply, BaseException))
    policies = {address: _policy(reply) for address, reply in zip(servers, replies, strict=True)}
    evicting = {address: policy for address, policy in sorted(policies.items()) if policy not in ("", SAFE)}
    if not evicting:
        return None
    found = sorted(set(evicting.values()))
    what = _EXPIRING if all(policy.startswith("volatile-") for policy in found) else _ANY
    named = " and ".join(map(repr, found))
    reason = f"the store's maxmemory-policy is {named}: once its memory is full, it deletes {what}, and tells nobody"
    return Problem(reason, _FIX, source=", ".join(filter(None, evicting)))


async def warn(client: redis.asyncio.Redis) -> None:
    """Says in the log what is wrong with the store's policy. Waits for a store that is away; raises nothing."""
    try:
        found = await outages.persist(lambda: fault(client))
    except (WatchbillError, redis.exceptions.RedisError, OSError) as error:  # who works with it says what is wrong
        logger.debug("the store's maxmemory-policy can't be read: %s", error)
        return
    if found is not None:
        logger.warning("%s", found)


def _policy(reply: Any) -> str:
    """Empty where it isn't told."""
    return str(reply.get("maxmemory_policy", "")) if isinstance(reply, dict) else ""
