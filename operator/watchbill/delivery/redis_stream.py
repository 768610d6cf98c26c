"""The channel redisStream: an entry on a stream of the crew's store, once per delivery."""

from __future__ import annotations

import redis.asyncio
from redis.exceptions import ResponseError

from watchbill.api.delivery import RedisStream
from watchbill.delivery import webhook
from watchbill.delivery.message import Delivered, Message
from watchbill.errors import DeliveryRefused, NotDelivered, StoreRefuses, StoreUnavailable
from watchbill.store import delivered


async def send(message: Message, channel: RedisStream, store: redis.asyncio.Redis) -> Delivered:
    """Adds the entry, with the seven values as its `payload`. A second attempt adds none."""
    payload = webhook.encoded(message).decode()
    ids = {"delivery_id": message.delivery_id, "task_id": message.task_id}
    try:
        added = await delivered.add(store, channel.stream, channel.max_length, **ids, payload=payload)
    except StoreUnavailable as error:
        raise NotDelivered(f"stream {channel.stream!r}: {error}") from None
    except (StoreRefuses, ResponseError) as error:
        raise DeliveryRefused(f"stream {channel.stream!r}: {error}") from None
    return Delivered(detail="" if added else "an earlier attempt has added it")
