"""Results on streams of the store, for programs that read them. May not touch what a crew's queue has.

The stream is the readers': they may make groups of it, delete entries, or the stream itself.
"""

from __future__ import annotations

from typing import Final

import redis.asyncio

from watchbill import names
from watchbill.connection import outages, scripts

_LASTS_SECONDS: Final = 7 * 24 * 3600
"""An id is remembered for so long; the attempts of one delivery end within two days."""


async def add(
    client: redis.asyncio.Redis, stream: str, max_length: int, *, delivery_id: str, task_id: str, payload: str
) -> bool:
    """Adds an entry with the fields task_id, delivery_id and payload. Returns False if this delivery has added it
    before: then nothing is written.

    The stream keeps about `max_length` entries. Raises StoreUnavailable, StoreRefuses; redis-py's ResponseError when
    the key is no stream.
    """
    with outages.translated():
        keys = [stream, names.delivered(stream)]
        added = await scripts.run(
            client, "delivery_add", keys, [max_length, _LASTS_SECONDS, delivery_id, task_id, payload]
        )
    return int(added) == 1
