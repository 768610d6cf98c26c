"""The channel telegram: a bot writes to a chat."""

from __future__ import annotations

import html
import json
import re
from typing import Any, Final

from watchbill.api.delivery import Telegram
from watchbill.clock import Clock
from watchbill.delivery import http, texts
from watchbill.delivery.message import Delivered, Message
from watchbill.delivery.secrets import Secrets
from watchbill.errors import DeliveryRefused, NotDelivered

TEXT_MAX: Final = 4096
"""Telegram counts what is left once tags are read, in UTF-16 units. Here tags and entities count as well: so the text
fits however it is counted."""
_TOKEN: Final = re.compile(r"[0-9]+:[A-Za-z0-9_-]+")
_RECEIVER: Final = "Telegram"


async def send(
    message: Message, channel: Telegram, secrets: Secrets, client: http.Http, clock: Clock, server: str
) -> Delivered:
    """Sends one message. `server` is the URL of the Bot API. Raises DeliveryRefused for what a person must mend: a bot
    that repeats what is refused may be banned."""
    secret = channel.secrets()["botToken"]
    token = secrets.read(secret)
    if not _TOKEN.fullmatch(token):  # it becomes part of a URL; and no other secret may get there
        raise DeliveryRefused(f"{secret} is no token of a bot, as in 123456:ABC-DEF. Ask @BotFather for it")
    body = {
        "chat_id": channel.chat_id,
        "text": text(message),
        "parse_mode": "HTML",
        "link_preview_options": {"is_disabled": True},
    }
    url = f"{server.rstrip('/')}/bot{token}/sendMessage"
    answer = await client.post(url, json.dumps(body).encode(), {}, receiver=_RECEIVER)
    told = _read(answer.text)
    if 200 <= answer.status < 300 and told.get("ok") is not True:
        raise NotDelivered(f"{_RECEIVER} gave no answer that can be read", answer.status)
    return http.judge(_with_pause(answer, told), _RECEIVER, clock.now(), said=_said(told), final=True)


def text(message: Message) -> str:
    """The result in Telegram's HTML, cut with a mark if it is too long. No entity is cut through."""
    head = f"<b>{html.escape(texts.shorten(texts.title(message), lambda line: len(line) <= 256))}</b>\n\n"
    foot = f"\n\n<i>{html.escape(texts.footer(message))}</i>"
    room = TEXT_MAX - _units(head) - _units(foot)
    body = texts.shorten(texts.body(message), lambda part: _units(html.escape(part)) <= room)
    return f"{head}{html.escape(body)}{foot}"


def _units(part: str) -> int:
    return len(part.encode("utf-16-le", "surrogatepass")) // 2


def _read(answer: str) -> dict[str, Any]:
    try:
        told = json.loads(answer)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _parameter(told: dict[str, Any], name: str) -> int | None:
    parameters = told.get("parameters")
    value = parameters.get(name) if isinstance(parameters, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _with_pause(answer: http.Answer, told: dict[str, Any]) -> http.Answer:
    seconds = _parameter(told, "retry_after")
    headers = answer.headers if seconds is None else {"retry-after": str(seconds)}
    return http.Answer(answer.status, headers, answer.text)


def _said(told: dict[str, Any]) -> str:
    said = http.excerpt(str(told.get("description", "")))
    if (moved := _parameter(told, "migrate_to_chat_id")) is not None:
        said += f". The group has become a supergroup: write chatId: '{moved}'"
    return said
