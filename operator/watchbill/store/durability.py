"""Confirmation of writes, asked of the server right behind them: on a replica, or on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import redis
import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.errors import NotDurable, StoreUnavailable, UserActionRequired
from watchbill.tasks import Durability

CONFIRM_SECONDS: Final = 5.0
"""Seconds that the server has to confirm. Replication takes milliseconds; appendfsync everysec, up to two seconds."""

_IDS_SHOWN: Final = 3


async def run_script(
    client: redis.asyncio.Redis,
    name: str,
    keys: Sequence[str],
    args: Sequence[Any],
    durability: Durability,
    ids: Sequence[str],
) -> Any:
    """A script's answer, once what it wrote is as safe as asked. Safe to send again, as the script must be.

    Raises NotDurable where that was not confirmed, UserActionRequired where the server never could.
    """
    ms = int(CONFIRM_SECONDS * 1000)
    confirm: tuple[Any, ...] = ("WAIT", 1, ms) if durability is Durability.REPLICA else ("WAITAOF", 1, 0, ms)
    shown = ", ".join(map(repr, ids[:_IDS_SHOWN])) + (", …" if len(ids) > _IDS_SHOWN else "")
    again = f"{shown} may be stored; sending it again under the same id is safe"
    try:
        with outages.translated():
            reply, confirmed = await scripts.run_and_confirm(client, name, keys, args, confirm)
    except StoreUnavailable as error:
        raise NotDurable(f"{error}: {again}", ids) from error
    if isinstance(confirmed, redis.exceptions.ResponseError):
        text = str(confirmed).lower()
        if "unknown command" in text:
            reason = "durability Fsync needs Redis 7.2 or Valkey"
            raise UserActionRequired(f"{reason}: {again}") from confirmed
        if "appendonly" in text:
            reason = "durability Fsync needs a server with appendonly yes"
            raise UserActionRequired(f"{reason}: {again}") from confirmed
        raise NotDurable(f"the store did not confirm ({confirmed}): {again}", ids) from confirmed
    if (confirmed if isinstance(confirmed, int) else confirmed[0]) < 1:
        where = "no replica" if durability is Durability.REPLICA else "no disk"
        raise NotDurable(f"{where} confirmed within {CONFIRM_SECONDS:.0f} s: {again}", ids)
    return reply
