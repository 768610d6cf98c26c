"""The channel teams: an Adaptive Card to a workflow (Power Automate), which posts it to Microsoft Teams."""

from __future__ import annotations

import json
from typing import Any, Final

from watchbill.api.delivery import Teams
from watchbill.clock import Clock
from watchbill.delivery import http, texts
from watchbill.delivery.message import Delivered, Message
from watchbill.delivery.secrets import Secrets

BODY_MAX_BYTES: Final = 26_000
"""Teams takes about 28 KB, and counts what it makes of a card."""


async def send(message: Message, channel: Teams, secrets: Secrets, client: http.Http, clock: Clock) -> Delivered:
    """Posts the card. 202 means that the workflow has accepted it, and not yet that it has posted it."""
    secret = channel.secrets()["url"]
    receiver = f"the workflow of {secret}"
    answer = await client.post(secrets.read(secret), card(message), {}, receiver=receiver)
    return http.judge(answer, receiver, clock.now(), said=_code(answer.text), final=True)


def card(message: Message) -> bytes:
    """The message to the workflow, with an Adaptive Card of version 1.4; its text is cut with a mark if it is long."""

    def rendered(text: str) -> bytes:
        return json.dumps(_envelope(message, text), separators=(",", ":")).encode()

    text = texts.shorten(texts.body(message), lambda part: len(rendered(part)) <= BODY_MAX_BYTES)
    return rendered(text)


def _envelope(message: Message, text: str) -> dict[str, Any]:
    title = {
        "type": "TextBlock",
        "text": texts.title(message),
        "size": "Large",
        "weight": "Bolder",
        "color": "Good" if message.success else "Attention",
        "wrap": True,
    }
    body = {"type": "TextBlock", "text": text, "wrap": True}
    footer = {"type": "TextBlock", "text": texts.footer(message), "isSubtle": True, "size": "Small", "wrap": True}
    content = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": [title, body, footer],
    }
    card = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": content}
    return {"type": "message", "attachments": [card]}


def _code(answer: str) -> str:
    """The name of an error, as Azure has it. Its message may repeat the URL."""
    try:
        code = json.loads(answer)["error"]["code"]
    except (ValueError, LookupError, TypeError):
        return ""
    return code if isinstance(code, str) and len(code) <= http.SAID_MAX and code.isalnum() else ""
