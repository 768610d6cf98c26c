"""The channel apprise: any service that the library apprise knows, for those that have no channel here.

The library doesn't say why a service refuses, so every failure is tried again. It connects by itself, past the guard:
the sender comes here only if the setting WATCHBILL_DELIVERY_ALLOW allows that. Its log lines quote URLs, and so none of
them is let through.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from typing import Final

from watchbill.api.delivery import Apprise
from watchbill.clock import Patience
from watchbill.delivery import texts
from watchbill.delivery.message import Delivered, Message
from watchbill.delivery.secrets import Secrets
from watchbill.errors import DeliveryRefused, NotDelivered, needed

with needed("The channel apprise", "delivery"):
    import apprise

TEXT_MAX: Final = 100_000
"""Characters of an output; what is too long for a service, apprise itself splits or cuts."""
SLACK_SECONDS: Final = 1.0
"""The library ends by itself after the time that it is given, and somewhat later it is left alone."""
_ours: Final[ContextVar[bool]] = ContextVar("watchbill_delivery", default=False)


def _not_ours(record: logging.LogRecord) -> bool:
    return not _ours.get()


for _name in ("apprise", "urllib3.connectionpool"):
    logging.getLogger(_name).addFilter(_not_ours)


async def send(message: Message, channel: Apprise, secrets: Secrets, seconds: float) -> Delivered:
    """Notifies one service, in a thread that is left alone when it takes too long."""
    secret = channel.secrets()["url"]
    url = secrets.read(secret)
    try:
        async with Patience(seconds + SLACK_SECONDS):
            status = await asyncio.to_thread(_notify, url, message, seconds)
    except TimeoutError:
        status = apprise.AppriseResultStatus.TIMEOUT
    if status is None:
        raise DeliveryRefused(f"{secret} is no URL that apprise knows, or names more than one service. Correct it")
    if status is apprise.AppriseResultStatus.TIMEOUT:
        raise NotDelivered(f"the service of {secret} did not take it within {seconds:g} s")
    if status is not apprise.AppriseResultStatus.SUCCESS:
        raise NotDelivered(f"the service of {secret} did not take it; apprise can't say why")
    return Delivered()


def _notify(url: str, message: Message, seconds: float) -> apprise.AppriseResultStatus | None:
    """The library's status; None if the URL names no single service."""
    _ours.set(True)  # in this thread's copy of the context, which the library's own threads inherit
    service = apprise.Apprise()
    if not service.add(url) or len(service) != 1:
        return None
    body = texts.shorten(texts.body(message), lambda part: len(part) <= TEXT_MAX)
    kind = apprise.NotifyType.SUCCESS if message.success else apprise.NotifyType.FAILURE
    result = service.notify(
        body=f"{body}\n\n{texts.footer(message)}",
        title=texts.title(message),
        notify_type=kind,
        body_format=apprise.NotifyFormat.TEXT,
        timeout=seconds,
    )
    return result.status
