"""The channel webhook: JSON to an HTTP endpoint, signed as Standard Webhooks 1.0 has it.

The signature is made here, because the library of Standard Webhooks signs with one key only, and takes the time of
another zone for UTC. Tests verify with that library.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import Final
from urllib.parse import urlsplit

from watchbill import tracing
from watchbill.api.delivery import ENV_REFERENCE, Webhook
from watchbill.clock import Clock
from watchbill.delivery import http
from watchbill.delivery.message import Delivered, Message
from watchbill.delivery.secrets import Secrets
from watchbill.errors import DeliveryRefused, NotDelivered

BODY_MAX_BYTES: Final = 1024 * 1024
"""Common servers refuse a larger body."""
KEY_MIN_BYTES: Final = 24
_KEYS: Final = ("signingKey", "previousSigningKey")


async def send(message: Message, channel: Webhook, secrets: Secrets, client: http.Http, clock: Clock) -> Delivered:
    """Posts the seven values. Every status but 2xx and 410 may be different at the next attempt."""
    given = channel.secrets()
    body = encoded(message)
    url = secrets.read(given["url"])
    keys = [_key(secrets.read(given[field]), str(given[field])) for field in _KEYS if field in given]
    now = clock.now()
    headers = signed(message.delivery_id, int(now.timestamp()), body, keys)
    if traceparent := tracing.carried():
        headers[tracing.FIELD] = traceparent
    written_out = channel.url is not None and not ENV_REFERENCE.fullmatch(channel.url)
    receiver = f"the webhook at {urlsplit(url).hostname}" if written_out else f"the webhook of {given['url']}"
    answer = await client.post(url, body, headers, receiver=receiver, read=False)
    # A receiver may repeat the URL that it was called by.
    said = http.excerpt(answer.text) if written_out else ""
    return http.judge(answer, receiver, clock.now(), said=said)


def encoded(message: Message) -> bytes:
    """The seven values as JSON. Raises DeliveryRefused if they are too much: a part would be no JSON."""
    body = json.dumps(message.payload(), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(
        "utf-8", "replace"
    )
    if len(body) > BODY_MAX_BYTES:
        raise DeliveryRefused(
            f"the result has {len(body)} bytes as JSON, and at most {BODY_MAX_BYTES} are delivered. "
            "Let the agent return less, or a link to it"
        )
    return body


def signed(webhook_id: str, timestamp: int, body: bytes, keys: list[bytes]) -> dict[str, str]:
    """The headers of one attempt. `timestamp` is in seconds; without a key there is no signature."""
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp)}
    content = f"{webhook_id}.{timestamp}.".encode() + body
    digests = (hmac.new(key, content, hashlib.sha256).digest() for key in keys)
    if signatures := " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests):
        headers["webhook-signature"] = signatures
    return headers


def _key(text: str, place: str) -> bytes:
    encoded_key = text.removeprefix("whsec_")
    try:
        key = base64.b64decode(encoded_key + "=" * (-len(encoded_key) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < KEY_MIN_BYTES:
        raise NotDelivered(
            f"{place} is no signing key: whsec_ and {KEY_MIN_BYTES} bytes or more in base64. "
            "Make one with: echo whsec_$(openssl rand -base64 32)"
        )
    return key
